// Pieces of the CPU's matrix products that more than one op builds on: how a product is described to the kernels, and how it is cut.
#pragma once
#include <algorithm>

#include "../core/tensor.h"
#include "cpu/kernels.h"

namespace bge {

constexpr int64_t kWeightDepth = 1024;  // block of depth against a packed weight: a panel of it stays in the second-level cache
constexpr int64_t kDepth = 512;         // block of depth where B is packed on the way
constexpr int64_t kTasksPerThread = 8;  // threads rarely run at the same speed: enough tasks to even out

inline int64_t divideUp(int64_t n, int64_t m) { return (n + m - 1) / m; }
inline int64_t roundUp(int64_t n, int64_t m) { return divideUp(n, m) * m; }

// C (rows, cols) cut into rowTasks x colTasks blocks of `rows` x `cols`.
struct Grid {
  int64_t rows, cols, rowTasks, colTasks;
  int64_t tasks() const { return rowTasks * colTasks; }
};

// Table: Kernels or LowKernels (whose depth is words). manyRows: prefer cutting rows, because a task repeats work for every cut of the columns.
template <class Table>
Grid grid(const Table& k, int64_t rows, int64_t cols, int64_t depth, int threads, bool manyRows) {
  const int64_t maxRows = std::max<int64_t>(k.aBytes / (4 * std::max<int64_t>(depth, 1)) / k.tileRows, 1) * k.tileRows;
  const int64_t wanted = threads == 1 ? 1 : threads * kTasksPerThread;
  int64_t rowTasks = divideUp(rows, maxRows);
  if (manyRows) rowTasks = std::max(rowTasks, std::min(wanted, divideUp(rows, 8 * k.tileRows)));
  if (rowTasks > 1 && rowTasks < wanted) rowTasks = std::min(roundUp(rowTasks, threads), divideUp(rows, k.tileRows));
  Grid g;
  g.rows = roundUp(divideUp(rows, rowTasks), k.tileRows);
  g.rowTasks = divideUp(rows, g.rows);
  const int64_t panels = divideUp(cols, k.panel);
  const int64_t colTasks = manyRows && g.rowTasks >= threads ? 1 : std::min(panels, divideUp(wanted, g.rowTasks));
  g.cols = divideUp(panels, colTasks) * k.panel;
  g.colTasks = divideUp(cols, g.cols);
  return g;
}

// The part of `whole` from (row, column) on, `rows` x `cols` at most. A is moved only when it is not transposed.
inline GemmBlock part(const GemmBlock& whole, int64_t row, int64_t column, int64_t rows, int64_t cols) {
  GemmBlock g = whole;
  g.rows = std::min(rows, whole.rows - row);
  g.cols = std::min(cols, whole.cols - column);
  if (!g.aTransposed) g.a += row * g.aStride;
  g.c += row * g.cStride + column;
  if (g.bias) g.bias += column;
  if (g.pre) g.pre += row * g.preStride + column;
  if (g.geluInput) g.geluInput += row * g.geluStride + column;
  return g;
}

// Restricts g to the block of depth that begins at `first`: later blocks add to C, only the last one has the epilogue.
inline void depthBlock(GemmBlock& g, int64_t first, int64_t block) {
  const int64_t depth = g.depth;
  g.depth = std::min(block, depth - first);
  g.a += g.aTransposed ? first * g.aStride : first;
  if (first > 0) g.beta = 1;
  if (first + g.depth < depth) {
    g.bias = g.geluInput = nullptr;
    g.pre = nullptr;
    g.gelu = false;
  }
}

// c = alpha * op(a) B + beta * c, B still to be named (b, panelStride); no epilogue.
inline GemmBlock product(Matrix c, Matrix a, bool transposeA, float alpha, float beta) {
  GemmBlock g = {};
  g.rows = c.rows;
  g.cols = c.cols;
  g.depth = transposeA ? a.rows : a.cols;
  g.a = a.as<float>();
  g.aTransposed = transposeA;
  g.aStride = a.stride;
  g.c = c.as<float>();
  g.cStride = c.stride;
  g.alpha = alpha;
  g.beta = beta;
  return g;
}

}  // namespace bge

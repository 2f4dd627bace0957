// Products of linear layers in bf16 or int8. Operands are fp32 in memory: a weight is packed once per version, rows of x and dOut are
// converted when they come, and a result is fp32 again, epilogue included. Cut as in matmul.cc, with the same independence of the cut.
#include <algorithm>
#include <string>

#include "../core/cpu.h"
#include "cpu/kernels.h"
#include "cpu/kernels_low.h"
#include "products.h"

namespace bge {

namespace {

constexpr int64_t kManyRows = 1024;      // from here on every task converts the rows it multiplies
constexpr int64_t kAlignment = 16;       // words
constexpr int64_t kConvertAtOnce = 1 << 15;  // values that are not worth a second thread

// A packed weight: int8's steps and sums of the columns, then [block of depth][panel][word][column].
struct LowWeight {
  int64_t depth, cols, width, block, columnValues;
  LowWeight(const LowKernels& k, int64_t d, int64_t c)
      : depth(d), cols(c), width(roundUp(c, k.panel)), block(kWeightDepth * k.group), columnValues(k.weightSteps ? 2 * width : 0) {}
  int64_t size(const LowKernels& k) const {
    return columnValues + (depth / block * kWeightDepth + divideUp(depth % block, k.group)) * width;
  }
};

void pack(ThreadPool& pool, const LowKernels& k, const LowWeight& layout, float* out, const float* w, int64_t stride, bool transposed) {
  float *steps = out, *sums = out + layout.width, *panels = out + layout.columnValues;
  pool.parallelFor(layout.width / k.panel, [&](int64_t p) {
    const int64_t column = p * k.panel, cols = std::min<int64_t>(k.panel, layout.cols - column);
    if (k.weightSteps) {
      k.weightSteps(steps + column, w + column * stride, stride, cols, layout.depth);
      std::fill_n(sums + column, cols, 0.0f);
    }
    for (int64_t first = 0; first < layout.depth; first += layout.block) {
      const int64_t depth = std::min(layout.block, layout.depth - first), words = divideUp(depth, k.group);
      const float* from = transposed ? w + column * stride + first : w + first * stride + column;
      k.packPanels(panels + first / k.group * layout.width + column * words, from, stride, transposed, depth, cols, steps + column,
                   sums + column);
    }
  });
}

}  // namespace

void CpuBackend::refuseTraining() const {
  if (low && !low->packTransposedRows) {
    throw Error("ERR_BGE_ARGUMENT", std::string("dtype ") + low->dtype + " is for inference: open the device with dtype fp32 or bf16 to train");
  }
}

// g: of fp32 operands, its b still to come; B is W^T (transposed) or W.
void CpuBackend::multiplyLow(const GemmBlock& g, Weight w, bool transposed) {
  if (g.rows == 0 || g.cols == 0) return;
  const LowKernels& k = *low;
  const LowWeight layout(k, g.depth, g.cols);
  bool current;
  float* packed = packing(w, transposed, layout.size(k), current);
  if (!current) pack(pool, k, layout, packed, w.data, w.in, transposed);
  const float* panels = packed + layout.columnValues;

  const bool manyRows = g.rows >= kManyRows;
  const int64_t words = divideUp(g.depth, k.group);
  Grid cut = grid(k, g.rows, g.cols, std::min(words, kWeightDepth), pool.threads(), manyRows);
  if (manyRows) cut.cols = layout.width, cut.colTasks = 1;
  // Rows a power of two apart would fall on the same lines of the first-level cache.
  const int64_t stride = roundUp(words, kAlignment) + kAlignment, rows = manyRows ? cut.rows : g.rows;
  const int64_t each = roundUp(rows * stride + (k.weightSteps ? 2 * rows : 0), kAlignment);
  float* scratch = workspace_.take<float>(manyRows ? each * pool.threads() : each);
  const auto convert = [&](float* to, int64_t at, int64_t row, int64_t count) {
    k.packRows(to + at * stride, stride, to + rows * stride + 2 * at, g.a + row * g.aStride, g.aStride, count, g.depth);
  };
  if (!manyRows) {
    const int64_t some = std::max(kConvertAtOnce / std::max<int64_t>(g.depth, 1), int64_t{1});
    if (g.rows <= some) convert(scratch, 0, 0, g.rows);
    else pool.parallelFor(divideUp(g.rows, some), [&](int64_t i) { convert(scratch, i * some, i * some, std::min(some, g.rows - i * some)); });
  }
  pool.parallelFor(cut.tasks(), [&](int64_t i) {
    const int64_t row = i / cut.colTasks * cut.rows, column = i % cut.colTasks * cut.cols;
    float* a = manyRows ? scratch + each * ThreadPool::thread() : scratch;
    const int64_t at = manyRows ? 0 : row;  // of the task's first row in `a`
    GemmBlock mine = part(g, row, column, cut.rows, cut.cols);
    if (manyRows) convert(a, 0, row, mine.rows);
    mine.a = a + at * stride;
    mine.aStride = stride;
    mine.depth = words;
    for (int64_t first = 0; first < words; first += kWeightDepth) {
      GemmBlock block = mine;
      depthBlock(block, first, kWeightDepth);
      block.panelStride = block.depth * k.panel;
      block.b = panels + first * layout.width + column * block.depth;
      const bool last = first + block.depth == words;
      k.gemm(block, {a + rows * stride + 2 * at, packed + column, last ? packed + layout.width + column : nullptr});
    }
  });
}

// Block by block of depth, the rows: all threads pack x, then each task packs its columns of dOut and multiplies.
void CpuBackend::weightGradientLow(float* dW, float* dBias, Matrix dOut, Matrix x) {
  const LowKernels& k = *low;
  const GemmBlock whole = product(Matrix(dW, dOut.cols, x.cols), dOut, true, 1, 1);
  const int64_t panels = divideUp(whole.cols, k.panel), step = kDepth * k.group, wordsMost = divideUp(std::min(whole.depth, step), k.group);
  const Grid cut = grid(k, whole.rows, whole.cols, wordsMost, pool.threads(), true);
  const int64_t each = cut.rows / k.tileRows * (wordsMost * k.tileRows + kTileGap);
  float* packedB = workspace_.take<float>(panels * k.panel * wordsMost);
  float* scratch = workspace_.take<float>(each * pool.threads());
  for (int64_t first = 0; first < whole.depth; first += step) {
    const int64_t depth = std::min(step, whole.depth - first), words = divideUp(depth, k.group);
    pool.parallelFor(panels, [&](int64_t p) {
      const int64_t column = p * k.panel;
      k.packPanels(packedB + column * words, x.row(first) + column, x.stride, false, depth, std::min<int64_t>(k.panel, whole.cols - column),
                   nullptr, nullptr);
    });
    pool.parallelFor(cut.tasks(), [&](int64_t i) {
      const int64_t row = i / cut.colTasks * cut.rows, column = i % cut.colTasks * cut.cols;
      float* tiles = scratch + each * ThreadPool::thread();
      GemmBlock g = part(whole, row, column, cut.rows, cut.cols);
      g.depth = words;
      g.panelStride = words * k.panel;
      g.b = packedB + column * words;
      g.aTile = words * k.tileRows + kTileGap;
      k.packTransposedRows(tiles, g.aTile, dBias && column == 0 ? dBias + row : nullptr, dOut.row(first) + row, dOut.stride, g.rows, depth);
      g.a = tiles;
      g.aStride = k.tileRows;
      k.gemm(g, {});
    });
  }
}

}  // namespace bge

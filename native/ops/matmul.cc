// Matrix products. B is packed into panels; depth is cut into fixed blocks that are added in order, rows and columns are cut into tasks.
// Only the cut of the depth touches the arithmetic, so a row's result depends neither on the other rows nor on the threads.
#include <unistd.h>

#include <algorithm>

#include "../core/cpu.h"
#include "cpu/kernels.h"
#include "pack_cache.h"
#include "products.h"

namespace bge {

namespace {

constexpr int64_t kFewRows = 512;  // up to here each task packs the panel it needs

// `panels`: [block of depth][panel][depth][column], as packAll writes it.
void multiplyPacked(ThreadPool& pool, const Kernels& k, const GemmBlock& whole, const float* panels) {
  if (whole.rows == 0 || whole.cols == 0) return;
  const Grid cut = grid(k, whole.rows, whole.cols, std::min(whole.depth, kWeightDepth), pool.threads(), false);
  const int64_t width = roundUp(whole.cols, k.panel);
  pool.parallelFor(cut.tasks(), [&](int64_t i) {
    const int64_t row = i / cut.colTasks * cut.rows, column = i % cut.colTasks * cut.cols;
    for (int64_t first = 0; first < whole.depth; first += kWeightDepth) {
      GemmBlock g = part(whole, row, column, cut.rows, cut.cols);
      depthBlock(g, first, kWeightDepth);
      g.panelStride = g.depth * k.panel;
      g.b = panels + first * width + column * g.depth;
      k.gemm(g);
    }
  });
}

// B[k][n] = transposed ? b[n * stride + k] : b[k * stride + n], as multiplyPacked reads it.
void packAll(ThreadPool& pool, const Kernels& k, float* out, const float* b, int64_t stride, bool transposed, int64_t depth, int64_t cols) {
  const int64_t panels = divideUp(cols, k.panel), width = panels * k.panel;
  for (int64_t first = 0; first < depth; first += kWeightDepth) {
    const int64_t block = std::min(kWeightDepth, depth - first);
    pool.parallelFor(panels, [&](int64_t p) {
      const int64_t column = p * k.panel;
      const float* from = transposed ? b + column * stride + first : b + first * stride + column;
      k.packPanels(out + first * width + column * block, from, stride, transposed, block, std::min<int64_t>(k.panel, cols - column));
    });
  }
}

// Every task packs the panels it needs and uses them for all of its rows. A is not transposed.
void multiplyFewRows(ThreadPool& pool, const Kernels& k, const GemmBlock& whole, Matrix b, bool transposeB, Arena& workspace) {
  const int64_t panels = divideUp(whole.cols, k.panel), depthMost = std::min(whole.depth, kDepth);
  const int64_t rowTasks = std::min(divideUp(whole.rows, 8 * k.tileRows), divideUp(2 * pool.threads(), panels));
  const int64_t rows = roundUp(divideUp(whole.rows, rowTasks), k.tileRows);
  const int64_t each = k.panel * std::max<int64_t>(depthMost, 1);
  float* scratch = workspace.take<float>(each * pool.threads());
  pool.parallelFor(panels * divideUp(whole.rows, rows), [&](int64_t i) {
    const int64_t row = i / panels * rows, column = i % panels * k.panel;
    float* panel = scratch + each * ThreadPool::thread();
    for (int64_t first = 0; first == 0 || first < whole.depth; first += kDepth) {
      GemmBlock g = part(whole, row, column, rows, k.panel);
      depthBlock(g, first, kDepth);
      g.panelStride = g.depth * k.panel;
      k.packPanels(panel, transposeB ? b.row(column) + first : b.row(first) + column, b.stride, transposeB, g.depth, g.cols);
      g.b = panel;
      k.gemm(g);
    }
  });
}

// Block by block of depth: all threads pack B, then each task packs its rows of A if they are transposed and multiplies.
// sums, if not null: (rows) += the sums of A's rows (transposed A only).
void multiplyManyRows(ThreadPool& pool, const Kernels& k, const GemmBlock& whole, Matrix b, bool transposeB, float* sums,
                      Arena& workspace) {
  const int64_t panels = divideUp(whole.cols, k.panel), depthMost = std::max<int64_t>(std::min(whole.depth, kDepth), 1);
  const Grid cut = grid(k, whole.rows, whole.cols, depthMost, pool.threads(), whole.aTransposed);
  const int64_t each = whole.aTransposed ? cut.rows / k.tileRows * (depthMost * k.tileRows + kTileGap) : 0;
  float* packedB = workspace.take<float>(panels * k.panel * depthMost);
  float* scratch = workspace.take<float>(each * pool.threads());
  for (int64_t first = 0; first == 0 || first < whole.depth; first += kDepth) {
    const int64_t depth = std::min(kDepth, whole.depth - first);
    pool.parallelFor(panels, [&](int64_t p) {
      const int64_t column = p * k.panel;
      k.packPanels(packedB + column * depth, transposeB ? b.row(column) + first : b.row(first) + column, b.stride, transposeB, depth,
                   std::min<int64_t>(k.panel, whole.cols - column));
    });
    pool.parallelFor(cut.tasks(), [&](int64_t i) {
      const int64_t row = i / cut.colTasks * cut.rows, column = i % cut.colTasks * cut.cols;
      GemmBlock g = part(whole, row, column, cut.rows, cut.cols);
      depthBlock(g, first, kDepth);
      g.panelStride = depth * k.panel;
      g.b = packedB + column * depth;
      if (g.aTransposed) {
        float* tiles = scratch + each * ThreadPool::thread();
        g.aTile = depth * k.tileRows + kTileGap;
        k.packTransposedRows(tiles, g.aTile, sums && column == 0 ? sums + row : nullptr, g.a + row, g.aStride, g.rows, depth);
        g.a = tiles;
        g.aStride = k.tileRows;
      }
      k.gemm(g);
    });
  }
}

// A quarter of the memory may hold packed weights; beyond that the least recently used go.
size_t packLimit() {
  const long pages = sysconf(_SC_PHYS_PAGES), size = sysconf(_SC_PAGESIZE);
  return pages > 0 && size > 0 ? static_cast<size_t>(pages) * static_cast<size_t>(size) / 4 : size_t{1} << 30;
}

}  // namespace

// Room for `size` floats that hold a packed form of w. current: they hold it already. Version 0 goes to the workspace.
float* CpuBackend::packing(Weight w, bool transposed, int64_t size, bool& current) {
  current = false;
  if (w.version == 0) return workspace_.take<float>(size);
  static const size_t limit = packLimit();
  const PackCache::Key key{w.data, w.out, w.in, transposed};
  auto it = packs_->entries.find(key);
  if (it == packs_->entries.end()) {
    const size_t bytes = static_cast<size_t>(size) * sizeof(float);
    while (!packs_->entries.empty() && packs_->bytes + bytes > limit) {
      packs_->drop(*this, std::min_element(packs_->entries.begin(), packs_->entries.end(),
                                           [](const auto& a, const auto& b) { return a.second.lastUse < b.second.lastUse; }));
    }
    it = packs_->entries.emplace(key, PackCache::Entry{0, static_cast<float*>(allocate(bytes)), bytes, 0}).first;
    packs_->bytes += bytes;
  }
  it->second.lastUse = ++packs_->clock;
  current = it->second.version == w.version;
  it->second.version = w.version;
  return it->second.panels;
}

// The panels of W^T (transposed) or W.
const float* CpuBackend::packed(Weight w, bool transposed) {
  const int64_t depth = transposed ? w.in : w.out, cols = transposed ? w.out : w.in;
  bool current;
  float* panels = packing(w, transposed, roundUp(cols, kernels.panel) * depth, current);
  if (!current) packAll(pool, kernels, panels, w.data, w.in, transposed, depth, cols);
  return panels;
}

void CpuBackend::linear(Matrix out, Matrix x, Weight w, const float* bias, Activation act, Matrix* preActivation) {
  Arena::Scope scope(workspace_);
  GemmBlock g = product(out, x, false, 1, 0);
  g.bias = bias;
  g.gelu = act == Activation::gelu;
  if (preActivation) {
    g.pre = preActivation->as<float>();
    g.preStride = preActivation->stride;
  }
  if (low) multiplyLow(g, w, true);
  else multiplyPacked(pool, kernels, g, packed(w, true));
}

void CpuBackend::linearBackwardInput(Matrix dX, Matrix dOut, Weight w, bool accumulate, const Matrix* gelu) {
  refuseTraining();
  Arena::Scope scope(workspace_);
  GemmBlock g = product(dX, dOut, false, 1, accumulate ? 1 : 0);
  if (gelu) {
    g.geluInput = gelu->as<float>();
    g.geluStride = gelu->stride;
  }
  if (low) multiplyLow(g, w, false);
  else multiplyPacked(pool, kernels, g, packed(w, false));
}

void CpuBackend::linearBackwardWeight(float* dW, float* dBias, Matrix dOut, Matrix x) {
  refuseTraining();
  if (x.rows == 0) return;
  Arena::Scope scope(workspace_);
  if (low) return weightGradientLow(dW, dBias, dOut, x);
  multiplyManyRows(pool, kernels, product(Matrix(dW, dOut.cols, x.cols), dOut, true, 1, 1), x, false, dBias, workspace_);
}

void CpuBackend::matmul(Matrix c, Matrix a, bool transposeA, Matrix b, bool transposeB, float alpha, float beta) {
  if (c.rows == 0 || c.cols == 0) return;
  Arena::Scope scope(workspace_);
  const GemmBlock g = product(c, a, transposeA, alpha, beta);
  if (!transposeA && c.rows <= kFewRows) multiplyFewRows(pool, kernels, g, b, transposeB, workspace_);
  else multiplyManyRows(pool, kernels, g, b, transposeB, nullptr, workspace_);
}

}  // namespace bge

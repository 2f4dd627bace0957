// Word + position + type embeddings, LayerNorm and dropout in one pass (BERT's input; recipe.md 1.2), and the same backwards.
#include <algorithm>

#include "../core/cpu.h"
#include "cpu/kernels.h"
#include "row_tasks.h"

namespace bge {

void CpuBackend::embedding(Matrix out, float* mean, float* rstd, const float* table, const int32_t* index, const float* position,
                           const float* type, const float* gamma, const float* beta, float epsilon, const Rows& rows,
                           const Dropout& dropout) {
  const RowDropout drop(rows, dropout);
  const RowKernels& k = kernels.rows;
  const int64_t cols = out.cols;
  forRows(pool, rows.count, cols, [&](int64_t first, int64_t last) {
    for (int64_t r = first; r < last; ++r) {
      float* row = out.row(r);
      k.sum3(row, table + index[r] * cols, position + rows.position[r] * cols, type, cols);
      float m, s;
      k.layerNorm(row, &m, &s, row, gamma, beta, epsilon, cols);
      if (drop.on) drop.apply(k, row, row, nullptr, r, cols);
      if (mean) mean[r] = m;
      if (rstd) rstd[r] = s;
    }
  });
}

void CpuBackend::embeddingBackward(float* dTable, float* dPosition, float* dType, float* dGamma, float* dBeta, Matrix dOut,
                                   const float* mean, const float* rstd, const float* table, int64_t, const int32_t* index,
                                   const float* position, const float* type, const float* gamma, int32_t paddingIndex, const Rows& rows,
                                   const Dropout& dropout) {
  const RowDropout drop(rows, dropout);
  const RowKernels& k = kernels.rows;
  const int64_t cols = dOut.cols;
  Arena::Scope scope(workspace_);
  const ColumnSumChunks chunks(rows.count);
  float* partials = workspace_.take<float>(chunks.count * 3 * cols);                // (chunks, 3, C): dGamma, dBeta, dType
  Matrix dSum(workspace_.take<float>(rows.count * cols), rows.count, cols);         // (R, C) gradient of the sum of the three embeddings
  float* sums = workspace_.take<float>(chunks.count * cols);                        // one recomputed row of that sum per task
  pool.parallelFor(chunks.count, [&](int64_t chunk) {
    float* part = partials + chunk * 3 * cols;
    float* sum = sums + chunk * cols;
    std::fill(part, part + 3 * cols, 0.0f);
    for (int64_t r = chunks.first(chunk); r < chunks.last(chunk); ++r) {
      k.sum3(sum, table + index[r] * cols, position + rows.position[r] * cols, type, cols);
      drop.apply(k, dSum.row(r), dOut.row(r), nullptr, r, cols);
      k.layerNormBackward(dSum.row(r), part, part + cols, dSum.row(r), sum, mean[r], rstd[r], gamma, cols);
      k.add(part + 2 * cols, dSum.row(r), 1.0f, cols);
    }
  });
  addColumnSums(pool, k, {dGamma, dBeta, dType}, partials, chunks.count, cols);
  // Many rows may share a table row: each task owns a block of columns and takes the rows in order, so no two tasks write one value.
  const int64_t width = 64;
  pool.parallelFor((cols + width - 1) / width, [&](int64_t block) {
    const int64_t first = block * width, n = std::min(width, cols - first);
    for (int64_t r = 0; r < rows.count; ++r) {
      const float* g = dSum.row(r) + first;
      if (index[r] != paddingIndex) k.add(dTable + index[r] * cols + first, g, 1.0f, n);
      k.add(dPosition + rows.position[r] * cols + first, g, 1.0f, n);
    }
  });
}

}  // namespace bge

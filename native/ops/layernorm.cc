// sum = residual + dropout(x), out = LayerNorm(sum) (Ba et al. 2016), and the same backwards.
#include <algorithm>

#include "../core/cpu.h"
#include "cpu/kernels.h"
#include "row_tasks.h"

namespace bge {

void CpuBackend::addLayerNorm(Matrix out, Matrix sum, float* mean, float* rstd, Matrix x, Matrix residual, const float* gamma,
                              const float* beta, float epsilon, const Rows& rows, const Dropout& dropout) {
  const RowDropout drop(rows, dropout);
  const RowKernels& k = kernels.rows;
  const int64_t cols = x.cols;
  forRows(pool, x.rows, cols, [&](int64_t first, int64_t last) {
    for (int64_t r = first; r < last; ++r) {
      const float* other = residual.data ? residual.row(r) : nullptr;
      if (drop.on || other || sum.row(r) != x.row(r)) {
        drop.apply(k, sum.row(r), x.row(r), other, r, cols);
      }
      float m, s;
      k.layerNorm(out.row(r), &m, &s, sum.row(r), gamma, beta, epsilon, cols);
      if (mean) mean[r] = m;
      if (rstd) rstd[r] = s;
    }
  });
}

void CpuBackend::addLayerNormBackward(Matrix dSum, Matrix dX, float* dGamma, float* dBeta, Matrix dOut, Matrix sum, const float* mean,
                                      const float* rstd, const float* gamma, const Rows& rows, const Dropout& dropout) {
  const RowDropout drop(rows, dropout);
  const RowKernels& k = kernels.rows;
  const int64_t cols = dOut.cols;
  Arena::Scope scope(workspace_);
  const ColumnSumChunks chunks(dOut.rows);
  float* partials = workspace_.take<float>(chunks.count * 2 * cols);  // (chunks, 2, C)
  pool.parallelFor(chunks.count, [&](int64_t chunk) {
    float* sums = partials + chunk * 2 * cols;
    std::fill(sums, sums + 2 * cols, 0.0f);
    for (int64_t r = chunks.first(chunk); r < chunks.last(chunk); ++r) {
      k.layerNormBackward(dSum.row(r), sums, sums + cols, dOut.row(r), sum.row(r), mean[r], rstd[r], gamma, cols);
      if (dX.data && (drop.on || dX.row(r) != dSum.row(r))) {
        drop.apply(k, dX.row(r), dSum.row(r), nullptr, r, cols);
      }
    }
  });
  addColumnSums(pool, k, {dGamma, dBeta}, partials, chunks.count, cols);
}

}  // namespace bge

// Mean pooling and L2 normalisation of embeddings.
#include <algorithm>
#include <cmath>

#include "../core/cpu.h"
#include "cpu/kernels.h"
#include "row_tasks.h"

namespace bge {

namespace {
constexpr float kNormFloor = 1e-12f;  // torch.nn.functional.normalize
}

void CpuBackend::meanPool(Matrix out, Matrix x, const Packed& batch) {
  pool.parallelFor(batch.count, [&](int64_t n) {
    const int32_t first = batch.offsets[n], last = batch.offsets[n + 1];
    float* row = out.row(n);
    std::fill(row, row + out.cols, 0.0f);
    for (int32_t t = first; t < last; ++t) kernels.rows.add(row, x.row(t), 1.0f, out.cols);
    kernels.rows.divide(row, row, static_cast<float>(std::max(last - first, 1)), out.cols);
  });
}

void CpuBackend::meanPoolBackward(Matrix dX, Matrix dOut, const Packed& batch) {
  pool.parallelFor(batch.count, [&](int64_t n) {
    const int32_t first = batch.offsets[n], last = batch.offsets[n + 1];
    for (int32_t t = first; t < last; ++t) kernels.rows.divide(dX.row(t), dOut.row(n), static_cast<float>(last - first), dX.cols);
  });
}

void CpuBackend::normalize(Matrix out, float* norm, Matrix x) {
  forRows(pool, x.rows, x.cols, [&](int64_t first, int64_t last) {
    for (int64_t r = first; r < last; ++r) {
      const float length = static_cast<float>(std::sqrt(kernels.rows.dot(x.row(r), x.row(r), x.cols)));
      kernels.rows.divide(out.row(r), x.row(r), length < kNormFloor ? kNormFloor : length, x.cols);
      if (norm) norm[r] = length;
    }
  });
}

void CpuBackend::normalizeBackward(Matrix dX, Matrix dOut, Matrix out, const float* norm) {
  forRows(pool, dOut.rows, dOut.cols, [&](int64_t first, int64_t last) {
    for (int64_t r = first; r < last; ++r) {
      // Below the floor the divisor is a constant and only scales.
      const bool floored = norm[r] < kNormFloor;
      const float along = floored ? 0.0f : static_cast<float>(kernels.rows.dot(dOut.row(r), out.row(r), dOut.cols));
      kernels.rows.subtractDivide(dX.row(r), dOut.row(r), out.row(r), along, floored ? kNormFloor : norm[r], dOut.cols);
    }
  });
}

}  // namespace bge

// Gather, scatter and add rows, the GELU's derivative; the description of a dropout site.
#include <cstring>

#include "../core/cpu.h"
#include "../core/random.h"
#include "cpu/kernels.h"
#include "row_tasks.h"

namespace bge {

DropoutSite dropoutSite(const Dropout& d) {
  DropoutSite s;
  s.site = d.layer * 16 + d.site;
  s.step = d.step;
  s.k0 = static_cast<uint32_t>(d.seed);
  s.k1 = static_cast<uint32_t>(d.seed >> 32);
  s.threshold = dropoutThreshold(d.p);
  s.scale = 1.0f / (1.0f - d.p);
  return s;
}

void CpuBackend::convert(Matrix out, Matrix x) {  // all f32 here: a copy
  const size_t bytes = static_cast<size_t>(x.cols) * sizeof(float);
  forRows(pool, x.rows, x.cols, [&](int64_t first, int64_t last) {
    for (int64_t r = first; r < last; ++r) std::memcpy(out.row(r), x.row(r), bytes);
  });
}

void CpuBackend::gatherRows(Matrix out, Matrix x, const int32_t* index, int64_t count) {
  const size_t bytes = static_cast<size_t>(x.cols) * sizeof(float);
  forRows(pool, count, x.cols, [&](int64_t first, int64_t last) {
    for (int64_t r = first; r < last; ++r) std::memcpy(out.row(r), x.row(index[r]), bytes);
  });
}

void CpuBackend::scatterRows(Matrix out, const int32_t* index, int64_t count, Matrix x, bool accumulate) {
  const size_t bytes = static_cast<size_t>(x.cols) * sizeof(float);
  forRows(pool, count, x.cols, [&](int64_t first, int64_t last) {
    for (int64_t r = first; r < last; ++r) {
      if (accumulate) kernels.rows.add(out.row(index[r]), x.row(r), 1.0f, x.cols);
      else std::memcpy(out.row(index[r]), x.row(r), bytes);
    }
  });
}

void CpuBackend::add(Matrix out, Matrix x, float alpha) {
  forRows(pool, out.rows, out.cols, [&](int64_t first, int64_t last) {
    for (int64_t r = first; r < last; ++r) kernels.rows.add(out.row(r), x.row(r), alpha, out.cols);
  });
}

void CpuBackend::geluBackward(Matrix dX, Matrix dOut, Matrix preActivation) {
  forRows(pool, dX.rows, dX.cols, [&](int64_t first, int64_t last) {
    for (int64_t r = first; r < last; ++r) kernels.rows.geluBackward(dX.row(r), dOut.row(r), preActivation.row(r), dX.cols);
  });
}

}  // namespace bge

// The global gradient norm and AdamW with decoupled weight decay (Loshchilov and Hutter 2019), as torch.optim.AdamW.
#include <algorithm>
#include <cmath>

#include "../core/cpu.h"
#include "cpu/kernels.h"

namespace bge {

namespace {
constexpr int64_t kChunk = 32768;
}

void CpuBackend::adamw(double* squaredNorm, const AdamWPart* partsHost, int32_t count, const AdamW& o) {
  double total = 0;
  for (const AdamWPart* part = partsHost; part < partsHost + count; ++part) {
    const int64_t chunks = (part->n + kChunk - 1) / kChunk;
    Arena::Scope scope(workspace_);
    double* sums = workspace_.take<double>(chunks);
    pool.parallelFor(chunks, [&](int64_t c) {
      const float* x = part->gradient + c * kChunk;
      sums[c] = kernels.rows.dot(x, x, std::min(kChunk, part->n - c * kChunk));
    });
    for (int64_t c = 0; c < chunks; ++c) total += sums[c];
  }
  *squaredNorm = total;

  const bool finite = std::isfinite(total);
  const double t = static_cast<double>(o.step);
  AdamWStep step;
  step.clip = o.maxNorm > 0 ? static_cast<float>(std::min(1.0, o.maxNorm / (std::sqrt(total) + 1e-6))) : 1;
  step.oneMinusBeta1 = static_cast<float>(1 - o.beta1);
  step.beta2 = static_cast<float>(o.beta2);
  step.oneMinusBeta2 = static_cast<float>(1 - o.beta2);
  step.stepSize = static_cast<float>(o.learningRate / (1 - std::pow(o.beta1, t)));
  step.rootCorrection = static_cast<float>(std::sqrt(1 - std::pow(o.beta2, t)));
  step.epsilon = static_cast<float>(o.epsilon);
  for (const AdamWPart* part = partsHost; part < partsHost + count; ++part) {
    step.decay = static_cast<float>(1 - o.learningRate * part->weightDecay);
    pool.parallelFor((part->n + kChunk - 1) / kChunk, [&](int64_t c) {
      const int64_t i = c * kChunk, n = std::min(kChunk, part->n - i);
      if (finite) kernels.rows.adamw(part->parameter + i, part->m + i, part->v + i, part->gradient + i, n, &step);
      std::fill_n(part->gradient + i, n, 0.0f);  // still in the cache
    });
  }
}

}  // namespace bge

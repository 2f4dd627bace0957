// The global gradient norm and AdamW with decoupled weight decay (Loshchilov and Hutter 2019), as torch.optim.AdamW.
#include <algorithm>
#include <cmath>

#include "../core/cpu.h"
#include "cpu/kernels.h"

namespace bge {

namespace {
constexpr int64_t kChunk = 32768;
}

void CpuBackend::squaredNorm(double* result, const float* x, int64_t n) {
  const int64_t chunks = (n + kChunk - 1) / kChunk;
  Arena::Scope scope(workspace_);
  double* sums = workspace_.take<double>(chunks);
  pool.parallelFor(chunks, [&](int64_t c) {
    const float* part = x + c * kChunk;
    sums[c] = kernels.rows.dot(part, part, std::min(kChunk, n - c * kChunk));
  });
  double total = 0;
  for (int64_t c = 0; c < chunks; ++c) total += sums[c];
  *result += total;
}

void CpuBackend::adamw(float* parameter, float* m, float* v, const float* gradient, int64_t n, const AdamW& o) {
  const double beta1 = o.beta1, beta2 = o.beta2, rate = o.learningRate, t = static_cast<double>(o.step);
  double clip = 1;
  if (o.maxNorm > 0) {
    clip = o.maxNorm / (std::sqrt(*o.squaredNorm) + 1e-6);
    if (clip > 1) clip = 1;  // written so that a NaN norm stays NaN
  }
  AdamWStep step;
  step.clip = static_cast<float>(clip);
  step.decay = static_cast<float>(1 - rate * o.weightDecay);
  step.oneMinusBeta1 = static_cast<float>(1 - beta1);
  step.beta2 = static_cast<float>(beta2);
  step.oneMinusBeta2 = static_cast<float>(1 - beta2);
  step.stepSize = static_cast<float>(rate / (1 - std::pow(beta1, t)));
  step.rootCorrection = static_cast<float>(std::sqrt(1 - std::pow(beta2, t)));
  step.epsilon = static_cast<float>(o.epsilon);
  pool.parallelFor((n + kChunk - 1) / kChunk, [&](int64_t c) {
    const int64_t i = c * kChunk;
    kernels.rows.adamw(parameter + i, m + i, v + i, gradient + i, std::min(kChunk, n - i), &step);
  });
}

}  // namespace bge

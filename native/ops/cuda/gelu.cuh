// The exact GELU, x Phi(x) (Hendrycks and Gimpel 2016), and its derivative, Phi(x) + x phi(x), both accurate relative to themselves in the
// negative tail too, where 1 + erf cancels. The same formula as ops/cpu/vector.h.
#pragma once
#include "../../core/cuda/runtime.h"

namespace bge {

// q = 1 - Phi(|x|) = erfc(|x| / sqrt 2) / 2 and e = exp(-x^2 / 2).
// q = e R, R(a) = erfcx(a / sqrt 2) / 2 smooth and slowly falling: a polynomial in (a - 3) / (a + 3), fitted for a in [0, 13.4].
struct NormalTail { float q, e; };
__device__ __forceinline__ NormalTail normalTail(float x) {
  const float a = fabsf(x) > 14.5f ? 14.5f : fabsf(x);  // beyond, e is 0 in fp32; NaN stays
  const float square = a * a, rest = fmaf(a, a, -square);
  const float high = expf(-0.5f * square), e = fmaf(high, -0.5f * rest, high);
  const float s = __fdividef(a - 3.0f, a + 3.0f);
  float p = fmaf(5.415261330199428e-5f, s, 1.160404208349064e-4f);
  p = fmaf(p, s, -3.3991149393841624e-4f);
  p = fmaf(p, s, -9.841850260272622e-4f);
  p = fmaf(p, s, 2.9047022107988596e-3f);
  p = fmaf(p, s, 6.132183596491814e-3f);
  p = fmaf(p, s, -4.6213313937187195e-2f);
  p = fmaf(p, s, 1.2322501838207245e-1f);
  p = fmaf(p, s, -2.0640261471271515e-1f);
  p = fmaf(p, s, 1.2151394784450531e-1f);
  return {e * p, e};
}

__device__ __forceinline__ float gelu(float x) {
  const float q = normalTail(x).q;
  return x * (x < 0.0f ? q : 1.0f - q);
}

__device__ __forceinline__ float geluGradient(float x) {
  const NormalTail t = normalTail(x);
  return fmaf(x * 0.398942280f, t.e, x < 0.0f ? t.q : 1.0f - t.q);
}

}  // namespace bge

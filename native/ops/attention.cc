// Variable-length multi-head attention: one task per (sequence, head), so every output is written by one task.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "../core/cpu.h"
#include "cpu/kernels.h"
#include "cpu/kernels_low.h"

namespace bge {

namespace {

// What forward and backward share; head(n, h) fills in one task.
struct Heads {
  const Attention& a;
  DropoutSite site;
  explicit Heads(const Attention& attention) : a(attention), site(dropoutSite(attention.dropout)) {}

  AttentionHead head(int32_t n, int32_t i, Matrix out, float* lse) const {
    const int64_t q0 = a.queries.offsetsHost[n], k0 = a.keys.offsetsHost[n], column = static_cast<int64_t>(i) * a.headSize;
    AttentionHead h = {};
    h.queries = a.queries.offsetsHost[n + 1] - q0;
    h.keys = a.keys.offsetsHost[n + 1] - k0;
    h.size = a.headSize;
    h.q = a.q.row(q0) + column;
    h.k = a.k.row(k0) + column;
    h.v = a.v.row(k0) + column;
    h.qStride = a.q.stride;
    h.kStride = a.k.stride;
    h.vStride = a.v.stride;
    h.scale = 1.0f / std::sqrt(static_cast<float>(a.headSize));
    h.position = a.queryPosition + q0;
    if (a.mask) {
      h.maskBits = a.mask->bits;
      h.maskWords = a.mask->words;
      h.maskChoice = a.mask->choice + q0;
    }
    if (a.dropout.p > 0) {
      h.dropout = &site;
      h.stream = a.stream[n];
    }
    h.head = static_cast<uint32_t>(i);
    h.out = out.row(q0) + column;
    h.outStride = out.stride;
    h.lse = lse ? lse + i * a.queries.rows + q0 : nullptr;
    return h;
  }
};

// Attention in bf16 knows neither mask nor dropout. Nothing else decides, so that embed() under a key gives what forward() gives.
bool inBf16(const LowKernels* low, const Attention& a) {
  return low && !a.mask && a.dropout.p == 0 && a.queries.maxLength <= a.keys.maxLength;
}

// rows of `cols` values, each to the nearest bf16, ties to even.
void roundToBf16(float* out, const float* x, int64_t stride, int64_t rows, int64_t cols) {
  for (int64_t r = 0; r < rows; ++r, out += cols, x += stride) {
    for (int64_t i = 0; i < cols; ++i) {
      uint32_t bits;
      std::memcpy(&bits, x + i, sizeof bits);
      bits = (bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000u;
      std::memcpy(out + i, &bits, sizeof bits);
      if (x[i] != x[i]) out[i] = x[i];
    }
  }
}

}  // namespace

void CpuBackend::attention(Matrix out, float* lse, const Attention& a) {
  const Heads heads(a);
  Arena::Scope scope(workspace_);
  const bool low = inBf16(lowAttention, a);
  int64_t floats = kernels.attentionScratch(a.keys.maxLength, a.headSize, false);
  if (lowAttention) floats = std::max(floats, lowAttention->attentionScratch(a.keys.maxLength, a.headSize));  // one size for lib/train/plan_ops.ts
  const int64_t each = (floats + 15) / 16 * 16;
  float* scratch = workspace_.take<float>(each * pool.threads());
  pool.parallelFor(static_cast<int64_t>(a.keys.count) * a.heads, [&](int64_t i) {
    AttentionHead h = heads.head(static_cast<int32_t>(i / a.heads), static_cast<int32_t>(i % a.heads), out, lse);
    h.scratch = scratch + each * ThreadPool::thread();
    if (h.queries > 0) (low ? lowAttention->attention : kernels.attention)(h);
  });
}

void CpuBackend::attentionBackward(Matrix dQ, Matrix dK, Matrix dV, Matrix dOut, Matrix out, const float* lse, const Attention& a) {
  const Heads heads(a);
  Arena::Scope scope(workspace_);
  const int64_t each = (kernels.attentionScratch(a.keys.maxLength, a.headSize, true) + 15) / 16 * 16;
  // lse is that of rounded queries and keys: with large scores the exact ones would give probabilities whose sum is far from 1.
  const bool low = inBf16(lowAttention, a);
  const int64_t longest = a.keys.maxLength, copies = lowAttention ? (2 * longest * a.headSize + 15) / 16 * 16 : 0;
  float* rounded = workspace_.take<float>(copies * pool.threads());
  float* scratch = workspace_.take<float>(each * pool.threads());
  pool.parallelFor(static_cast<int64_t>(a.keys.count) * a.heads, [&](int64_t i) {
    const int32_t n = static_cast<int32_t>(i / a.heads), head = static_cast<int32_t>(i % a.heads);
    const int64_t q0 = a.queries.offsetsHost[n], k0 = a.keys.offsetsHost[n], column = static_cast<int64_t>(head) * a.headSize;
    AttentionHead h = heads.head(n, head, out, const_cast<float*>(lse));
    h.dOut = dOut.row(q0) + column;
    h.dQ = dQ.row(q0) + column;
    h.dK = dK.row(k0) + column;
    h.dV = dV.row(k0) + column;
    h.dOutStride = dOut.stride;
    h.dQStride = dQ.stride;
    h.dKStride = dK.stride;
    h.dVStride = dV.stride;
    h.scratch = scratch + each * ThreadPool::thread();
    if (low) {
      float *q = rounded + copies * ThreadPool::thread(), *k = q + longest * h.size;
      roundToBf16(q, h.q, h.qStride, h.queries, h.size);
      roundToBf16(k, h.k, h.kStride, h.keys, h.size);
      h.q = q, h.k = k;
      h.qStride = h.kStride = h.size;
    }
    kernels.attentionBackward(h);
  });
}

}  // namespace bge

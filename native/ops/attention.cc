// Variable-length multi-head attention: one task per (sequence, head), so every output is written by one task.
#include <cmath>

#include "../core/cpu.h"
#include "cpu/kernels.h"

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

}  // namespace

void CpuBackend::attention(Matrix out, float* lse, const Attention& a) {
  const Heads heads(a);
  Arena::Scope scope(workspace_);
  const int64_t each = (kernels.attentionScratch(a.keys.maxLength, a.headSize, false) + 15) / 16 * 16;
  float* scratch = workspace_.take<float>(each * pool.threads());
  pool.parallelFor(static_cast<int64_t>(a.keys.count) * a.heads, [&](int64_t i) {
    AttentionHead h = heads.head(static_cast<int32_t>(i / a.heads), static_cast<int32_t>(i % a.heads), out, lse);
    h.scratch = scratch + each * ThreadPool::thread();
    if (h.queries > 0) kernels.attention(h);
  });
}

void CpuBackend::attentionBackward(Matrix dQ, Matrix dK, Matrix dV, Matrix dOut, Matrix out, const float* lse, const Attention& a) {
  const Heads heads(a);
  Arena::Scope scope(workspace_);
  const int64_t each = (kernels.attentionScratch(a.keys.maxLength, a.headSize, true) + 15) / 16 * 16;
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
    kernels.attentionBackward(h);
  });
}

}  // namespace bge

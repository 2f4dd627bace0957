// Variable-length multi-head attention: tensor-core kernels for the head sizes of BERT models, plain ones for every other case.
//
// BGE_CUDA_ATTENTION, read when a device is opened: mma (the default, every GPU) or wgmma: the forward of head size 64 by warpgroup
// products, GPUs of compute capability 9.0 alone. mma stays the default until a GPU has measured both.
#include <algorithm>
#include <cmath>
#include <initializer_list>

#include "../core/cuda/cuda.h"
#include "cuda/attention_backward.cuh"
#include "cuda/attention_forward.cuh"
#include "cuda/attention_general.cuh"
#include "cuda/attention_wgmma.cuh"

namespace bge {

namespace {

using attn::Arguments;

attn::View view(const Matrix& x) { return {x.as<bf16>(), static_cast<int32_t>(x.stride)}; }

Arguments arguments(const Matrix& out, const float* lse, const Attention& a) {
  Arguments r = {};
  r.q = view(a.q), r.k = view(a.k), r.v = view(a.v), r.out = view(out);
  r.lse = const_cast<float*>(lse);
  r.queryOffsets = a.queries.offsets, r.keyOffsets = a.keys.offsets;
  r.position = a.queryPosition;
  r.stream = a.stream;
  if (a.mask) {
    r.maskBits = reinterpret_cast<const uint32_t*>(a.mask->bits);
    r.maskChoice = a.mask->choice;
    r.maskWords = 2 * a.mask->words;
  }
  r.queryRows = a.queries.rows;
  r.count = a.keys.count, r.heads = a.heads, r.headSize = a.headSize;
  r.scale = 1.0f / std::sqrt(static_cast<float>(a.headSize));
  r.scaleLog2 = r.scale * attn::kLog2e;
  r.site = a.dropout.layer * 16 + a.dropout.site, r.step = a.dropout.step;
  r.k0 = static_cast<uint32_t>(a.dropout.seed), r.k1 = static_cast<uint32_t>(a.dropout.seed >> 32);
  r.threshold = a.dropout.p > 0 ? dropoutThreshold(a.dropout.p) : 0;
  r.keepScale = a.dropout.p > 0 ? 1 / (1 - a.dropout.p) : 1.0f;
  return r;
}

// The tensor-core kernels read and write 16 bytes at a time.
bool hasTensorKernel(int32_t headSize, std::initializer_list<const Matrix*> matrices) {
  if (headSize != 32 && headSize != 64) return false;
  for (const Matrix* m : matrices) {
    if (m->stride % 8 != 0 || reinterpret_cast<uintptr_t>(m->data) % 16 != 0) return false;
  }
  return true;
}

// How many blocks the sequences need. `most`: whatever the lengths are, as long as count, rows and the longest sequence stay the same: a
// CUDA graph may be replayed with other lengths.
unsigned forwardGrid(const Attention& a, bool most) {
  const Packed& q = a.queries;
  if (most) {
    // Per sequence at most ceil(H / 4) blocks up to 32 rows, ceil(H / 2) up to 64; above, H for every 128 rows begun, which is no more than
    // ceil(H / 4) + rows * H / 65.
    const int64_t longest = std::min<int64_t>(q.maxLength, q.rows), each = attn::forwardBlocks(static_cast<int>(longest), a.heads);
    return static_cast<unsigned>(std::min(q.count * each, q.count * attn::headGroups(a.heads, 0) + (q.rows * a.heads + 64) / 65));
  }
  unsigned total = 0;
  for (int32_t n = 0; n < q.count; ++n) total += attn::forwardBlocks(q.offsetsHost[n + 1] - q.offsetsHost[n], a.heads);
  return total;
}
unsigned wgmmaGrid(const Attention& a, bool most) {
  const Packed& q = a.queries;
  if (most) {  // a sequence has at most (length + 63) / 64 blocks a head
    const int64_t longest = std::min<int64_t>(q.maxLength, q.rows), each = attn::wgmmaBlocks(static_cast<int>(longest), a.heads);
    return static_cast<unsigned>(std::min(q.count * each, (q.rows + q.count * (attn::kWgmmaRows - 1)) / attn::kWgmmaRows * a.heads));
  }
  unsigned total = 0;
  for (int32_t n = 0; n < q.count; ++n) total += attn::wgmmaBlocks(q.offsetsHost[n + 1] - q.offsetsHost[n], a.heads);
  return total;
}
unsigned backwardGrid(const Attention& a, bool most) {
  if (most) return static_cast<unsigned>(a.keys.count * attn::headGroups(a.heads, attn::groupBits(a.keys.maxLength)));
  unsigned total = 0;
  const int32_t *q = a.queries.offsetsHost, *k = a.keys.offsetsHost;
  for (int32_t n = 0; n < a.keys.count; ++n) total += attn::backwardBlocks(q[n + 1] - q[n], k[n + 1] - k[n], a.heads);
  return total;
}

template <class F> void chooseMask(const Arguments& r, F f) {
  if (r.maskBits) f(std::true_type());
  else f(std::false_type());
}
// f(head size, mask, dropout) as types.
template <class F> void choose(const Arguments& r, F f) {
  const auto withSize = [&](auto size) {
    chooseMask(r, [&](auto mask) {
      if (r.threshold) f(size, mask, std::true_type());
      else f(size, mask, std::false_type());
    });
  };
  if (r.headSize == 64) withSize(std::integral_constant<int, 64>());
  else withSize(std::integral_constant<int, 32>());
}

dim3 generalGrid(int64_t rows, int32_t heads) {
  return dim3(static_cast<unsigned>((rows + attn::kWarps - 1) / attn::kWarps), static_cast<unsigned>(heads));
}

}  // namespace

void CudaBackend::attention(Matrix out, float* lse, const Attention& a) {
  const Arguments r = arguments(out, lse, a);
  if (!hasTensorKernel(a.headSize, {&a.q, &a.k, &a.v, &out})) {
    launch(attn::generalForward, generalGrid(a.queries.rows, a.heads), dim3(attn::kThreads), 0, stream_, r);
    return;
  }
  if (wgmmaAttention_ && a.headSize == 64) {
    const unsigned blocks = wgmmaGrid(a, capturing_);
    chooseMask(r, [&](auto mask) {
      const auto with = [&](auto dropout) {
        launch((attn::wgmmaForward<mask(), dropout()>), dim3(blocks), dim3(attn::kThreads), attn::kWgmmaShared, stream_, r);
      };
      if (r.threshold) with(std::true_type());
      else with(std::false_type());
    });
    return;
  }
  const unsigned blocks = forwardGrid(a, capturing_);
  choose(r, [&](auto size, auto mask, auto dropout) {
    launch((attn::forwardKernel<size(), mask(), dropout()>), dim3(blocks), dim3(attn::kThreads), attn::forwardShared<size()>(), stream_, r);
  });
}

void CudaBackend::attentionBackward(Matrix dQ, Matrix dK, Matrix dV, Matrix dOut, Matrix out, const float* lse, const Attention& a) {
  Arguments r = arguments(out, lse, a);
  r.dOut = view(dOut), r.dQ = view(dQ), r.dK = view(dK), r.dV = view(dV);
  Arena::Scope scope(workspace_);
  r.delta = workspace_.take<float>(a.heads * a.queries.rows);
  if (!hasTensorKernel(a.headSize, {&a.q, &a.k, &a.v, &out, &dOut, &dQ, &dK, &dV})) {
    launch(attn::generalBackwardQueries, generalGrid(a.queries.rows, a.heads), dim3(attn::kThreads), 0, stream_, r);
    launch(attn::generalBackwardKeys, generalGrid(a.keys.rows, a.heads), dim3(attn::kThreads), 0, stream_, r, a.keys.rows);
    return;
  }
  if (a.keys.maxLength > attn::kTileRows) {
    r.dQSum = workspace_.take<float>(a.heads * attn::dQTiles(a.queries.rows, a.keys.count) * 16 * a.headSize);
  }
  const unsigned blocks = backwardGrid(a, capturing_);
  choose(r, [&](auto size, auto mask, auto dropout) {
    launch((attn::backwardKernel<size(), mask(), dropout()>), dim3(blocks), dim3(attn::kThreads), attn::backwardShared<size(), mask()>(),
           stream_, r);
  });
}

}  // namespace bge

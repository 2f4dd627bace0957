// Launches our own matrix products (cuda/gemm.h).
#include <algorithm>

#include "cuda/gemm.cuh"
#include "cuda/gemm.h"
#include "cuda/gemm_f32.cuh"
#include "cuda/rows.cuh"

namespace bge {

namespace {

constexpr int64_t kSplitDepth = 512;  // of k, at least, for one split
constexpr int64_t kMostSplits = 16;

// d = alpha * (sum of the splits, in order) + beta * d
__global__ void __launch_bounds__(256) addSplitsKernel(float* d, int64_t stride, const float* parts, int splits, int64_t rows, int64_t cols,
                                                       float alpha, float beta) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * 256 + threadIdx.x, n = rows * cols;
  if (i >= n) return;
  float sum = 0;
  for (int s = 0; s < splits; ++s) sum += parts[s * n + i];
  float* to = d + i / cols * stride + i % cols;
  *to = alpha * sum + (beta != 0 ? beta * *to : 0.0f);
}

Epilogue epilogueOf(const GemmCall& c) {
  Epilogue e;
  e.d = c.d.data;
  e.stride = c.d.stride;
  e.alpha = c.alpha;
  e.beta = c.beta;
  e.bias = c.bias;
  e.applyGelu = c.gelu;
  e.bf16Out = c.d.type == DType::bf16;
  e.preActivation = c.preActivation.as<bf16>();
  e.preStride = c.preActivation.stride;
  e.geluInput = c.geluInput.as<bf16>();
  e.geluStride = c.geluInput.stride;
  const auto even = [](Matrix m) { return m.stride % 2 == 0 && aligned(m.data, static_cast<size_t>(2 * sizeOf(m.type))); };
  e.paired = even(c.d) && (!c.preActivation.data || even(c.preActivation));
  return e;
}

template <bool transposeA, bool transposeB, class T>
void launch16(cudaStream_t stream, const gemm16::Operands<T>& o, const Epilogue& e, dim3 grid, bool wholeChunks) {
  if (wholeChunks) launch((gemm16::gemm16Bit<T, transposeA, transposeB, true>), grid, gemm16::kThreads, gemm16::kSharedBytes, stream, o, e);
  else launch((gemm16::gemm16Bit<T, transposeA, transposeB, false>), grid, gemm16::kThreads, gemm16::kSharedBytes, stream, o, e);
}

template <class T>
void run16(cudaStream_t stream, Arena& workspace, const GemmCall& c, int multiprocessors) {
  using namespace gemm16;
  const int64_t m = c.m(), n = c.n(), k = c.k();
  Operands<T> o{c.a.as<T>(), c.b.as<T>(), c.a.stride, c.b.stride, m, n, k, 0, (n + kTileN - 1) / kTileN};
  const int64_t tiles = (m + kTileM - 1) / kTileM * o.tilesN;
  // 16-byte copies need whole chunks along the contiguous dimension.
  const auto chunked = [](Matrix x) { return x.stride % 8 == 0 && x.cols % 8 == 0 && aligned(x.data, 16); };
  const bool wholeChunks = chunked(c.a) && chunked(c.b);
  Epilogue e = epilogueOf(c);
  Arena::Scope scope(workspace);
  int64_t splits = 1;
  // A weight gradient: few tiles, many rows.
  if ((c.transposeA || c.splitDepth) && c.d.type == DType::f32 && !c.bias && !c.gelu && !c.geluInput.data)
    splits = std::clamp<int64_t>(2 * multiprocessors / tiles, 1, std::min(kMostSplits, std::max<int64_t>(1, k / kSplitDepth)));
  if (c.splitDepth) splits = std::clamp<int64_t>(static_cast<int64_t>(c.workspace / sizeof(float)) / (m * n), 1, splits);
  o.depth = ((k + splits - 1) / splits + kTileK - 1) / kTileK * kTileK;
  splits = std::max<int64_t>(1, (k + o.depth - 1) / o.depth);
  float* parts = nullptr;
  if (splits > 1) {
    parts = workspace.take<float>(splits * m * n);
    e = Epilogue{};
    e.d = parts;
    e.stride = n;
    e.splitStride = m * n;
  }
  const dim3 grid(static_cast<unsigned int>(tiles), static_cast<unsigned int>(splits));
  if (c.transposeA) c.transposeB ? launch16<true, true>(stream, o, e, grid, wholeChunks) : launch16<true, false>(stream, o, e, grid, wholeChunks);
  else c.transposeB ? launch16<false, true>(stream, o, e, grid, wholeChunks) : launch16<false, false>(stream, o, e, grid, wholeChunks);
  if (parts)
    launch(addSplitsKernel, blocksFor(m * n, 256), 256, 0, stream, c.d.as<float>(), c.d.stride, parts, static_cast<int>(splits), m, n, c.alpha,
           c.beta);
}

void run32(cudaStream_t stream, const GemmCall& c) {
  using namespace gemm32;
  const int64_t m = c.m(), n = c.n();
  const Operands o{c.a.as<float>(), c.b.as<float>(), c.a.stride, c.b.stride, m, n, c.k(), (n + kTile - 1) / kTile};
  const Epilogue e = epilogueOf(c);
  const dim3 grid(static_cast<unsigned int>((m + kTile - 1) / kTile * o.tilesN));
  if (c.transposeA && c.transposeB) launch((gemmF32<true, true>), grid, kThreads, 0, stream, o, e);
  else if (c.transposeA) launch((gemmF32<true, false>), grid, kThreads, 0, stream, o, e);
  else if (c.transposeB) launch((gemmF32<false, true>), grid, kThreads, 0, stream, o, e);
  else launch((gemmF32<false, false>), grid, kThreads, 0, stream, o, e);
}

}  // namespace

void ownGemm(cudaStream_t stream, Arena& workspace, const GemmCall& call, int multiprocessors) {
  if (call.m() == 0 || call.n() == 0) return;
  requireType(call.b.type, call.a.type, "a product");
  if (call.a.type == DType::bf16) run16<bf16>(stream, workspace, call, multiprocessors);
  else if (call.a.type == DType::f16) run16<f16>(stream, workspace, call, multiprocessors);
  else if (call.a.type == DType::f32) run32(stream, call);
  else requireType(call.a.type, DType::bf16, "a product");
}

}  // namespace bge

// One direction of a contrastive objective on CUDA: blocks of queries against all passages, forward and gradient in one go. The products take
// f16 rows, times 16, and f16 gradients of the scores (gpu.md's numerics: bf16 rows would cost ten times the error at temperature 0.01); sums
// are fp32, and so is everything between the products. A block of scores, and its gradient in the same place, stays in the L2 cache; each
// block reads and writes all of dP, so blocks are as high as the cache allows.
// BGE_CUDA_SIMILARITY, read when a device is opened: f16 (the default) or f32: products to fp32 accuracy (3 x tf32), slower, to tell one
// error from another; with it the objectives are held to what they are held to on the CPU.
#include <algorithm>
#include <cmath>

#include "../core/cuda/cuda.h"
#include "cuda/gemm.h"
#include "cuda/rows.cuh"
#include "cuda/similarity.h"

namespace bge {

namespace {

#if defined(BGE_CUDA_EMULATED)  // the tests shall see more than one block
constexpr int64_t kScoreBytes = int64_t{64} << 10, kLeastRows = 16;
#else
constexpr int64_t kScoreBytes = int64_t{38} << 20;  // of the L2 cache's 50 MB: 512 rows of 19,200 columns. lib/train/plan_ops.ts repeats it
constexpr int64_t kLeastRows = 128;                 // a tile of the products; with more columns than fit, scores go through memory
#endif
constexpr float kOperandScale = 16;                 // values of unit rows lie around 0.03: far from f16's subnormal numbers
constexpr size_t kProductBytes = size_t{8} << 20;   // of workspace: all of the loss is to stay below 0.2 GB at 19,200 x 768
constexpr int kGradientBits = 14;                   // the largest gradient becomes at most 2^14, of 65504

// out (rows, cols) = 16 x, contiguous
__global__ void __launch_bounds__(256) toHalfKernel(f16* out, const float* x, int64_t stride, int64_t rows, int64_t cols) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * 256 + threadIdx.x;
  if (i < rows * cols) out[i] = fromFloat<f16>(kOperandScale * x[i / cols * stride + i % cols]);
}

}  // namespace

void CudaBackend::contrastivePass(ContrastiveResult* result, Matrix dQ, Matrix dP, Matrix q, Matrix p, const Contrastive& whole,
                                  bool accumulate) {
  const int64_t B = q.rows, M = p.rows, D = q.cols;
  Arena::Scope scope(workspace_);
  const int64_t stride = (M + 7) / 8 * 8;  // 16-byte chunks of f16 as well
  const int64_t fit = kScoreBytes / (stride * static_cast<int64_t>(sizeof(float)));
  const int64_t most = std::min(B, std::max(fit, kLeastRows)), blocks = (B + most - 1) / most, rows = (B + blocks - 1) / blocks;
  float* const scores = workspace_.take<float>(rows * stride);
  // f16: P once, the queries of a block when its turn comes.
  const auto half = [&](int64_t n) { return exactSimilarity_ ? Matrix() : takeMatrix(workspace_, DType::f16, n, D); };
  const Matrix p16 = half(M), q16 = half(rows);
  const auto operand = [&](Matrix to, Matrix from) {
    if (exactSimilarity_) return from;
    launch(toHalfKernel, blocksFor(from.rows * D, 256), 256, 0, stream_, to.as<f16>(), from.as<float>(), from.stride, from.rows, D);
    return to.slice(0, from.rows);
  };
  const auto multiply = [&](const GemmCall& c) {
    if (exactSimilarity_) matmul(c.d, c.a, c.transposeA, c.b, c.transposeB, c.alpha, c.beta);
    else product(c);
  };
  const Matrix passages = operand(p16, p);

  // Each weight's term moves a score's gradient by at most the weight.
  int bits = 0;
  std::frexp(std::fabs(whole.infoNceWeight) + std::fabs(whole.klWeight) + std::fabs(whole.m3Weight), &bits);
  const float halfScale = exactSimilarity_ ? 0.0f : std::ldexp(1.0f, kGradientBits - bits);
  const float gradientScale = exactSimilarity_ ? 1.0f : whole.lossScale / (static_cast<float>(B) * whole.temperature * halfScale * kOperandScale);

  for (int64_t first = 0; first < B; first += rows) {
    const int64_t n = std::min(rows, B - first);
    Contrastive tile = whole;
    tile.scores = Matrix(scores, n, M, stride);
    tile.firstRow = first;
    const Matrix queries = operand(q16, q.slice(first, n));
    GemmCall forward;
    forward.d = tile.scores;
    forward.a = queries;
    forward.b = passages;
    forward.transposeB = true;
    forward.workspace = kProductBytes;
    forward.alpha = exactSimilarity_ ? 1 : 1 / (kOperandScale * kOperandScale);
    multiply(forward);
    contrastiveRows(stream_, workspace_, result, tile, halfScale);
    GemmCall backward;
    backward.a = exactSimilarity_ ? tile.scores : Matrix(scores, DType::f16, n, M, 2 * stride);
    backward.alpha = gradientScale;
    backward.splitDepth = true;
    backward.workspace = kProductBytes;
    if (dQ.data) {
      backward.d = dQ.slice(first, n);
      backward.b = passages;
      backward.beta = accumulate ? 1 : 0;
      multiply(backward);
    }
    if (dP.data) {
      backward.d = dP;
      backward.b = queries;
      backward.transposeA = true;
      backward.beta = first > 0 || accumulate ? 1 : 0;
      multiply(backward);
    }
  }
}

}  // namespace bge

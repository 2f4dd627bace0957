// 16-bit operands, bf16 or f16 (T). A block computes a 128 x 128 tile of d in steps of 32 along k: 8 warps, each 64 x 32, four stages of cp.async in flight.
// A tile of an operand lies in shared memory as it does in global memory, 16-byte chunks swizzled so that ldmatrix has no bank conflicts;
// which of the two dimensions is contiguous decides between ldmatrix and its transposing form.
#pragma once
#include "../../core/cuda/kernel.h"
#include "epilogue.cuh"

namespace bge {
namespace gemm16 {

constexpr int kTileM = 128, kTileN = 128, kTileK = 32, kStages = 4, kThreads = 256;
constexpr int kWarpM = 64, kWarpN = 32;
constexpr int kOperandValues = kTileM * kTileK;  // of a stage; the same for both operands
constexpr size_t kSharedBytes = size_t{2} * kStages * kOperandValues * sizeof(uint16_t);

// One operand's tile: `outer` x k, outer = m or n. kContiguous: global and shared rows run along k.
template <class T, bool kContiguous>
struct Tile {
  static constexpr int kChunks = kContiguous ? kTileK / 8 : kTileM / 8;  // of 8 values, in a shared row
  static constexpr int kRows = kContiguous ? kTileM : kTileK;

  __device__ static int offset(int row, int chunk) {  // in values
    const int swizzled = kContiguous ? chunk ^ ((row >> 1) & 3) : chunk ^ (row & 7);
    return (row * kChunks + swizzled) * 8;
  }

  // From (outer0, k0) of an operand with `outerSize` x `k` values. aligned: 16-byte chunks are whole and aligned.
  template <bool aligned>
  __device__ static void load(T* shared, const T* global, int64_t stride, int64_t outer0, int64_t outerSize, int64_t k0, int64_t k) {
    const int64_t row0 = kContiguous ? outer0 : k0, rows = kContiguous ? outerSize : k;
    const int64_t col0 = kContiguous ? k0 : outer0, cols = kContiguous ? k : outerSize;
#pragma unroll
    for (int i = 0; i < kRows * kChunks / kThreads; ++i) {
      const int at = i * kThreads + static_cast<int>(threadIdx.x);
      const int row = at / kChunks, chunk = at % kChunks;
      const int64_t r = row0 + row, c = col0 + chunk * 8;
      T* to = shared + offset(row, chunk);
      if constexpr (aligned) {
        const bool valid = r < rows && c < cols;
        copyAsync16(to, valid ? global + r * stride + c : global, valid);
      } else {
        for (int j = 0; j < 8; ++j) to[j] = r < rows && c + j < cols ? global[r * stride + c + j] : fromFloat<T>(0.0f);
      }
    }
  }

  // The four 8 x 8 matrices of a 16 (outer) x 16 (k) piece at (outer, k): kOuterFirst orders them (outer, k) = (0,0), (8,0), (0,8), (8,8), as
  // an A fragment needs them; otherwise (0,0), (0,8), (8,0), (8,8): two B fragments.
  template <bool kOuterFirst>
  __device__ static void fragment(uint32_t (&r)[4], const T* shared, int outer, int k) {
    const int lane = static_cast<int>(threadIdx.x) % 32, matrix = lane / 8, i = lane % 8;
    const int outerHalf = kOuterFirst ? matrix % 2 : matrix / 2, kHalf = kOuterFirst ? matrix / 2 : matrix % 2;
    if constexpr (kContiguous) {
      ldmatrix4(r, shared + offset(outer + outerHalf * 8 + i, k / 8 + kHalf));
    } else {
      ldmatrix4Transposed(r, shared + offset(k + kHalf * 8 + i, outer / 8 + outerHalf));
    }
  }
};

template <class T>
struct Operands {
  const T *a, *b;
  int64_t strideA, strideB;
  int64_t m, n, k;
  int64_t depth;   // of k, for one split; a multiple of kTileK
  int64_t tilesN;
};

__device__ __forceinline__ void mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], bf16) { mmaBf16(d, a, b); }
__device__ __forceinline__ void mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], f16) { mmaF16(d, a, b); }

// grid: (tiles, splits of k); neighbouring blocks share their rows of a
template <class T, bool transposeA, bool transposeB, bool aligned>
__global__ void __launch_bounds__(kThreads, aligned ? 2 : 1) gemm16Bit(Operands<T> o, Epilogue epilogue) {
  using TileA = Tile<T, !transposeA>;
  using TileB = Tile<T, transposeB>;
  BGE_SHARED(T, shared);
  T* const sharedA = shared;
  T* const sharedB = shared + kStages * kOperandValues;
  const int64_t m0 = blockIdx.x / o.tilesN * kTileM, n0 = blockIdx.x % o.tilesN * kTileN;
  const int64_t first = static_cast<int64_t>(blockIdx.y) * o.depth, left = o.k - first;
  const int64_t end = first + (left < o.depth ? left : o.depth);
  const int steps = static_cast<int>((end - first + kTileK - 1) / kTileK);
  const int warp = static_cast<int>(threadIdx.x) / 32, warpM = warp / (kTileN / kWarpN) * kWarpM, warpN = warp % (kTileN / kWarpN) * kWarpN;

  const auto load = [&](int step) {
    if (step < steps) {
      const int stage = step % kStages;
      const int64_t k0 = first + static_cast<int64_t>(step) * kTileK;
      TileA::template load<aligned>(sharedA + stage * kOperandValues, o.a, o.strideA, m0, o.m, k0, end);
      TileB::template load<aligned>(sharedB + stage * kOperandValues, o.b, o.strideB, n0, o.n, k0, end);
    }
    commitAsync();  // an empty group keeps the count
  };

  float sum[kWarpM / 16][kWarpN / 8][4] = {};
  for (int s = 0; s < kStages - 1; ++s) load(s);
  for (int step = 0; step < steps; ++step) {
    waitAsync<kStages - 2>();
    __syncthreads();
    load(step + kStages - 1);  // into the stage that was read in the step before
    const T* a = sharedA + step % kStages * kOperandValues;
    const T* b = sharedB + step % kStages * kOperandValues;
#pragma unroll
    for (int k = 0; k < kTileK; k += 16) {
      uint32_t fa[kWarpM / 16][4], fb[kWarpN / 16][4];
#pragma unroll
      for (int i = 0; i < kWarpM / 16; ++i) TileA::template fragment<true>(fa[i], a, warpM + i * 16, k);
#pragma unroll
      for (int j = 0; j < kWarpN / 16; ++j) TileB::template fragment<false>(fb[j], b, warpN + j * 16, k);
#pragma unroll
      for (int i = 0; i < kWarpM / 16; ++i) {
#pragma unroll
        for (int j = 0; j < kWarpN / 8; ++j) {
          const uint32_t two[2] = {fb[j / 2][j % 2 * 2], fb[j / 2][j % 2 * 2 + 1]};
          mma(sum[i][j], fa[i], two, T{});
        }
      }
    }
  }

  const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
  for (int i = 0; i < kWarpM / 16; ++i) {
#pragma unroll
    for (int j = 0; j < kWarpN / 8; ++j) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int64_t row = m0 + warpM + i * 16 + half * 8 + lane / 4, col = n0 + warpN + j * 8 + lane % 4 * 2;
        if (row < o.m && col < o.n) epilogue.store(row, col, sum[i][j][half * 2], sum[i][j][half * 2 + 1], col + 1 < o.n, blockIdx.y);
      }
    }
  }
}

}  // namespace gemm16
}  // namespace bge

// fp32 operands on tensor cores, to fp32 accuracy: each operand is split into two tf32 numbers, x = high + low to 2^-22, and three of the four
// products are taken (low * low is below fp32's rounding). Sums of 16 products are added to the result in the fp32 units, because a tensor
// core truncates while it accumulates. A block computes a 64 x 64 tile: 4 warps, each 32 x 32.
#pragma once
#include "../../core/cuda/kernel.h"
#include "epilogue.cuh"

namespace bge {
namespace gemm32 {

constexpr int kTile = 64, kTileK = 16, kThreads = 128, kWarp = 32;
constexpr int kRow = kTile + 8;                           // of shared memory: lanes (k, outer) of a fragment fall into 32 different banks
constexpr int kEach = kTile * kTileK / kThreads;          // values of an operand's tile a thread moves

struct Operands {
  const float *a, *b;
  int64_t strideA, strideB;
  int64_t m, n, k;
  int64_t tilesN;
};

// Values at (outer, k) of an operand that is contiguous along k, or along its outer dimension.
template <bool kContiguous>
struct Loader {
  const float* data;
  int64_t stride, outer0, outerSize, k;
  __device__ static int kOf(int i) {
    const int at = i * kThreads + static_cast<int>(threadIdx.x);
    return kContiguous ? at % kTileK : at / kTile;
  }
  __device__ static int outerOf(int i) {
    const int at = i * kThreads + static_cast<int>(threadIdx.x);
    return kContiguous ? at / kTileK : at % kTile;
  }
  __device__ void load(float (&v)[kEach], int64_t k0) const {
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      const int64_t outer = outer0 + outerOf(i), depth = k0 + kOf(i);
      v[i] = outer < outerSize && depth < k ? data[kContiguous ? outer * stride + depth : depth * stride + outer] : 0.0f;
    }
  }
  __device__ static void store(float* shared, const float (&v)[kEach]) {
#pragma unroll
    for (int i = 0; i < kEach; ++i) shared[kOf(i) * kRow + outerOf(i)] = v[i];
  }
};

struct Split { uint32_t high, low; };
__device__ __forceinline__ Split split(float v) {
  const uint32_t high = roundTf32(v);
  const float rest = v - bitsAs<float>(high);
  // An infinity has no rest (inf - inf would be NaN), a NaN stays in `high`.
  return {high, rest == rest ? roundTf32(rest) : 0u};
}

// grid: tiles
template <bool transposeA, bool transposeB>
__global__ void __launch_bounds__(kThreads) gemmF32(Operands o, Epilogue epilogue) {
  BGE_SHARED_STATIC(float, sharedA, kTileK * kRow);
  BGE_SHARED_STATIC(float, sharedB, kTileK * kRow);
  const int64_t m0 = blockIdx.x / o.tilesN * kTile, n0 = blockIdx.x % o.tilesN * kTile;
  const Loader<!transposeA> loadA{o.a, o.strideA, m0, o.m, o.k};
  const Loader<transposeB> loadB{o.b, o.strideB, n0, o.n, o.k};
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32, g = lane / 4, t = lane % 4;
  const int warpM = warp / 2 * kWarp, warpN = warp % 2 * kWarp;

  float sum[2][4][4] = {};
  float nextA[kEach], nextB[kEach];
  loadA.load(nextA, 0);
  loadB.load(nextB, 0);
  for (int64_t k0 = 0; k0 < o.k; k0 += kTileK) {
    __syncthreads();
    loadA.store(sharedA, nextA);
    loadB.store(sharedB, nextB);
    __syncthreads();
    if (k0 + kTileK < o.k) {
      loadA.load(nextA, k0 + kTileK);
      loadB.load(nextB, k0 + kTileK);
    }
    float part[2][4][4] = {};
#pragma unroll
    for (int k = 0; k < kTileK; k += 8) {
      uint32_t highA[2][4], lowA[2][4];
#pragma unroll
      for (int i = 0; i < 2; ++i) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const Split s = split(sharedA[(k + t + e / 2 * 4) * kRow + warpM + i * 16 + g + e % 2 * 8]);
          highA[i][e] = s.high;
          lowA[i][e] = s.low;
        }
      }
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        uint32_t highB[2], lowB[2];
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const Split s = split(sharedB[(k + t + e * 4) * kRow + warpN + j * 8 + g]);
          highB[e] = s.high;
          lowB[e] = s.low;
        }
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          mmaTf32(part[i][j], lowA[i], highB);
          mmaTf32(part[i][j], highA[i], lowB);
          mmaTf32(part[i][j], highA[i], highB);
        }
      }
    }
#pragma unroll
    for (int i = 0; i < 2; ++i)
#pragma unroll
      for (int j = 0; j < 4; ++j)
#pragma unroll
        for (int e = 0; e < 4; ++e) sum[i][j][e] += part[i][j][e];
  }

#pragma unroll
  for (int i = 0; i < 2; ++i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int64_t row = m0 + warpM + i * 16 + half * 8 + g, col = n0 + warpN + j * 8 + t * 2;
        if (row < o.m && col < o.n) epilogue.store(row, col, sum[i][j][half * 2], sum[i][j][half * 2 + 1], col + 1 < o.n, 0);
      }
    }
  }
}

}  // namespace gemm32
}  // namespace bge

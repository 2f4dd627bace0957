// Attention of any head size and alignment, in plain fp32: one warp per row and head, lanes are keys (or queries) of a chunk of 32. Scores
// are computed again for every 128 columns of the result. Used where the tensor-core kernels cannot be: short of speed, not of accuracy.
#pragma once
#include "attention.cuh"

namespace bge {
namespace attn {

// The sequence that row `row` belongs to; all lanes search together.
__device__ __forceinline__ int findSequence(const int32_t* offsets, int count, int64_t row) {
  int first = 0, last = count - 1;  // the last sequence that starts at or before `row` (empty ones end there too)
  while (first < last) {
    const int middle = (first + last + 1) / 2;
    if (offsets[middle] <= row) first = middle;
    else last = middle - 1;
  }
  return first;
}

struct Pair {  // where a query row and its keys are
  int sequence, keys, head;
  int64_t k0, query;
  uint32_t stream;
};

__device__ __forceinline__ float rowDot(const bf16* x, const bf16* y, int n) {
  float sum = 0;
  for (int i = 0; i < n; ++i) sum = fmaf(toFloat(x[i]), toFloat(y[i]), sum);
  return sum;
}
__device__ __forceinline__ const bf16* at(const View& x, int64_t row, int head, int size) {
  return x.at(static_cast<int>(row)) + static_cast<int64_t>(head) * size;
}

// Scaled score of a query row and key `j`; -infinity when hidden.
__device__ __forceinline__ float generalScore(const Arguments& a, int64_t query, int64_t k0, int keys, int j, int head) {
  if (j >= keys) return -INFINITY;
  if (a.maskBits) {
    const uint32_t bits = maskBits(a, a.maskChoice[query], a.position[query], j & ~31, keys);
    if (bits >> (j & 31) & 1) return -INFINITY;
  }
  return a.scale * rowDot(at(a.q, query, head, a.headSize), at(a.k, k0 + j, head, a.headSize), a.headSize);
}

// What dropout multiplies the probability with.
__device__ __forceinline__ float generalFactor(const Arguments& a, int64_t query, int keys, int j, int head, uint32_t stream) {
  if (a.threshold == 0) return 1;
  const uint32_t kept = keepBits(a, rowCounter(head, keys, a.position[query]) + static_cast<uint32_t>(j >> 2), stream);
  return kept >> (j & 3) & 1 ? a.keepScale : 0.0f;
}

constexpr int kColumns = 4;  // of a lane: 32 apart

// columns[c] += sum over the chunk's lanes l of weight_l * rows[first + l][column lane + 32 c].
__device__ __forceinline__ void addChunk(float (&columns)[kColumns], float weight, const View& x, int64_t first, int count, int head,
                                         int size, int column) {
  for (int l = 0; l < count; ++l) {
    const float w = shuffle(weight, l);
    const bf16* row = at(x, first + l, head, size) + column;
#pragma unroll
    for (int c = 0; c < kColumns; ++c) {
      if (column + 32 * c < size) columns[c] = fmaf(w, toFloat(row[32 * c]), columns[c]);
    }
  }
}
__device__ __forceinline__ void storeColumns(const View& x, int64_t row, int head, int size, int column, const float (&columns)[kColumns],
                                             float factor) {
  bf16* to = x.at(static_cast<int>(row)) + static_cast<int64_t>(head) * size + column;
#pragma unroll
  for (int c = 0; c < kColumns; ++c) {
    if (column + 32 * c < size) to[32 * c] = fromFloat<bf16>(columns[c] * factor);
  }
}

// Grid: (ceil(Rq / 4), H), one warp a query row.
__global__ void __launch_bounds__(kThreads, 4) generalForward(const Arguments a) {
  const int64_t query = static_cast<int64_t>(blockIdx.x) * kWarps + (threadIdx.x >> 5);
  const int lane = threadIdx.x & 31, head = blockIdx.y;
  if (query >= a.queryRows) return;
  const int n = findSequence(a.queryOffsets, a.count, query), k0 = a.keyOffsets[n], keys = a.keyOffsets[n + 1] - k0;
  const uint32_t stream = a.threshold ? a.stream[n] : 0u;

  float largest = -INFINITY;
  for (int j = lane; j < keys; j += 32) largest = fmaxf(largest, generalScore(a, query, k0, keys, j, head));
  largest = warpMax(largest);
  const float reference = largest == -INFINITY ? 0.0f : largest;
  float sum = 0;
  for (int column = lane; column - lane < a.headSize; column += 32 * kColumns) {
    float columns[kColumns] = {};
    float total = 0;
    for (int first = 0; first < keys; first += 32) {
      const float p = expf(generalScore(a, query, k0, keys, first + lane, head) - reference);
      total += p;
      addChunk(columns, p * generalFactor(a, query, keys, first + lane, head, stream), a.v, k0 + first, min(32, keys - first), head,
               a.headSize, column);
    }
    sum = warpSum(total);
    storeColumns(a.out, query, head, a.headSize, column, columns, sum == 0 ? 0.0f : 1 / sum);
  }
  if (a.lse && lane == 0) a.lse[head * a.queryRows + query] = sum == 0 ? -INFINITY : reference + logf(sum);
}

// P times its dropout factor, and dS (without the scale), of one query row and one key.
struct Gradient { float p, dScore; };
__device__ __forceinline__ Gradient generalGradient(const Arguments& a, int64_t query, int64_t k0, int keys, int j, int head,
                                                    uint32_t stream, float delta) {
  const float score = generalScore(a, query, k0, keys, j, head);
  if (j >= keys) return {0, 0};
  const float lse = a.lse[head * a.queryRows + query];
  const float p = expf(score - (lse == -INFINITY ? 0.0f : lse)), factor = generalFactor(a, query, keys, j, head, stream);
  const float dP = factor * rowDot(at(a.dOut, query, head, a.headSize), at(a.v, k0 + j, head, a.headSize), a.headSize);
  return {p * factor, p * (dP - delta)};
}

// dQ and delta. Grid: (ceil(Rq / 4), H), one warp a query row.
__global__ void __launch_bounds__(kThreads, 4) generalBackwardQueries(const Arguments a) {
  const int64_t query = static_cast<int64_t>(blockIdx.x) * kWarps + (threadIdx.x >> 5);
  const int lane = threadIdx.x & 31, head = blockIdx.y;
  if (query >= a.queryRows) return;
  const int n = findSequence(a.queryOffsets, a.count, query), k0 = a.keyOffsets[n], keys = a.keyOffsets[n + 1] - k0;
  const uint32_t stream = a.threshold ? a.stream[n] : 0u;
  float delta = 0;  // sum of P dP: the same as dOut . out, without the rounding of out
  for (int j = lane; j < keys; j += 32) delta += generalGradient(a, query, k0, keys, j, head, stream, 0).dScore;
  delta = warpSum(delta);
  if (lane == 0) a.delta[head * a.queryRows + query] = delta;
  for (int column = lane; column - lane < a.headSize; column += 32 * kColumns) {
    float columns[kColumns] = {};
    for (int first = 0; first < keys; first += 32) {
      const float ds = generalGradient(a, query, k0, keys, first + lane, head, stream, delta).dScore;
      addChunk(columns, ds, a.k, k0 + first, min(32, keys - first), head, a.headSize, column);
    }
    storeColumns(a.dQ, query, head, a.headSize, column, columns, a.scale);
  }
}

// dK and dV; after generalBackwardQueries, which wrote delta. Grid: (ceil(T / 4), H), one warp a key row.
__global__ void __launch_bounds__(kThreads, 4) generalBackwardKeys(const Arguments a, int64_t keyRows) {
  const int64_t key = static_cast<int64_t>(blockIdx.x) * kWarps + (threadIdx.x >> 5);
  const int lane = threadIdx.x & 31, head = blockIdx.y;
  if (key >= keyRows) return;
  const int n = findSequence(a.keyOffsets, a.count, key), k0 = a.keyOffsets[n], keys = a.keyOffsets[n + 1] - k0;
  const int q0 = a.queryOffsets[n], queries = a.queryOffsets[n + 1] - q0;
  const uint32_t stream = a.threshold ? a.stream[n] : 0u;
  for (int column = lane; column - lane < a.headSize; column += 32 * kColumns) {
    float dK[kColumns] = {}, dV[kColumns] = {};
    for (int first = 0; first < queries; first += 32) {
      const int64_t query = q0 + first + lane;
      Gradient gradient = {0, 0};
      if (first + lane < queries) {
        gradient = generalGradient(a, query, k0, keys, static_cast<int>(key - k0), head, stream, a.delta[head * a.queryRows + query]);
      }
      const int count = min(32, queries - first);
      addChunk(dV, gradient.p, a.dOut, q0 + first, count, head, a.headSize, column);
      addChunk(dK, gradient.dScore, a.q, q0 + first, count, head, a.headSize, column);
    }
    storeColumns(a.dK, key, head, a.headSize, column, dK, a.scale);
    storeColumns(a.dV, key, head, a.headSize, column, dV, 1);
  }
}

}  // namespace attn
}  // namespace bge

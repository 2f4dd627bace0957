// What the tensor-core attention kernels share: their arguments, which block does what, tiles in shared memory, masks and dropout.
//
// A block has four warps. A "group" of 1, 2 or 4 of them serves one (sequence, head): 1 up to 32 rows, 2 up to 64, 4 above that, so that
// short sequences share a block with other heads of the same sequence instead of leaving warps idle. A sequence's group size depends on
// nothing but its own length: its result does not change with what else is in the call.
#pragma once
#include "../../core/backend.h"
#include "../../core/cuda/kernel.h"
#include "../../core/random.h"

namespace bge {
namespace attn {

constexpr int kThreads = 128, kWarps = 4;
constexpr int kRows = 32;                 // rows of one warp: two m16 tiles
constexpr int kTileRows = kWarps * kRows; // rows of one tile in shared memory, whatever the group size
constexpr float kLog2e = 1.4426950408889634f, kLn2 = 0.6931471805599453f;

struct View {  // a bf16 matrix; head h uses columns h * headSize ..
  bf16* data;
  int32_t stride;
  BGE_HD bf16* at(int row) const { return data + static_cast<int64_t>(row) * stride; }
};

struct Arguments {
  View q, k, v, out;                  // (Rq, C), (T, C), (T, C), (Rq, C)
  View dOut, dQ, dK, dV;              // backward
  float* lse;                         // (H, Rq), or null
  float* delta;                       // (H, Rq) backward: rowsum(dOut * out)
  float* dQSum;                       // backward, sequences of more than one key block: dQ so far, see backward.cuh
  const int32_t *queryOffsets, *keyOffsets;  // (N+1)
  const int32_t* position;            // (Rq)
  const uint32_t* stream;             // (N)
  const uint32_t* maskBits;           // (masks, maskWords) 32-bit words
  const int32_t* maskChoice;          // (Rq)
  int64_t queryRows;                  // Rq
  int32_t count, heads, headSize, maskWords;
  float scale, scaleLog2;             // 1 / sqrt(headSize), the same times log2 e
  uint32_t site, step, k0, k1, threshold;  // dropout: see random.h
  float keepScale;                    // 1 / (1 - p); 1 without dropout
};

BGE_HD int ceilDivide(int a, int b) { return (a + b - 1) / b; }

// log2 of the warps that serve one (sequence, head) of this many rows.
BGE_HD int groupBits(int rows) { return rows <= kRows ? 0 : rows <= 2 * kRows ? 1 : 2; }

BGE_HD int headGroups(int heads, int bits) { return ceilDivide(heads, kWarps >> bits); }

// Blocks of one sequence. Forward: 32 query rows a warp. Backward: one block holds all queries and walks over all keys.
BGE_HD int forwardBlocks(int queries, int heads) {
  const int bits = groupBits(queries);
  return ceilDivide(queries, kRows << bits) * headGroups(heads, bits);
}
BGE_HD int backwardBlocks(int queries, int keys, int heads) {
  return queries == 0 && keys == 0 ? 0 : headGroups(heads, groupBits(keys));
}

// Which sequence this block belongs to, and which of its blocks it is: the block finds its place in the running sum of the sequences' block
// counts itself, so no list has to be built and uploaded, and a CUDA graph may launch more blocks than there is work.
// sequence == -1: nothing to do. All threads get the same answer, and find it in scratch[4], scratch[5] too.
// `scratch`: 6 ints of shared memory.
struct Place { int sequence, block; };

template <class Blocks>
__device__ Place findPlace(int* scratch, int count, Blocks blocks) {
  const int thread = threadIdx.x, lane = thread & 31, target = blockIdx.x;
  const int each = ceilDivide(count, kThreads), first = thread * each, last = min(first + each, count);
  int mine = 0;
  for (int n = first; n < last; ++n) mine += blocks(n);
  int end = mine;
  for (int step = 1; step < 32; step *= 2) {
    const int other = __shfl_up_sync(kFullWarp, end, step);
    if (lane >= step) end += other;
  }
  if (lane == 31) scratch[thread >> 5] = end;
  if (thread == 0) scratch[4] = -1;
  __syncthreads();
  for (int w = 0; w < (thread >> 5); ++w) end += scratch[w];
  int start = end - mine;
  if (target >= start && target < end) {
    int n = first;
    for (int here = blocks(n); target >= start + here; here = blocks(++n)) start += here;
    scratch[4] = n;
    scratch[5] = target - start;
  }
  __syncthreads();
  return {scratch[4], scratch[5]};
}

// -- tiles -------------------------------------------------------------------------------------------------------------------------
// (rows, D) bf16 in shared memory, rows D * 2 bytes apart, 16-byte chunks permuted so that the 8 rows of an ldmatrix, and the 8 lanes of a
// row-wise store, touch all 32 banks.
template <int D> struct Tile {
  static constexpr int kChunks = D / 8;
  __device__ static int offset(int row, int chunk) {  // in bytes
    return D == 64 ? row * 128 + ((chunk ^ (row & 7)) << 4) : row * 64 + ((chunk ^ ((row >> 1) & 3)) << 4);
  }
};

// Fragments of mma.m16n8k16, four 8x8 matrices a load. `row`, `chunk`: the corner, in rows and in chunks of 8 columns.
// Left: 16 rows x 16 columns as operand A.
template <int D> __device__ __forceinline__ void loadLeft(uint32_t (&a)[4], const char* tile, int row, int chunk) {
  const int lane = threadIdx.x & 31;
  ldmatrix4(a, tile + Tile<D>::offset(row + (lane & 15), chunk + (lane >> 4)));
}
// Right: rows are the product's columns (B stored as its transpose): 16 of them, 16 deep. b[0..1] the first 8 columns, b[2..3] the others.
template <int D> __device__ __forceinline__ void loadRight(uint32_t (&b)[4], const char* tile, int row, int chunk) {
  const int lane = threadIdx.x & 31;
  ldmatrix4(b, tile + Tile<D>::offset(row + (lane & 7) + ((lane >> 4) << 3), chunk + ((lane >> 3) & 1)));
}
// RightRows: rows are the product's depth: 16 deep, 16 columns.
template <int D> __device__ __forceinline__ void loadRightRows(uint32_t (&b)[4], const char* tile, int row, int chunk) {
  const int lane = threadIdx.x & 31;
  ldmatrix4Transposed(b, tile + Tile<D>::offset(row + (lane & 15), chunk + (lane >> 4)));
}

__device__ __forceinline__ void mmaPair(float (&d0)[4], float (&d1)[4], const uint32_t (&a)[4], const uint32_t (&b)[4]) {
  const uint32_t b0[2] = {b[0], b[1]}, b1[2] = {b[2], b[3]};
  mmaBf16(d0, a, b0);
  mmaBf16(d1, a, b1);
}

// Copies rows of two matrices into two tiles (tileY null: only x), asynchronously. Tile row r belongs to group r >> rowBits, that is to
// head firstHead + group, and is the group's row r % 2^rowBits + firstRow of the sequence; rows past `rows`, heads past `heads` become 0.
// Not unrolled: addresses of many rows at a time would cost the registers that the accumulators need.
template <int D, int kTile>
__device__ __forceinline__ void loadTiles(char* tileX, char* tileY, const View& x, const View& y, int sequenceRow, int firstRow, int rows,
                                          int rowBits, int firstHead, int heads) {
  constexpr int kChunks = Tile<D>::kChunks, kStep = kThreads / kChunks;
  const int chunk = threadIdx.x % kChunks;
#pragma unroll 1
  for (int r = threadIdx.x / kChunks; r < kTile; r += kStep) {
    const int head = firstHead + (r >> rowBits), row = firstRow + (r & ((1 << rowBits) - 1)), to = Tile<D>::offset(r, chunk);
    const bool valid = row < rows && head < heads;
    const int from = valid ? sequenceRow + row : 0, column = valid ? head * D + chunk * 8 : 0;
    copyAsync16(tileX + to, x.at(from) + column, valid);
    if (tileY) copyAsync16(tileY + to, y.at(from) + column, valid);
  }
}

// One warp stores its accumulators, kTiles x (D / 8) of m16n8, times factor(m, half), through its rows of a tile, so that memory sees whole
// rows in 16-byte chunks. Row i goes to row sequenceRow + firstRow + i of x when firstRow + i < rows.
template <int D, int kTiles, class Factor>
__device__ __forceinline__ void storeRows(char* tile, int tileRow, const View& x, int sequenceRow, int firstRow, int rows, int head,
                                          const float (&d)[kTiles][D / 8][4], Factor factor) {
  const int lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3;
#pragma unroll
  for (int m = 0; m < kTiles; ++m) {
    const float low = factor(m, 0), high = factor(m, 1);
#pragma unroll
    for (int n = 0; n < D / 8; ++n) {
      *reinterpret_cast<uint32_t*>(tile + Tile<D>::offset(tileRow + m * 16 + g, n) + t * 4) = packBf16(d[m][n][0] * low, d[m][n][1] * low);
      *reinterpret_cast<uint32_t*>(tile + Tile<D>::offset(tileRow + m * 16 + g + 8, n) + t * 4) =
          packBf16(d[m][n][2] * high, d[m][n][3] * high);
    }
  }
  __syncwarp();
  constexpr int kChunks = Tile<D>::kChunks, kStep = 32 / kChunks;
#pragma unroll
  for (int i = 0; i < kTiles * 16 / kStep; ++i) {
    const int r = lane / kChunks + i * kStep, chunk = lane % kChunks;
    if (firstRow + r < rows) {
      *reinterpret_cast<uint4*>(x.at(sequenceRow + firstRow + r) + head * D + chunk * 8) =
          *reinterpret_cast<const uint4*>(tile + Tile<D>::offset(tileRow + r, chunk));
    }
  }
}

// -- masks and dropout -----------------------------------------------------------------------------------------------------------------
// Bit i: key firstKey + i (a multiple of 32) is hidden from this query row.
__device__ __forceinline__ uint32_t tailBits(int firstKey, int keys) {
  const int visible = keys - firstKey;
  return visible >= 32 ? 0u : visible <= 0 ? 0xffffffffu : 0xffffffffu << visible;
}
__device__ __forceinline__ uint32_t maskBits(const Arguments& a, int choice, int position, int firstKey, int keys) {
  uint32_t bits = tailBits(firstKey, keys);
  if (firstKey < keys) bits |= a.maskBits[static_cast<int64_t>(choice) * a.maskWords + (firstKey >> 5)];
  const uint32_t own = static_cast<uint32_t>(position - firstKey);
  return own < 32 ? bits | 1u << own : bits;
}

// Philox's first word for keys 0 .. 3 of a query row; the next four keys have the next counter (Dropout in core/backend.h).
BGE_HD uint32_t rowCounter(int head, int keys, int position) {
  const auto row = static_cast<uint32_t>(head) * static_cast<uint32_t>(keys) + static_cast<uint32_t>(position);
  return row * static_cast<uint32_t>((keys + 3) / 4);
}
// Bit i: element 4 counter + i is kept.
__device__ __forceinline__ uint32_t keepBits(const Arguments& a, uint32_t counter, uint32_t stream) {
  const Philox4 words = philox(counter, stream, a.site, a.step, a.k0, a.k1);
  uint32_t bits = 0;
#pragma unroll
  for (int i = 0; i < 4; ++i) bits |= words.v[i] >= a.threshold ? 1u << i : 0u;
  return bits;
}

}  // namespace attn
}  // namespace bge

// Attention forward with mma.sync (after FlashAttention-2, Dao 2023): each warp keeps 32 query rows, their output and 32 keys' scores in
// registers; keys and values stream through two buffers in shared memory. Three blocks a multiprocessor at 168 registers, 64 KiB (D = 64).
//
// Where the time should go on an H200, estimated from the SASS, not measured. Per warp and 32 keys (D = 64): 64 HMMA (about 410 cycles of
// its quarter of the multiprocessor), 32 exp2 (256 cycles of the MUFU), some 270 instructions, 8 KiB of ldmatrix (64 cycles of all four
// quarters' shared memory): bound by the tensor cores where the three blocks overlap, which they need to. With dropout eight Philox calls
// come on top, 160 LOP3 + 160 IMAD.WIDE and about 130 instructions for the comparisons: some 800 cycles of the integer pipe, the new bound.
// At 128 tokens Q, K, V and the output are 64 KiB for 4.2 MFLOP: bound by memory, if they do not come from the L2 cache.
#pragma once
#include "attention.cuh"

namespace bge {
namespace attn {

constexpr float kSlack = 8;  // of the reference, in powers of two: see forwardKernel

// Two stages of (K tile, V tile). The query tile passes through stage 1 before the first keys get there.
template <int D> constexpr size_t forwardShared() { return 2 * 2 * static_cast<size_t>(kTileRows) * D * 2; }

template <int D, bool kMask, bool kDropout>
__global__ void __launch_bounds__(kThreads, 3) forwardKernel(const Arguments a) {
  BGE_SHARED(char, shared);
  BGE_SHARED_STATIC(int, where, 8);  // sequence, first row and first head are read again where they are wanted: registers are scarce
  constexpr int kTileBytes = kTileRows * D * 2, kSteps = D / 16;
  const Place place = findPlace(where, a.count, [&](int n) {
    return forwardBlocks(a.queryOffsets[n + 1] - a.queryOffsets[n], a.heads);
  });
  if (place.sequence < 0) return;
  const int n = place.sequence, q0 = a.queryOffsets[n], queries = a.queryOffsets[n + 1] - q0;
  const int keys = a.keyOffsets[n + 1] - a.keyOffsets[n];
  const int bits = groupBits(queries), rowBits = 5 + bits, tiles = ceilDivide(queries, 1 << rowBits);
  const int firstRow = place.block % tiles << rowBits, firstHead = place.block / tiles * (kWarps >> bits);
  if (threadIdx.x == 0) where[6] = firstRow, where[7] = firstHead;
  const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3;
  const int group = warp >> bits, head = firstHead + group, warpRow = firstRow + ((warp << 5) & ((1 << rowBits) - 1));

  loadTiles<D, kTileRows>(shared + 2 * kTileBytes, nullptr, a.q, {}, q0, firstRow, queries, rowBits, firstHead, a.heads);
  commitAsync();
  const int blockKeys = 1 << rowBits;
  const auto loadKeys = [&](int first, int sequence, int itsHead) {
    char* to = shared + (first & blockKeys ? 2 * kTileBytes : 0);
    loadTiles<D, kTileRows>(to, to + kTileBytes, a.k, a.v, a.keyOffsets[sequence], first, keys, 31 - __clz(blockKeys), itsHead, a.heads);
    commitAsync();
  };
  loadKeys(0, n, firstHead);

  // Per thread four rows: r = 2 m + half is row warpRow + 16 m + 8 half + g. Of the four lanes of a row, lane t looks up row r = t's mask.
  int position = 0, choice = 0;
  if (kMask) {
    const int row = q0 + min(warpRow + (t >> 1) * 16 + (t & 1) * 8 + g, queries - 1);
    position = a.position[row];
    choice = a.maskChoice[row];
  }
  // An even lane draws row g's dropout for four keys, its odd neighbour row g + 8's; then they swap halves.
  uint32_t counter[2], stream = 0;
  if (kDropout) {
    stream = a.stream[n];
#pragma unroll
    for (int m = 0; m < 2; ++m) {
      const int row = q0 + min(warpRow + m * 16 + (t & 1) * 8 + g, queries - 1);
      counter[m] = rowCounter(head, keys, a.position[row]) + static_cast<uint32_t>(t >> 1);
    }
  }

  uint32_t q[2][kSteps][4];
  waitAsync<1>();
  __syncthreads();
#pragma unroll
  for (int m = 0; m < 2; ++m) {
#pragma unroll
    for (int s = 0; s < kSteps; ++s) loadLeft<D>(q[m][s], shared + 2 * kTileBytes, warp * kRows + m * 16, s * 2);
  }

  // p = 2^(score * scale * log2 e - reference). The reference follows the row's maximum lazily: only once a score exceeds it by more than
  // kSlack are sum and output rescaled, so most key blocks need no row maximum at all.
  // -infinity: no visible key yet.
  float out[2][D / 8][4] = {}, sum[4] = {}, reference[4] = {-INFINITY, -INFINITY, -INFINITY, -INFINITY};

  for (int key = 0; key < keys; key += 32) {
    if ((key & (blockKeys - 1)) == 0) {
      waitAsync<0>();
      __syncthreads();  // these keys are there; nobody reads the other stage (or the queries) any more
      if (key + blockKeys < keys) loadKeys(key + blockKeys, where[4], where[7]);
    }
    const char* kTile = shared + (key & blockKeys ? 2 * kTileBytes : 0);
    const char* vTile = kTile + kTileBytes;
    const int tileRow = ((warp << 5) & -blockKeys) | (key & (blockKeys - 1));
    const uint32_t looked = kMask ? maskBits(a, choice, position, key, keys) : 0u;  // early: it comes from far

    float s[2][4][4] = {};  // scores, then probabilities: 2 x 16 rows, 4 x 8 keys
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
#pragma unroll
      for (int pair = 0; pair < 2; ++pair) {
        uint32_t b[4];
        loadRight<D>(b, kTile, tileRow + pair * 16, step * 2);
#pragma unroll
        for (int m = 0; m < 2; ++m) mmaPair(s[m][2 * pair], s[m][2 * pair + 1], q[m][step], b);
      }
    }
    if (kMask || key + 32 > keys) {
#pragma unroll
      for (int r = 0; r < 4; ++r) {
        const uint32_t hidden = (kMask ? shuffle(looked, (lane & ~3) | r) : tailBits(key, keys)) >> (2 * t);
#pragma unroll
        for (int i = 0; i < 8; ++i) {
          if (hidden >> (8 * (i >> 1) + (i & 1)) & 1) s[r >> 1][i >> 1][(r & 1) * 2 + (i & 1)] = -INFINITY;
        }
      }
    }

    float largest[4];
    bool exceeds = false;
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      const int m = r >> 1, e = (r & 1) * 2;
      float v = fmaxf(s[m][0][e], s[m][0][e + 1]);
#pragma unroll
      for (int j = 1; j < 4; ++j) v = fmaxf(v, fmaxf(s[m][j][e], s[m][j][e + 1]));
      largest[r] = v;
      exceeds |= fmaf(v, a.scaleLog2, -reference[r]) > kSlack;
    }
    if (__any_sync(kFullWarp, exceeds)) {
#pragma unroll
      for (int r = 0; r < 4; ++r) {
        float v = largest[r];
        v = fmaxf(v, shuffleXor(v, 1));
        v = fmaxf(v, shuffleXor(v, 2));
        if (fmaf(v, a.scaleLog2, -reference[r]) > kSlack) {  // the same in all four lanes of the row
          const float moved = v * a.scaleLog2, factor = exp2Approx(reference[r] - moved);
          reference[r] = moved;
          sum[r] *= factor;
#pragma unroll
          for (int j = 0; j < D / 8; ++j) {
            out[r >> 1][j][(r & 1) * 2] *= factor;
            out[r >> 1][j][(r & 1) * 2 + 1] *= factor;
          }
        }
      }
    }
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      const float minus = kMask && reference[r] == -INFINITY ? 0.0f : -reference[r];
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        float& p = s[r >> 1][i >> 1][(r & 1) * 2 + (i & 1)];
        p = exp2Approx(fmaf(p, a.scaleLog2, minus));
        sum[r] += p;
      }
    }
    if (kDropout) {
      uint32_t mine = 0;  // 4 bits for each of the 2 x 4 tiles of 16 rows by 8 keys
#pragma unroll
      for (int m = 0; m < 2; ++m) {
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          mine |= keepBits(a, counter[m] + static_cast<uint32_t>(key / 4 + 2 * j), stream) << (16 * m + 4 * j);
        }
      }
      const uint32_t other = shuffleXor(mine, 1);
      const uint32_t low = (t & 1 ? other : mine) >> ((t & 1) * 2), high = (t & 1 ? mine : other) >> ((t & 1) * 2);
#pragma unroll
      for (int m = 0; m < 2; ++m) {
#pragma unroll
        for (int j = 0; j < 4; ++j) {
#pragma unroll
          for (int e = 0; e < 4; ++e) {
            if (!((e < 2 ? low : high) >> (16 * m + 4 * j + (e & 1)) & 1)) s[m][j][e] = 0;
          }
        }
      }
    }
#pragma unroll
    for (int step = 0; step < 2; ++step) {
      uint32_t p[2][4];
#pragma unroll
      for (int m = 0; m < 2; ++m) {
#pragma unroll
        for (int i = 0; i < 4; ++i) p[m][i] = packBf16(s[m][2 * step + (i >> 1)][(i & 1) * 2], s[m][2 * step + (i >> 1)][(i & 1) * 2 + 1]);
      }
#pragma unroll
      for (int pair = 0; pair < D / 16; ++pair) {
        uint32_t b[4];
        loadRightRows<D>(b, vTile, tileRow + step * 16, pair * 2);
#pragma unroll
        for (int m = 0; m < 2; ++m) mmaPair(out[m][2 * pair], out[m][2 * pair + 1], p[m], b);
      }
    }
  }

  waitAsync<0>();   // for a sequence without keys
  __syncthreads();  // the tiles are read out
  const int outHead = where[7] + (warp * 32) / blockKeys, outRow = a.queryOffsets[where[4]];
  const int outRows = outHead < a.heads ? a.queryOffsets[where[4] + 1] - outRow : 0;
  const int firstOut = where[6] + ((warp << 5) & (blockKeys - 1));
  float factor[4];
#pragma unroll
  for (int r = 0; r < 4; ++r) {
    sum[r] += shuffleXor(sum[r], 1);
    sum[r] += shuffleXor(sum[r], 2);
    factor[r] = sum[r] == 0 ? 0.0f : a.keepScale / sum[r];
    const int row = firstOut + (r >> 1) * 16 + (r & 1) * 8 + g;
    if (a.lse && t == 0 && row < outRows) {
      a.lse[outHead * a.queryRows + outRow + row] = sum[r] == 0 ? -INFINITY : reference[r] * kLn2 + logf(sum[r]);
    }
  }
  storeRows<D, 2>(shared, warp * kRows, a.out, outRow, firstOut, outRows, outHead, out,
                  [&](int m, int half) { return factor[2 * m + half]; });
}

}  // namespace attn
}  // namespace bge

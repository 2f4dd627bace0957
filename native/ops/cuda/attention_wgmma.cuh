// Attention forward with wgmma, head size 64, sm_90a: the second version of attention_forward.cuh, same numbers up to the order of sums.
// A block is one warpgroup and serves 64 query rows of one (sequence, head). Queries stay in shared memory, keys and values stream through
// two stages of 64 rows, all under the 128-byte swizzle, which is Tile<64>'s permutation where a tile starts at a multiple of 1024 bytes.
//
// Nothing of this is measured. The tensor cores idle while a block computes its softmax: the other blocks of the multiprocessor (four, by
// registers) are to fill the gap, which a ping-pong of two warpgroups would do better.
#pragma once
#include "attention.cuh"
#include "attention_forward.cuh"

namespace bge {
namespace attn {

constexpr int kWgmmaRows = 64, kWgmmaTile = kWgmmaRows * 128;  // rows of every tile; its bytes
// Queries, two stages of (keys, values), and what it takes to begin at a multiple of 1024.
constexpr size_t kWgmmaShared = 5 * kWgmmaTile + 1024 - 128;

BGE_HD int wgmmaBlocks(int queries, int heads) { return ceilDivide(queries, kWgmmaRows) * heads; }

template <bool kMask, bool kDropout>
__global__ void __launch_bounds__(kThreads, 4) wgmmaForward(const Arguments a) {
#if defined(BGE_WGMMA)
  BGE_SHARED(char, unaligned);
  BGE_SHARED_STATIC(int, where, 6);
  char* const shared = unaligned + (-sharedAddress(unaligned) & 1023u);
  const Place place = findPlace(where, a.count, [&](int n) { return wgmmaBlocks(a.queryOffsets[n + 1] - a.queryOffsets[n], a.heads); });
  if (place.sequence < 0) return;
  const int n = place.sequence, q0 = a.queryOffsets[n], queries = a.queryOffsets[n + 1] - q0;
  const int k0 = a.keyOffsets[n], keys = a.keyOffsets[n + 1] - k0;
  const int tiles = ceilDivide(queries, kWgmmaRows), head = place.block / tiles, firstRow = place.block % tiles * kWgmmaRows;
  const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3;
  const int warpRow = firstRow + warp * 16;

  loadTiles<64, kWgmmaRows>(shared, nullptr, a.q, {}, q0, firstRow, queries, 6, head, a.heads);
  const auto loadKeys = [&](int first) {
    char* to = shared + (first & kWgmmaRows ? 3 : 1) * kWgmmaTile;
    loadTiles<64, kWgmmaRows>(to, to + kWgmmaTile, a.k, a.v, k0, first, keys, 6, head, a.heads);
    commitAsync();
  };
  loadKeys(0);  // with the queries

  // Per thread two rows: r is row warpRow + 8 r + g. Of the four lanes of a row, lane t looks up the mask of row t / 2, keys 32 (t % 2) ...
  int position = 0, choice = 0;
  if (kMask) {
    const int row = q0 + min(warpRow + (t >> 1) * 8 + g, queries - 1);
    position = a.position[row];
    choice = a.maskChoice[row];
  }
  // An even lane draws row g's dropout for four keys, its odd neighbour row g + 8's; then they swap halves.
  uint32_t counter = 0, stream = 0;
  if (kDropout) {
    stream = a.stream[n];
    counter = rowCounter(head, keys, a.position[q0 + min(warpRow + (t & 1) * 8 + g, queries - 1)]) + static_cast<uint32_t>(t >> 1);
  }

  // The lazily moved reference of attention_forward.cuh. -infinity: no visible key yet.
  float out[1][8][4] = {}, sum[2] = {}, reference[2] = {-INFINITY, -INFINITY};

  for (int key = 0; key < keys; key += kWgmmaRows) {
    waitAsync<0>();
    fenceAsyncProxy();
    __syncthreads();  // these keys are there, for the tensor cores too; every warp has done with the other stage
    if (key + kWgmmaRows < keys) loadKeys(key + kWgmmaRows);
    const char* kTile = shared + (key & kWgmmaRows ? 3 : 1) * kWgmmaTile;
    const char* vTile = kTile + kWgmmaTile;
    const int lookedKey = key + 32 * (t & 1);
    const uint32_t looked = kMask ? maskBits(a, choice, position, lookedKey, keys) : 0u;  // early: it comes from far

    float s[8][4] = {};  // scores, then probabilities
    wgmmaFence(s);
#pragma unroll
    for (int step = 0; step < 4; ++step) {
      wgmmaBf16(s, wgmmaDescriptor(shared + step * 32, 1024, 1024), wgmmaDescriptor(kTile + step * 32, 1024, 1024), step > 0);
    }
    wgmmaCommit();
    wgmmaWait<0>(s);

    if (kMask || key + kWgmmaRows > keys) {
#pragma unroll
      for (int r = 0; r < 2; ++r) {
#pragma unroll
        for (int word = 0; word < 2; ++word) {
          const uint32_t hidden =
              (kMask ? shuffle(looked, (lane & ~3) | (2 * r + word)) : tailBits(key + 32 * word, keys)) >> (2 * t);
#pragma unroll
          for (int i = 0; i < 8; ++i) {
            if (hidden >> (8 * (i >> 1) + (i & 1)) & 1) s[4 * word + (i >> 1)][2 * r + (i & 1)] = -INFINITY;
          }
        }
      }
    }

    float largest[2];
    bool exceeds = false;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float v = fmaxf(s[0][2 * r], s[0][2 * r + 1]);
#pragma unroll
      for (int j = 1; j < 8; ++j) v = fmaxf(v, fmaxf(s[j][2 * r], s[j][2 * r + 1]));
      largest[r] = v;
      exceeds |= fmaf(v, a.scaleLog2, -reference[r]) > kSlack;
    }
    if (__any_sync(kFullWarp, exceeds)) {
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        float v = largest[r];
        v = fmaxf(v, shuffleXor(v, 1));
        v = fmaxf(v, shuffleXor(v, 2));
        if (fmaf(v, a.scaleLog2, -reference[r]) > kSlack) {  // the same in all four lanes of the row
          const float moved = v * a.scaleLog2, factor = exp2Approx(reference[r] - moved);
          reference[r] = moved;
          sum[r] *= factor;
#pragma unroll
          for (int j = 0; j < 8; ++j) {
            out[0][j][2 * r] *= factor;
            out[0][j][2 * r + 1] *= factor;
          }
        }
      }
    }
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const float minus = kMask && reference[r] == -INFINITY ? 0.0f : -reference[r];
#pragma unroll
      for (int i = 0; i < 16; ++i) {
        float& p = s[i >> 1][2 * r + (i & 1)];
        p = exp2Approx(fmaf(p, a.scaleLog2, minus));
        sum[r] += p;
      }
    }
    if (kDropout) {
      uint32_t mine = 0;  // 4 bits for each of the 8 tiles of 16 rows by 8 keys
#pragma unroll
      for (int j = 0; j < 8; ++j) mine |= keepBits(a, counter + static_cast<uint32_t>(key / 4 + 2 * j), stream) << (4 * j);
      const uint32_t other = shuffleXor(mine, 1);
      const uint32_t low = (t & 1 ? other : mine) >> ((t & 1) * 2), high = (t & 1 ? mine : other) >> ((t & 1) * 2);
#pragma unroll
      for (int j = 0; j < 8; ++j) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          if (!((e < 2 ? low : high) >> (4 * j + (e & 1)) & 1)) s[j][e] = 0;
        }
      }
    }
    uint32_t p[4][4];
#pragma unroll
    for (int step = 0; step < 4; ++step) {
#pragma unroll
      for (int i = 0; i < 4; ++i) p[step][i] = packBf16(s[2 * step + (i >> 1)][(i & 1) * 2], s[2 * step + (i >> 1)][(i & 1) * 2 + 1]);
    }
    wgmmaFence(out[0], p[0], p[1], p[2], p[3]);
#pragma unroll
    for (int step = 0; step < 4; ++step) wgmmaBf16Transposed(out[0], p[step], wgmmaDescriptor(vTile + step * 2048, 1024, 1024));
    wgmmaCommit();
    wgmmaWait<0>(out[0]);
  }

  waitAsync<0>();   // for a sequence without keys
  __syncthreads();  // the queries' tile, which the output passes through, is read out
  const int rows = min(queries - warpRow, 16);
  float factor[2];
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    sum[r] += shuffleXor(sum[r], 1);
    sum[r] += shuffleXor(sum[r], 2);
    factor[r] = sum[r] == 0 ? 0.0f : a.keepScale / sum[r];
    const int row = r * 8 + g;
    if (a.lse && t == 0 && row < rows) {
      a.lse[head * a.queryRows + q0 + warpRow + row] = sum[r] == 0 ? -INFINITY : reference[r] * kLn2 + logf(sum[r]);
    }
  }
  storeRows<64, 1>(shared, warp * 16, a.out, q0, warpRow, queries, head, out, [&](int, int half) { return factor[half]; });
#else
  __trap();  // the host asks for sm_90a
#endif
}

}  // namespace attn
}  // namespace bge

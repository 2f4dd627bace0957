// Attention backward with mma.sync, five products a tile and no atomics: one block serves all queries and keys of its (sequence, heads), so
// that dQ, dK and dV come from the same warps in a fixed order. Scores are computed transposed (keys x queries): a warp owns 32 keys, keeps
// their dK and dV in registers while the queries stream by, and P^T and dS^T feed the products of dV and dK straight from registers (the
// "register-sourced dK, dV" of FlashAttention-3). Only dQ needs other warps' dS, through shared memory. Beyond 128 keys a block walks over
// key blocks, and the sum for dQ waits in fp32 in global memory (in the L2 cache, as a rule) for the threads that wrote it.
//
// Estimated from the SASS for an H200, not measured: per warp, 32 keys and 16 queries (D = 64) 80 HMMA, about 510 cycles, against 21 KiB of
// ldmatrix, 670 cycles shared memory needs for four warps: bound by shared memory, then by the two blocks (8 warps) a multiprocessor holds.
#pragma once
#include <cstddef>

#include "attention.cuh"

namespace bge {
namespace attn {

constexpr int kQueryRows = 16;                            // query rows a warp adds to a query block
constexpr int kQueryTile = kWarps * kQueryRows;           // rows of a query tile

// Shared memory: K, V tiles; two stages of (Q tile, dO tile); dS^T, 128 keys x at most 64 queries; numbers of the query tile. Without masks
// two blocks fit a multiprocessor of sm_80 (164 KiB) and of sm_90, with masks of sm_90 only.
struct PerQuery {
  float lse[kQueryTile];         // times log2 e; +infinity beyond the last query, so that P = 0
  float delta[kQueryTile];
  uint32_t counter[kQueryTile];  // dropout
  uint32_t hidden[kQueryTile * kWarps];  // [query][warp of the group]
};
template <int D, bool kMask> constexpr size_t backwardShared() {
  return (2 * kTileRows + 2 * 2 * kQueryTile) * static_cast<size_t>(D) * 2 + kTileRows * kQueryTile * 2 +
         (kMask ? sizeof(PerQuery) : offsetof(PerQuery, hidden));
}

// fp32 accumulators of dQ between key blocks, in fragment order, tiles of 16 rows. A sequence's first tile: no two sequences share one.
BGE_HD int64_t dQTile(int64_t firstQuery, int sequence) { return firstQuery / 16 + sequence; }
BGE_HD int64_t dQTiles(int64_t queryRows, int count) { return queryRows / 16 + count; }

// delta = rowsum(dOut * out) of this block's heads.
template <int D>
__device__ __forceinline__ void computeDelta(const Arguments& a, int q0, int queries, int head, int first, int step) {
  constexpr int kLanes = D / 8, kAtOnce = 32 / kLanes;
  const int lane = threadIdx.x & 31, chunk = lane % kLanes;
  for (int base = first * kAtOnce; base < queries; base += step * kAtOnce) {
    const int row = base + lane / kLanes;
    float sum = 0;
    if (row < queries) {
      const uint4 x = *reinterpret_cast<const uint4*>(a.out.at(q0 + row) + head * D + chunk * 8);
      const uint4 y = *reinterpret_cast<const uint4*>(a.dOut.at(q0 + row) + head * D + chunk * 8);
      const uint32_t xs[4] = {x.x, x.y, x.z, x.w}, ys[4] = {y.x, y.y, y.z, y.w};
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float2 u = unpackBf16(xs[i]), w = unpackBf16(ys[i]);
        sum = fmaf(u.x, w.x, sum);
        sum = fmaf(u.y, w.y, sum);
      }
    }
#pragma unroll
    for (int i = kLanes / 2; i > 0; i >>= 1) sum += shuffleXor(sum, i);
    if (row < queries && chunk == 0) a.delta[head * a.queryRows + q0 + row] = sum;
  }
}

template <int D, bool kMask, bool kDropout>
__global__ void __launch_bounds__(kThreads, 2) backwardKernel(const Arguments a) {
  BGE_SHARED(char, shared);
  BGE_SHARED_STATIC(int, where, 6);  // [4] the sequence: read again where it is wanted, and its offsets too, for registers are scarce
  constexpr int kTileBytes = kTileRows * D * 2, kQueryBytes = kQueryTile * D * 2, kSteps = D / 16;
  char* const kTile = shared;
  char* const vTile = kTile + kTileBytes;
  char* const stages = vTile + kTileBytes;                    // [2] of Q tile, dO tile
  char* const dsTile = stages + 4 * kQueryBytes;              // (128 keys, 64 queries)
  PerQuery& rows = *reinterpret_cast<PerQuery*>(dsTile + kTileRows * kQueryTile * 2);

  const Place place = findPlace(where, a.count, [&](int n) {
    return backwardBlocks(a.queryOffsets[n + 1] - a.queryOffsets[n], a.keyOffsets[n + 1] - a.keyOffsets[n], a.heads);
  });
  if (place.sequence < 0) return;
  const int n = place.sequence, queries = a.queryOffsets[n + 1] - a.queryOffsets[n], keys = a.keyOffsets[n + 1] - a.keyOffsets[n];
  const int bits = groupBits(keys), keyBits = 5 + bits, queryBits = 4 + bits;  // rows of a group in a key block, in a query block
  const int firstHead = place.block * (kWarps >> bits);
  const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3;
  const int group = warp >> bits, inGroup = warp & ((1 << bits) - 1), head = firstHead + group;
  const bool active = head < a.heads;
  const uint32_t stream = kDropout ? a.stream[n] : 0u;

  if (active) computeDelta<D>(a, a.queryOffsets[n], queries, head, inGroup, 1 << bits);
  __syncthreads();

  // Threads i and i + 64 prepare row i of the next query tile: the numbers, and the dropout counter or the masks. They are read while the
  // block before is computed, and wait in registers (masks and dropout together have none left for that).
  constexpr bool kAhead = !(kMask && kDropout);
  struct Row { uint32_t word[kMask ? 4 : 2]; };
  const auto readRow = [&](int queryBlock, int firstKey) {
    Row row = {};
    const bool numbers = threadIdx.x < kQueryTile;
    const int r = threadIdx.x % kQueryTile, itsHead = firstHead + (r >> queryBits);
    const int query = (queryBlock << queryBits) + (r & ((1 << queryBits) - 1));
    const bool valid = query < queries && itsHead < a.heads;
    const int at = a.queryOffsets[where[4]] + query;
    if (numbers) {
      float lse = INFINITY, delta = 0;
      if (valid) {
        lse = a.lse[itsHead * a.queryRows + at] * kLog2e;
        if (lse == -INFINITY) lse = 0;  // all keys are hidden: their -infinity must give P = 0
        delta = a.delta[itsHead * a.queryRows + at];
      }
      row.word[0] = __float_as_uint(lse);
      row.word[1] = __float_as_uint(delta);
    }
    if (kDropout && valid && numbers == kMask) row.word[kMask ? 2 : 0] = rowCounter(itsHead, keys, a.position[at]);
    if (kMask && valid && !numbers) {
      const int position = a.position[at], choice = a.maskChoice[at];
#pragma unroll
      for (int w = 0; w < (kMask ? kWarps : 1); ++w) {
        if (w < (1 << bits)) row.word[w] = maskBits(a, choice, position, firstKey + 32 * w, keys);
      }
    }
    return row;
  };
  const auto writeRow = [&](const Row& row) {
    const int r = threadIdx.x % kQueryTile;
    const bool numbers = threadIdx.x < kQueryTile;
    if (numbers) {
      rows.lse[r] = __uint_as_float(row.word[0]);
      rows.delta[r] = __uint_as_float(row.word[1]);
    }
    if (kDropout && numbers == kMask) rows.counter[r] = row.word[kMask ? 2 : 0];
    if (kMask && !numbers) {
#pragma unroll
      for (int w = 0; w < (kMask ? kWarps : 1); ++w) rows.hidden[r * kWarps + w] = row.word[w];
    }
  };
  const auto loadQueries = [&](int queryBlock) {
    char* to = stages + (queryBlock & 1) * 2 * kQueryBytes;
    loadTiles<D, kQueryTile>(to, to + kQueryBytes, a.q, a.dOut, a.queryOffsets[where[4]], queryBlock << queryBits, queries, queryBits,
                             firstHead, a.heads);
  };

  const int keyBlocks = max(1, ceilDivide(keys, 1 << keyBits)), queryBlocks = ceilDivide(queries, 1 << queryBits);
  for (int keyBlock = 0; keyBlock < keyBlocks; ++keyBlock) {
    const int firstKey = keyBlock << keyBits, warpKey = firstKey + inGroup * 32;
    loadTiles<D, kTileRows>(kTile, vTile, a.k, a.v, a.keyOffsets[where[4]], firstKey, keys, keyBits, firstHead, a.heads);
    if (queryBlocks > 0) loadQueries(0);
    commitAsync();
    Row next = {};
    if (kAhead) next = readRow(0, firstKey);

    float dK[2][D / 8][4] = {}, dV[2][D / 8][4] = {};
    for (int queryBlock = 0; queryBlock < queryBlocks; ++queryBlock) {
      if (!kAhead) next = readRow(queryBlock, firstKey);
      writeRow(next);  // only the products of dQ, which read none of this, may still be going on elsewhere
      waitAsync<0>();
      __syncthreads();  // this block's queries are there; nobody reads the other stage or dS any more
      if (queryBlock + 1 < queryBlocks) {
        loadQueries(queryBlock + 1);
        commitAsync();
        if (kAhead) next = readRow(queryBlock + 1, firstKey);
      }
      char* const qTile = stages + (queryBlock & 1) * 2 * kQueryBytes;
      const char* const dOutTile = qTile + kQueryBytes;

      for (int part = 0; part < (1 << bits); ++part) {  // 16 queries
        if ((queryBlock << queryBits) + part * 16 >= queries) break;
        const int tileRow = (group << queryBits) + part * 16;
        float s[2][2][4] = {}, dP[2][2][4] = {};  // 2 x 16 keys, 2 x 8 queries: K Q^T and V dO^T
#pragma unroll
        for (int step = 0; step < kSteps; ++step) {
          uint32_t b[4], left[4];
          loadRight<D>(b, qTile, tileRow, step * 2);
#pragma unroll
          for (int m = 0; m < 2; ++m) {
            loadLeft<D>(left, kTile, warp * kRows + m * 16, step * 2);
            mmaPair(s[m][0], s[m][1], left, b);
          }
          loadRight<D>(b, dOutTile, tileRow, step * 2);
#pragma unroll
          for (int m = 0; m < 2; ++m) {
            loadLeft<D>(left, vTile, warp * kRows + m * 16, step * 2);
            mmaPair(dP[m][0], dP[m][1], left, b);
          }
        }
#pragma unroll
        for (int j = 0; j < 2; ++j) {
          const int r = tileRow + j * 8;
          const float2 lse = *reinterpret_cast<const float2*>(&rows.lse[r + 2 * t]);
          const float2 delta = *reinterpret_cast<const float2*>(&rows.delta[r + 2 * t]);
          if (kMask || warpKey + 32 > keys) {
            const int at = (r + 2 * t) * kWarps + inGroup;
            const uint32_t hidden[2] = {(kMask ? rows.hidden[at] : tailBits(warpKey, keys)) >> g,
                                        (kMask ? rows.hidden[at + kWarps] : tailBits(warpKey, keys)) >> g};
#pragma unroll
            for (int i = 0; i < 8; ++i) {
              if (hidden[i & 1] >> (8 * (i >> 1)) & 1) s[i >> 2][j][i & 3] = -INFINITY;
            }
          }
#pragma unroll
          for (int m = 0; m < 2; ++m) {
            uint32_t kept = 0;
            if (kDropout) {
              // Lane 8 i + c draws keys 4 i .. 4 i + 3 of query column c; ballot w collects everybody's key 4 i + w.
              const uint32_t drawn =
                  keepBits(a, rows.counter[r + (lane & 7)] + static_cast<uint32_t>((warpKey + 16 * m) / 4 + (lane >> 3)), stream);
              const uint32_t w0 = __ballot_sync(kFullWarp, drawn & 1), w1 = __ballot_sync(kFullWarp, drawn & 2);
              const uint32_t w2 = __ballot_sync(kFullWarp, drawn & 4), w3 = __ballot_sync(kFullWarp, drawn & 8);
              kept = (g & 2 ? (g & 1 ? w3 : w2) : (g & 1 ? w1 : w0)) >> ((g >> 2) * 8 + 2 * t);
            }
#pragma unroll
            for (int e = 0; e < 4; ++e) {
              const float p = exp2Approx(fmaf(s[m][j][e], a.scaleLog2, e & 1 ? -lse.y : -lse.x));
              const float mean = e & 1 ? delta.y : delta.x;
              float ds = dP[m][j][e] - mean;
              if (kDropout) {
                const bool keep = kept >> ((e & 1) + 16 * (e >> 1)) & 1;
                ds = keep ? fmaf(dP[m][j][e], a.keepScale, -mean) : -mean;
                s[m][j][e] = keep ? p : 0.0f;
              } else {
                s[m][j][e] = p;
              }
              dP[m][j][e] = p * ds;
            }
          }
        }
        uint32_t p[2][4], ds[2][4];  // 2 x 16 keys x 16 queries as operands A
#pragma unroll
        for (int m = 0; m < 2; ++m) {
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            p[m][i] = packBf16(s[m][i >> 1][(i & 1) * 2], s[m][i >> 1][(i & 1) * 2 + 1]);
            ds[m][i] = packBf16(dP[m][i >> 1][(i & 1) * 2], dP[m][i >> 1][(i & 1) * 2 + 1]);
            const int row = warp * kRows + m * 16 + (i & 1) * 8 + g;
            *reinterpret_cast<uint32_t*>(dsTile + Tile<64>::offset(row, part * 2 + (i >> 1)) + t * 4) = ds[m][i];
          }
        }
#pragma unroll
        for (int pair = 0; pair < D / 16; ++pair) {
          uint32_t b[4];
          loadRightRows<D>(b, dOutTile, tileRow, pair * 2);
#pragma unroll
          for (int m = 0; m < 2; ++m) mmaPair(dV[m][2 * pair], dV[m][2 * pair + 1], p[m], b);
          loadRightRows<D>(b, qTile, tileRow, pair * 2);
#pragma unroll
          for (int m = 0; m < 2; ++m) mmaPair(dK[m][2 * pair], dK[m][2 * pair + 1], ds[m], b);
        }
      }
      __syncthreads();  // dS is complete, and nobody reads the query tiles any more

      // dQ (16 queries of this warp) += dS K over the group's keys.
      const int query = (queryBlock << queryBits) + inGroup * 16;
      if (query < queries && active) {
        float dQ[1][D / 8][4] = {};
        float4* const soFar = reinterpret_cast<float4*>(
            a.dQSum + (head * dQTiles(a.queryRows, a.count) + dQTile(a.queryOffsets[where[4]], where[4]) + query / 16) * 16 * D) + lane;
        if (keyBlock > 0) {
#pragma unroll
          for (int j = 0; j < D / 8; ++j) {
            const float4 v = soFar[j * 32];
            dQ[0][j][0] = v.x, dQ[0][j][1] = v.y, dQ[0][j][2] = v.z, dQ[0][j][3] = v.w;
          }
        }
        for (int step = 0; step < (2 << bits); ++step) {
          const int keyRow = (group << keyBits) + step * 16;
          uint32_t left[4], b[4];
          ldmatrix4Transposed(left, dsTile + Tile<64>::offset(keyRow + (lane & 7) + ((lane >> 4) << 3), inGroup * 2 + ((lane >> 3) & 1)));
#pragma unroll
          for (int pair = 0; pair < D / 16; ++pair) {
            loadRightRows<D>(b, kTile, keyRow, pair * 2);
            mmaPair(dQ[0][2 * pair], dQ[0][2 * pair + 1], left, b);
          }
        }
        if (keyBlock + 1 < keyBlocks) {
#pragma unroll
          for (int j = 0; j < D / 8; ++j) soFar[j * 32] = make_float4(dQ[0][j][0], dQ[0][j][1], dQ[0][j][2], dQ[0][j][3]);
        } else {
          storeRows<D, 1>(qTile, warp * 16, a.dQ, a.queryOffsets[where[4]], query, queries, head, dQ, [&](int, int) { return a.scale; });
        }
      }
    }
    waitAsync<0>();   // the keys, where there are no queries
    __syncthreads();  // dS and the keys are read out
    const int firstOut = a.keyOffsets[where[4]], outRows = active ? keys : 0;
    storeRows<D, 2>(kTile, warp * kRows, a.dK, firstOut, warpKey, outRows, head, dK, [&](int, int) { return a.scale; });
    storeRows<D, 2>(vTile, warp * kRows, a.dV, firstOut, warpKey, outRows, head, dV, [&](int, int) { return a.keepScale; });
    __syncthreads();
  }
}

}  // namespace attn
}  // namespace bge

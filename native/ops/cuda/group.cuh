// Sums of rows that share a key, in row order and without atomics on floats: the gradients of embedding tables.
//
// 1. A stable radix sort (8 bits a pass) puts the row numbers in order of (key, row).
// 2. The sorted rows are cut into tiles of kGroupTile. A block sums a tile's runs of equal keys. A run that lies inside its tile is added
//    to its table row at once; one that crosses tiles leaves a partial in each (the `tail` of the tile where it begins, the `head` of those
//    it goes on in), and
// 3. the block of the tile where such a run begins adds its partials in order.
// Every table row has one writer, and the order of its additions depends on the keys alone.
#pragma once
#include "rows.cuh"

namespace bge {

constexpr int kGroupTile = 32;

struct Grouping {
  float* table = nullptr;         // (keys, C) accumulates
  const int32_t* keys = nullptr;  // (R) not negative
  int32_t ignored = -1;           // rows with this key are left out
};
struct Groupings {
  Grouping first, second;
  __device__ const Grouping& mine() const { return blockIdx.y == 0 ? first : second; }
};

namespace group {

// -- the sort ---------------------------------------------------------------------------------------------------------------------
constexpr int kDigits = 256, kSortWarps = 8, kWarpItems = 256, kSortTile = kSortWarps * kWarpItems;

// One pass: rows and their keys, from the order of the last pass to that of this one.
struct Pass {
  const int32_t *keys, *rows;   // (groupings, R); null in the first pass: the keys as they came, rows 0, 1, ...
  int32_t *keysOut, *rowsOut;   // (groupings, R)
  int32_t* offsets;             // (groupings, kDigits, blocks)
  int64_t count;                // R
  int shift;
  __device__ int64_t at(int64_t i) const { return static_cast<int64_t>(blockIdx.y) * count + i; }
  __device__ int32_t key(const Groupings& groupings, int64_t i) const { return keys == nullptr ? groupings.mine().keys[i] : keys[at(i)]; }
  __device__ int32_t row(int64_t i) const { return rows == nullptr ? static_cast<int32_t>(i) : rows[at(i)]; }
  __device__ int digit(int32_t key) const { return (key >> shift) & (kDigits - 1); }
  __device__ int32_t* offset(int digit) const {
    return offsets + (static_cast<int64_t>(blockIdx.y) * kDigits + digit) * gridDim.x + blockIdx.x;
  }
};

// offsets = how often each digit occurs in each block's rows
static __global__ void __launch_bounds__(kDigits) countDigitsKernel(Groupings groupings, Pass s) {
  BGE_SHARED_STATIC(int32_t, counts, kDigits);
  const int t = static_cast<int>(threadIdx.x);
  counts[t] = 0;
  __syncthreads();
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kSortTile;
  for (int64_t i = first + t; i < first + kSortTile && i < s.count; i += kDigits)
    atomicAdd(&counts[s.digit(s.key(groupings, i))], 1);
  __syncthreads();
  *s.offset(t) = counts[t];
}

// offsets = where each (digit, block) begins: an exclusive sum. One block of 1,024 threads a grouping.
static __global__ void __launch_bounds__(1024) scanDigitsKernel(int32_t* offsets, int64_t count) {
  BGE_SHARED_STATIC(int32_t, sums, 32);
  int32_t* const values = offsets + blockIdx.y * count;
  const int t = static_cast<int>(threadIdx.x), lane = t % 32;
  const int64_t each = (count + 1023) / 1024, first = t * each, last = first + each < count ? first + each : count;
  int32_t sum = 0;
  for (int64_t i = first; i < last; ++i) sum += values[i];
  int32_t before = sum;  // inclusive over the warp
#pragma unroll
  for (int step = 1; step < 32; step *= 2) {
    const int32_t other = __shfl_up_sync(kFullWarp, before, step);
    if (lane >= step) before += other;
  }
  if (lane == 31) sums[t / 32] = before;
  __syncthreads();
  before -= sum;
  for (int w = 0; w < t / 32; ++w) before += sums[w];
  for (int64_t i = first; i < last; ++i) {
    const int32_t value = values[i];
    values[i] = before;
    before += value;
  }
}

static __global__ void __launch_bounds__(kSortWarps * 32) placeKernel(Groupings groupings, Pass s) {
  BGE_SHARED_STATIC(int32_t, next, kSortWarps * kDigits);  // (warps, digits): counts, then where the warp's next row of a digit goes
  const int t = static_cast<int>(threadIdx.x), warp = t / 32, lane = t % 32;
  for (int i = t; i < kSortWarps * kDigits; i += kSortWarps * 32) next[i] = 0;
  __syncthreads();
  int32_t* const mine = next + warp * kDigits;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kSortTile + warp * kWarpItems;
  for (int64_t i = first + lane; i < first + kWarpItems && i < s.count; i += 32)
    atomicAdd(&mine[s.digit(s.key(groupings, i))], 1);
  __syncthreads();
  int32_t begin = *s.offset(t);  // kSortWarps * 32 == kDigits: a thread per digit
  for (int w = 0; w < kSortWarps; ++w) {
    const int32_t count = next[w * kDigits + t];
    next[w * kDigits + t] = begin;
    begin += count;
  }
  __syncthreads();
  for (int64_t i = first + lane; i - lane < first + kWarpItems; i += 32) {
    const bool valid = i < s.count;
    const int32_t key = valid ? s.key(groupings, i) : 0;
    const int digit = s.digit(key);
    uint32_t peers = __ballot_sync(kFullWarp, valid);  // lanes with a row of the same digit
#pragma unroll
    for (int bit = 0; bit < 8; ++bit) {
      const uint32_t set = __ballot_sync(kFullWarp, (digit >> bit) & 1);
      peers &= (digit >> bit) & 1 ? set : ~set;
    }
    const uint32_t before = peers & ((1u << lane) - 1u);
    const int32_t to = mine[digit] + __popc(before);
    __syncwarp();  // all have read `mine` before a leader moves it on
    if (valid && before == 0) mine[digit] += __popc(peers);
    __syncwarp();
    if (valid) {
      s.keysOut[s.at(to)] = key;
      s.rowsOut[s.at(to)] = s.row(i);
    }
  }
}

// -- the sums ---------------------------------------------------------------------------------------------------------------------
struct Runs {
  const int32_t* keys;  // (groupings, R) sorted
  const int32_t* rows;  // (groupings, R)
  float* heads;         // (groupings, tiles, C)
  float* tails;         // (groupings, tiles, C)
  int64_t count, cols;
  __device__ float* partial(float* of, int64_t tile, int64_t col) const {
    return of + (static_cast<int64_t>(blockIdx.y) * gridDim.x + tile) * cols + col;
  }
};

template <int V> __device__ __forceinline__ void addTo(float* p, const float (&sum)[V]) {
  float old[V];
  loadValues(old, p);
#pragma unroll
  for (int i = 0; i < V; ++i) old[i] += sum[i];
  storeValues(p, old);
}

template <int V>
__global__ void __launch_bounds__(256) sumRunsKernel(Groupings groupings, Runs runs, View<float> x) {
  constexpr int kAhead = 8;  // rows whose loads are in flight together
  BGE_SHARED_STATIC(int32_t, keys, kGroupTile + 2);  // the tile's, with a neighbour on each side (-1: none)
  BGE_SHARED_STATIC(int32_t, rows, kGroupTile);
  const Grouping grouping = groupings.mine();
  const int64_t base = static_cast<int64_t>(blockIdx.y) * runs.count, first = static_cast<int64_t>(blockIdx.x) * kGroupTile;
  const int t = static_cast<int>(threadIdx.x);
  const int n = static_cast<int>(runs.count - first < kGroupTile ? runs.count - first : kGroupTile);
  if (t < kGroupTile + 2) {
    const int64_t i = first + t - 1;
    keys[t] = i >= 0 && i < runs.count ? runs.keys[base + i] : -1;
  }
  if (t < n) rows[t] = runs.rows[base + first + t];
  __syncthreads();
  for (int64_t col = t * V; col < runs.cols; col += static_cast<int64_t>(blockDim.x) * V) {
    float sum[V] = {};
    bool continued = keys[0] == keys[1];  // the run began in an earlier tile
    for (int i0 = 0; i0 < n; i0 += kAhead) {
      Raw<float, V> loaded[kAhead];
#pragma unroll
      for (int j = 0; j < kAhead; ++j)
        if (i0 + j < n) loaded[j] = loadRaw<V>(x.at(rows[i0 + j], col));
#pragma unroll
      for (int j = 0; j < kAhead; ++j) {
        const int i = i0 + j;
        if (i >= n) break;
        float v[V];
        unpackRaw<float, V>(v, loaded[j]);
#pragma unroll
        for (int k = 0; k < V; ++k) sum[k] += v[k];
        const int32_t key = keys[i + 1];
        const bool last = i + 1 == n;
        if (!last && keys[i + 2] == key) continue;
        const bool goesOn = last && keys[i + 2] == key;
        if (continued) storeValues(runs.partial(runs.heads, blockIdx.x, col), sum);
        else if (goesOn) storeValues(runs.partial(runs.tails, blockIdx.x, col), sum);
        else if (key != grouping.ignored) addTo(grouping.table + static_cast<int64_t>(key) * runs.cols + col, sum);
        continued = false;
#pragma unroll
        for (int k = 0; k < V; ++k) sum[k] = 0;
      }
    }
  }
}

template <int V>
__global__ void __launch_bounds__(256) joinRunsKernel(Groupings groupings, Runs runs) {
  const Grouping grouping = groupings.mine();
  const int32_t* const keys = runs.keys + static_cast<int64_t>(blockIdx.y) * runs.count;
  const int64_t tile = blockIdx.x, first = tile * kGroupTile, end = first + kGroupTile;
  if (end >= runs.count) return;  // the last tile: nothing goes on
  const int32_t key = keys[end];
  // A run that goes on after this tile and began in it.
  if (keys[end - 1] != key || (first > 0 && keys[first - 1] == key) || key == grouping.ignored) return;
  for (int64_t col = static_cast<int64_t>(threadIdx.x) * V; col < runs.cols; col += static_cast<int64_t>(blockDim.x) * V) {
    float sum[V], v[V];
    loadValues(sum, runs.partial(runs.tails, tile, col));
    for (int64_t next = tile + 1;; ++next) {
      loadValues(v, runs.partial(runs.heads, next, col));
#pragma unroll
      for (int k = 0; k < V; ++k) sum[k] += v[k];
      const int64_t after = (next + 1) * kGroupTile;
      if (after >= runs.count || keys[after] != key) break;
    }
    addTo(grouping.table + static_cast<int64_t>(key) * runs.cols + col, sum);
  }
}

}  // namespace group

// table[key] += x[r] over the rows r of x (R, C), for the first `count` groupings. Keys are below keyLimit. V: vectors of x and the tables.
template <int V>
void addGroupedRows(cudaStream_t stream, Arena& workspace, const Groupings& groupings, unsigned int count, int64_t keyLimit, View<float> x,
                    int64_t rows, int64_t cols) {
  if (rows == 0) return;
  const unsigned int blocks = blocksFor(rows, group::kSortTile), tiles = blocksFor(rows, kGroupTile);
  group::Pass pass{};
  int32_t* buffers[2][2];  // of keys and rows
  for (auto& buffer : buffers)
    for (int32_t*& p : buffer) p = workspace.take<int32_t>(count * rows);
  pass.offsets = workspace.take<int32_t>(static_cast<int64_t>(count) * group::kDigits * blocks);
  pass.count = rows;
  int i = 0;
  do {
    pass.keysOut = buffers[i][0];
    pass.rowsOut = buffers[i][1];
    launch(group::countDigitsKernel, dim3(blocks, count), group::kDigits, 0, stream, groupings, pass);
    launch(group::scanDigitsKernel, dim3(1, count), 1024, 0, stream, pass.offsets, int64_t{group::kDigits} * blocks);
    launch(group::placeKernel, dim3(blocks, count), group::kSortWarps * 32, 0, stream, groupings, pass);
    pass.keys = pass.keysOut;
    pass.rows = pass.rowsOut;
    pass.shift += 8;
    i = 1 - i;
  } while (pass.shift < 32 && keyLimit > int64_t{1} << pass.shift);
  float *heads = workspace.take<float>(count * tiles * cols), *tails = workspace.take<float>(count * tiles * cols);
  const group::Runs runs{pass.keys, pass.rows, heads, tails, rows, cols};
  const auto threads = static_cast<unsigned int>(std::clamp<int64_t>((cols / V + 31) / 32 * 32, 64, 256));
  launch((group::sumRunsKernel<V>), dim3(tiles, count), threads, 0, stream, groupings, runs, x);
  launch((group::joinRunsKernel<V>), dim3(tiles, count), threads, 0, stream, groupings, runs);
}

}  // namespace bge

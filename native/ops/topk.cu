// Exact top-k of dot products on CUDA: score tiles by matmul, then a block per query row that keeps the k best so far in order and sorts in
// what beats the worst of them.
#include <limits>

#include "cuda/rows.cuh"

namespace bge {

namespace {

constexpr int kThreads = 256, kPerThread = 4, kStep = kThreads * kPerThread;  // candidates that a block looks at between two barriers
constexpr int64_t kQueryTile = 1024, kTileScores = int64_t{8} << 20, kPassageTile = kTileScores / kQueryTile;
constexpr int64_t kBlocks = 264;              // wanted at least: with few queries a row is cut into segments
constexpr int64_t kSharedKeys = 8192;         // more are kept in device memory

// A hit as one number: the larger key has the larger score, and at equal scores the smaller index. NaN counts as -infinity, -0 as 0.
using Key = unsigned long long;
constexpr int32_t kEmpty = std::numeric_limits<int32_t>::max();  // the index of an empty slot: it loses every tie

__device__ __forceinline__ Key keyOf(float score, int32_t index) {
  if (score == 0) score = 0;
  if (score != score) score = -INFINITY;
  const uint32_t bits = __float_as_uint(score);
  const uint32_t ordered = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
  return (static_cast<Key>(ordered) << 32) | ~static_cast<uint32_t>(index);
}
__device__ __forceinline__ float scoreOf(Key key) {
  const auto ordered = static_cast<uint32_t>(key >> 32);
  return __uint_as_float(ordered & 0x80000000u ? ordered & 0x7fffffffu : ~ordered);
}
__device__ __forceinline__ int32_t indexOf(Key key) { return static_cast<int32_t>(~static_cast<uint32_t>(key)); }

struct Scores {
  View<float> scores;   // (queries, count)
  int32_t firstIndex;   // of column 0
  int64_t count;
  __device__ Key at(int64_t row, int64_t i) const { return keyOf(*scores.at(row, i), firstIndex + static_cast<int32_t>(i)); }
};
struct Lists {
  const Key* keys;  // (queries, count)
  int64_t count;
  __device__ Key at(int64_t row, int64_t i) const { return keys[row * count + i]; }
};

// Bitonic, descending; size is a power of two. Begins and ends with a barrier.
__device__ __forceinline__ void sortKeys(Key* keys, int size) {
  __syncthreads();
  for (int run = 2; run <= size; run *= 2) {
    for (int stride = run / 2; stride > 0; stride /= 2) {
      for (int i = static_cast<int>(threadIdx.x); i < size / 2; i += kThreads) {
        const int a = 2 * i - (i & (stride - 1)), b = a + stride;
        const Key x = keys[a], y = keys[b];
        if ((x < y) == ((a & run) == 0)) {
          keys[a] = y;
          keys[b] = x;
        }
      }
      __syncthreads();
    }
  }
}

// Block (segment, row): out = the k best, in order, of its segment of the candidates and of list[row] (k, in order); or, with several
// segments, of the segment's candidates that are better than the worst of list[row]. out may be list when there is one segment.
// buffers: (blocks, size) where shared memory is too small, else null.
template <class Source>
__global__ void __launch_bounds__(kThreads, 6) selectKernel(Key* out, const Key* list, Source source, int64_t segment, int k, int size,
                                                         Key* buffers) {
  BGE_SHARED(Key, shared);
  BGE_SHARED_STATIC(int, used, 1);  // keys beyond the first k
  const int64_t row = blockIdx.y, block = row * gridDim.x + blockIdx.x;
  const int t = static_cast<int>(threadIdx.x), lane = t % 32;
  Key* const keys = buffers != nullptr ? buffers + block * size : shared;
  const bool whole = gridDim.x == 1;
  for (int i = t; i < k; i += kThreads) keys[i] = whole ? list[row * k + i] : keyOf(-INFINITY, kEmpty);
  if (t == 0) used[0] = 0;
  __syncthreads();
  Key worst = list[row * k + k - 1];
  const int64_t first = blockIdx.x * segment, last = first + segment < source.count ? first + segment : source.count;
  int64_t base = first;
  while (base < last) {
    int n = k;  // keys that are there
    for (; base < last && n + kStep <= size; base += kStep) {
      Key candidates[kPerThread];
#pragma unroll
      for (int j = 0; j < kPerThread; ++j) {
        const int64_t i = base + j * kThreads + t;
        candidates[j] = i < last ? source.at(row, i) : 0;
      }
#pragma unroll
      for (int j = 0; j < kPerThread; ++j) {
        const bool better = candidates[j] > worst;
        const uint32_t lanes = __ballot_sync(kFullWarp, better);
        if (lanes == 0) continue;
        int slot = 0;
        if (lane == 0) slot = atomicAdd(&used[0], __popc(lanes));
        slot = shuffle(slot, 0) + __popc(lanes & ((1u << lane) - 1u));
        if (better) keys[k + slot] = candidates[j];  // in any order: they are sorted before they count
      }
      __syncthreads();
      n = k + used[0];
      __syncthreads();  // all have read `used` before the next step adds to it
    }
    if (n == k) continue;
    int power = 1;
    while (power < n) power *= 2;
    for (int i = n + t; i < power; i += kThreads) keys[i] = 0;  // worse than any
    if (t == 0) used[0] = 0;
    sortKeys(keys, power);
    if (keys[k - 1] > worst) worst = keys[k - 1];
    __syncthreads();  // all have read it before the next step's sort
  }
  for (int i = t; i < k; i += kThreads) out[block * k + i] = keys[i];
}

__global__ void __launch_bounds__(kThreads) readHitsKernel(Key* keys, const int32_t* indices, const float* scores, int64_t count) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= count) return;
  const bool there = indices != nullptr && indices[i] >= 0;
  keys[i] = there ? keyOf(scores[i], indices[i]) : keyOf(-INFINITY, kEmpty);
}

__global__ void __launch_bounds__(kThreads) writeHitsKernel(int32_t* indices, float* scores, const Key* keys, int64_t count) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= count) return;
  const int32_t index = indexOf(keys[i]);
  indices[i] = index == kEmpty ? -1 : index;
  scores[i] = scoreOf(keys[i]);
}

template <class Source>
void select(cudaStream_t stream, Arena& workspace, Key* out, const Key* list, const Source& source, int64_t segments, int64_t rows,
            int32_t k) {
  Arena::Scope scope(workspace);
  int64_t size = 1;
  while (size < int64_t{k} + kStep) size *= 2;
  Key* buffers = size > kSharedKeys ? workspace.take<Key>(rows * segments * size) : nullptr;
  const int64_t segment = (source.count + segments - 1) / segments;
  launch(selectKernel<Source>, dim3(static_cast<unsigned int>(segments), static_cast<unsigned int>(rows)), kThreads,
         buffers ? 0 : static_cast<size_t>(size) * sizeof(Key), stream, out, list, source, segment, k, static_cast<int>(size), buffers);
}

}  // namespace

void CudaBackend::topK(int32_t* indices, float* scores, int32_t k, Matrix q, Matrix p, int32_t firstIndex, bool merge) {
  for (const Matrix& m : {q, p}) requireType(m.type, DType::f32, "topK");
  if (k <= 0 || q.rows == 0) return;
  Arena::Scope scope(workspace());
  const int64_t queryTile = std::min(kQueryTile, q.rows);
  const int64_t passageTile = std::min(std::max(kPassageTile, kTileScores / queryTile / 8 * 8), p.rows);
  float* tile = workspace().take<float>(queryTile * passageTile);  // (queries, passages) scores
  Key* hits = workspace().take<Key>(queryTile * k);                // (queries, k)
  for (int64_t q0 = 0; q0 < q.rows; q0 += queryTile) {
    const int64_t queries = std::min(queryTile, q.rows - q0), count = queries * k;
    int32_t* const at = indices + q0 * k;
    launch(readHitsKernel, blocksFor(count, kThreads), kThreads, 0, stream_, hits, nullptr, nullptr, count);
    if (merge) {  // put in order here: a score may be NaN
      Arena::Scope inner(workspace());
      Key* earlier = workspace().take<Key>(count);
      launch(readHitsKernel, blocksFor(count, kThreads), kThreads, 0, stream_, earlier, at, scores + q0 * k, count);
      select(stream_, workspace(), hits, hits, Lists{earlier, k}, 1, queries, k);
    }
    for (int64_t p0 = 0; p0 < p.rows; p0 += passageTile) {
      const int64_t passages = std::min(passageTile, p.rows - p0);
      const Matrix s(tile, queries, passages);
      matmul(s, q.slice(q0, queries), false, p.slice(p0, passages), true, 1.0f, 0.0f);
      const Scores source{view<float>(s), static_cast<int32_t>(firstIndex + p0), passages};
      const int64_t segments = std::clamp(kBlocks / queries, int64_t{1}, (passages + kPassageTile - 1) / kPassageTile);
      if (segments == 1) {
        select(stream_, workspace(), hits, hits, source, 1, queries, k);
        continue;
      }
      Arena::Scope inner(workspace());
      Key* parts = workspace().take<Key>(count * segments);  // (queries, segments, k)
      select(stream_, workspace(), parts, hits, source, segments, queries, k);
      select(stream_, workspace(), hits, hits, Lists{parts, segments * k}, 1, queries, k);
    }
    launch(writeHitsKernel, blocksFor(count, kThreads), kThreads, 0, stream_, at, scores + q0 * k, hits, count);
  }
}

}  // namespace bge

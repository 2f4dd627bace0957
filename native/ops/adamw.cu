// The global gradient norm, clipping, AdamW with decoupled weight decay (Loshchilov and Hutter 2019) as torch.optim.AdamW, zeroed gradients
// and the bf16 copies of weights, on CUDA: two kernels, whatever the number of parameters, and nothing that the host waits for.
#include <cfloat>
#include <cmath>
#include <vector>

#include "cuda/rows.cuh"

namespace bge {

namespace {

constexpr int kThreads = 256;
constexpr int kAhead = 4;                             // loads of a thread that are under way
constexpr int64_t kTile = int64_t{kThreads} * kAhead * 4;  // values that a block takes at a time; no tile holds values of two stretches
constexpr int64_t kPartials = 1024;                   // of the norm, at most

// What a gradient's squares are summed over: a part. The order of the additions depends on the parts' lengths alone.
struct Stretch {
  const float* gradient;
  int64_t n, firstTile;
};
// What is updated: a piece of a part that lies in the same copies of weights from end to end. The query, key and value weights of a layer
// are copied as one, and where the last layer is pruned the key and value weights once more.
constexpr int kCopies = 2;
struct Piece {
  float *parameter, *m, *v, *gradient;
  bf16* copies[kCopies];
  int64_t n, firstTile;
  float decay;  // 1 - learningRate * weightDecay
};
struct Step {
  float maxNorm;  // 0: no clipping
  float oneMinusBeta1, beta2, oneMinusBeta2;
  float stepSize;        // learningRate / (1 - beta1^t)
  float rootCorrection;  // sqrt(1 - beta2^t)
  float epsilon;
};

__device__ __forceinline__ double blockSumDouble(double v) {  // every thread gets it; warps in order
  BGE_SHARED_STATIC(double, sums, kThreads / 32);
  v = warpSumDouble(v);
  if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = v;
  __syncthreads();
  double total = 0;
  for (int w = 0; w < kThreads / 32; ++w) total += sums[w];
  return total;
}

// The last of `count` entries that begins at `tile` or before.
template <class T> __device__ __forceinline__ T entryOf(const T* entries, int count, int64_t tile) {
  int low = 0;
  for (int high = count; high - low > 1;) {
    const int middle = (low + high) / 2;
    (entries[middle].firstTile <= tile ? low : high) = middle;
  }
  return entries[low];
}

// partials[block] = sum of the squares of the block's tiles
template <int V>
__global__ void __launch_bounds__(kThreads) squaresKernel(double* partials, const Stretch* stretches, int count, int64_t tiles) {
  const int64_t block = blockIdx.x, blocks = gridDim.x;
  double sums[V] = {};
  for (int64_t tile = block * tiles / blocks; tile < (block + 1) * tiles / blocks; ++tile) {
    const Stretch s = entryOf(stretches, count, tile);
    const int64_t first = (tile - s.firstTile) * kTile, last = first + kTile < s.n ? first + kTile : s.n;
    for (int64_t i = first + static_cast<int64_t>(threadIdx.x) * V; i < last; i += kAhead * kThreads * V) {
      Raw<float, V> loaded[kAhead];
#pragma unroll
      for (int a = 0; a < kAhead; ++a)
        if (i + a * kThreads * V < last) loaded[a] = loadRaw<V>(s.gradient + i + a * kThreads * V);
#pragma unroll
      for (int a = 0; a < kAhead; ++a) {
        if (i + a * kThreads * V >= last) break;
        float v[V];
        unpackRaw<float, V>(v, loaded[a]);
#pragma unroll
        for (int k = 0; k < V; ++k) sums[k] = fma(static_cast<double>(v[k]), static_cast<double>(v[k]), sums[k]);
      }
    }
  }
  double sum = 0;
#pragma unroll
  for (int k = 0; k < V; ++k) sum += sums[k];
  sum = blockSumDouble(sum);
  if (threadIdx.x == 0) partials[block] = sum;
}

// Every block adds the partial sums, all in the same order.
template <int V>
__global__ void __launch_bounds__(kThreads) adamwKernel(double* squaredNorm, const double* partials, int partialCount, const Piece* pieces,
                                                        int count, int64_t tiles, Step s) {
  double squared = 0;
  for (int i = static_cast<int>(threadIdx.x); i < partialCount; i += kThreads) squared += partials[i];
  squared = blockSumDouble(squared);
  if (blockIdx.x == 0 && threadIdx.x == 0) *squaredNorm = squared;
  const bool finite = squared <= DBL_MAX;
  double clipDouble = 1;
  if (s.maxNorm > 0) clipDouble = fmin(1.0, s.maxNorm / (sqrt(squared) + 1e-6));
  const auto clip = static_cast<float>(clipDouble);
  for (int64_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
    const Piece at = entryOf(pieces, count, tile);
    const int64_t first = (tile - at.firstTile) * kTile, last = first + kTile < at.n ? first + kTile : at.n;
    for (int64_t i = first + static_cast<int64_t>(threadIdx.x) * V; i < last; i += kThreads * V) {
      float p[V];
      loadValues(p, at.parameter + i);
      if (finite) {
        float g[V], m1[V], v1[V];
        loadValues(g, at.gradient + i);
        loadValues(m1, at.m + i);
        loadValues(v1, at.v + i);
#pragma unroll
        for (int k = 0; k < V; ++k) {
          const float scaled = g[k] * clip;
          m1[k] = fmaf(scaled - m1[k], s.oneMinusBeta1, m1[k]);
          v1[k] = fmaf(scaled * scaled, s.oneMinusBeta2, v1[k] * s.beta2);
          p[k] = fmaf(m1[k] / (sqrtf(v1[k]) / s.rootCorrection + s.epsilon), -s.stepSize, p[k] * at.decay);
        }
        storeValues(at.m + i, m1);
        storeValues(at.v + i, v1);
        storeValues(at.parameter + i, p);
      }
      const float zeros[V] = {};
      storeValues(at.gradient + i, zeros);
#pragma unroll
      for (bf16* copy : at.copies)
        if (copy) storeValues(copy + i, p);
    }
  }
}

int64_t tilesOf(int64_t n) { return (n + kTile - 1) / kTile; }

}  // namespace

void CudaBackend::adamw(double* squaredNorm, const AdamWPart* partsHost, int32_t count, const AdamW& o) {
  std::vector<Stretch> stretches;
  std::vector<Piece> pieces;
  int64_t squareTiles = 0, tiles = 0;
  bool vectors = true;
  for (const AdamWPart* part = partsHost; part < partsHost + count; ++part) {
    if (part->n == 0) continue;
    stretches.push_back({part->gradient, part->n, squareTiles});
    squareTiles += tilesOf(part->n);
    // The copies inside this part, and where they begin and end.
    const float* const end = part->parameter + part->n;
    std::vector<std::pair<const float*, const Cast*>> copies;
    std::vector<const float*> cuts = {part->parameter, end};
    for (auto it = casts_.lower_bound(part->parameter); it != casts_.end() && it->first < end; ++it) {
      const float* const last = it->first + it->second.n;
      const auto over = [&](const auto& other) { return other.first + other.second->n > it->first; };
      if (last > end || part->version == 0 || std::count_if(copies.begin(), copies.end(), over) == kCopies) continue;  // cast at its next use
      it->second.version = part->version;
      copies.push_back({it->first, &it->second});
      cuts.insert(cuts.end(), {it->first, last});
    }
    std::sort(cuts.begin(), cuts.end());
    for (size_t i = 0; i + 1 < cuts.size(); ++i) {
      const int64_t at = cuts[i] - part->parameter, n = cuts[i + 1] - cuts[i];
      if (n == 0) continue;
      Piece piece{part->parameter + at, part->m + at, part->v + at, part->gradient + at, {}, n, tiles,
                  static_cast<float>(1 - o.learningRate * part->weightDecay)};
      int filled = 0;
      for (const auto& [first, copy] : copies)
        if (first <= cuts[i] && cuts[i] < first + copy->n) piece.copies[filled++] = copy->data + (cuts[i] - first);
      for (const float* p : {piece.parameter, piece.m, piece.v, piece.gradient}) vectors = vectors && aligned(p, 16);
      for (const bf16* p : piece.copies) vectors = vectors && aligned(p, 8);
      vectors = vectors && n % 4 == 0;
      pieces.push_back(piece);
      tiles += tilesOf(n);
    }
  }
  if (tiles == 0) return zero(squaredNorm, sizeof(double));

  Step s;
  const double t = static_cast<double>(o.step);
  s.maxNorm = o.maxNorm;
  s.oneMinusBeta1 = static_cast<float>(1 - o.beta1);
  s.beta2 = static_cast<float>(o.beta2);
  s.oneMinusBeta2 = static_cast<float>(1 - o.beta2);
  s.stepSize = static_cast<float>(o.learningRate / (1 - std::pow(o.beta1, t)));
  s.rootCorrection = static_cast<float>(std::sqrt(1 - std::pow(o.beta2, t)));
  s.epsilon = static_cast<float>(o.epsilon);

  Arena::Scope scope(workspace());
  const auto toDevice = [&](const auto& host) {
    using T = typename std::decay_t<decltype(host)>::value_type;
    T* device = workspace().template take<T>(static_cast<int64_t>(host.size()));
    upload(device, host.data(), host.size() * sizeof(T));
    return device;
  };
  const Stretch* stretchTable = toDevice(stretches);
  const Piece* pieceTable = toDevice(pieces);
  const auto blocks = static_cast<unsigned int>(std::min(squareTiles, kPartials));
  double* partials = workspace().take<double>(blocks);
  const auto grid = static_cast<unsigned int>(std::min(tiles, int64_t{8} * multiprocessors()));
  const int stretchCount = static_cast<int>(stretches.size()), pieceCount = static_cast<int>(pieces.size());
  const auto run = [&](auto width) {
    constexpr int V = decltype(width)::value;
    launch(squaresKernel<V>, blocks, kThreads, 0, stream_, partials, stretchTable, stretchCount, squareTiles);
    launch(adamwKernel<V>, grid, kThreads, 0, stream_, squaredNorm, static_cast<const double*>(partials), static_cast<int>(blocks),
           pieceTable, pieceCount, tiles, s);
  };
  if (vectors) run(std::integral_constant<int, 4>());
  else run(std::integral_constant<int, 1>());
}

}  // namespace bge

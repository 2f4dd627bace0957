// Contrastive objectives on a block of score rows, on CUDA. Formulas and rules: similarity.cc. A block of threads does one row: it removes
// columns, finds the maximum and the sum of exponentials outside the own group, one thread does the own group in double, and all threads
// write the gradient. Rows leave their results in scratch; one block adds them in row order.
#include "cuda/rows.cuh"
#include "cuda/similarity.h"

namespace bge {

namespace {

constexpr int kThreads = 512;
#if defined(BGE_CUDA_EMULATED)  // the tests shall see both ways
constexpr int64_t kMostCached = 512;
#else
constexpr int64_t kMostCached = 24 << 10;  // columns of a row that shared memory holds, on every GPU: 96 KiB
#endif
constexpr float kRemoved = -INFINITY;

struct RowResult { double loss; int64_t masked, falseNegatives, correct; };

// log(exp a + exp b), either may be -infinity
__device__ double logAdd(double a, double b) {
  const double high = a > b ? a : b;
  return high == static_cast<double>(kRemoved) ? a + b : high + log1p(exp((a > b ? b : a) - high));
}

__device__ bool contains(const int32_t* sorted, int64_t n, int32_t id) {
  int64_t low = 0, high = n;
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    if (sorted[middle] < id) low = middle + 1;
    else high = middle;
  }
  return low < n && sorted[low] == id;
}

__device__ __forceinline__ float nanMax(float a, float b) { return a > b || a != a ? a : b; }

// What all threads of the row learn about the columns outside the own group.
struct Shared {
  float left[kThreads / 32], right[kThreads / 32], own[kThreads / 32];
  double sums[kThreads / 32];
  int64_t removed[kThreads / 32], falseNegatives[kThreads / 32];
  double outsideFactor;
};

template <class T, class Combine> __device__ T combined(const T (&parts)[kThreads / 32], const Combine& combine) {
  T all = parts[0];
  for (int w = 1; w < kThreads / 32; ++w) all = combine(all, parts[w]);
  return all;
}

// z, dz: (rows, G) scratch. kHalf: the gradient is left as f16, in place (HalfGradient). kCached: the row lies in shared memory meanwhile.
template <bool kHalf, bool kCached>
__global__ void __launch_bounds__(kThreads) contrastiveKernel(RowResult* results, Contrastive c, double* zs, double* dzs, float halfScale) {
  BGE_SHARED(float, cache);
  BGE_SHARED_STATIC(Shared, sharedOne, 1);
  Shared& s = sharedOne[0];
  const int64_t r = blockIdx.x, M = c.scores.cols, query = c.firstRow + r;
  const int32_t G = c.groupSize;
  const int64_t target = query * G;
  float* const row = static_cast<float*>(c.scores.data) + r * c.scores.stride;
  float* const x = kCached ? cache : row;
  double* const z = zs + r * G;
  double* const dz = dzs + r * G;
  const int t = static_cast<int>(threadIdx.x), lane = t % 32, warp = t / 32;
  if constexpr (kCached) {
    for (int64_t j = 4 * t; j < M; j += 4 * kThreads) copyAsync16(cache + j, row + j);
    commitAsync();
    waitAsync<0>();
    __syncthreads();
  }
  const float score = x[target];
  const int32_t* const positives = c.passageIds && c.positiveOffsets ? c.positiveIds + c.positiveOffsets[query] : nullptr;
  const int64_t positiveCount = positives ? c.positiveOffsets[query + 1] - c.positiveOffsets[query] : 0;
  const int32_t targetId = c.passageIds ? c.passageIds[target] : 0;
  const int32_t* const listed = c.removedColumns ? c.removedColumns + c.removedBegin[query] : nullptr;
  const int64_t listedCount = listed ? c.removedEnd[query] - c.removedBegin[query] : 0;
  const float most = score + c.falseNegativeMargin;
  __syncthreads();  // every thread has read `score`

  // Removal, and the largest remaining score to the left, to the right, and in the own group.
  float left = kRemoved, right = kRemoved, own = kRemoved;
  int64_t removed = 0, falseNegatives = 0;
  const bool ownOnly = c.ownGroupOnly;
  for (int64_t j = ownOnly ? target + t : t; j < (ownOnly ? target + G : M); j += kThreads) {
    if (j == target) continue;
    const bool inside = j >= target && j < target + G;
    if (c.sourceIds && !inside && c.sourceIds[j / G] != c.sourceIds[query]) {
      x[j] = kRemoved;
      continue;
    }
    bool remove = contains(listed, listedCount, static_cast<int32_t>(j));
    if (c.passageIds && !remove) remove = c.passageIds[j] == targetId || (positives && contains(positives, positiveCount, c.passageIds[j]));
    if (!remove && c.queryIds && !ownOnly && !inside && j % G == 0) remove = c.queryIds[j / G] == c.queryIds[query];
    if (remove) {
      x[j] = kRemoved;
      ++removed;
    } else if (x[j] > most && (!inside || c.falseNegativesInGroup)) {
      x[j] = kRemoved;
      ++falseNegatives;
    } else if (inside) {
      own = nanMax(x[j], own);
    } else if (j < target) {
      left = nanMax(x[j], left);
    } else {
      right = nanMax(x[j], right);
    }
  }
  for (int i = 16; i > 0; i >>= 1) {
    left = nanMax(shuffleXor(left, i), left);
    right = nanMax(shuffleXor(right, i), right);
    own = nanMax(shuffleXor(own, i), own);
    removed += shuffleXor(removed, i);
    falseNegatives += shuffleXor(falseNegatives, i);
  }
  if (lane == 0) {
    s.left[warp] = left;
    s.right[warp] = right;
    s.own[warp] = own;
    s.removed[warp] = removed;
    s.falseNegatives[warp] = falseNegatives;
  }
  __syncthreads();
  const auto larger = [](float a, float b) { return nanMax(a, b); };
  left = combined(s.left, larger);
  right = combined(s.right, larger);
  own = combined(s.own, larger);
  const float outsideMaximum = nanMax(left, right);
  const float reference = outsideMaximum == kRemoved ? 0.0f : outsideMaximum;
  const bool outside = !ownOnly && M > G && (c.infoNceWeight != 0 || c.m3Weight != 0);
  const float factor = 1.0f / c.temperature;

  double sum = 0;
  if (outside) {
    for (int64_t j = t; j < M; j += kThreads) {
      if (j >= target && j < target + G) continue;
      const float e = expf((x[j] - reference) * factor);
      x[j] = e;
      sum += e;
    }
  }
  for (int i = 16; i > 0; i >>= 1) sum += shuffleXor(sum, i);
  if (lane == 0) s.sums[warp] = sum;
  __syncthreads();

  if (t == 0) {
    const double sumOutside = combined(s.sums, [](double a, double b) { return a + b; });
    double outsideFactor = 0, loss = 0;
    for (int32_t g = 0; g < G; ++g) {
      z[g] = static_cast<double>(x[target + g]) / c.temperature;
      dz[g] = 0;
    }
    const double zOut = static_cast<double>(reference) / c.temperature;
    const double outsideLse = outside ? zOut + log(sumOutside) : static_cast<double>(kRemoved);
    const auto outsideShare = [&](double lse) { return outsideLse == static_cast<double>(kRemoved) ? 0.0 : exp(zOut - lse); };
    if (c.infoNceWeight != 0) {
      const double w = c.infoNceWeight;
      double others = outsideLse;
      for (int32_t g = 1; g < G; ++g) others = logAdd(others, z[g]);
      const double behind = others - z[0];
      const double l = behind < 0 ? log1p(exp(behind)) : behind + log1p(exp(-behind));
      const double lse = z[0] + l;
      loss += w * l;
      dz[0] -= w / (1 + exp(-behind));
      for (int32_t g = 1; g < G; ++g) dz[g] += w * exp(z[g] - lse);
      outsideFactor += w * outsideShare(lse);
    }
    const float* const teacher = c.teacher ? c.teacher + query * G : nullptr;
    if (c.klWeight != 0) {
      const double w = c.klWeight;
      double lse = z[0], weight = 0;
      for (int32_t g = 1; g < G; ++g) lse = logAdd(lse, z[g]);
      for (int32_t g = 0; g < G; ++g) {
        if (z[g] == static_cast<double>(kRemoved)) continue;
        weight += teacher[g];
        loss += w * teacher[g] * (lse - z[g]);
        dz[g] -= w * teacher[g];
      }
      for (int32_t g = 0; g < G; ++g) dz[g] += w * weight * exp(z[g] - lse);
    }
    if (c.m3Weight != 0) {
      double lse = outsideLse;
      for (int32_t g = G - 1; g >= 0; --g) {
        if (z[g] == static_cast<double>(kRemoved)) continue;
        lse = logAdd(lse, z[g]);
        const double w = c.m3Weight * static_cast<double>(teacher[g]);
        loss += w * (lse - z[g]);
        outsideFactor += w * outsideShare(lse);
        for (int32_t h = g; h < G; ++h) dz[h] += w * exp(z[h] - lse);
        dz[g] -= w;
      }
    }
    const double scale = static_cast<double>(c.lossScale) / static_cast<double>(c.queries);
    const double gradientScale = kHalf ? static_cast<double>(halfScale) : scale / c.temperature;
    for (int32_t g = 0; g < G; ++g) x[target + g] = static_cast<float>(dz[g] * gradientScale);
    s.outsideFactor = outsideFactor * gradientScale;
    const auto plus = [](int64_t a, int64_t b) { return a + b; };
    results[r] = {loss * scale, combined(s.removed, plus), combined(s.falseNegatives, plus),
                  score == score && !(left >= score) && !(right > score) && !(own > score)};
  }
  __syncthreads();
  const float outsideFactor = static_cast<float>(s.outsideFactor);
  const auto gradient = [&](int64_t j) {
    if (j >= target && j < target + G) return x[j];
    return outside && j < M ? x[j] * outsideFactor : 0.0f;
  };
  if constexpr (kHalf) {
    auto* const halves = reinterpret_cast<uint32_t*>(row);
    for (int64_t first = 0; first < M; first += 2 * kThreads) {
      const int64_t j = first + 2 * t;
      const uint32_t two = packF16(gradient(j), gradient(j + 1));
      if constexpr (!kCached) __syncthreads();  // 2 kThreads values have been read before kThreads of them are written over
      if (j < M) halves[j / 2] = two;
    }
  } else {
    for (int64_t j = t; j < M; j += kThreads) {
      if (j < target || j >= target + G) x[j] = gradient(j);
    }
  }
}

// One block: sums in an order that only the number of rows decides.
__global__ void __launch_bounds__(kThreads) addResultsKernel(ContrastiveResult* total, const RowResult* rows, int64_t n) {
  BGE_SHARED_STATIC(RowResult, parts, kThreads);
  const int t = static_cast<int>(threadIdx.x);
  RowResult mine{0, 0, 0, 0};
  for (int64_t r = t; r < n; r += kThreads) {
    mine.loss += rows[r].loss;
    mine.masked += rows[r].masked;
    mine.falseNegatives += rows[r].falseNegatives;
    mine.correct += rows[r].correct;
  }
  parts[t] = mine;
  __syncthreads();
  if (t != 0) return;
  for (int i = 0; i < kThreads; ++i) {
    total->loss += parts[i].loss;
    total->correct += parts[i].correct;
    total->masked += parts[i].masked;
    total->falseNegatives += parts[i].falseNegatives;
  }
}

}  // namespace

void contrastiveRows(cudaStream_t stream, Arena& workspace, ContrastiveResult* result, const Contrastive& tile, float halfScale) {
  const int64_t rows = tile.scores.rows, G = tile.groupSize;
  if (rows == 0) return;
  Arena::Scope scope(workspace);
  auto* each = workspace.take<RowResult>(rows);
  double *z = workspace.take<double>(rows * G), *dz = workspace.take<double>(rows * G);
  const dim3 grid(static_cast<unsigned int>(rows));
  const int64_t cached = (tile.scores.cols + 3) / 4 * 4;
  if (halfScale == 0) launch((contrastiveKernel<false, false>), grid, kThreads, 0, stream, each, tile, z, dz, 0.0f);
  else if (cached <= kMostCached)
    launch((contrastiveKernel<true, true>), grid, kThreads, static_cast<size_t>(cached) * sizeof(float), stream, each, tile, z, dz, halfScale);
  else launch((contrastiveKernel<true, false>), grid, kThreads, 0, stream, each, tile, z, dz, halfScale);
  launch(addResultsKernel, 1, kThreads, 0, stream, result, each, rows);
}

void CudaBackend::contrastive(ContrastiveResult* result, const Contrastive& tile) {
  contrastiveRows(stream_, workspace_, result, tile, 0);
}

}  // namespace bge

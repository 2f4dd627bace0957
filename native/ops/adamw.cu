// The global gradient norm and AdamW with decoupled weight decay (Loshchilov and Hutter 2019), as torch.optim.AdamW, on CUDA.
#include <cmath>

#include "cuda/rows.cuh"

namespace bge {

namespace {

constexpr int kThreads = 256;
constexpr int64_t kNormChunk = 32768;  // values per block of the norm: the order of its additions depends on n alone
constexpr int kStepVectors = 4;        // vectors that a thread updates

__device__ __forceinline__ double blockSumDouble(double v) {  // thread 0 gets it; warps in order
  BGE_SHARED_STATIC(double, sums, 32);
  v = warpSumDouble(v);
  if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = v;
  __syncthreads();
  double total = 0;
  for (unsigned int w = 0; w < blockDim.x / 32; ++w) total += sums[w];
  return total;
}

// partials[block] = sum of x^2 over the block's chunk
template <int V> __global__ void __launch_bounds__(kThreads) squaresKernel(double* partials, const float* x, int64_t n) {
  constexpr int kAhead = 4;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kNormChunk, last = first + kNormChunk < n ? first + kNormChunk : n;
  double sums[V] = {};
  for (int64_t i = first + static_cast<int64_t>(threadIdx.x) * V; i < last; i += kAhead * kThreads * V) {
    Raw<float, V> loaded[kAhead];
#pragma unroll
    for (int a = 0; a < kAhead; ++a)
      if (i + a * kThreads * V < last) loaded[a] = loadRaw<V>(x + i + a * kThreads * V);
#pragma unroll
    for (int a = 0; a < kAhead; ++a) {
      if (i + a * kThreads * V >= last) break;
      float v[V];
      unpackRaw<float, V>(v, loaded[a]);
#pragma unroll
      for (int k = 0; k < V; ++k) sums[k] = fma(static_cast<double>(v[k]), static_cast<double>(v[k]), sums[k]);
    }
  }
  double sum = 0;
#pragma unroll
  for (int k = 0; k < V; ++k) sum += sums[k];
  sum = blockSumDouble(sum);
  if (threadIdx.x == 0) partials[blockIdx.x] = sum;
}

__global__ void __launch_bounds__(1024) addSquaresKernel(double* result, const double* partials, int64_t count) {
  double sum = 0;
  for (int64_t i = threadIdx.x; i < count; i += 1024) sum += partials[i];
  sum = blockSumDouble(sum);
  if (threadIdx.x == 0) *result += sum;
}

struct Step {
  float maxNorm;              // 0: no clipping
  const double* squaredNorm;
  float decay;                // 1 - learningRate * weightDecay
  float oneMinusBeta1, beta2, oneMinusBeta2;
  float stepSize;             // learningRate / (1 - beta1^t)
  float rootCorrection;       // sqrt(1 - beta2^t)
  float epsilon;
};

template <int V>
__global__ void __launch_bounds__(kThreads) adamwKernel(float* parameter, float* m, float* v, const float* gradient, int64_t n, Step s) {
  BGE_SHARED_STATIC(float, clips, 1);
  if (threadIdx.x == 0) {
    double clip = 1;
    if (s.maxNorm > 0) {
      clip = s.maxNorm / (sqrt(*s.squaredNorm) + 1e-6);
      if (clip > 1) clip = 1;  // written so that a NaN norm stays NaN
    }
    clips[0] = static_cast<float>(clip);
  }
  __syncthreads();
  const float clip = clips[0];
  const int64_t first = (static_cast<int64_t>(blockIdx.x) * kStepVectors * kThreads + threadIdx.x) * V;
#pragma unroll
  for (int step = 0; step < kStepVectors; ++step) {
    const int64_t i = first + step * kThreads * V;
    if (i >= n) return;
    float p[V], g[V], m1[V], v1[V];
    loadValues(g, gradient + i);
    loadValues(p, parameter + i);
    loadValues(m1, m + i);
    loadValues(v1, v + i);
#pragma unroll
    for (int k = 0; k < V; ++k) {
      const float scaled = g[k] * clip;
      m1[k] = fmaf(scaled - m1[k], s.oneMinusBeta1, m1[k]);
      v1[k] = fmaf(scaled * scaled, s.oneMinusBeta2, v1[k] * s.beta2);
      p[k] = fmaf(m1[k] / (sqrtf(v1[k]) / s.rootCorrection + s.epsilon), -s.stepSize, p[k] * s.decay);
    }
    storeValues(m + i, m1);
    storeValues(v + i, v1);
    storeValues(parameter + i, p);
  }
}

}  // namespace

void CudaBackend::squaredNorm(double* result, const float* x, int64_t n) {
  if (n == 0) return;
  Arena::Scope scope(workspace());
  const unsigned int chunks = blocksFor(n, kNormChunk);
  double* partials = workspace().take<double>(chunks);
  if (n % 4 == 0 && aligned(x, 16)) launch(squaresKernel<4>, chunks, kThreads, 0, stream_, partials, x, n);
  else launch(squaresKernel<1>, chunks, kThreads, 0, stream_, partials, x, n);
  launch(addSquaresKernel, 1, 1024, 0, stream_, result, partials, int64_t{chunks});
}

void CudaBackend::adamw(float* parameter, float* m, float* v, const float* gradient, int64_t n, const AdamW& o) {
  const double beta1 = o.beta1, beta2 = o.beta2, rate = o.learningRate, t = static_cast<double>(o.step);
  Step s;
  s.maxNorm = o.maxNorm;
  s.squaredNorm = o.squaredNorm;
  s.decay = static_cast<float>(1 - rate * o.weightDecay);
  s.oneMinusBeta1 = static_cast<float>(1 - beta1);
  s.beta2 = static_cast<float>(beta2);
  s.oneMinusBeta2 = static_cast<float>(1 - beta2);
  s.stepSize = static_cast<float>(rate / (1 - std::pow(beta1, t)));
  s.rootCorrection = static_cast<float>(std::sqrt(1 - std::pow(beta2, t)));
  s.epsilon = static_cast<float>(o.epsilon);
  bool vectors = n % 4 == 0;
  for (const float* p : {static_cast<const float*>(parameter), static_cast<const float*>(m), static_cast<const float*>(v), gradient})
    vectors = vectors && aligned(p, 16);
  const int width = vectors ? 4 : 1;
  const unsigned int blocks = blocksFor(n, int64_t{kStepVectors} * kThreads * width);
  if (vectors) launch(adamwKernel<4>, blocks, kThreads, 0, stream_, parameter, m, v, gradient, n, s);
  else launch(adamwKernel<1>, blocks, kThreads, 0, stream_, parameter, m, v, gradient, n, s);
}

}  // namespace bge

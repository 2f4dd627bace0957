// Soft-max cross-entropy over the vocabulary, loss and gradient in place (recipe.md 2.4), on CUDA: a block per row.
#include "cuda/rows.cuh"

namespace bge {

namespace {

constexpr int32_t kIgnored = -100;
constexpr int kThreads = 512, kWarps = kThreads / 32;

struct RowResult {
  double sum;  // of exp(logit - high)
  float high, target;
  bool correct;
};

// Over the block; every thread gets the result. `scratch`: (kWarps).
__device__ __forceinline__ float blockMaximum(float v, float* scratch) {  // NaN is skipped
#pragma unroll
  for (int i = 16; i > 0; i >>= 1) v = fmaxf(v, shuffleXor(v, i));
  if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = v;
  __syncthreads();
  for (int w = 0; w < kWarps; ++w) v = fmaxf(v, scratch[w]);
  return v;
}
// fp32 inside a warp's part, double beyond.
__device__ __forceinline__ double blockSumOfWarps(float v, float* scratch) {
  v = warpSum(v);
  if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = v;
  __syncthreads();
  double sum = 0;
  for (int w = 0; w < kWarps; ++w) sum += scratch[w];
  return sum;
}

// The row is read once and written once: in between it lies in shared memory, each thread's vectors where only that thread looks at them.
// Two blocks share a multiprocessor, so that one's loads run beside the other's exponentials. `cols` is a multiple of 4.
__global__ void __launch_bounds__(kThreads, 2) crossEntropyKernel(RowResult* results, View<float> logits, const int32_t* labels,
                                                                  float scale, int cols) {
  BGE_SHARED(float, row);  // (cols)
  BGE_SHARED_STATIC(float, maxima, kWarps);
  BGE_SHARED_STATIC(float, sums, kWarps);
  BGE_SHARED_STATIC(int, earlier, 1);
  float* const x = logits.at(blockIdx.x, 0);
  const int label = labels[blockIdx.x], first = static_cast<int>(threadIdx.x) * 4;
  constexpr int kStride = kThreads * 4;
  float v[4] = {};
  if (label == kIgnored) {  // the whole block
    for (int col = first; col < cols; col += kStride) storeValues(x + col, v);
    return;
  }
  for (int col = first; col < cols; col += kStride) copyAsync16(row + col, x + col);
  commitAsync();
  if (threadIdx.x == 0) earlier[0] = 0;
  const float target = x[label];
  waitAsync<0>();
  float high = -INFINITY;
#pragma unroll 4
  for (int col = first; col < cols; col += kStride) {
    loadValues(v, row + col);
    high = fmaxf(high, fmaxf(fmaxf(v[0], v[1]), fmaxf(v[2], v[3])));
  }
  high = blockMaximum(high, maxima);
  if (target == high) {
    for (int col = first; col < label; col += kStride) {
      loadValues(v, row + col);
      for (int i = 0; i < 4; ++i)
        if (v[i] == high && col + i < label) earlier[0] = 1;  // every writer writes 1
    }
  }
  float sum = 0;
#pragma unroll 4
  for (int col = first; col < cols; col += kStride) {
    loadValues(v, row + col);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      v[i] = expf(v[i] - high);  // NaN anywhere makes sum and loss NaN
      sum += v[i];
    }
    storeValues(row + col, v);
  }
  const double total = blockSumOfWarps(sum, sums);
  const auto factor = static_cast<float>(static_cast<double>(scale) / total);
#pragma unroll 4
  for (int col = first; col < cols; col += kStride) {
    loadValues(v, row + col);
#pragma unroll
    for (int i = 0; i < 4; ++i) v[i] *= factor;
    storeValues(x + col, v);
  }
  if (label / 4 % kThreads == static_cast<int>(threadIdx.x)) x[label] -= scale;  // the thread that has just written it
  if (threadIdx.x == 0) results[blockIdx.x] = {total, high, target, target == high && earlier[0] == 0};
}

// Any width and alignment: the row is read three times.
__global__ void __launch_bounds__(kThreads) crossEntropyWideKernel(RowResult* results, View<float> logits, const int32_t* labels,
                                                                   float scale, int64_t cols) {
  BGE_SHARED_STATIC(float, maxima, kWarps);
  BGE_SHARED_STATIC(float, sums, kWarps);
  BGE_SHARED_STATIC(int, earlier, 1);
  float* const x = logits.at(blockIdx.x, 0);
  const int32_t label = labels[blockIdx.x];
  if (label == kIgnored) {
    for (int64_t col = threadIdx.x; col < cols; col += kThreads) x[col] = 0;
    return;
  }
  if (threadIdx.x == 0) earlier[0] = 0;
  const float target = x[label];
  float high = -INFINITY;
  for (int64_t col = threadIdx.x; col < cols; col += kThreads) high = fmaxf(high, x[col]);
  high = blockMaximum(high, maxima);
  double sum = 0;
  for (int64_t col = threadIdx.x; col < cols; col += kThreads) {
    if (x[col] == high && col < label) earlier[0] = 1;
    sum += expf(x[col] - high);
  }
  const double total = blockSumOfWarps(static_cast<float>(sum), sums);
  const auto factor = static_cast<float>(static_cast<double>(scale) / total);
  for (int64_t col = threadIdx.x; col < cols; col += kThreads) x[col] = expf(x[col] - high) * factor - (col == label ? scale : 0.0f);
  if (threadIdx.x == 0) results[blockIdx.x] = {total, high, target, target == high && earlier[0] == 0};
}

// One block: thread t adds rows t, t + 1024, ..., then the threads' sums: the order depends on the number of rows alone.
__global__ void __launch_bounds__(1024) addRowResultsKernel(CrossEntropyResult* result, const RowResult* rows, const int32_t* labels,
                                                            int64_t count) {
  BGE_SHARED_STATIC(double, losses, 32);
  BGE_SHARED_STATIC(int32_t, counts, 2 * 32);
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  double loss = 0;
  int32_t correct = 0, labelled = 0;
  for (int64_t r = threadIdx.x; r < count; r += 1024) {
    if (labels[r] == kIgnored) continue;
    loss += log(rows[r].sum) + (static_cast<double>(rows[r].high) - static_cast<double>(rows[r].target));
    correct += rows[r].correct;
    ++labelled;
  }
  const auto warps = [&] {
    loss = warpSumDouble(loss);
#pragma unroll
    for (int i = 16; i > 0; i >>= 1) {
      correct += shuffleXor(correct, i);
      labelled += shuffleXor(labelled, i);
    }
  };
  warps();
  if (lane == 0) {
    losses[warp] = loss;
    counts[warp] = correct;
    counts[32 + warp] = labelled;
  }
  __syncthreads();
  if (warp > 0) return;
  loss = losses[lane];
  correct = counts[lane];
  labelled = counts[32 + lane];
  warps();
  if (lane != 0) return;
  result->loss += loss;
  result->correct += correct;
  result->count += labelled;
}

}  // namespace

void CudaBackend::crossEntropy(CrossEntropyResult* result, Matrix logits, const int32_t* labels, float scale) {
  requireType(logits.type, DType::f32, "crossEntropy");
  if (logits.rows == 0) return;
  Arena::Scope scope(workspace());
  RowResult* rows = workspace().take<RowResult>(logits.rows);
  const dim3 grid(static_cast<unsigned int>(logits.rows));
  const View<float> x = view<float>(logits);
  const int64_t cols = logits.cols;
  const size_t held = static_cast<size_t>(cols) * sizeof(float);  // of shared memory
  constexpr size_t reserved = 2048;                                // static arrays and the driver's share
  if (vectorWidth(4, cols, {logits}) == 4 && held + reserved <= properties_.sharedMemPerBlockOptin)
    launch(crossEntropyKernel, grid, kThreads, held, stream_, rows, x, labels, scale, static_cast<int>(cols));
  else
    launch(crossEntropyWideKernel, grid, kThreads, 0, stream_, rows, x, labels, scale, cols);
  launch(addRowResultsKernel, 1, 1024, 0, stream_, result, rows, labels, logits.rows);
}

}  // namespace bge

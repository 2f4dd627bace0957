// Mean pooling and L2 normalisation of embeddings, on CUDA.
#include "cuda/rows.cuh"

namespace bge {

namespace {

constexpr float kNormFloor = 1e-12f;  // torch.nn.functional.normalize
constexpr int kPoolWarps = 8, kPoolRows = 32, kRowWarps = 4;

// A block per sequence (blockIdx.x) and 32 vectors of columns: warp w adds rows w, w + 8, ... of the sequence, then those sums in order.
template <class TX, int V>
__global__ void __launch_bounds__(kPoolWarps * 32) meanPoolKernel(View<float> out, View<TX> x, const int32_t* offsets, int64_t cols) {
  constexpr int kAhead = 4;
  BGE_SHARED_STATIC(float, sums, kPoolWarps * 32 * V);
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int64_t col = (static_cast<int64_t>(blockIdx.y) * 32 + lane) * V;
  const int32_t first = offsets[blockIdx.x], last = offsets[blockIdx.x + 1];
  float sum[V] = {};
  if (col < cols) {
    for (int32_t t0 = first + warp; t0 < last; t0 += kAhead * kPoolWarps) {
      Raw<TX, V> loaded[kAhead];
#pragma unroll
      for (int j = 0; j < kAhead; ++j)
        if (t0 + j * kPoolWarps < last) loaded[j] = loadRaw<V>(x.at(t0 + j * kPoolWarps, col));
#pragma unroll
      for (int j = 0; j < kAhead; ++j) {
        if (t0 + j * kPoolWarps >= last) break;
        float v[V];
        unpackRaw<TX, V>(v, loaded[j]);
#pragma unroll
        for (int i = 0; i < V; ++i) sum[i] += v[i];
      }
    }
  }
#pragma unroll
  for (int i = 0; i < V; ++i) sums[(warp * V + i) * 32 + lane] = sum[i];
  __syncthreads();
  if (warp > 0 || col >= cols) return;
  const float length = static_cast<float>(last > first ? last - first : 1);
#pragma unroll
  for (int i = 0; i < V; ++i) {
    for (int w = 1; w < kPoolWarps; ++w) sum[i] += sums[(w * V + i) * 32 + lane];
    sum[i] /= length;
  }
  storeValues(out.at(blockIdx.x, col), sum);
}

// blockIdx.z: runs of kPoolRows rows of the sequence.
template <class TX, int V>
__global__ void __launch_bounds__(kPoolWarps * 32) meanPoolBackwardKernel(View<TX> dX, View<float> dOut, const int32_t* offsets,
                                                                          int64_t cols) {
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int64_t col = (static_cast<int64_t>(blockIdx.y) * 32 + lane) * V;
  const int32_t begin = offsets[blockIdx.x], end = offsets[blockIdx.x + 1];
  const int32_t first = begin + static_cast<int32_t>(blockIdx.z) * kPoolRows, last = first + kPoolRows < end ? first + kPoolRows : end;
  if (col >= cols || first >= last) return;
  float v[V];
  loadValues(v, dOut.at(blockIdx.x, col));
#pragma unroll
  for (int i = 0; i < V; ++i) v[i] /= static_cast<float>(end - begin);
  for (int32_t t = first + warp; t < last; t += kPoolWarps) storeValues(dX.at(t, col), v);
}

// Sum of a b over a row, in double; the same bits in every lane.
template <int V>
__device__ __forceinline__ double dotRow(View<float> a, View<float> b, int64_t r, int64_t cols, int lane) {
  double sum = 0;
  for (int64_t col = static_cast<int64_t>(lane) * V; col < cols; col += 32 * V) {
    float x[V], y[V];
    loadValues(x, a.at(r, col));
    loadValues(y, b.at(r, col));
#pragma unroll
    for (int i = 0; i < V; ++i) sum = fma(static_cast<double>(x[i]), static_cast<double>(y[i]), sum);
  }
  return warpSumDouble(sum);
}

template <int V>
__global__ void __launch_bounds__(kRowWarps * 32) normalizeKernel(View<float> out, float* norm, View<float> x, int64_t rows, int64_t cols) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int64_t r = static_cast<int64_t>(blockIdx.x) * kRowWarps + threadIdx.x / 32;
  if (r >= rows) return;
  const float length = static_cast<float>(sqrt(dotRow<V>(x, x, r, cols, lane)));
  const float divisor = length < kNormFloor ? kNormFloor : length;
  for (int64_t col = static_cast<int64_t>(lane) * V; col < cols; col += 32 * V) {
    float v[V];
    loadValues(v, x.at(r, col));
#pragma unroll
    for (int i = 0; i < V; ++i) v[i] /= divisor;
    storeValues(out.at(r, col), v);
  }
  if (lane == 0 && norm != nullptr) norm[r] = length;
}

template <int V>
__global__ void __launch_bounds__(kRowWarps * 32) normalizeBackwardKernel(View<float> dX, View<float> dOut, View<float> out,
                                                                          const float* norm, int64_t rows, int64_t cols) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int64_t r = static_cast<int64_t>(blockIdx.x) * kRowWarps + threadIdx.x / 32;
  if (r >= rows) return;
  // Below the floor the divisor is a constant and only scales.
  const float length = norm[r];
  const bool floored = length < kNormFloor;
  const float along = floored ? 0.0f : static_cast<float>(dotRow<V>(dOut, out, r, cols, lane)), divisor = floored ? kNormFloor : length;
  for (int64_t col = static_cast<int64_t>(lane) * V; col < cols; col += 32 * V) {
    float d[V], y[V];
    loadValues(d, dOut.at(r, col));
    loadValues(y, out.at(r, col));
#pragma unroll
    for (int i = 0; i < V; ++i) d[i] = fmaf(y[i], -along, d[i]) / divisor;
    storeValues(dX.at(r, col), d);
  }
}

}  // namespace

void CudaBackend::meanPool(Matrix out, Matrix x, const Packed& batch) {
  requireType(out.type, DType::f32, "meanPool");
  withType(x.type, "meanPool", [&](auto type) {
    using T = decltype(type);
    const int width = vectorWidth(4, out.cols, {out, x});
    const dim3 grid(static_cast<unsigned int>(batch.count), blocksFor(out.cols, 32 * width));
    const View<float> to = view<float>(out);
    if (width == 4) launch((meanPoolKernel<T, 4>), grid, kPoolWarps * 32, 0, stream_, to, view<T>(x), batch.offsets, out.cols);
    else launch((meanPoolKernel<T, 1>), grid, kPoolWarps * 32, 0, stream_, to, view<T>(x), batch.offsets, out.cols);
  });
}

void CudaBackend::meanPoolBackward(Matrix dX, Matrix dOut, const Packed& batch) {
  requireType(dOut.type, DType::f32, "meanPoolBackward");
  withType(dX.type, "meanPoolBackward", [&](auto type) {
    using T = decltype(type);
    const int width = vectorWidth(4, dX.cols, {dX, dOut});
    const dim3 grid(static_cast<unsigned int>(batch.count), blocksFor(dX.cols, 32 * width), blocksFor(batch.maxLength, kPoolRows));
    const View<T> to = view<T>(dX);
    const View<float> d = view<float>(dOut);
    if (width == 4) launch((meanPoolBackwardKernel<T, 4>), grid, kPoolWarps * 32, 0, stream_, to, d, batch.offsets, dX.cols);
    else launch((meanPoolBackwardKernel<T, 1>), grid, kPoolWarps * 32, 0, stream_, to, d, batch.offsets, dX.cols);
  });
}

void CudaBackend::normalize(Matrix out, float* norm, Matrix x) {
  for (const Matrix& m : {out, x}) requireType(m.type, DType::f32, "normalize");
  const unsigned int blocks = blocksFor(x.rows, kRowWarps);
  const View<float> y = view<float>(out), from = view<float>(x);
  if (vectorWidth(4, x.cols, {out, x}) == 4) launch(normalizeKernel<4>, blocks, kRowWarps * 32, 0, stream_, y, norm, from, x.rows, x.cols);
  else launch(normalizeKernel<1>, blocks, kRowWarps * 32, 0, stream_, y, norm, from, x.rows, x.cols);
}

void CudaBackend::normalizeBackward(Matrix dX, Matrix dOut, Matrix out, const float* norm) {
  for (const Matrix& m : {dX, dOut, out}) requireType(m.type, DType::f32, "normalizeBackward");
  const unsigned int blocks = blocksFor(dOut.rows, kRowWarps);
  const View<float> to = view<float>(dX), d = view<float>(dOut), y = view<float>(out);
  const bool vectors = vectorWidth(4, dX.cols, {dX, dOut, out}) == 4;
  if (vectors) launch(normalizeBackwardKernel<4>, blocks, kRowWarps * 32, 0, stream_, to, d, y, norm, dOut.rows, dOut.cols);
  else launch(normalizeBackwardKernel<1>, blocks, kRowWarps * 32, 0, stream_, to, d, y, norm, dOut.rows, dOut.cols);
}

}  // namespace bge

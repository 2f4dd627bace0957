// Gather, scatter, add and convert rows, the GELU's derivative, and column sums, on CUDA.
#include "cuda/gelu.cuh"
#include "cuda/rows.cuh"

namespace bge {

namespace {

constexpr int kThreads = 256;

// -- element by element ---------------------------------------------------------------------------------------------------------------

// op.at<V>(r, col) for every vector of V columns of (rows, V * perRow). `narrow`: 32-bit division will do.
template <int V, class Op> __global__ void __launch_bounds__(kThreads) eachKernel(Op op, int64_t rows, int64_t perRow, bool narrow) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= rows * perRow) return;
  const int64_t r = narrow ? static_cast<int64_t>(static_cast<uint32_t>(i) / static_cast<uint32_t>(perRow)) : i / perRow;
  op.template at<V>(r, (i - r * perRow) * V);
}

template <int V, class Op> void each(cudaStream_t stream, const Op& op, int64_t rows, int64_t cols, int width) {
  const int64_t perRow = cols / width, items = rows * perRow;
  const bool narrow = items < int64_t{1} << 32;
  const dim3 grid(blocksFor(items, kThreads));
  if (width == V) launch((eachKernel<V, Op>), grid, kThreads, 0, stream, op, rows, perRow, narrow);
  else launch((eachKernel<1, Op>), grid, kThreads, 0, stream, op, rows, perRow, narrow);
}

// out[to[r]] (+)= x[from[r]]; no index: r itself.
template <class TO, class TX> struct Move {
  View<TO> out;
  View<TX> x;
  const int32_t* to;
  const int32_t* from;
  bool accumulate;
  template <int V> __device__ void at(int64_t r, int64_t col) const {
    float v[V];
    loadValues(v, x.at(from != nullptr ? from[r] : r, col));
    TO* const p = out.at(to != nullptr ? to[r] : r, col);
    if (accumulate) {
      float old[V];
      loadValues(old, p);
#pragma unroll
      for (int i = 0; i < V; ++i) v[i] += old[i];
    }
    storeValues(p, v);
  }
};

void move(cudaStream_t stream, const char* where, Matrix out, Matrix x, int64_t rows, const int32_t* to, const int32_t* from,
          bool accumulate) {
  withType(out.type, where, [&](auto typeOut) {
    withType(x.type, where, [&](auto typeX) {
      using TO = decltype(typeOut);
      using TX = decltype(typeX);
      constexpr int V = std::is_same_v<TO, float> && std::is_same_v<TX, float> ? 4 : 8;
      each<V>(stream, Move<TO, TX>{view<TO>(out), view<TX>(x), to, from, accumulate}, rows, x.cols, vectorWidth(V, x.cols, {out, x}));
    });
  });
}

template <class TO, class TX> struct AddScaled {
  View<TO> out;
  View<TX> x;
  float alpha;
  template <int V> __device__ void at(int64_t r, int64_t col) const {
    float v[V], old[V];
    loadValues(v, x.at(r, col));
    loadValues(old, out.at(r, col));
#pragma unroll
    for (int i = 0; i < V; ++i) v[i] = fmaf(alpha, v[i], old[i]);
    storeValues(out.at(r, col), v);
  }
};

template <class T> struct GeluBackward {
  View<T> dX, dOut, preActivation;
  template <int V> __device__ void at(int64_t r, int64_t col) const {
    float v[V], x[V];
    loadValues(x, preActivation.at(r, col));
    loadValues(v, dOut.at(r, col));
#pragma unroll
    for (int i = 0; i < V; ++i) v[i] *= geluGradient(x[i]);
    storeValues(dX.at(r, col), v);
  }
};

// -- column sums ------------------------------------------------------------------------------------------------------------------------

constexpr int kSumWarps = 8;
constexpr int64_t kSumChunks = 176, kSumRows = 64;

// partials (chunks, C): blockIdx.y is the chunk of `each` rows, a lane takes V columns and a warp every kSumWarps-th row.
template <class T, int V>
__global__ void __launch_bounds__(kSumWarps * 32) columnSumsKernel(float* partials, View<T> x, int64_t rows, int64_t cols, int64_t each) {
  constexpr int kAhead = 4;
  BGE_SHARED_STATIC(float, sums, kSumWarps * 32 * V);
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int64_t col = (static_cast<int64_t>(blockIdx.x) * 32 + lane) * V;
  const int64_t first = blockIdx.y * each, last = first + each < rows ? first + each : rows;
  float sum[V] = {};
  if (col < cols) {
    for (int64_t r0 = first + warp; r0 < last; r0 += kAhead * kSumWarps) {
      Raw<T, V> loaded[kAhead];
#pragma unroll
      for (int j = 0; j < kAhead; ++j)
        if (r0 + j * kSumWarps < last) loaded[j] = loadRaw<V>(x.at(r0 + j * kSumWarps, col));
#pragma unroll
      for (int j = 0; j < kAhead; ++j) {
        if (r0 + j * kSumWarps >= last) break;
        float v[V];
        unpackRaw<T, V>(v, loaded[j]);
#pragma unroll
        for (int i = 0; i < V; ++i) sum[i] += v[i];
      }
    }
  }
#pragma unroll
  for (int i = 0; i < V; ++i) sums[(warp * V + i) * 32 + lane] = sum[i];
  __syncthreads();
  if (warp > 0 || col >= cols) return;
  for (int w = 1; w < kSumWarps; ++w) {
#pragma unroll
    for (int i = 0; i < V; ++i) sum[i] += sums[(w * V + i) * 32 + lane];
  }
#pragma unroll
  for (int i = 0; i < V; ++i) partials[blockIdx.y * cols + col + i] = sum[i];
}

struct Sums { float *a, *b, *c; };

// 32 columns of (kinds * C) a block; warp g adds partials g, g + 32, ...
__global__ void __launch_bounds__(1024) addPartialsKernel(Sums sums, const float* partials, int64_t count, int64_t cols, int64_t width) {
  BGE_SHARED_STATIC(float, groups, 32 * 33);
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int64_t col = static_cast<int64_t>(blockIdx.x) * 32 + lane;
  float sum = 0;
  if (col < width) {
#pragma unroll 4
    for (int64_t p = warp; p < count; p += 32) sum += partials[p * width + col];
  }
  groups[warp * 33 + lane] = sum;
  __syncthreads();
  const int64_t mine = static_cast<int64_t>(blockIdx.x) * 32 + warp;  // now a warp per column, a lane per group
  const float total = warpSum(groups[lane * 33 + warp]);
  if (lane != 0 || mine >= width) return;
  float* const of = mine < cols ? sums.a : mine < 2 * cols ? sums.b : sums.c;
  of[mine % cols] += total;
}

}  // namespace

void addPartials(cudaStream_t stream, std::initializer_list<float*> sums, const float* partials, int64_t count, int64_t cols) {
  float* const* of = sums.begin();
  const size_t kinds = sums.size();  // at most 3
  const int64_t width = static_cast<int64_t>(kinds) * cols;
  const Sums to{of[0], kinds > 1 ? of[1] : nullptr, kinds > 2 ? of[2] : nullptr};
  launch(addPartialsKernel, blocksFor(width, 32), 1024, 0, stream, to, partials, count, cols, width);
}

void columnSums(cudaStream_t stream, Arena& workspace, float* sums, Matrix x) {
  if (x.rows == 0 || x.cols == 0) return;
  Arena::Scope scope(workspace);
  const int64_t each = std::max(kSumRows, (x.rows + kSumChunks - 1) / kSumChunks);
  const unsigned int chunks = blocksFor(x.rows, each);
  float* partials = workspace.take<float>(chunks * x.cols);  // (chunks, C)
  withType(x.type, "columnSums", [&](auto type) {
    using T = decltype(type);
    constexpr int V = 16 / sizeof(T);
    const int width = vectorWidth(V, x.cols, {x});
    const dim3 grid(blocksFor(x.cols, 32 * width), chunks);
    if (width == V) launch((columnSumsKernel<T, V>), grid, kSumWarps * 32, 0, stream, partials, view<T>(x), x.rows, x.cols, each);
    else launch((columnSumsKernel<T, 1>), grid, kSumWarps * 32, 0, stream, partials, view<T>(x), x.rows, x.cols, each);
  });
  addPartials(stream, {sums}, partials, chunks, x.cols);
}

void CudaBackend::convert(Matrix out, Matrix x) { move(stream_, "convert", out, x, x.rows, nullptr, nullptr, false); }

void CudaBackend::gatherRows(Matrix out, Matrix x, const int32_t* index, int64_t count) {
  move(stream_, "gatherRows", out, x, count, nullptr, index, false);
}

void CudaBackend::scatterRows(Matrix out, const int32_t* index, int64_t count, Matrix x, bool accumulate) {
  move(stream_, "scatterRows", out, x, count, index, nullptr, accumulate);
}

void CudaBackend::add(Matrix out, Matrix x, float alpha) {
  withType(out.type, "add", [&](auto typeOut) {
    withType(x.type, "add", [&](auto typeX) {
      using TO = decltype(typeOut);
      using TX = decltype(typeX);
      constexpr int V = std::is_same_v<TO, float> && std::is_same_v<TX, float> ? 4 : 8;
      each<V>(stream_, AddScaled<TO, TX>{view<TO>(out), view<TX>(x), alpha}, out.rows, out.cols, vectorWidth(V, out.cols, {out, x}));
    });
  });
}

void CudaBackend::geluBackward(Matrix dX, Matrix dOut, Matrix preActivation) {
  requireType(dOut.type, dX.type, "geluBackward");
  requireType(preActivation.type, dX.type, "geluBackward");
  withType(dX.type, "geluBackward", [&](auto type) {
    using T = decltype(type);
    constexpr int V = 16 / sizeof(T);
    each<V>(stream_, GeluBackward<T>{view<T>(dX), view<T>(dOut), view<T>(preActivation)}, dX.rows, dX.cols,
            vectorWidth(V, dX.cols, {dX, dOut, preActivation}));
  });
}

}  // namespace bge

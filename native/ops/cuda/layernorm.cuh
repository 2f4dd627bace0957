// LayerNorm (Ba et al. 2016) of rows that a Source produces, forward and backward; layernorm.cu and embedding.cu are its two users.
//
// Forward: a warp per row, the row in registers (any width: read three times). A row's result does not depend on other rows.
// Backward: a thread per V columns. Tiles of kTileRows rows are dealt out to normPartials() blocks, tile t to block t mod that, and each
// block leaves one partial of the column sums: their order depends on the shape alone.
#pragma once
#include "rows.cuh"

namespace bge {

constexpr int kNormWarps = 4;       // rows per block of the forward pass
constexpr int kTileRows = 2;        // rows that a block of the backward pass handles between two barriers

// Blocks of the backward pass: 512 threads on each of the 132 multiprocessors of an H200. The same on every other GPU.
inline int64_t normPartials(int64_t rows, int64_t threads) {
  return std::min(132 * (512 / threads), (rows + kTileRows - 1) / kTileRows);
}

// -- forward ----------------------------------------------------------------------------------------------------------------------
// A forward Source has
//   struct Row; row(r)                                   what a row's loads need
//   template <int V> struct Loaded; load<V>(Row, r, col)  issues the loads of V columns
//   value(v, loaded, Row, col)                           the V values that are normalised
//   keep(v, r, col)                                      stores them if they are wanted
//   finish(y, Row, r, col)                               stores V columns of the result
struct NormParameters {
  const float* gamma;
  const float* beta;
  float epsilon;
};

__device__ __forceinline__ float reciprocalDeviation(float squares, float shift, float n, float epsilon) {
  const float raw = squares / n - shift * shift;
  return 1.0f / sqrtf((raw < 0.0f ? 0.0f : raw) + epsilon);
}

template <class Source, int V, int CHUNKS>
__global__ void __launch_bounds__(kNormWarps * 32, 2) layerNormKernel(Source source, float* mean, float* rstd, NormParameters p,
                                                                      int64_t rows, int cols) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int64_t r = static_cast<int64_t>(blockIdx.x) * kNormWarps + threadIdx.x / 32;
  if (r >= rows) return;
  const auto row = source.row(r);
  typename Source::template Loaded<V> loaded[CHUNKS];
#pragma unroll
  for (int c = 0; c < CHUNKS; ++c) {
    const int col = (c * 32 + lane) * V;
    if (col < cols) loaded[c] = source.template load<V>(row, r, col);
  }
  float v[CHUNKS][V], sum = 0;
#pragma unroll
  for (int c = 0; c < CHUNKS; ++c) {
    const int col = (c * 32 + lane) * V;
    if (col >= cols) continue;
    source.value(v[c], loaded[c], row, col);
    source.keep(v[c], r, col);
#pragma unroll
    for (int i = 0; i < V; ++i) sum += v[c][i];
  }
  const float n = static_cast<float>(cols), rough = warpSum(sum) / n;
  // d1 = sum of v - rough would be 0 in exact arithmetic; what it is corrects both moments (a constant row gets variance 0, not rounding).
  float d1 = 0, d2 = 0;
#pragma unroll
  for (int c = 0; c < CHUNKS; ++c) {
    if ((c * 32 + lane) * V >= cols) continue;
#pragma unroll
    for (int i = 0; i < V; ++i) {
      const float d = v[c][i] - rough;
      d1 += d;
      d2 = fmaf(d, d, d2);
    }
  }
  const float shift = warpSum(d1) / n, mu = rough + shift, inverse = reciprocalDeviation(warpSum(d2), shift, n, p.epsilon);
#pragma unroll
  for (int c = 0; c < CHUNKS; ++c) {
    const int col = (c * 32 + lane) * V;
    if (col >= cols) continue;
    float gamma[V], beta[V];
    loadValues(gamma, p.gamma + col);
    loadValues(beta, p.beta + col);
#pragma unroll
    for (int i = 0; i < V; ++i) v[c][i] = fmaf((v[c][i] - mu) * inverse, gamma[i], beta[i]);
    source.finish(v[c], row, r, col);
  }
  if (lane == 0 && mean != nullptr) mean[r] = mu;
  if (lane == 0 && rstd != nullptr) rstd[r] = inverse;
}

// Any width: the row is read again for each of the three steps.
template <class Source>
__global__ void __launch_bounds__(kNormWarps * 32) layerNormWideKernel(Source source, float* mean, float* rstd, NormParameters p,
                                                                       int64_t rows, int64_t cols) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int64_t r = static_cast<int64_t>(blockIdx.x) * kNormWarps + threadIdx.x / 32;
  if (r >= rows) return;
  const auto row = source.row(r);
  const auto value = [&](float (&v)[1], int64_t col) { source.value(v, source.template load<1>(row, r, col), row, col); };
  float v[1], sum = 0;
  for (int64_t col = lane; col < cols; col += 32) {
    value(v, col);
    sum += v[0];
  }
  const float n = static_cast<float>(cols), rough = warpSum(sum) / n;
  float d1 = 0, d2 = 0;
  for (int64_t col = lane; col < cols; col += 32) {
    value(v, col);
    const float d = v[0] - rough;
    d1 += d;
    d2 = fmaf(d, d, d2);
  }
  const float shift = warpSum(d1) / n, mu = rough + shift, inverse = reciprocalDeviation(warpSum(d2), shift, n, p.epsilon);
  for (int64_t col = lane; col < cols; col += 32) {
    value(v, col);
    source.keep(v, r, col);
    v[0] = fmaf((v[0] - mu) * inverse, p.gamma[col], p.beta[col]);
    source.finish(v, row, r, col);
  }
  if (lane == 0 && mean != nullptr) mean[r] = mu;
  if (lane == 0 && rstd != nullptr) rstd[r] = inverse;
}

// width: V where vectors fit, else 1 (vectorWidth()).
template <int V, class Source>
void layerNormRows(cudaStream_t stream, const Source& source, float* mean, float* rstd, const NormParameters& p, int64_t rows, int64_t cols,
                   int width) {
  const dim3 grid(blocksFor(rows, kNormWarps)), block(kNormWarps * 32);
  const int64_t chunks = width == V ? (cols + 32 * V - 1) / (32 * V) : 0;
  const int n = static_cast<int>(cols);
  constexpr int scale = 8 / V;  // a row of 1,024 columns takes 4 chunks of 8 columns a lane or 8 of 4
  if (chunks == 0 || chunks > 8 * scale) launch((layerNormWideKernel<Source>), grid, block, 0, stream, source, mean, rstd, p, rows, cols);
  else if (chunks <= scale) launch((layerNormKernel<Source, V, scale>), grid, block, 0, stream, source, mean, rstd, p, rows, n);
  else if (chunks <= 2 * scale) launch((layerNormKernel<Source, V, 2 * scale>), grid, block, 0, stream, source, mean, rstd, p, rows, n);
  else if (chunks <= 3 * scale) launch((layerNormKernel<Source, V, 3 * scale>), grid, block, 0, stream, source, mean, rstd, p, rows, n);
  else if (chunks <= 4 * scale) launch((layerNormKernel<Source, V, 4 * scale>), grid, block, 0, stream, source, mean, rstd, p, rows, n);
  else launch((layerNormKernel<Source, V, 8 * scale>), grid, block, 0, stream, source, mean, rstd, p, rows, n);
}

// -- backward ---------------------------------------------------------------------------------------------------------------------
// With xhat = (x - mean) rstd and g = d gamma: dSum = rstd (g - mean(g) - xhat mean(g xhat)), dGamma = sum d xhat, dBeta = sum d.
// A backward Source has
//   static constexpr int kinds            2: dGamma and dBeta; 3: also the column sums of dSum
//   struct Row; row(r); template <int V> struct Loaded; load<V>(Row, r, col)
//   values(d, x, loaded, Row, col)        gradient of the LayerNorm's output, and its input
//   finish(dSum, Row, r, col)             stores V columns of dSum and what follows from it; the only place that writes rows
template <class Source, int V>
__global__ void __launch_bounds__(256, 2) layerNormBackwardKernel(Source source, float* partials, const float* mean, const float* rstd,
                                                               const float* gammas, int64_t rows, int cols) {
  BGE_SHARED(float, scratch);  // (2 buffers, kTileRows * 2 sums, warps)
  const int warps = static_cast<int>(blockDim.x) / 32, warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const int col = static_cast<int>(threadIdx.x) * V;
  const bool active = col < cols;
  const float n = static_cast<float>(cols);
  const int64_t tiles = (rows + kTileRows - 1) / kTileRows;
  using Row = typename Source::Row;
  using Loaded = typename Source::template Loaded<V>;

  float gamma[V], dGamma[V] = {}, dBeta[V] = {}, dColumn[V] = {};
  if (active) loadValues(gamma, gammas + col);

  Row at[kTileRows], nextAt[kTileRows];
  Loaded loaded[kTileRows], next[kTileRows];
  float mu[kTileRows] = {}, inverse[kTileRows] = {}, nextMu[kTileRows] = {}, nextInverse[kTileRows] = {};
  const auto fetch = [&](int64_t tile) {
#pragma unroll
    for (int i = 0; i < kTileRows; ++i) {
      const int64_t r = tile * kTileRows + i;
      if (r >= rows) continue;
      nextAt[i] = source.row(r);
      nextMu[i] = mean[r];
      nextInverse[i] = rstd[r];
      if (active) next[i] = source.template load<V>(nextAt[i], r, col);
    }
  };
  fetch(blockIdx.x);
  float* sums = scratch;
  for (int64_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
#pragma unroll
    for (int i = 0; i < kTileRows; ++i) {
      at[i] = nextAt[i];
      loaded[i] = next[i];
      mu[i] = nextMu[i];
      inverse[i] = nextInverse[i];
    }
    fetch(tile + gridDim.x);  // other rows: in flight while this tile is worked on
    float sum[kTileRows] = {}, product[kTileRows] = {};  // of g and of g xhat
#pragma unroll
    for (int i = 0; i < kTileRows; ++i) {
      if (!active || tile * kTileRows + i >= rows) continue;
      float d[V], x[V];
      source.values(d, x, loaded[i], at[i], col);
#pragma unroll
      for (int j = 0; j < V; ++j) {
        const float xhat = (x[j] - mu[i]) * inverse[i], g = d[j] * gamma[j];
        sum[i] += g;
        product[i] = fmaf(g, xhat, product[i]);
        dGamma[j] = fmaf(d[j], xhat, dGamma[j]);
        dBeta[j] += d[j];
      }
    }
#pragma unroll
    for (int i = 0; i < kTileRows; ++i) {
      sum[i] = warpSum(sum[i]);
      product[i] = warpSum(product[i]);
      if (lane == 0) {
        sums[2 * i * warps + warp] = sum[i];
        sums[(2 * i + 1) * warps + warp] = product[i];
      }
    }
    __syncthreads();  // the one barrier of a tile: the next tile writes the other buffer
#pragma unroll
    for (int i = 0; i < kTileRows; ++i) {
      if (!active || tile * kTileRows + i >= rows) continue;
      float a = 0, b = 0;
      for (int w = 0; w < warps; ++w) {
        a += sums[2 * i * warps + w];
        b += sums[(2 * i + 1) * warps + w];
      }
      a /= n;
      b /= n;
      float d[V], x[V];
      source.values(d, x, loaded[i], at[i], col);
#pragma unroll
      for (int j = 0; j < V; ++j) {
        const float xhat = (x[j] - mu[i]) * inverse[i];
        d[j] = fmaf(xhat, -b, fmaf(d[j], gamma[j], -a)) * inverse[i];
        if (Source::kinds == 3) dColumn[j] += d[j];
      }
      source.finish(d, at[i], tile * kTileRows + i, col);
    }
    sums = sums == scratch ? scratch + 2 * kTileRows * warps : scratch;
  }
  if (!active) return;
  float* partial = partials + static_cast<int64_t>(blockIdx.x) * Source::kinds * cols + col;
  storeValues(partial, dGamma);
  storeValues(partial + cols, dBeta);
  if constexpr (Source::kinds == 3) storeValues(partial + 2 * cols, dColumn);
}

// Any width: each thread takes columns threadIdx.x, threadIdx.x + 256, ... and adds to the block's partial in memory.
template <class Source>
__global__ void __launch_bounds__(256) layerNormBackwardWideKernel(Source source, float* partials, const float* mean, const float* rstd,
                                                                   const float* gammas, int64_t rows, int64_t cols) {
  BGE_SHARED_STATIC(float, scratch, 32);
  float* const partial = partials + static_cast<int64_t>(blockIdx.x) * Source::kinds * cols;
  for (int64_t i = threadIdx.x; i < Source::kinds * cols; i += blockDim.x) partial[i] = 0;
  __syncthreads();
  const int64_t tiles = (rows + kTileRows - 1) / kTileRows;
  for (int64_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
    for (int64_t r = tile * kTileRows; r < rows && r < (tile + 1) * kTileRows; ++r) {
      const auto at = source.row(r);
      const float mu = mean[r], inverse = rstd[r];
      float d[1], x[1], sum = 0, product = 0;
      for (int64_t col = threadIdx.x; col < cols; col += blockDim.x) {
        source.values(d, x, source.template load<1>(at, r, col), at, col);
        const float xhat = (x[0] - mu) * inverse, g = d[0] * gammas[col];
        sum += g;
        product = fmaf(g, xhat, product);
        partial[col] = fmaf(d[0], xhat, partial[col]);
        partial[cols + col] += d[0];
      }
      const float a = blockSum(sum, scratch) / static_cast<float>(cols), b = blockSum(product, scratch) / static_cast<float>(cols);
      for (int64_t col = threadIdx.x; col < cols; col += blockDim.x) {
        source.values(d, x, source.template load<1>(at, r, col), at, col);
        const float xhat = (x[0] - mu) * inverse;
        d[0] = fmaf(xhat, -b, fmaf(d[0], gammas[col], -a)) * inverse;
        if (Source::kinds == 3) partial[2 * cols + col] += d[0];
        source.finish(d, at, r, col);
      }
    }
  }
}

template <int V, class Source>
void layerNormBackwardRows(cudaStream_t stream, Arena& workspace, std::initializer_list<float*> columnSums, const Source& source,
                           const float* mean, const float* rstd, const float* gamma, int64_t rows, int64_t cols, int width) {
  if (rows == 0) return;
  const bool vectors = width == V && cols <= 256 * V;
  const int64_t threads = vectors ? (cols / V + 31) / 32 * 32 : 256, blocks = normPartials(rows, threads);
  float* partials = workspace.take<float>(blocks * Source::kinds * cols);  // (blocks, kinds, C)
  const dim3 grid(static_cast<unsigned int>(blocks)), block(static_cast<unsigned int>(threads));
  if (vectors) {
    const size_t shared = 2 * 2 * kTileRows * (block.x / 32) * sizeof(float);
    launch((layerNormBackwardKernel<Source, V>), grid, block, shared, stream, source, partials, mean, rstd, gamma, rows,
           static_cast<int>(cols));
  } else {
    launch((layerNormBackwardWideKernel<Source>), grid, block, 0, stream, source, partials, mean, rstd, gamma, rows, cols);
  }
  addPartials(stream, columnSums, partials, blocks, cols);
}

}  // namespace bge

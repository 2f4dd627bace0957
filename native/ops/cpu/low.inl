// Tiles of a product in words (kernels_low.h) and their epilogue. Included by avx512_bf16.cc and avx512_vnni.cc after vector.h; before it,
// in namespace BGE_ISA: Sum (a vector of W sums), multiplyAdd(sum, a, b) and finished(sum, ...).
#include "kernels.h"

namespace bge {
namespace BGE_ISA {

constexpr int kTileRows = 6, kTileVectors = 4;  // 24 of 32 registers are sums
constexpr int64_t kPanel = kTileVectors * W;
constexpr int64_t kBlockBytes = 384 << 10;

// x Phi(x) with an absolute error below 6e-7: operands of bf16 or int8 do not need the relative accuracy of vgelu in the negative tail,
// whose exponential and division are dear beside products that are two or four times as fast. Phi(x) - 1/2 = x p((x / 5.2)^2 2 - 1), a
// least-squares fit for |x| < 5.2; beyond, Phi is 0 or 1 to that error.
BGE_INLINE vf geluOfSums(vf x) {
  const vf s = fma(x * x, 2.0f / (5.2f * 5.2f), set1(-1.0f));
  vf p = fma(set1(1.7219870642293245e-4f), s, -5.391952581703663e-4f);
  p = fma(p, s, 6.922106840647757e-4f);
  p = fma(p, s, -1.0456577874720097e-3f);
  p = fma(p, s, 2.555637154728174e-3f);
  p = fma(p, s, -4.9932003021240234e-3f);
  p = fma(p, s, 8.070528507232666e-3f);
  p = fma(p, s, -1.2392126023769379e-2f);
  p = fma(p, s, 1.8116872757673264e-2f);
  p = fma(p, s, -2.4753766134381294e-2f);
  p = fma(p, s, 3.196452558040619e-2f);
  p = fma(p, s, -3.992641344666481e-2f);
  p = fma(p, s, 5.002600699663162e-2f);
  p = fma(p, s, -6.774377822875977e-2f);
  p = fma(p, s, 0.1359499841928482f);
  const vf y = x * fma(p, x, 0.5f);
  return vabs(x) >= 5.2f ? vmax(x, vf{}) : y;  // NaN: y
}

// One register tile: R rows, N vectors of columns. T: A is transposed.
template <int R, int N, bool T>
static void tile(const GemmBlock& g, const float* a, const float* b, Sum* out) {
  Sum acc[R][N];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int j = 0; j < N; ++j) acc[r][j] = Sum{};
  }
  const int64_t aStride = g.aStride, depth = g.depth;
  for (int64_t k = 0; k < depth; ++k) {
    __m512i bv[N];
#pragma GCC unroll 8
    for (int j = 0; j < N; ++j) {
      bv[j] = _mm512_loadu_si512(b + j * W);
      __builtin_prefetch(b + 8 * kPanel + j * W);
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      int32_t word;
      memcpy(&word, T ? a + r : a + r * aStride, sizeof word);
      const __m512i av = _mm512_set1_epi32(word);
#pragma GCC unroll 8
      for (int j = 0; j < N; ++j) acc[r][j] = multiplyAdd(acc[r][j], av, bv[j]);
    }
    a += T ? aStride : 1;
    b += kPanel;
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int j = 0; j < N; ++j) out[r * kTileVectors + j] = acc[r][j];
  }
}

using TileFunction = void (*)(const GemmBlock&, const float*, const float*, Sum*);

template <int R, bool T>
static TileFunction tileOfWidth(int vectors) {
  switch (vectors) {
    case 1: return tile<R, 1, T>;
    case 2: return tile<R, 2, T>;
    case 3: return tile<R, 3, T>;
    default: return tile<R, 4, T>;
  }
}

template <bool T>
static TileFunction tileOf(int64_t rows, int vectors) {
  switch (rows) {
    case 1: return tileOfWidth<1, T>(vectors);
    case 2: return tileOfWidth<2, T>(vectors);
    case 3: return tileOfWidth<3, T>(vectors);
    case 4: return tileOfWidth<4, T>(vectors);
    case 5: return tileOfWidth<5, T>(vectors);
    default: return tileOfWidth<6, T>(vectors);
  }
}

// From the sums of a tile to C.
static void epilogue(const GemmBlock& g, const Steps& steps, const Sum* sums, int64_t row, int64_t rows, int64_t column, int64_t cols) {
  for (int64_t r = row; r < row + rows; ++r, sums += kTileVectors) {
    float* c = g.c + r * g.cStride + column;
    const float* bias = g.bias ? g.bias + column : nullptr;
    float* pre = g.pre ? g.pre + r * g.preStride + column : nullptr;
    const float* below = g.geluInput ? g.geluInput + r * g.geluStride + column : nullptr;
    for (int64_t j = 0; j < cols; j += W) {
      const int64_t n = cols - j < W ? cols - j : W;
      const __mmask16 lanes = (__mmask16)((1u << n) - 1u);
      const auto read = [=](const float* p) { return (vf)_mm512_maskz_loadu_ps(lanes, p); };
      vf x = finished(sums[j / W], steps, r, column + j, lanes);
      if (g.beta != 0) x = fma(read(c + j), g.beta, x);
      if (bias) x = x + read(bias + j);
      if (pre) store(pre + j, x, n);
      if (g.gelu) x = geluOfSums(x);
      if (below) x = x * vgeluGrad(read(below + j));
      store(c + j, x, n);
    }
  }
}

static void gemm(const GemmBlock& g, const Steps& steps) {
  Sum sums[kTileRows * kTileVectors];
  for (int64_t column = 0; column < g.cols; column += kPanel) {
    const int64_t cols = g.cols - column < kPanel ? g.cols - column : kPanel;
    const int vectors = (int)((cols + W - 1) / W);
    const float* b = g.b + column / kPanel * g.panelStride;
    for (int64_t row = 0; row < g.rows; row += kTileRows) {
      const int64_t rows = g.rows - row < kTileRows ? g.rows - row : kTileRows;
      for (int64_t r = row; r < row + rows; ++r) {
        for (int64_t j = 0; j < cols; j += W) __builtin_prefetch(g.c + r * g.cStride + column + j, 1);
      }
      if (g.aTransposed) tileOf<true>(rows, vectors)(g, g.a + row / kTileRows * g.aTile, b, sums);
      else tileOf<false>(rows, vectors)(g, g.a + row * g.aStride, b, sums);
      epilogue(g, steps, sums, row, rows, column, cols);
    }
  }
}

}  // namespace BGE_ISA
}  // namespace bge

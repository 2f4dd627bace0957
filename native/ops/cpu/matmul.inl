// Matrix product kernels: panel packing, register tiles, epilogues. Included by <isa>.cc after vector.h.
#include "kernels.h"
#include "transpose.h"

namespace bge {
namespace BGE_ISA {

// A tile of kTileRows x kTileVectors vectors fills the register file: AVX-512 6 x 64 (24 of 32 registers), AVX2 6 x 16 (12 of 16).
#if BGE_WIDTH == 16 || defined(__aarch64__)
constexpr int kTileRows = 6, kTileVectors = 4;
#elif BGE_WIDTH == 8
constexpr int kTileRows = 6, kTileVectors = 2;
#else
constexpr int kTileRows = 4, kTileVectors = 2;
#endif
constexpr int64_t kPanel = kTileVectors * W;
constexpr int64_t kBlockBytes = BGE_WIDTH == 16 ? 384 << 10 : 192 << 10;  // second-level caches: 1 MB and more, 512 KB and more

// One register tile of C: R rows, N vectors. T: A is transposed (rows of the tile are adjacent in memory).
// `tail`: columns in the last vector (W when full). biasRow: (N vectors) is added last, or null.
template <int R, int N, bool T>
static void tile(const GemmBlock& g, const float* a, const float* b, const float* biasRow, float* c, int64_t tail) {
  vf acc[R][N];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int j = 0; j < N; ++j) {
      __builtin_prefetch(c + r * g.cStride + j * W, 1);
      acc[r][j] = vf{};
    }
  }
  const int64_t aStride = g.aStride, depth = g.depth;
  for (int64_t k = 0; k < depth; ++k) {
    vf bv[N];
#pragma GCC unroll 8
    for (int j = 0; j < N; ++j) {
      bv[j] = load(b + j * W);
      __builtin_prefetch(b + 8 * kPanel + j * W);
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const vf av = set1(T ? a[r] : a[r * aStride]);
#pragma GCC unroll 8
      for (int j = 0; j < N; ++j) acc[r][j] = fma(av, bv[j], acc[r][j]);
    }
    a += T ? aStride : 1;
    b += kPanel;
  }
  const float alpha = g.alpha, beta = g.beta;
  vf bias[N];
#pragma GCC unroll 8
  for (int j = 0; j < N; ++j) bias[j] = !biasRow ? vf{} : j + 1 == N && tail < W ? load(biasRow + j * W, tail) : load(biasRow + j * W);
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
    float* row = c + r * g.cStride;
#pragma GCC unroll 8
    for (int j = 0; j < N; ++j) {
      vf x = acc[r][j] * alpha;
      if (j + 1 == N && tail < W) {
        if (beta != 0) x = fma(load(row + j * W, tail), beta, x);
        store(row + j * W, x + bias[j], tail);
      } else {
        if (beta != 0) x = fma(load(row + j * W), beta, x);
        store(row + j * W, x + bias[j]);
      }
    }
  }
}

using TileFunction = void (*)(const GemmBlock&, const float*, const float*, const float*, float*, int64_t);

template <int R, bool T>
static TileFunction tileOfWidth(int vectors) {
  if constexpr (kTileVectors == 4) {
    if (vectors == 3) return tile<R, 3, T>;
    if (vectors == 4) return tile<R, 4, T>;
  }
  return vectors == 1 ? tile<R, 1, T> : tile<R, 2, T>;
}

template <bool T>
static TileFunction tileOf(int64_t rows, int vectors) {
  if constexpr (kTileRows == 6) {
    if (rows == 6) return tileOfWidth<6, T>(vectors);
    if (rows == 5) return tileOfWidth<5, T>(vectors);
  }
  switch (rows) {
    case 1: return tileOfWidth<1, T>(vectors);
    case 2: return tileOfWidth<2, T>(vectors);
    case 3: return tileOfWidth<3, T>(vectors);
    default: return tileOfWidth<4, T>(vectors);
  }
}

// What happens to a finished tile while it is in the first-level cache.
static void epilogue(const GemmBlock& g, int64_t row, int64_t rows, int64_t column, int64_t cols) {
  for (int64_t r = row; r < row + rows; ++r) {
    float* c = g.c + r * g.cStride + column;
    float* pre = g.pre ? g.pre + r * g.preStride + column : nullptr;
    const float* below = g.geluInput ? g.geluInput + r * g.geluStride + column : nullptr;
    for (int64_t j = 0; j < cols; j += W) {
      const int64_t n = cols - j;
      const bool full = n >= W;
      vf x = full ? load(c + j) : load(c + j, n);
      if (pre) {
        if (full) store(pre + j, x);
        else store(pre + j, x, n);
      }
      if (g.gelu) x = vgelu(x);
      if (below) x = x * vgeluGrad(full ? load(below + j) : load(below + j, n));
      if (full) store(c + j, x);
      else store(c + j, x, n);
    }
  }
}

static void gemm(const GemmBlock& g) {
  const bool finish = g.pre || g.gelu || g.geluInput;
  for (int64_t column = 0; column < g.cols; column += kPanel) {
    const int64_t cols = g.cols - column < kPanel ? g.cols - column : kPanel;
    const int vectors = (int)((cols + W - 1) / W);
    const int64_t tail = cols - (vectors - 1) * W;
    const float* b = g.b + column / kPanel * g.panelStride;
    const float* bias = g.bias ? g.bias + column : nullptr;
    for (int64_t row = 0; row < g.rows; row += kTileRows) {
      const int64_t rows = g.rows - row < kTileRows ? g.rows - row : kTileRows;
      float* c = g.c + row * g.cStride + column;
      if (g.aTransposed) tileOf<true>(rows, vectors)(g, g.a + row / kTileRows * g.aTile, b, bias, c, tail);
      else tileOf<false>(rows, vectors)(g, g.a + row * g.aStride, b, bias, c, tail);
      if (finish) epilogue(g, row, rows, column, cols);
    }
  }
}

// -- packing -----------------------------------------------------------------------------------------------------------------------

static void packPanels(float* out, const float* b, int64_t stride, bool transposed, int64_t depth, int64_t cols) {
  for (int64_t column = 0; column < cols; column += kPanel, out += depth * kPanel) {
    for (int64_t j = 0; j < kPanel; j += W) {
      const int64_t left = cols - column - j, n = left < 0 ? 0 : left > W ? W : left;
      float* to = out + j;
      if (!transposed) {
        const float* from = b + column + j;
        if (n == W) for (int64_t k = 0; k < depth; ++k) store(to + k * kPanel, load(from + k * stride));
        else if (n == 0) for (int64_t k = 0; k < depth; ++k) store(to + k * kPanel, vf{});
        else for (int64_t k = 0; k < depth; ++k) store(to + k * kPanel, load(from + k * stride, n));
        continue;
      }
      const float* from = b + (column + j) * stride;
      for (int64_t k = 0; k < depth; k += W) {
        const int64_t m = depth - k < W ? depth - k : W;
        vf x[W];
        for (int i = 0; i < W; ++i) x[i] = i >= n ? vf{} : m == W ? load(from + i * stride + k) : load(from + i * stride + k, m);
        transpose(x);
        for (int i = 0; i < m; ++i) store(to + (k + i) * kPanel, x[i]);
      }
    }
  }
}

// A few rows of memory at a time: walking down a whole column would drop every cache line before its neighbours are used.
// Whole vectors are stored; what they write beyond a tile's end goes to the gap between tiles or is overwritten by the next row.
static void packTransposedRows(float* out, int64_t aTile, float* sums, const float* a, int64_t stride, int64_t rows, int64_t depth) {
  constexpr int kVectors = (kTileRows + W - 1) / W;
  constexpr int64_t kBlock = 8;
  for (int64_t first = 0; first < depth; first += kBlock) {
    const int64_t end = depth - first < kBlock ? depth : first + kBlock;
    for (int64_t row = 0; row < rows; row += kTileRows) {
      const int64_t left = rows - row, n = left < kTileRows ? left : kTileRows;
      for (int v = 0; v < kVectors && v * W < n; ++v) {
        const int64_t lanes = n - v * W < W ? n - v * W : W;
        const bool full = left >= (v + 1) * W;
        float* to = out + row / kTileRows * aTile + v * W;
        const float* from = a + row + v * W;
        vf s{};
        for (int64_t k = first; k < end; ++k) {
          const vf x = full ? load(from + k * stride) : load(from + k * stride, lanes);
          store(to + k * kTileRows, x);
          s += x;
        }
        if (sums) store(sums + row + v * W, load(sums + row + v * W, lanes) + s, lanes);
      }
    }
  }
}

}  // namespace BGE_ISA
}  // namespace bge

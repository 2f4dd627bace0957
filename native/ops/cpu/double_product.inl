// Product kernels in float64. Included by <isa>.cc after vector.h.
#include "kernels.h"

namespace bge {
namespace BGE_ISA {

typedef double vd __attribute__((vector_size(BGE_WIDTH * 4)));
constexpr int kDoubles = W / 2;
// 16 sums of AVX-512's 32 registers, 12 and 8 of the 16 of the others.
constexpr int kDoubleRows = BGE_WIDTH == 16 ? 8 : BGE_WIDTH == 8 ? 6 : 4;
constexpr int kDoublePanel = 2 * kDoubles;

BGE_INLINE vd loadDoubles(const double* p) { vd x; memcpy(&x, p, sizeof x); return x; }
BGE_INLINE void storeDoubles(double* p, vd x) { memcpy(p, &x, sizeof x); }

// kDoubleRows x kDoublePanel sums. a[r]: first element of each row (rows beyond the matrix repeat the last one and are not stored).
BGE_INLINE void doubleTile(const DoubleBlock& g, const double* const* a, double* c, int64_t rows, int64_t cols, int64_t start, int64_t depth) {
  vd acc[kDoubleRows][2];
  double edge[kDoublePanel];
#pragma GCC unroll 8
  for (int r = 0; r < kDoubleRows; ++r) {
    const double* from = c + (r < rows ? r : rows - 1) * g.cStride;
    if (start != 0 && cols < kDoublePanel) {
      for (int64_t j = 0; j < kDoublePanel; ++j) edge[j] = j < cols ? from[j] : 0;
      from = edge;
    }
    acc[r][0] = start == 0 ? vd{} : loadDoubles(from);
    acc[r][1] = start == 0 ? vd{} : loadDoubles(from + kDoubles);
  }
  const double* b = g.panel;
  const int64_t step = g.aDepth;
  for (int64_t k = 0; k < depth; ++k, b += kDoublePanel) {
    const vd b0 = loadDoubles(b), b1 = loadDoubles(b + kDoubles);
    const int64_t at = k * step;
#pragma GCC unroll 8
    for (int r = 0; r < kDoubleRows; ++r) {
      const vd x = a[r][at] - vd{};
      acc[r][0] += x * b0;
      acc[r][1] += x * b1;
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kDoubleRows; ++r) {
    if (r >= rows) break;
    double* to = c + r * g.cStride;
    if (cols == kDoublePanel) {
      storeDoubles(to, acc[r][0]);
      storeDoubles(to + kDoubles, acc[r][1]);
    } else {
      storeDoubles(edge, acc[r][0]);
      storeDoubles(edge + kDoubles, acc[r][1]);
      for (int64_t j = 0; j < cols; ++j) to[j] = edge[j];
    }
  }
}

// b (depth, cols) into g.panel, with zeros beyond cols; along the rows of b as they lie in memory.
BGE_INLINE void packDoubles(const DoubleBlock& g, const double* b, int64_t depth, int64_t cols) {
  if (g.bCol == 1) {
    for (int64_t k = 0; k < depth; ++k)
      for (int64_t j = 0; j < kDoublePanel; ++j) g.panel[k * kDoublePanel + j] = j < cols ? b[k * g.bDepth + j] : 0;
  } else {
    for (int64_t j = 0; j < kDoublePanel; ++j)
      for (int64_t k = 0; k < depth; ++k) g.panel[k * kDoublePanel + j] = j < cols ? b[j * g.bCol + k * g.bDepth] : 0;
  }
}

static void doubleProduct(const DoubleBlock& g) {
  for (int64_t column = 0; column < g.cols; column += kDoublePanel) {
    const int64_t cols = g.cols - column < kDoublePanel ? g.cols - column : kDoublePanel;
    for (int64_t start = 0; start < g.depth; start += kDoubleDepth) {
      const int64_t depth = g.depth - start < kDoubleDepth ? g.depth - start : kDoubleDepth;
      const double* b = g.b + column * g.bCol + start * g.bDepth;
      packDoubles(g, b, depth, cols);
      for (int64_t row = 0; row < g.rows; row += kDoubleRows) {
        const int64_t rows = g.rows - row < kDoubleRows ? g.rows - row : kDoubleRows;
        const double* a[kDoubleRows];
        for (int64_t r = 0; r < kDoubleRows; ++r) a[r] = g.a + (row + (r < rows ? r : rows - 1)) * g.aRow + start * g.aDepth;
        doubleTile(g, a, g.c + row * g.cStride + column, rows, cols, start, depth);
      }
    }
  }
}

}  // namespace BGE_ISA
}  // namespace bge

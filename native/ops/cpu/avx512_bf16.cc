// AVX-512-BF16: two products of bf16 a lane and instruction, added in fp32. Compiled with its own flags (binding.gyp); see vector.h.
// The instructions take denormal numbers for zero; conversion rounds to nearest even.
#define BGE_ISA avx512bf16
#include "vector.h"

#include "kernels.h"
#include "kernels_low.h"
#include "transpose.h"

namespace bge {
namespace BGE_ISA {

using Sum = __m512;
typedef uint16_t vh __attribute__((vector_size(32)));
BGE_INLINE Sum multiplyAdd(Sum sum, __m512i a, __m512i b) { return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b); }
BGE_INLINE vf finished(Sum sum, const Steps&, int64_t, int64_t, __mmask16) { return (vf)sum; }

// W words: first (the low halves) and second as bf16.
BGE_INLINE vf words(vf first, vf second) {
  const vu low = __builtin_convertvector((vh)_mm512_cvtneps_pbh((__m512)first), vu);
  const vu high = __builtin_convertvector((vh)_mm512_cvtneps_pbh((__m512)second), vu);
  return (vf)(low | high << 16);
}

// W words of 2 W neighbours in memory, of which the first n (0 .. 2 W) are read.
BGE_INLINE vf neighbours(const float* x, int64_t n) {
  const vf low = n >= W ? load(x) : load(x, n), high = n >= 2 * W ? load(x + W) : n > W ? load(x + W, n - W) : vf{};
  return (vf)(__m512i)_mm512_cvtne2ps_pbh((__m512)high, (__m512)low);
}

}  // namespace BGE_ISA
}  // namespace bge

#include "low.inl"

namespace bge {
namespace BGE_ISA {

static void packRows(float* out, int64_t outStride, float*, const float* x, int64_t stride, int64_t rows, int64_t depth) {
  for (int64_t r = 0; r < rows; ++r, out += outStride, x += stride) {
    for (int64_t k = 0; k < depth; k += 2 * W) {
      const int64_t n = depth - k, words = (n + 1) / 2;
      if (words >= W) store(out + k / 2, neighbours(x + k, n));
      else store(out + k / 2, neighbours(x + k, n), words);
    }
  }
}

static void packPanels(float* out, const float* b, int64_t stride, bool transposed, int64_t depth, int64_t cols, const float*, float*) {
  const int64_t words = (depth + 1) / 2;
  for (int64_t column = 0; column < cols; column += kPanel, out += words * kPanel) {
    for (int64_t j = 0; j < kPanel; j += W) {
      const int64_t left = cols - column - j, n = left < 0 ? 0 : left > W ? W : left;
      float* to = out + j;
      if (!transposed) {
        const float* from = b + column + j;
        for (int64_t k = 0; k < depth; k += 2) {
          const vf first = load(from + k * stride, n), second = k + 1 < depth ? load(from + (k + 1) * stride, n) : vf{};
          store(to + k / 2 * kPanel, avx512bf16::words(first, second));
        }
        continue;
      }
      const float* from = b + (column + j) * stride;
      for (int64_t k = 0; k < words; k += W) {
        vf x[W];
        for (int i = 0; i < W; ++i) x[i] = i < n ? neighbours(from + i * stride + 2 * k, depth - 2 * k) : vf{};
        transpose(x);
        for (int i = 0; i < W && k + i < words; ++i) store(to + (k + i) * kPanel, x[i]);
      }
    }
  }
}

// See packTransposedRows of matmul.inl: a few rows of memory at a time, whole vectors are stored.
static void packTransposedRows(float* out, int64_t aTile, float* sums, const float* a, int64_t stride, int64_t rows, int64_t depth) {
  constexpr int64_t kBlock = 8;
  for (int64_t first = 0; first < depth; first += kBlock) {
    const int64_t end = depth - first < kBlock ? depth : first + kBlock;
    for (int64_t row = 0; row < rows; row += kTileRows) {
      const int64_t n = rows - row < kTileRows ? rows - row : kTileRows;
      float* to = out + row / kTileRows * aTile;
      vf s{};
      for (int64_t k = first; k < end; k += 2) {
        const vf x = load(a + k * stride + row, n), y = k + 1 < end ? load(a + (k + 1) * stride + row, n) : vf{};
        store(to + k / 2 * kTileRows, words(x, y));
        s += x + y;
      }
      if (sums) store(sums + row, load(sums + row, n) + s, n);
    }
  }
}

}  // namespace BGE_ISA
}  // namespace bge

#include "attention_bf16.inl"

namespace bge {

constexpr LowKernels kernels_avx512bf16 = {
    "avx512bf16", "bf16", 2, avx512bf16::kTileRows, avx512bf16::kPanel, avx512bf16::kBlockBytes,
    avx512bf16::packRows, avx512bf16::packPanels, nullptr, avx512bf16::packTransposedRows, avx512bf16::gemm,
    avx512bf16::attentionScratch, avx512bf16::attention,
};

}  // namespace bge

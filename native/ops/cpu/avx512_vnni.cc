// AVX-512-VNNI: four products of u8 and s8 a lane and instruction, added exactly. Compiled with its own flags (binding.gyp); see vector.h.
// Rows of x are quantised when they come, between their smallest and their largest value; rows of a weight once, symmetrically.
#define BGE_ISA avx512vnni
#include "vector.h"

#include "kernels.h"
#include "kernels_low.h"
#include "transpose.h"

namespace bge {
namespace BGE_ISA {

using Sum = __m512i;
BGE_INLINE Sum multiplyAdd(Sum sum, __m512i a, __m512i b) { return _mm512_dpbusd_epi32(sum, a, b); }
BGE_INLINE vf finished(Sum sum, const Steps& steps, int64_t row, int64_t column, __mmask16 lanes) {
  const vf x = __builtin_convertvector((vi)sum, vf) * ((vf)_mm512_maskz_loadu_ps(lanes, steps.col + column) * steps.row[2 * row]);
  return steps.colSum ? fma((vf)_mm512_maskz_loadu_ps(lanes, steps.colSum + column), steps.row[2 * row + 1], x) : x;
}

// To the nearest integer, ties to even. (maskz: see multiplyLow of vector.h.)
BGE_INLINE vi nearest(vf x) { return (vi)_mm512_maskz_cvtps_epi32((__mmask16)0xffff, (__m512)x); }

}  // namespace BGE_ISA
}  // namespace bge

#include "low.inl"

namespace bge {
namespace BGE_ISA {

// A row with a value that is not finite is NaN as a whole.
static void packRows(float* out, int64_t outStride, float* steps, const float* x, int64_t stride, int64_t rows, int64_t depth) {
  for (int64_t r = 0; r < rows; ++r, out += outStride, x += stride, steps += 2) {
    vf low = set1(x[0]), high = low, bad{};
    for (int64_t k = 0; k < depth; k += W) {
      const __mmask16 lanes = (__mmask16)(depth - k < W ? (1u << (depth - k)) - 1u : 0xffffu);
      const vf v = (vf)_mm512_mask_loadu_ps((__m512)set1(x[0]), lanes, x + k);
      low = vmin(low, v);
      high = vmax(high, v);
      bad = fma(v, vf{}, bad);
    }
    const float least = -hmax(vf{} - low), range = hmax(high) - least, inverse = range > 0 ? 255.0f / range : 0;
    steps[0] = range * (1.0f / 255.0f);
    steps[1] = least + hsum(bad);
    for (int64_t k = 0; k < depth; k += W) {
      const int64_t n = depth - k;
      const vf v = ((n >= W ? load(x + k) : load(x + k, n)) - least) * inverse;
      const vi q = nearest(v);
      const __mmask16 lanes = (__mmask16)(n < W ? (1u << n) - 1u : 0xffffu);
      // Whole words are written, zero beyond the depth.
      const __mmask16 bytes = (__mmask16)(n < W ? (1u << (n + 3) / 4 * 4) - 1u : 0xffffu);
      _mm_mask_storeu_epi8((char*)out + k, bytes, _mm512_maskz_cvtusepi32_epi8(lanes, (__m512i)(q > 0 ? q : vi{})));
    }
  }
}

static void weightSteps(float* steps, const float* w, int64_t stride, int64_t rows, int64_t depth) {
  for (int64_t r = 0; r < rows; ++r, w += stride) {
    vf high{}, bad{};
    for (int64_t k = 0; k < depth; k += W) {
      const vf v = depth - k < W ? load(w + k, depth - k) : load(w + k);
      high = vmax(vabs(v), high);
      bad = fma(v, vf{}, bad);
    }
    steps[r] = hmax(high) * (1.0f / 127.0f) + hsum(bad);
  }
}

static void packPanels(float* out, const float* b, int64_t stride, bool, int64_t depth, int64_t cols, const float* colStep, float* colSum) {
  const int64_t words = (depth + 3) / 4;
  for (int64_t column = 0; column < cols; column += kPanel, out += words * kPanel) {
    for (int64_t j = 0; j < kPanel; j += W) {
      const int64_t left = cols - column - j, n = left < 0 ? 0 : left > W ? W : left;
      const float* from = b + (column + j) * stride;
      __m512i sum = _mm512_setzero_si512();
      for (int64_t k = 0; k < words; k += W) {
        vf x[W];
        for (int i = 0; i < W; ++i) {
          __m128i part[4] = {};
          const float inverse = i < n && colStep[column + j + i] > 0 ? 1 / colStep[column + j + i] : 0;
          for (int q = 0; q < 4 && i < n; ++q) {
            const int64_t at = 4 * k + q * W, have = depth - at;
            if (have <= 0) break;
            const vf v = have < W ? load(from + i * stride + at, have) : load(from + i * stride + at);
            part[q] = _mm512_maskz_cvtsepi32_epi8((__mmask16)0xffff, (__m512i)nearest(v * inverse));
          }
          memcpy(&x[i], part, sizeof x[i]);
        }
        transpose(x);
        for (int i = 0; i < W && k + i < words; ++i) {
          store(out + j + (k + i) * kPanel, x[i]);
          sum = _mm512_dpbusd_epi32(sum, _mm512_set1_epi8(1), (__m512i)x[i]);
        }
      }
      const vf scaled = __builtin_convertvector((vi)sum, vf) * load(colStep + column + j, n);
      store(colSum + column + j, load(colSum + column + j, n) + scaled, n);
    }
  }
}

}  // namespace BGE_ISA

constexpr LowKernels kernels_avx512vnni = {
    "avx512vnni", "int8", 4, avx512vnni::kTileRows, avx512vnni::kPanel, avx512vnni::kBlockBytes,
    avx512vnni::packRows, avx512vnni::packPanels, avx512vnni::weightSteps, nullptr, avx512vnni::gemm,
    nullptr, nullptr,
};

}  // namespace bge

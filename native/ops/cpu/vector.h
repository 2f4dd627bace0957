// One vector of BGE_WIDTH floats and the elementary functions on it. Included only by the per-ISA files, after BGE_ISA is defined as base,
// avx2 or avx512. Everything is static inside namespace bge::BGE_ISA: a function shared between differently compiled files would let
// the linker keep the AVX-512 copy for every machine. For the same reason nothing here, nor in a file that includes this one, may use the
// standard library's inline functions.
#pragma once
#include <stdint.h>
#include <string.h>

#include "dropout.h"

#if defined(__AVX512F__) || defined(__AVX2__) || defined(__SSE2__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
#define BGE_WIDTH 16
#elif defined(__AVX2__)
#define BGE_WIDTH 8
#else
#define BGE_WIDTH 4
#endif

#define BGE_INLINE [[maybe_unused]] static inline __attribute__((always_inline))

namespace bge {
namespace BGE_ISA {

constexpr int W = BGE_WIDTH;
typedef float vf __attribute__((vector_size(BGE_WIDTH * 4)));
typedef int32_t vi __attribute__((vector_size(BGE_WIDTH * 4)));    // also the mask type: lanes 0 or -1, the result of comparing vf
typedef uint32_t vu __attribute__((vector_size(BGE_WIDTH * 4)));
typedef uint64_t vq __attribute__((vector_size(BGE_WIDTH * 4)));   // W/2 lanes

// -- load, store, arithmetic (+ - * / < > == work on vf directly) -------------------------------------------------------------------

BGE_INLINE vf load(const float* p) { vf x; memcpy(&x, p, sizeof x); return x; }
BGE_INLINE vi load(const int32_t* p) { vi x; memcpy(&x, p, sizeof x); return x; }
BGE_INLINE void store(float* p, vf x) { memcpy(p, &x, sizeof x); }
BGE_INLINE vf set1(float x) { return x - vf{}; }  // x - 0 is x for every x, -0 included, so the subtraction is folded away
BGE_INLINE vi set1(int32_t x) { return x - vi{}; }

// The first n lanes, n in 0 .. W; the others read as 0 and are not touched in memory.
#if BGE_WIDTH == 16
BGE_INLINE vf load(const float* p, int64_t n) { return (vf)_mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1u), p); }
BGE_INLINE vi load(const int32_t* p, int64_t n) { return (vi)_mm512_maskz_loadu_epi32((__mmask16)((1u << n) - 1u), p); }
BGE_INLINE void store(float* p, vf x, int64_t n) { _mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1u), (__m512)x); }
#elif BGE_WIDTH == 8
static const int32_t kTail[16] = {-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0};
BGE_INLINE __m256i tailMask(int64_t n) { return _mm256_loadu_si256((const __m256i*)(kTail + 8 - n)); }
BGE_INLINE vf load(const float* p, int64_t n) { return (vf)_mm256_maskload_ps(p, tailMask(n)); }
BGE_INLINE vi load(const int32_t* p, int64_t n) { return (vi)_mm256_maskload_epi32(p, tailMask(n)); }
BGE_INLINE void store(float* p, vf x, int64_t n) { _mm256_maskstore_ps(p, tailMask(n), (__m256)x); }
#else
BGE_INLINE vf load(const float* p, int64_t n) { vf x{}; for (int64_t i = 0; i < n; ++i) x[i] = p[i]; return x; }
BGE_INLINE vi load(const int32_t* p, int64_t n) { vi x{}; for (int64_t i = 0; i < n; ++i) x[i] = p[i]; return x; }
BGE_INLINE void store(float* p, vf x, int64_t n) { for (int64_t i = 0; i < n; ++i) p[i] = x[i]; }
#endif

// a b + c, in one rounding where the machine has it.
#if BGE_WIDTH == 16
BGE_INLINE vf fma(vf a, vf b, vf c) { return (vf)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c); }
#elif BGE_WIDTH == 8
BGE_INLINE vf fma(vf a, vf b, vf c) { return (vf)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c); }
#else
BGE_INLINE vf fma(vf a, vf b, vf c) { return a * b + c; }
#endif
BGE_INLINE vf fma(vf a, vf b, float c) { return fma(a, b, set1(c)); }
BGE_INLINE vf fma(vf a, float b, vf c) { return fma(a, set1(b), c); }

BGE_INLINE vf select(vi mask, vf a, vf b) { return mask ? a : b; }
BGE_INLINE vf vmin(vf a, vf b) { return a < b ? a : b; }  // a NaN in either: b
BGE_INLINE vf vmax(vf a, vf b) { return a > b ? a : b; }
BGE_INLINE vf vabs(vf x) { return (vf)((vi)x & 0x7fffffff); }

// Horizontal reductions in a fixed order: halves are folded onto each other.
typedef float vf4 __attribute__((vector_size(16)));
typedef float vf8 __attribute__((vector_size(32)));
BGE_INLINE vf4 lowHalf(vf8 x) { vf4 y; memcpy(&y, &x, 16); return y; }
BGE_INLINE vf4 highHalf(vf8 x) { vf4 y; memcpy(&y, (const char*)&x + 16, 16); return y; }
BGE_INLINE float hsum(vf4 x) { return (x[0] + x[2]) + (x[1] + x[3]); }
BGE_INLINE float hmax(vf4 x) {
  const float a = x[0] > x[2] ? x[0] : x[2], b = x[1] > x[3] ? x[1] : x[3];
  return a > b ? a : b;
}
#if BGE_WIDTH >= 8
BGE_INLINE vf4 max4(vf4 a, vf4 b) { return a > b ? a : b; }
BGE_INLINE float hsum(vf8 x) { return hsum(lowHalf(x) + highHalf(x)); }
BGE_INLINE float hmax(vf8 x) { return hmax(max4(lowHalf(x), highHalf(x))); }
#endif
#if BGE_WIDTH == 16
BGE_INLINE vf8 lowHalf(vf x) { vf8 y; memcpy(&y, &x, 32); return y; }
BGE_INLINE vf8 highHalf(vf x) { vf8 y; memcpy(&y, (const char*)&x + 32, 32); return y; }
BGE_INLINE float hsum(vf x) { return hsum(lowHalf(x) + highHalf(x)); }
BGE_INLINE float hmax(vf x) { const vf8 a = lowHalf(x), b = highHalf(x); return hmax(a > b ? a : b); }
#endif

// -- exp, log -----------------------------------------------------------------------------------------------------------------------

// exp(a + b), |b| small against 1: the two parts let a caller keep bits of the argument that one float cannot hold.
// Below the smallest normal number the result is exactly 0; above the largest it is infinity; NaN stays NaN.
BGE_INLINE vf vexp(vf a, vf b) {
  const vf shifted = fma(a, 1.44269504f, set1(12582912.0f));  // 1.5 * 2^23: the low bits now hold round(a / ln 2)
  const vf n = shifted - 12582912.0f;
  vf r = fma(n, -0.693359375f, a);  // 9 bits: exact for every n
  r = fma(n, 2.12194440e-4f, r) + b;
  vf p = fma(set1(1.3814599951729178e-3f), r, 8.368715643882751e-3f);
  p = fma(p, r, 4.166838899254799e-2f);
  p = fma(p, r, 1.666652113199234e-1f);
  p = fma(p, r, 4.999999403953552e-1f);
  p = fma(p * r, r, r) + 1.0f;
  const vf y = (vf)((vu)p + ((vu)shifted << 23));
  const vf high = a > 88.7228394f ? set1(__builtin_inff()) : y;
  return a < -87.3365402f ? vf{} : high;
}
BGE_INLINE vf vexp(vf x) { return vexp(x, vf{}); }

// Natural logarithm; 0 gives -infinity, negative values NaN.
BGE_INLINE vf vlog(vf x) {
  const vi tiny = x < 1.17549435e-38f;
  const vf scaled = tiny ? x * 8388608.0f : x;
  const vi bits = (vi)scaled - 0x3f3504f3;  // sqrt(1/2), so that the mantissa lands in [sqrt(1/2), sqrt(2))
  const vi exponent = bits >> 23;
  const vf f = (vf)((bits & 0x007fffff) + 0x3f3504f3) - 1.0f;
  const vf e = __builtin_convertvector(exponent, vf) - (tiny ? set1(23.0f) : vf{});
  vf p = fma(set1(-7.634435594081879e-2f), f, 1.2761558592319489e-1f);
  p = fma(p, f, -1.316019743680954e-1f);
  p = fma(p, f, 1.4201761782169342e-1f);
  p = fma(p, f, -1.6623355448246002e-1f);
  p = fma(p, f, 2.0001226663589478e-1f);
  p = fma(p, f, -2.50008225440979e-1f);
  p = fma(p, f, 3.333333134651184e-1f);
  const vf f2 = f * f;
  vf y = fma(p * f, f2, e * -2.12194440e-4f);
  y = fma(f2, -0.5f, y) + f;
  y = fma(e, 0.693359375f, y);
  const vf special = x == 0.0f ? set1(-__builtin_inff()) : (x > 0.0f ? x : set1(__builtin_nanf("")));  // x: +infinity
  return (x > 0.0f) & (x < __builtin_inff()) ? y : special;
}

// -- the normal distribution: erf, GELU ----------------------------------------------------------------------------------------------

// Q(a) = 1 - Phi(a) = erfc(a / sqrt 2) / 2 for a = |x| with a small RELATIVE error out to the underflow, and e = exp(-x^2 / 2).
// Q = e * R, R(a) = erfcx(a / sqrt 2) / 2 smooth and slowly falling: a polynomial in (a - 3) / (a + 3), fitted for a in [0, 13.4].
struct NormalTail { vf q, e; };
BGE_INLINE NormalTail normalTail(vf x) {
  const vf a = vabs(x);
  const vf high = (vf)((vi)a & ~0xfff);  // 12 bits: its square is exact
  const vf e = vexp(high * high * -0.5f, (a - high) * (a + high) * -0.5f);
  const vf c = a < 14.0f ? a : set1(14.0f);
  const vf s = (c - 3.0f) / (c + 3.0f);
  vf p = fma(set1(5.415261330199428e-5f), s, 1.160404208349064e-4f);
  p = fma(p, s, -3.3991149393841624e-4f);
  p = fma(p, s, -9.841850260272622e-4f);
  p = fma(p, s, 2.9047022107988596e-3f);
  p = fma(p, s, 6.132183596491814e-3f);
  p = fma(p, s, -4.6213313937187195e-2f);
  p = fma(p, s, 1.2322501838207245e-1f);
  p = fma(p, s, -2.0640261471271515e-1f);
  p = fma(p, s, 1.2151394784450531e-1f);
  return {e * p, e};
}

BGE_INLINE vf verf(vf x) {
  const vf root = x * 1.41421356f;
  const vf rest = fma(set1(-2.0f), normalTail(root).q, 1.0f);  // erf(|x|)
  const vf signedRest = (vf)((vi)rest | ((vi)x & (int32_t)0x80000000));
  const vf q = x * x;
  vf p = fma(set1(7.854022987885400e-5f), q, -8.010246674530208e-4f);
  p = fma(p, q, 5.18833426758647e-3f);
  p = fma(p, q, -2.6853816583752632e-2f);
  p = fma(p, q, 1.128358542919159e-1f);
  p = fma(p, q, -3.761262595653534e-1f);
  p = fma(p, q, 1.2837916709551257e-1f);
  return vabs(x) < 1.0f ? fma(x, p, x) : signedRest;
}

// GELU(x) = x Phi(x) (Hendrycks and Gimpel 2016), exact form.
#if BGE_WIDTH == 16
// max(x, 0) - a Q(a), a = |x|: Q by polynomials of degree 5 around the multiples of 51/128, least squares at Chebyshev points, their coefficients
// looked up in registers: 18 instructions where the form below has 45. Relative error below 5e-7 for |x| < 3; further out absolute, below 2.5e-8 where x < 0.
// From 5.78 on Q counts as 0.
alignas(64) static const float kNormalTail[6][16] = {
    {0.5f, 0.345153868f, 0.212761819f, 0.11598248f, 0.0554960184f, 0.0231752414f, 0.00840985961f, 0.00264304294f,
     0.000717542658f, 0.000167935024f, 3.38291466e-05f, 5.85790895e-06f, 8.71060422e-07f, 1.11132948e-07f, 1.21569768e-08f, 0},
    {-0.398942262f, -0.368499935f, -0.290415287f, -0.195279285f, -0.112033419f, -0.0548395254f, -0.0229031108f, -0.00816112291f,
     -0.00248119072f, -0.000643613515f, -0.000142444318f, -2.68980184e-05f, -4.33362038e-06f, -5.95713232e-07f, -6.98682641e-08f, 0},
    {-4.67522852e-07f, 0.073409684f, 0.115709767f, 0.116709091f, 0.089277491f, 0.0546265058f, 0.0273770168f, 0.0113810096f,
     0.00395423733f, 0.0011538316f, 0.000283699454f, 5.89161973e-05f, 1.03520015e-05f, 1.5409795e-06f, 1.94532518e-07f, 0},
    {0.0664998591f, 0.0516657829f, 0.01766707f, -0.013953899f, -0.0287553947f, -0.0271348488f, -0.0179987457f, -0.00922076032f,
     -0.00378805585f, -0.00127205963f, -0.000353112729f, -8.16131796e-05f, -1.57828417e-05f, -2.56282533e-06f, -3.5034742e-07f, 0},
    {-8.12303333e-05f, -0.0172194224f, -0.0226322096f, -0.0152282082f, -0.00347981439f, 0.00432965113f, 0.00615109131f, 0.00452790828f,
     0.00237030769f, 0.000957956305f, 0.000309569528f, 8.15016974e-05f, 1.76806261e-05f, 3.18420803e-06f, 4.78578897e-07f, 0},
    {-0.00970347505f, -0.00632319786f, 0.000953617564f, 0.0056886021f, 0.00537495082f, 0.00232059858f, -0.000242593029f, -0.00113364402f,
     -0.000933990872f, -0.000490983657f, -0.000191459432f, -5.84398949e-05f, -1.43354027e-05f, -2.86948921e-06f, -4.73308916e-07f, 0},
};
BGE_INLINE vf vgelu(vf x) {
  constexpr float kStep = 51.0f / 128.0f;                           // exact, so is each multiple
  const vf t = vmin(vabs(x), set1(15.0f * kStep));
  const vf shifted = fma(t, 1.0f / kStep, set1(12582912.0f));       // the low bits now hold round(t / kStep)
  const vf d = fma(shifted - 12582912.0f, -kStep, t);
  const auto coefficient = [&](int i) __attribute__((always_inline)) {
    return (vf)_mm512_maskz_permutexvar_ps((__mmask16)0xffff, (__m512i)shifted, (__m512)load(kNormalTail[i]));
  };
  vf q = fma(coefficient(5), d, coefficient(4));
  q = fma(q, d, coefficient(3));
  q = fma(q, d, coefficient(2));
  q = fma(q, d, coefficient(1));
  q = fma(q, d, coefficient(0));
  return fma(-t, q, vmax(vf{}, x));  // in this order a NaN stays one
}
#else
// Accurate relative to itself in the negative tail too.
BGE_INLINE vf vgelu(vf x) {
  const vf q = normalTail(x).q;
  return x * (x < 0.0f ? q : 1.0f - q);
}
#endif

// GELU'(x) = Phi(x) + x phi(x)
BGE_INLINE vf vgeluGrad(vf x) {
  const NormalTail t = normalTail(x);
  return fma(x * 0.398942280f, t.e, x < 0.0f ? t.q : 1.0f - t.q);
}

// -- dropout: Philox4x32-10, bit for bit core/random.h --------------------------------------------------------------------------------

// The low halves of each lane, multiplied to 64 bits. (maskz: the plain intrinsic draws a false -Wmaybe-uninitialized from g++ 12.)
#if BGE_WIDTH == 16
BGE_INLINE vq multiplyLow(vq a, vq b) { return (vq)_mm512_maskz_mul_epu32((__mmask8)0xff, (__m512i)a, (__m512i)b); }
#elif BGE_WIDTH == 8
BGE_INLINE vq multiplyLow(vq a, vq b) { return (vq)_mm256_mul_epu32((__m256i)a, (__m256i)b); }
#elif defined(__SSE2__)
BGE_INLINE vq multiplyLow(vq a, vq b) { return (vq)_mm_mul_epu32((__m128i)a, (__m128i)b); }
#else
BGE_INLINE vq multiplyLow(vq a, vq b) { return (a & 0xffffffffu) * (b & 0xffffffffu); }
#endif

#if defined(__clang__)
#define BGE_SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define BGE_SHUFFLE(a, b, ...) __builtin_shuffle(a, b, vq{__VA_ARGS__})
#endif

// The 2 W words of Philox blocks block .. block + W/2 - 1, in element order (first word: element 4 * block).
// Counters live in the low halves of 64-bit lanes; the high halves hold garbage that multiplyLow ignores.
BGE_INLINE void dropoutWords(vu& first, vu& second, uint32_t block, uint32_t stream, const DropoutSite& d) {
  vq lane;
  for (int i = 0; i < W / 2; ++i) lane[i] = (uint32_t)i;
  vq c0 = lane + block, c1 = vq{} + stream, c2 = vq{} + d.site, c3 = vq{} + d.step;
  uint32_t k0 = d.k0, k1 = d.k1;
  const vq m0 = vq{} + 0xD2511F53u, m1 = vq{} + 0xCD9E8D57u;
  for (int round = 0; round < 10; ++round) {
    const vq p0 = multiplyLow(c0, m0), p1 = multiplyLow(c2, m1);
    c0 = (p1 >> 32) ^ c1 ^ k0;
    c2 = (p0 >> 32) ^ c3 ^ k1;
    c1 = p1;
    c3 = p0;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  const vq w01 = (c0 & 0xffffffffu) | (c1 << 32), w23 = (c2 & 0xffffffffu) | (c3 << 32);
#if BGE_WIDTH == 16
  first = (vu)BGE_SHUFFLE(w01, w23, 0, 8, 1, 9, 2, 10, 3, 11);
  second = (vu)BGE_SHUFFLE(w01, w23, 4, 12, 5, 13, 6, 14, 7, 15);
#elif BGE_WIDTH == 8
  first = (vu)BGE_SHUFFLE(w01, w23, 0, 4, 1, 5);
  second = (vu)BGE_SHUFFLE(w01, w23, 2, 6, 3, 7);
#else
  first = (vu)BGE_SHUFFLE(w01, w23, 0, 2);
  second = (vu)BGE_SHUFFLE(w01, w23, 1, 3);
#endif
}

// Dropout factors (0 or 1/(1-p)) of 2 W consecutive elements; `element` is a multiple of 4.
BGE_INLINE void dropoutFactors(vf& first, vf& second, uint64_t element, uint32_t stream, const DropoutSite& d) {
  vu a, b;
  dropoutWords(a, b, (uint32_t)(element >> 2), stream, d);
  first = a >= d.threshold ? set1(d.scale) : vf{};
  second = b >= d.threshold ? set1(d.scale) : vf{};
}

// Dropout factors of n consecutive elements, starting anywhere.
[[maybe_unused]] static void dropoutFactors(float* out, uint64_t element, int64_t n, uint32_t stream, const DropoutSite& d) {
  vf a, b;
  const int skip = (int)(element & 3);
  int64_t done = 0;
  if (skip != 0) {
    dropoutFactors(a, b, element - (uint64_t)skip, stream, d);
    for (; done < 4 - skip && done < n; ++done) out[done] = a[skip + done];
  }
  for (; done + 2 * W <= n; done += 2 * W) {
    dropoutFactors(a, b, element + (uint64_t)done, stream, d);
    store(out + done, a);
    store(out + done + W, b);
  }
  if (done < n) {
    dropoutFactors(a, b, element + (uint64_t)done, stream, d);
    const int64_t left = n - done;
    store(out + done, a, left < W ? left : W);
    if (left > W) store(out + done + W, b, left - W);
  }
}

}  // namespace BGE_ISA
}  // namespace bge

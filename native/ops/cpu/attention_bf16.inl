// Attention of one head of one sequence with products in bf16, forward, without mask and dropout: attention.inl has those, and the backward
// pass. Included by avx512_bf16.cc after its packing. Scores, maxima, sums and results are fp32; queries, keys, values and the exponentials
// that weigh the values are rounded to bf16.
#include "kernels.h"

namespace bge {
namespace BGE_ISA {

constexpr int64_t kQueryRows = 2 * kTileRows;

BGE_INLINE int64_t roundUp(int64_t n, int64_t m) { return (n + m - 1) / m * m; }
BGE_INLINE int64_t rowWords(int64_t values) { return roundUp((values + 1) / 2, W) + W; }  // W more: see kAlignment of matmul_low.cc

static int64_t attentionScratch(int64_t keys, int64_t size) {
  return roundUp(keys, kPanel) * ((size + 1) / 2) + roundUp(size, kPanel) * ((keys + 1) / 2) +
         kQueryRows * (rowWords(size) + roundUp(keys, kPanel) + rowWords(keys));
}

static void product(float* c, int64_t cStride, const float* a, int64_t aStride, const float* panels, int64_t rows, int64_t cols,
                    int64_t depth) {
  GemmBlock g = {};
  g.rows = rows, g.cols = cols, g.depth = (depth + 1) / 2;
  g.a = a, g.aStride = aStride, g.b = panels, g.panelStride = g.depth * kPanel;
  g.c = c, g.cStride = cStride, g.alpha = 1;
  gemm(g, {});
}

// 2^x for x <= 0, relative error 3e-6: the result is rounded to bf16. Far below the smallest normal number: 0.
BGE_INLINE vf exp2Low(vf x) {
  const __mmask16 all = 0xffff;
  const vf n = (vf)_mm512_maskz_roundscale_ps(all, (__m512)x, 0), f = x - n;
  vf p = fma(set1(9.582852944731712e-3f), f, 5.5906426161527634e-2f);
  p = fma(p, f, 0.24024099111557007f);
  p = fma(p, f, 0.6931241750717163f);
  p = fma(p, f, set1(1.0f));
  return (vf)_mm512_maskz_scalef_ps(all, (__m512)p, (__m512)n);
}

// p (words) = exp((s - max) scale) of one row of raw scores; returns the sum. The last words are zero beyond the keys.
static float exponentials(float* p, const float* s, int64_t keys, float scale, float& max) {
  vf m = set1(-__builtin_inff());
  int64_t j = 0;
  for (; j + W <= keys; j += W) m = vmax(m, load(s + j));
  if (j < keys) {
    const vf last = (vf)_mm512_mask_loadu_ps((__m512)m, (__mmask16)((1u << (keys - j)) - 1u), s + j);
    m = vmax(m, last);
  }
  max = hmax(m);
  const float steep = scale * 1.44269504f;
  const vf shift = set1(-max * steep);
  vf sum0{}, sum1{};
  for (j = 0; j < keys; j += 2 * W) {
    const int64_t n = keys - j;
    const __mmask16 low = (__mmask16)(n >= W ? 0xffffu : (1u << n) - 1u);
    const __mmask16 high = (__mmask16)(n >= 2 * W ? 0xffffu : n > W ? (1u << (n - W)) - 1u : 0u);
    const vf e0 = (vf)_mm512_maskz_mov_ps(low, (__m512)exp2Low(fma(load(s + j), steep, shift)));
    const vf e1 = (vf)_mm512_maskz_mov_ps(high, (__m512)exp2Low(fma((vf)_mm512_maskz_loadu_ps(high, s + j + W), steep, shift)));
    sum0 += e0;
    sum1 += e1;
    store(p + j / 2, (vf)(__m512i)_mm512_cvtne2ps_pbh((__m512)e1, (__m512)e0));
  }
  return hsum(sum0 + sum1);
}

static void attention(const AttentionHead& h) {
  const int64_t L = h.keys, d = h.size, qStride = rowWords(d), sStride = roundUp(L, kPanel), pStride = rowWords(L);
  float* keys = h.scratch;                                    // K^T in panels
  float* values = keys + sStride * ((d + 1) / 2);             // V in panels
  float* q = values + roundUp(d, kPanel) * ((L + 1) / 2);     // (kQueryRows, d) in words
  float* s = q + kQueryRows * qStride;                        // (kQueryRows, L)
  float* p = s + kQueryRows * sStride;                        // (kQueryRows, L) in words
  packPanels(keys, h.k, h.kStride, true, d, L, nullptr, nullptr);
  packPanels(values, h.v, h.vStride, false, L, d, nullptr, nullptr);
  for (int64_t first = 0; first < h.queries; first += kQueryRows) {
    const int64_t rows = h.queries - first < kQueryRows ? h.queries - first : kQueryRows;
    packRows(q, qStride, nullptr, h.q + first * h.qStride, h.qStride, rows, d);
    product(s, sStride, q, qStride, keys, rows, L, d);
    float factor[kQueryRows];
    for (int64_t r = 0; r < rows; ++r) {
      float max;
      const float sum = exponentials(p + r * pStride, s + r * sStride, L, h.scale, max);
      factor[r] = 1 / sum;
      if (h.lse) h.lse[first + r] = max * h.scale + __builtin_logf(sum);
    }
    product(h.out + first * h.outStride, h.outStride, p, pStride, values, rows, d, L);
    for (int64_t r = 0; r < rows; ++r) {
      float* out = h.out + (first + r) * h.outStride;
      for (int64_t j = 0; j < d; j += W) {
        const int64_t n = d - j < W ? d - j : W;
        store(out + j, load(out + j, n) * factor[r], n);
      }
    }
  }
}

}  // namespace BGE_ISA
}  // namespace bge

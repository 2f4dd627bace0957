// Attention of one head of one sequence (Vaswani et al. 2017), forward and backward. Included by <isa>.cc after matmul.inl.
// A block of query rows meets all keys at once: its scores stay in cache, so no running maximum is needed.
#include "kernels.h"

namespace bge {
namespace BGE_ISA {

constexpr int64_t kForwardRows = 2 * kTileRows;
constexpr int64_t kBackwardRows = 8 * kTileRows;  // more: every block adds to all of dK and dV once

BGE_INLINE int64_t roundUp(int64_t n, int64_t m) { return (n + m - 1) / m * m; }

static int64_t attentionScratch(int64_t keys, int64_t size, bool backward) {
  const int64_t byKey = roundUp(keys, kPanel) * size, bySize = roundUp(size, kPanel) * keys, scores = roundUp(keys, kPanel);
  if (!backward) return byKey + bySize + kForwardRows * scores;
  return 2 * byKey + bySize + kBackwardRows * 2 * (scores + roundUp(size, kPanel));
}

// C (rows, cols) = alpha A B + beta C with A (rows, depth) row-major.
static void multiply(float* c, int64_t cStride, const float* a, int64_t aStride, const float* panels, int64_t rows, int64_t cols,
                     int64_t depth, float alpha) {
  GemmBlock g = {};
  g.rows = rows, g.cols = cols, g.depth = depth;
  g.a = a, g.aStride = aStride, g.b = panels, g.panelStride = depth * kPanel;
  g.c = c, g.cStride = cStride, g.alpha = alpha;
  gemm(g);
}

// C (rows, cols) = A^T B + beta C with A (depth, rows) row-major.
static void multiplyTransposed(float* c, int64_t cStride, const float* a, int64_t aStride, const float* panels, int64_t rows, int64_t cols,
                               int64_t depth, float beta) {
  GemmBlock g = {};
  g.rows = rows, g.cols = cols, g.depth = depth;
  g.a = a, g.aTransposed = true, g.aStride = aStride, g.aTile = kTileRows, g.b = panels, g.panelStride = depth * kPanel;
  g.c = c, g.cStride = cStride, g.alpha = 1, g.beta = beta;
  gemm(g);
}

// Hidden keys, and the padding beyond the last key, become -infinity. Returns whether any key is visible.
static bool hide(const AttentionHead& h, float* s, int64_t row) {
  const vf hidden = set1(-__builtin_inff());
  vi lane;
  for (int i = 0; i < W; ++i) lane[i] = i;
  const int64_t end = roundUp(h.keys, 2 * W);
  if (!h.maskBits) {
    for (int64_t j = h.keys / W * W; j < end; j += W) store(s + j, select(lane + (int32_t)j >= (int32_t)h.keys, hidden, load(s + j)));
    return h.keys > 0;
  }
  const uint64_t* bits = h.maskBits + h.maskChoice[row] * h.maskWords;
  const int32_t own = h.position[row], keys = (int32_t)h.keys;
  const vi bit = set1(1) << lane;
  vi seen{};
  for (int64_t j = 0; j < end; j += W) {
    const vi at = lane + (int32_t)j;
    const int32_t word = j < h.keys ? (int32_t)(uint32_t)(bits[j / 64] >> (j % 64)) : 0;
    const vi off = ((set1(word) & bit) != 0) | (at == own) | (at >= keys);
    seen |= ~off;
    store(s + j, select(off, hidden, load(s + j)));
  }
  for (int i = 0; i < W; ++i) if (seen[i]) return true;
  return false;
}

BGE_INLINE uint64_t firstElement(const AttentionHead& h, int64_t row) {
  return ((uint64_t)h.head * (uint64_t)h.keys + (uint64_t)h.position[row]) * (uint64_t)roundUp(h.keys, 4);
}

// Scores of one row become exp(score - max), times the dropout factors. Returns the sum before dropout; 0 when no key is visible.
static float exponentials(const AttentionHead& h, float* s, int64_t row, float& max) {
  const int64_t end = roundUp(h.keys, 2 * W);
  if (!hide(h, s, row)) {
    for (int64_t j = 0; j < end; j += W) store(s + j, vf{});
    max = -__builtin_inff();
    return 0;
  }
  vf m0 = load(s), m1 = load(s + W);
  for (int64_t j = 2 * W; j < end; j += 2 * W) {
    m0 = vmax(m0, load(s + j));
    m1 = vmax(m1, load(s + j + W));
  }
  max = hmax(vmax(m0, m1));
  vf sum0{}, sum1{};
  const uint64_t element = firstElement(h, row);
  for (int64_t j = 0; j < end; j += 2 * W) {
    vf p0 = vexp(load(s + j) - max), p1 = vexp(load(s + j + W) - max);
    sum0 += p0;
    sum1 += p1;
    if (h.dropout) {
      vf f0, f1;
      dropoutFactors(f0, f1, element + (uint64_t)j, h.stream, *h.dropout);
      p0 *= f0;
      p1 *= f1;
    }
    store(s + j, p0);
    store(s + j + W, p1);
  }
  return hsum(sum0 + sum1);
}

static void attention(const AttentionHead& h) {
  const int64_t L = h.keys, d = h.size, width = roundUp(L, 2 * W), stride = roundUp(L, kPanel);
  float* keys = h.scratch;                      // K^T in panels: (d, L)
  float* values = keys + stride * d;            // V in panels: (L, d)
  float* s = values + roundUp(d, kPanel) * L;   // (kForwardRows, L)
  packPanels(keys, h.k, h.kStride, true, d, L);
  packPanels(values, h.v, h.vStride, false, L, d);
  for (int64_t first = 0; first < h.queries; first += kForwardRows) {
    const int64_t rows = h.queries - first < kForwardRows ? h.queries - first : kForwardRows;
    multiply(s, stride, h.q + first * h.qStride, h.qStride, keys, rows, width, d, h.scale);
    float factor[kForwardRows];
    for (int64_t r = 0; r < rows; ++r) {
      float max;
      const float sum = exponentials(h, s + r * stride, first + r, max);
      factor[r] = sum == 0 ? 0 : 1 / sum;
      if (h.lse) h.lse[first + r] = sum == 0 ? -__builtin_inff() : max + __builtin_logf(sum);
    }
    multiply(h.out + first * h.outStride, h.outStride, s, stride, values, rows, d, L, 1);
    for (int64_t r = 0; r < rows; ++r) {
      float* out = h.out + (first + r) * h.outStride;
      for (int64_t j = 0; j < d; j += W) {
        if (d - j >= W) store(out + j, load(out + j) * factor[r]);
        else store(out + j, load(out + j, d - j) * factor[r], d - j);
      }
    }
  }
}

static void attentionBackward(const AttentionHead& h) {
  const int64_t L = h.keys, d = h.size, width = roundUp(L, 2 * W), stride = roundUp(L, kPanel), dWidth = roundUp(d, kPanel);
  if (h.queries == 0) {
    for (int64_t j = 0; j < L; ++j) {
      for (int64_t i = 0; i < d; ++i) h.dK[j * h.dKStride + i] = h.dV[j * h.dVStride + i] = 0;
    }
    return;
  }
  float* keys = h.scratch;              // K^T in panels: (d, L)
  float* values = keys + stride * d;    // V^T in panels: (d, L)
  float* keyRows = values + stride * d; // K in panels: (L, d)
  float* p = keyRows + dWidth * L;      // (kBackwardRows, L) probabilities after dropout
  float* ds = p + kBackwardRows * stride;     // (kBackwardRows, L) gradient of the raw scores
  float* q = ds + kBackwardRows * stride;     // the block's rows of Q in panels
  float* dOut = q + kBackwardRows * dWidth;   // the block's rows of dOut in panels
  packPanels(keys, h.k, h.kStride, true, d, L);
  packPanels(values, h.v, h.vStride, true, d, L);
  packPanels(keyRows, h.k, h.kStride, false, L, d);
  for (int64_t first = 0; first < h.queries; first += kBackwardRows) {
    const int64_t rows = h.queries - first < kBackwardRows ? h.queries - first : kBackwardRows;
    const float* qRows = h.q + first * h.qStride;
    const float* dOutRows = h.dOut + first * h.dOutStride;
    multiply(p, stride, qRows, h.qStride, keys, rows, width, d, h.scale);
    multiply(ds, stride, dOutRows, h.dOutStride, values, rows, width, d, 1);
    for (int64_t r = 0; r < rows; ++r) {
      float *pr = p + r * stride, *dsr = ds + r * stride;
      const bool visible = hide(h, pr, first + r);
      const float lse = visible ? h.lse[first + r] : 0;  // 0: exp(-infinity - 0) is the 0 that hidden keys must give
      const float *o = h.out + (first + r) * h.outStride, *dO = dOutRows + r * h.dOutStride;
      vf dot{};
      for (int64_t j = 0; j < d; j += W) {
        dot = d - j >= W ? fma(load(o + j), load(dO + j), dot) : fma(load(o + j, d - j), load(dO + j, d - j), dot);
      }
      const vf delta = set1(hsum(dot));
      const uint64_t element = firstElement(h, first + r);
      for (int64_t j = 0; j < width; j += 2 * W) {
        const vf p0 = vexp(load(pr + j) - lse), p1 = vexp(load(pr + j + W) - lse);
        vf f0 = set1(1.0f), f1 = f0;
        if (h.dropout) dropoutFactors(f0, f1, element + (uint64_t)j, h.stream, *h.dropout);
        store(dsr + j, p0 * (load(dsr + j) * f0 - delta) * h.scale);
        store(dsr + j + W, p1 * (load(dsr + j + W) * f1 - delta) * h.scale);
        store(pr + j, p0 * f0);
        store(pr + j + W, p1 * f1);
      }
    }
    multiply(h.dQ + first * h.dQStride, h.dQStride, ds, stride, keyRows, rows, d, L, 1);
    packPanels(q, qRows, h.qStride, false, rows, d);
    packPanels(dOut, dOutRows, h.dOutStride, false, rows, d);
    const float beta = first == 0 ? 0 : 1;
    multiplyTransposed(h.dV, h.dVStride, p, stride, dOut, L, d, rows, beta);
    multiplyTransposed(h.dK, h.dKStride, ds, stride, q, L, d, rows, beta);
  }
}

}  // namespace BGE_ISA
}  // namespace bge

// The row kernels (kernels_rows.h). Included by <isa>.cc after vector.h.
#include "kernels_rows.h"

namespace bge {
namespace BGE_ISA {

// Calls body(offset, lanes) for every vector of n floats; the last may be partial. `lanes` is the constant W in the main loop, and
// loadLanes/storeLanes then compile to plain moves.
template <class Body>
BGE_INLINE void forVectors(int64_t n, const Body& body) {
  int64_t i = 0;
  for (; i + W <= n; i += W) body(i, W);
  if (i < n) body(i, (int)(n - i));
}
BGE_INLINE vf loadLanes(const float* p, int lanes) { return __builtin_constant_p(lanes) && lanes == W ? load(p) : load(p, lanes); }
BGE_INLINE void storeLanes(float* p, vf x, int lanes) {
  if (__builtin_constant_p(lanes) && lanes == W) store(p, x);
  else store(p, x, lanes);
}

BGE_INLINE vi laneIndex() {
  vi x;
  for (int i = 0; i < W; ++i) x[i] = i;
  return x;
}
BGE_INLINE vi firstLanes(int lanes) { return laneIndex() < lanes; }

BGE_INLINE bool any(vi mask) {
#if BGE_WIDTH == 16
  return _mm512_movepi32_mask((__m512i)mask) != 0;
#elif BGE_WIDTH == 8
  return _mm256_movemask_ps((__m256)mask) != 0;
#elif defined(__SSE2__)
  return _mm_movemask_ps((__m128)mask) != 0;
#else
  return (mask[0] | mask[1] | mask[2] | mask[3]) != 0;
#endif
}

// ---- element-wise ---------------------------------------------------------------------------------------------------------------

static void add(float* out, const float* x, float alpha, int64_t n) {
  forVectors(n, [=](int64_t i, int lanes) __attribute__((always_inline)) {
    storeLanes(out + i, fma(loadLanes(x + i, lanes), alpha, loadLanes(out + i, lanes)), lanes);
  });
}

static void sum3(float* out, const float* a, const float* b, const float* c, int64_t n) {
  forVectors(n, [=](int64_t i, int lanes) __attribute__((always_inline)) {
    storeLanes(out + i, loadLanes(a + i, lanes) + loadLanes(b + i, lanes) + loadLanes(c + i, lanes), lanes);
  });
}

static void scale(float* x, float factor, int64_t n) {
  forVectors(n, [=](int64_t i, int lanes) __attribute__((always_inline)) { storeLanes(x + i, loadLanes(x + i, lanes) * factor, lanes); });
}

static void geluBackward(float* dX, const float* dOut, const float* preActivation, int64_t n) {
  forVectors(n, [=](int64_t i, int lanes) __attribute__((always_inline)) {
    storeLanes(dX + i, loadLanes(dOut + i, lanes) * vgeluGrad(loadLanes(preActivation + i, lanes)), lanes);
  });
}

static void divide(float* out, const float* x, float divisor, int64_t n) {
  forVectors(n, [=](int64_t i, int lanes) __attribute__((always_inline)) {
    storeLanes(out + i, loadLanes(x + i, lanes) / divisor, lanes);
  });
}

static void subtractDivide(float* out, const float* x, const float* y, float a, float divisor, int64_t n) {
  forVectors(n, [=](int64_t i, int lanes) __attribute__((always_inline)) {
    storeLanes(out + i, fma(loadLanes(y + i, lanes), -a, loadLanes(x + i, lanes)) / divisor, lanes);
  });
}

// ---- reductions -----------------------------------------------------------------------------------------------------------------

typedef float vh __attribute__((vector_size(BGE_WIDTH * 2)));   // half a vf
typedef double vd __attribute__((vector_size(BGE_WIDTH * 4)));  // W/2 lanes
BGE_INLINE vd lowDouble(vf x) { vh h; memcpy(&h, &x, sizeof h); return __builtin_convertvector(h, vd); }
BGE_INLINE vd highDouble(vf x) { vh h; memcpy(&h, (const char*)&x + sizeof h, sizeof h); return __builtin_convertvector(h, vd); }
BGE_INLINE double hsum(vd x) {
  double sum = 0;
  for (int i = 0; i < W / 2; ++i) sum += x[i];
  return sum;
}

static double dot(const float* a, const float* b, int64_t n) {
  vd s0{}, s1{};
  forVectors(n, [&](int64_t i, int lanes) __attribute__((always_inline)) {
    const vf x = loadLanes(a + i, lanes), y = loadLanes(b + i, lanes);
    s0 += lowDouble(x) * lowDouble(y);
    s1 += highDouble(x) * highDouble(y);
  });
  return hsum(s0 + s1);
}

static float maximum(const float* x, int64_t n) {
  const vf none = set1(-__builtin_inff());
  vf m0 = none, m1 = none;
  int64_t i = 0;
  for (; i + 2 * W <= n; i += 2 * W) {
    m0 = vmax(load(x + i), m0);
    m1 = vmax(load(x + i + W), m1);
  }
  for (; i < n; i += W) {
    const int lanes = n - i < W ? (int)(n - i) : W;
    m0 = vmax(select(firstLanes(lanes), load(x + i, lanes), none), m0);
  }
  return hmax(vmax(m0, m1));
}

static int64_t find(const float* x, float value, int64_t n) {
  int64_t i = 0;
  while (i + W <= n && !any(load(x + i) == value)) i += W;
  while (i < n && x[i] != value) ++i;
  return i;
}

static int64_t findId(const int32_t* ids, int32_t id, int64_t n) {
  int64_t i = 0;
  while (i + W <= n && !any(load(ids + i) == id)) i += W;
  while (i < n && ids[i] != id) ++i;
  return i;
}

// fp32 lanes inside blocks of 1,024 columns, double between blocks.
static double expSum(float* x, float reference, float factor, int64_t n) {
  double total = 0;
  for (int64_t first = 0; first < n; first += 1024) {
    const int64_t count = n - first < 1024 ? n - first : 1024;
    float* block = x + first;
    vf sum{};
    forVectors(count, [&](int64_t i, int lanes) __attribute__((always_inline)) {
      vf e = vexp((loadLanes(block + i, lanes) - reference) * factor);
      storeLanes(block + i, e, lanes);
      if (!(__builtin_constant_p(lanes) && lanes == W)) e = select(firstLanes(lanes), e, vf{});
      sum += e;
    });
    total += hsum(sum);
  }
  return total;
}

// ---- dropout, layer norm --------------------------------------------------------------------------------------------------------

constexpr int64_t kFactorBlock = 256;

static void dropout(float* out, const float* x, const float* residual, int64_t n, uint64_t element, uint32_t stream,
                    const DropoutSite* site) {
  alignas(64) float factors[kFactorBlock];
  for (int64_t first = 0; first < n; first += kFactorBlock) {
    const int64_t count = n - first < kFactorBlock ? n - first : kFactorBlock;
    if (site != nullptr) dropoutFactors(factors, element + (uint64_t)first, count, stream, *site);
    forVectors(count, [&](int64_t i, int lanes) __attribute__((always_inline)) {
      vf y = loadLanes(x + first + i, lanes);
      // A dropped value is 0 even where x is not finite, as a comparison-based mask would have it.
      if (site != nullptr) {
        const vf f = loadLanes(factors + i, lanes);
        y = f == 0.0f ? vf{} : y * f;
      }
      if (residual != nullptr) y += loadLanes(residual + first + i, lanes);
      storeLanes(out + first + i, y, lanes);
    });
  }
}

static void layerNorm(float* out, float* mean, float* rstd, const float* x, const float* gamma, const float* beta, float epsilon,
                      int64_t n) {
  vf sum{};
  forVectors(n, [&](int64_t i, int lanes) __attribute__((always_inline)) { sum += loadLanes(x + i, lanes); });
  const float rough = hsum(sum) / (float)n;
  // d1 = sum of x - rough would be 0 in exact arithmetic; what it is corrects both moments (a constant row gets variance 0, not rounding).
  vf d1{}, d2{};
  forVectors(n, [&](int64_t i, int lanes) __attribute__((always_inline)) {
    vf d = loadLanes(x + i, lanes) - rough;
    if (!(__builtin_constant_p(lanes) && lanes == W)) d = select(firstLanes(lanes), d, vf{});
    d1 += d;
    d2 = fma(d, d, d2);
  });
  const float shift = hsum(d1) / (float)n;
  const float mu = rough + shift;
  const float raw = hsum(d2) / (float)n - shift * shift;
  const float variance = raw < 0.0f ? 0.0f : raw;
  const float r = 1.0f / __builtin_sqrtf(variance + epsilon);
  forVectors(n, [&](int64_t i, int lanes) __attribute__((always_inline)) {
    const vf y = (loadLanes(x + i, lanes) - mu) * r;
    storeLanes(out + i, fma(y, loadLanes(gamma + i, lanes), loadLanes(beta + i, lanes)), lanes);
  });
  *mean = mu;
  *rstd = r;
}

static void layerNormBackward(float* dX, float* dGamma, float* dBeta, const float* dOut, const float* x, float mean, float rstd,
                              const float* gamma, int64_t n) {
  vf sum{}, product{};  // of g = dOut * gamma, and of g * xhat
  forVectors(n, [&](int64_t i, int lanes) __attribute__((always_inline)) {
    const vf d = loadLanes(dOut + i, lanes);  // 0 beyond the row, so the sums need no mask
    const vf xhat = (loadLanes(x + i, lanes) - mean) * rstd;
    const vf g = d * loadLanes(gamma + i, lanes);
    sum += g;
    product = fma(g, xhat, product);
    storeLanes(dGamma + i, fma(d, xhat, loadLanes(dGamma + i, lanes)), lanes);
    storeLanes(dBeta + i, loadLanes(dBeta + i, lanes) + d, lanes);
  });
  const float a = hsum(sum) / (float)n, b = hsum(product) / (float)n;
  forVectors(n, [&](int64_t i, int lanes) __attribute__((always_inline)) {
    const vf xhat = (loadLanes(x + i, lanes) - mean) * rstd;
    const vf g = fma(loadLanes(dOut + i, lanes), loadLanes(gamma + i, lanes), set1(-a));
    storeLanes(dX + i, fma(xhat, -b, g) * rstd, lanes);
  });
}

// ---- candidates -----------------------------------------------------------------------------------------------------------------

static bool contains(const int32_t* sorted, int64_t n, int32_t id) {
  int64_t low = 0, high = n;
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    if (sorted[middle] < id) low = middle + 1;
    else high = middle;
  }
  return low < n && sorted[low] == id;
}

static float maskedMaximum(MaskRange* range) {
  float* x = range->scores;
  const int32_t* ids = range->ids;
  const int64_t n = range->n, count = range->positiveCount;
  const float inf = __builtin_inff();
  if (ids == nullptr) return maximum(x, n);
  constexpr int64_t kShort = 8;  // up to here every id is compared with every positive
  vi removed{};
  vf high = set1(-inf);
  const vi target = set1(range->targetId);
  vi shortList[kShort];
  if (count <= kShort) {
    for (int64_t k = 0; k < count; ++k) shortList[k] = set1(range->positives[k]);
    forVectors(n, [&](int64_t i, int lanes) __attribute__((always_inline)) {
      const vi id = __builtin_constant_p(lanes) && lanes == W ? load(ids + i) : load(ids + i, lanes);
      vi mask = id == target;
      for (int64_t k = 0; k < count; ++k) mask |= id == shortList[k];
      if (!(__builtin_constant_p(lanes) && lanes == W)) mask &= firstLanes(lanes);
      vf s = loadLanes(x + i, lanes);
      if (any(mask)) {
        removed -= mask & (s != -inf);
        s = select(mask, set1(-inf), s);
        storeLanes(x + i, s, lanes);
      }
      if (!(__builtin_constant_p(lanes) && lanes == W)) s = select(firstLanes(lanes), s, set1(-inf));
      high = vmax(s, high);
    });
    int64_t total = 0;
    for (int k = 0; k < W; ++k) total += removed[k];
    range->removed += total;
    return hmax(high);
  }
  // Long lists: a bit table over the ids' low 12 bits rejects nearly every column before the binary search.
  uint64_t filter[64] = {};
  for (int64_t k = 0; k < count; ++k) {
    const uint32_t h = (uint32_t)range->positives[k] & 4095u;
    filter[h >> 6] |= uint64_t{1} << (h & 63u);
  }
  for (int64_t i = 0; i < n; ++i) {
    const uint32_t h = (uint32_t)ids[i] & 4095u;
    const bool maybe = (filter[h >> 6] >> (h & 63u)) & 1u;
    if (ids[i] == range->targetId || (maybe && contains(range->positives, count, ids[i]))) {
      range->removed += x[i] != -inf;
      x[i] = -inf;
    }
  }
  return maximum(x, n);
}

static int64_t atLeast(int32_t* columns, float* x, float threshold, int64_t n) {
  int64_t found = 0, i = 0;
  for (; i + W <= n; i += W) {
    vf s = load(x + i);
    if (any(s != s)) {
      s = s != s ? set1(-__builtin_inff()) : s;
      store(x + i, s);
    }
    if (!any(s >= threshold)) continue;
    for (int k = 0; k < W; ++k) {
      columns[found] = (int32_t)(i + k);
      found += x[i + k] >= threshold;
    }
  }
  for (; i < n; ++i) {
    if (x[i] != x[i]) x[i] = -__builtin_inff();
    columns[found] = (int32_t)i;
    found += x[i] >= threshold;
  }
  return found;
}

// ---- AdamW (Loshchilov and Hutter 2019), the order of operations of torch.optim.AdamW -----------------------------------------------

BGE_INLINE vf squareRoot(vf x) {
#if BGE_WIDTH == 16
  return (vf)_mm512_maskz_sqrt_ps((__mmask16)0xffff, (__m512)x);
#elif BGE_WIDTH == 8
  return (vf)_mm256_sqrt_ps((__m256)x);
#else
  for (int i = 0; i < W; ++i) x[i] = __builtin_sqrtf(x[i]);
  return x;
#endif
}

static void adamw(float* parameter, float* m, float* v, const float* gradient, int64_t n, const AdamWStep* step) {
  const AdamWStep s = *step;
  forVectors(n, [&](int64_t i, int lanes) __attribute__((always_inline)) {
    const vf g = loadLanes(gradient + i, lanes) * s.clip;
    const vf p = loadLanes(parameter + i, lanes) * s.decay;
    vf m1 = loadLanes(m + i, lanes);
    m1 = fma(g - m1, s.oneMinusBeta1, m1);
    const vf v1 = fma(g * g, s.oneMinusBeta2, loadLanes(v + i, lanes) * s.beta2);
    const vf denominator = squareRoot(v1) / s.rootCorrection + s.epsilon;
    storeLanes(m + i, m1, lanes);
    storeLanes(v + i, v1, lanes);
    storeLanes(parameter + i, fma(m1 / denominator, -s.stepSize, p), lanes);
  });
}

constexpr RowKernels rowKernels = {add,     sum3,      scale,             geluBackward, divide, subtractDivide, dot,    dropout,
                                   layerNorm, layerNormBackward, maximum, find, expSum, maskedMaximum, findId, atLeast, adamw};

}  // namespace BGE_ISA
}  // namespace bge

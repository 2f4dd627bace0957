// sum = residual + dropout(x), out = LayerNorm(sum) (Ba et al. 2016), and the same backwards, on CUDA. The statistics and the result are
// those of the sum before it is rounded to its storage type.
#include "cuda/layernorm.cuh"

namespace bge {

namespace {

template <class T> struct AddSource {
  View<T> out, sum, x, residual;  // sum.data null: it is there already; residual.data null: none
  RowDropout dropout;
  int64_t cols;

  using Row = RowDropout::Row;
  template <int V> struct Loaded { Raw<T, V> x, residual; };
  __device__ Row row(int64_t r) const { return dropout.row(r, cols); }
  template <int V> __device__ Loaded<V> load(const Row&, int64_t r, int64_t col) const {
    Loaded<V> l;
    l.x = loadRaw<V>(x.at(r, col));
    if (residual.data != nullptr) l.residual = loadRaw<V>(residual.at(r, col));
    return l;
  }
  template <int V> __device__ void value(float (&v)[V], const Loaded<V>& l, const Row& at, int64_t col) const {
    unpackRaw<T, V>(v, l.x);
    dropout.apply(v, at, col);
    if (residual.data == nullptr) return;
    float other[V];
    unpackRaw<T, V>(other, l.residual);
#pragma unroll
    for (int i = 0; i < V; ++i) v[i] += other[i];
  }
  template <int V> __device__ void keep(const float (&v)[V], int64_t r, int64_t col) const {
    if (sum.data != nullptr) storeValues(sum.at(r, col), v);
  }
  template <int V> __device__ void finish(const float (&y)[V], const Row&, int64_t r, int64_t col) const { storeValues(out.at(r, col), y); }
};

template <class T> struct AddGradientSource {
  static constexpr int kinds = 2;
  View<T> dSum, dX, dOut, sum;  // dX.data null: not wanted
  RowDropout dropout;
  int64_t cols;

  using Row = RowDropout::Row;
  template <int V> struct Loaded { Raw<T, V> dOut, sum; };
  __device__ Row row(int64_t r) const { return dropout.row(r, cols); }
  template <int V> __device__ Loaded<V> load(const Row&, int64_t r, int64_t col) const {
    return {loadRaw<V>(dOut.at(r, col)), loadRaw<V>(sum.at(r, col))};
  }
  template <int V> __device__ void values(float (&d)[V], float (&x)[V], const Loaded<V>& l, const Row&, int64_t) const {
    unpackRaw<T, V>(d, l.dOut);
    unpackRaw<T, V>(x, l.sum);
  }
  template <int V> __device__ void finish(float (&d)[V], const Row& at, int64_t r, int64_t col) const {
    storeValues(dSum.at(r, col), d);
    if (dX.data == nullptr) return;
    dropout.apply(d, at, col);
    storeValues(dX.at(r, col), d);
  }
};

}  // namespace

void CudaBackend::addLayerNorm(Matrix out, Matrix sum, float* mean, float* rstd, Matrix x, Matrix residual, const float* gamma,
                               const float* beta, float epsilon, const Rows& rows, const Dropout& dropout) {
  for (const Matrix& m : {out, sum, residual})
    if (m.data) requireType(m.type, x.type, "addLayerNorm");
  const bool unchanged = dropout.p <= 0 && !residual.data && sum.data == x.data;
  withType(x.type, "addLayerNorm", [&](auto type) {
    using T = decltype(type);
    constexpr int V = 16 / sizeof(T);
    const AddSource<T> source{view<T>(out), view<T>(unchanged ? Matrix() : sum), view<T>(x), view<T>(residual),
                              RowDropout(rows, dropout), x.cols};
    layerNormRows<V>(stream_, source, mean, rstd, {gamma, beta, epsilon}, x.rows, x.cols,
                     vectorWidth(V, x.cols, {out, sum, x, residual}, {gamma, beta}));
  });
}

void CudaBackend::addLayerNormBackward(Matrix dSum, Matrix dX, float* dGamma, float* dBeta, Matrix dOut, Matrix sum, const float* mean,
                                       const float* rstd, const float* gamma, const Rows& rows, const Dropout& dropout) {
  for (const Matrix& m : {dSum, dX, sum})
    if (m.data) requireType(m.type, dOut.type, "addLayerNormBackward");
  const bool same = dropout.p <= 0 && dX.data == dSum.data;
  Arena::Scope scope(workspace());
  withType(dOut.type, "addLayerNormBackward", [&](auto type) {
    using T = decltype(type);
    constexpr int V = 16 / sizeof(T);
    const AddGradientSource<T> source{view<T>(dSum), view<T>(same ? Matrix() : dX), view<T>(dOut), view<T>(sum),
                                      RowDropout(rows, dropout), dOut.cols};
    layerNormBackwardRows<V>(stream_, workspace(), {dGamma, dBeta}, source, mean, rstd, gamma, dOut.rows, dOut.cols,
                             vectorWidth(V, dOut.cols, {dSum, dX, dOut, sum}, {gamma}));
  });
}

}  // namespace bge

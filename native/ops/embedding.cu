// Word + position + type embeddings, LayerNorm and dropout in one pass (BERT's input; recipe.md 1.2), and the same backwards, on CUDA.
#include "cuda/group.cuh"
#include "cuda/layernorm.cuh"

namespace bge {

namespace {

// The three embeddings of a row; their sum is what is normalised.
struct ThreeEmbeddings {
  const float* table;
  const int32_t* index;
  const float* position;
  const int32_t* positions;
  const float* type;
  RowDropout dropout;
  int64_t cols;

  struct Row {
    int64_t table, position;  // of column 0
    RowDropout::Row dropout;
  };
  template <int V> struct Loaded { Raw<float, V> table, position, type; };
  __device__ Row row(int64_t r) const { return {index[r] * cols, positions[r] * cols, dropout.row(r, cols)}; }
  template <int V> __device__ Loaded<V> load(const Row& at, int64_t col) const {
    return {loadRaw<V>(table + at.table + col), loadRaw<V>(position + at.position + col), loadRaw<V>(type + col)};
  }
  template <int V> __device__ void sum(float (&v)[V], const Loaded<V>& l) const {
    float b[V], c[V];
    unpackRaw<float, V>(v, l.table);
    unpackRaw<float, V>(b, l.position);
    unpackRaw<float, V>(c, l.type);
#pragma unroll
    for (int i = 0; i < V; ++i) v[i] = v[i] + b[i] + c[i];
  }
};

template <class T> struct EmbeddingSource {
  ThreeEmbeddings e;
  View<T> out;

  using Row = ThreeEmbeddings::Row;
  template <int V> using Loaded = ThreeEmbeddings::Loaded<V>;
  __device__ Row row(int64_t r) const { return e.row(r); }
  template <int V> __device__ Loaded<V> load(const Row& at, int64_t, int64_t col) const { return e.load<V>(at, col); }
  template <int V> __device__ void value(float (&v)[V], const Loaded<V>& l, const Row&, int64_t) const { e.sum(v, l); }
  template <int V> __device__ void keep(const float (&)[V], int64_t, int64_t) const {}
  template <int V> __device__ void finish(float (&y)[V], const Row& at, int64_t r, int64_t col) const {
    e.dropout.apply(y, at.dropout, col);
    storeValues(out.at(r, col), y);
  }
};

template <class T> struct EmbeddingGradientSource {
  static constexpr int kinds = 3;
  ThreeEmbeddings e;
  View<T> dOut;
  View<float> dSum;

  using Row = ThreeEmbeddings::Row;
  template <int V> struct Loaded {
    ThreeEmbeddings::Loaded<V> e;
    Raw<T, V> dOut;
  };
  __device__ Row row(int64_t r) const { return e.row(r); }
  template <int V> __device__ Loaded<V> load(const Row& at, int64_t r, int64_t col) const {
    return {e.load<V>(at, col), loadRaw<V>(dOut.at(r, col))};
  }
  template <int V> __device__ void values(float (&d)[V], float (&x)[V], const Loaded<V>& l, const Row& at, int64_t col) const {
    unpackRaw<T, V>(d, l.dOut);
    e.dropout.apply(d, at.dropout, col);
    e.sum(x, l.e);
  }
  template <int V> __device__ void finish(const float (&d)[V], const Row&, int64_t r, int64_t col) const {
    storeValues(dSum.at(r, col), d);
  }
};

}  // namespace

void CudaBackend::embedding(Matrix out, float* mean, float* rstd, const float* table, const int32_t* index, const float* position,
                            const float* type, const float* gamma, const float* beta, float epsilon, const Rows& rows,
                            const Dropout& dropout) {
  const ThreeEmbeddings e{table, index, position, rows.position, type, RowDropout(rows, dropout), out.cols};
  withType(out.type, "embedding", [&](auto of) {
    using T = decltype(of);
    layerNormRows<4>(stream_, EmbeddingSource<T>{e, view<T>(out)}, mean, rstd, {gamma, beta, epsilon}, rows.count, out.cols,
                     vectorWidth(4, out.cols, {out}, {table, position, type, gamma, beta}));
  });
}

void CudaBackend::embeddingBackward(float* dTable, float* dPosition, float* dType, float* dGamma, float* dBeta, Matrix dOut,
                                    const float* mean, const float* rstd, const float* table, int64_t tableRows, const int32_t* index,
                                    const float* position, const float* type, const float* gamma, int32_t paddingIndex, const Rows& rows,
                                    const Dropout& dropout) {
  const int64_t cols = dOut.cols;
  const ThreeEmbeddings e{table, index, position, rows.position, type, RowDropout(rows, dropout), cols};
  Arena::Scope scope(workspace());
  const Matrix dSum = takeMatrix(workspace(), DType::f32, rows.count, cols);  // gradient of the sum of the three embeddings
  const int width = vectorWidth(4, cols, {dOut, dSum}, {table, position, type, gamma, dTable, dPosition});
  withType(dOut.type, "embeddingBackward", [&](auto of) {
    using T = decltype(of);
    const EmbeddingGradientSource<T> source{e, view<T>(dOut), view<float>(dSum)};
    layerNormBackwardRows<4>(stream_, workspace(), {dGamma, dBeta, dType}, source, mean, rstd, gamma, rows.count, cols, width);
  });
  const Groupings groupings{{dTable, index, paddingIndex}, {dPosition, rows.position, -1}};
  const int64_t keyLimit = std::max({tableRows, rows.count, int64_t{1} << 16});  // positions lie in sequences that these rows hold whole
  if (width == 4) addGroupedRows<4>(stream_, workspace(), groupings, 2, keyLimit, view<float>(dSum), rows.count, cols);
  else addGroupedRows<1>(stream_, workspace(), groupings, 2, keyLimit, view<float>(dSum), rows.count, cols);
}

}  // namespace bge

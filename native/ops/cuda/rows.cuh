// What the row kernels share: typed views of matrices, vector loads and stores, dropout of hidden sites, column sums in a fixed order.
//
// A kernel is written once for V consecutive columns a thread: V = 4 or 8 moves 16 bytes of the narrower type at a time and needs columns,
// strides and addresses that are multiples of it (vectorWidth() says so); V = 1 takes everything else.
#pragma once
#include <algorithm>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <type_traits>

#include "../../core/cuda/cuda.h"
#include "../../core/cuda/kernel.h"
#include "../../core/random.h"

namespace bge {

// -- views ------------------------------------------------------------------------------------------------------------------------

// A Matrix as kernels see it.
template <class T> struct View {
  T* data = nullptr;
  int64_t stride = 0;
  __device__ T* at(int64_t row, int64_t col) const { return data + row * stride + col; }
};
template <class T> View<T> view(Matrix m) { return {m.as<T>(), m.stride}; }

// Calls body(T()) with the storage type of a matrix. `where` names the op.
template <class Body> void withType(DType type, const char* where, const Body& body) {
  if (type == DType::f32) return body(float());
  if (type == DType::bf16) return body(bf16());
  throw Error("ERR_BGE_ARGUMENT", std::string(where) + " on cuda takes f32 or bf16 matrices, but was given type " +
                                      std::to_string(static_cast<int>(type)));
}
inline void requireType(DType type, DType wanted, const char* where) {
  if (type != wanted)
    throw Error("ERR_BGE_ARGUMENT", std::string(where) + " on cuda wants matrices of type " + std::to_string(static_cast<int>(wanted)) +
                                        ", but was given type " + std::to_string(static_cast<int>(type)));
}

inline bool aligned(const void* p, size_t bytes) { return reinterpret_cast<uintptr_t>(p) % bytes == 0; }

// `width` if every row of every matrix can be read in whole vectors of `width` columns, else 1. Absent matrices and pointers are null.
inline int vectorWidth(int width, int64_t cols, std::initializer_list<Matrix> matrices, std::initializer_list<const float*> vectors = {}) {
  bool fits = cols % width == 0;
  for (const Matrix& m : matrices) {
    const auto bytes = static_cast<size_t>(width * sizeOf(m.type));
    fits = fits && (m.data == nullptr || (m.stride % width == 0 && aligned(m.data, bytes < 16 ? bytes : 16)));
  }
  for (const float* v : vectors) fits = fits && aligned(v, 16);
  return fits ? width : 1;
}

inline unsigned int blocksFor(int64_t items, int64_t each) { return static_cast<unsigned int>((items + each - 1) / each); }

// -- vectors of V columns -----------------------------------------------------------------------------------------------------------

// V values as they lie in memory: a load that has been issued and not yet looked at.
template <class T, int V> struct Raw {
  static_assert(V * sizeof(T) % 8 == 0, "4 or 8 columns");
  static constexpr int words = static_cast<int>(V * sizeof(T) / 4);
  uint32_t word[words];
};
template <class T> struct Raw<T, 1> { T value; };

template <int V, class T> __device__ __forceinline__ Raw<T, V> loadRaw(const T* p) {
  Raw<T, V> r;
  if constexpr (V == 1) {
    r.value = *p;
  } else if constexpr (r.words == 2) {
    const uint2 a = *reinterpret_cast<const uint2*>(p);
    r.word[0] = a.x, r.word[1] = a.y;
  } else {
#pragma unroll
    for (int i = 0; i < r.words; i += 4) {
      const uint4 a = reinterpret_cast<const uint4*>(p)[i / 4];
      r.word[i] = a.x, r.word[i + 1] = a.y, r.word[i + 2] = a.z, r.word[i + 3] = a.w;
    }
  }
  return r;
}

template <class T, int V> __device__ __forceinline__ void unpackRaw(float (&v)[V], const Raw<T, V>& r) {
  if constexpr (V == 1) {
    v[0] = toFloat(r.value);
  } else if constexpr (std::is_same_v<T, float>) {
#pragma unroll
    for (int i = 0; i < V; ++i) v[i] = __uint_as_float(r.word[i]);
  } else {
#pragma unroll
    for (int i = 0; i < V; i += 2) {
      v[i] = __uint_as_float(r.word[i / 2] << 16);
      v[i + 1] = __uint_as_float(r.word[i / 2] & 0xffff0000u);
    }
  }
}

template <int V, class T> __device__ __forceinline__ void loadValues(float (&v)[V], const T* p) { unpackRaw<T, V>(v, loadRaw<V>(p)); }

template <int V, class T> __device__ __forceinline__ void storeValues(T* p, const float (&v)[V]) {
  if constexpr (V == 1) {
    *p = fromFloat<T>(v[0]);
  } else if constexpr (std::is_same_v<T, float>) {
#pragma unroll
    for (int i = 0; i < V; i += 4) reinterpret_cast<float4*>(p)[i / 4] = make_float4(v[i], v[i + 1], v[i + 2], v[i + 3]);
  } else if constexpr (V == 4) {
    *reinterpret_cast<uint2*>(p) = make_uint2(packBf16(v[0], v[1]), packBf16(v[2], v[3]));
  } else {
    *reinterpret_cast<uint4*>(p) = make_uint4(packBf16(v[0], v[1]), packBf16(v[2], v[3]), packBf16(v[4], v[5]), packBf16(v[6], v[7]));
  }
}

// -- reductions in a fixed order ------------------------------------------------------------------------------------------------------

__device__ __forceinline__ double warpSumDouble(double v) {
#pragma unroll
  for (int bits = 16; bits > 0; bits >>= 1) v += __shfl_xor_sync(0xffffffffu, v, bits);
  return v;
}

// sums[k] (cols) accumulates partials (count, kinds, cols) over count: partials g, g + 32, ... for each g = 0 .. 31, then those 32 sums.
void addPartials(cudaStream_t stream, std::initializer_list<float*> sums, const float* partials, int64_t count, int64_t cols);  // rows.cu

// sums (C) accumulates the column sums of x (R, C). The rows are cut into chunks of max(64, ceil(R / 176)); in a chunk rows w, w + 8, ...
// are added for each w = 0 .. 7, then those, then the chunks as addPartials does: the order depends on R alone.
void columnSums(cudaStream_t stream, Arena& workspace, float* sums, Matrix x);  // rows.cu

// -- dropout of a hidden site (core/backend.h, Dropout) ----------------------------------------------------------------------------------

struct RowDropout {  // p == 0: off, and `rows` is not read
  const int32_t* sequence = nullptr;
  const int32_t* position = nullptr;
  const uint32_t* streams = nullptr;
  uint32_t site = 0, step = 0, k0 = 0, k1 = 0, threshold = 0;
  float scale = 1;
  bool on = false;

  RowDropout(const Rows& rows, const Dropout& d)
      : sequence(rows.sequence),
        position(rows.position),
        streams(rows.stream),
        site(d.layer * 16 + d.site),
        step(d.step),
        k0(static_cast<uint32_t>(d.seed)),
        k1(static_cast<uint32_t>(d.seed >> 32)),
        threshold(dropoutThreshold(d.p)),
        scale(1.0f / (1.0f - d.p)),
        on(d.p > 0) {}

  struct Row {
    uint32_t stream = 0;
    uint64_t element = 0;  // of column 0
  };
  __device__ __forceinline__ Row row(int64_t r, int64_t cols) const {
    Row at;
    if (on) {
      at.stream = streams[sequence[r]];
      at.element = static_cast<uint64_t>(position[r]) * static_cast<uint64_t>(cols);
    }
    return at;
  }
  // Columns col .. col + V - 1 of a row through the mask. A dropped value is 0 even where it was not finite.
  template <int V> __device__ __forceinline__ void apply(float (&v)[V], const Row& at, int64_t col) const {
    if (!on) return;
    const uint64_t element = at.element + static_cast<uint64_t>(col);
    if constexpr (V == 1) {
      const Philox4 words = philox(static_cast<uint32_t>(element >> 2), at.stream, site, step, k0, k1);
      const uint32_t low = element & 1 ? words.v[1] : words.v[0], high = element & 1 ? words.v[3] : words.v[2];
      v[0] = (element & 2 ? high : low) >= threshold ? v[0] * scale : 0.0f;
    } else {
#pragma unroll
      for (int i = 0; i < V; i += 4) {
        const Philox4 words = philox(static_cast<uint32_t>(element >> 2) + static_cast<uint32_t>(i / 4), at.stream, site, step, k0, k1);
#pragma unroll
        for (int j = 0; j < 4; ++j) v[i + j] = words.v[j] >= threshold ? v[i + j] * scale : 0.0f;
      }
    }
  }
};

}  // namespace bge

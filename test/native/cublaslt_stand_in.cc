// Stands for libcublasLt in tests on the emulated device: column-major products by plain loops, and no more of the interface than
// native/core/cuda/blas.cu uses, with the meaning that NVIDIA's manual gives it. As with the real one a bf16 result wants a bf16 bias.
#include <cstdint>
#include <cstring>

namespace {

enum { kSuccess = 0, kInvalidValue = 7, kNotSupported = 15 };
enum { kR32F = 0, kR16BF = 14, kCompute32F = 68 };

struct Operation {
  int32_t transposeA = 0, transposeB = 0, epilogue = 1, biasType = -1;
  const void* bias = nullptr;
};
struct Layout {
  int type;
  uint64_t rows, cols;
  int64_t stride;
};
struct Preference {
  uint64_t workspace = 0;
  uint32_t reductions = 99;
};
struct Algorithm {
  uint64_t data[8];
};
struct Heuristic {
  Algorithm algorithm;
  size_t workspace;
  int state;
  float waves;
  int reserved[4];
};
constexpr uint64_t kMark = 0xabcdef;  // of an algorithm that this library made

float value(const void* p, int type, uint64_t i) {
  if (type == kR32F) return static_cast<const float*>(p)[i];
  const uint32_t bits = uint32_t{static_cast<const uint16_t*>(p)[i]} << 16;
  float v;
  std::memcpy(&v, &bits, sizeof v);
  return v;
}
void store(void* p, int type, uint64_t i, float v) {
  uint32_t bits;
  std::memcpy(&bits, &v, sizeof v);
  if (type == kR32F)
    static_cast<float*>(p)[i] = v;
  else
    static_cast<uint16_t*>(p)[i] = static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

bool fits(const Operation& o, const Layout& a, const Layout& b, const Layout& d) {
  const uint64_t rows = o.transposeA ? a.cols : a.rows, depth = o.transposeA ? a.rows : a.cols;
  return rows == d.rows && (o.transposeB ? b.cols : b.rows) == depth && (o.transposeB ? b.rows : b.cols) == d.cols && a.type == b.type &&
         (o.epilogue == 1 || (o.epilogue == 4 && o.bias && o.biasType == d.type));
}

template <class T>
T& as(void* p) {
  return *static_cast<T*>(p);
}

}  // namespace

extern "C" {

int cublasLtCreate(void** handle) {
  *handle = new int(0);
  return kSuccess;
}
int cublasLtDestroy(void* handle) {
  delete static_cast<int*>(handle);
  return kSuccess;
}
size_t cublasLtGetVersion() { return 130102; }
int cublasLtMatmulDescCreate(void** operation, int compute, int scale) {
  if (compute != kCompute32F || scale != kR32F) return kInvalidValue;
  *operation = new Operation;
  return kSuccess;
}
int cublasLtMatmulDescDestroy(void* operation) {
  delete static_cast<Operation*>(operation);
  return kSuccess;
}
int cublasLtMatmulDescSetAttribute(void* operation, int attribute, const void* v, size_t bytes) {
  auto& o = as<Operation>(operation);
  if (attribute == 8 && bytes == sizeof(void*)) {
    std::memcpy(&o.bias, v, bytes);
    return kSuccess;
  }
  int32_t* field = attribute == 3    ? &o.transposeA
                   : attribute == 4  ? &o.transposeB
                   : attribute == 7  ? &o.epilogue
                   : attribute == 26 ? &o.biasType
                                     : nullptr;
  if (!field || bytes != sizeof *field) return kInvalidValue;
  std::memcpy(field, v, bytes);
  return kSuccess;
}
int cublasLtMatrixLayoutCreate(void** layout, int type, uint64_t rows, uint64_t cols, int64_t stride) {
  if (stride < static_cast<int64_t>(rows) || (type != kR32F && type != kR16BF)) return kInvalidValue;
  *layout = new Layout{type, rows, cols, stride};
  return kSuccess;
}
int cublasLtMatrixLayoutDestroy(void* layout) {
  delete static_cast<Layout*>(layout);
  return kSuccess;
}
int cublasLtMatmulPreferenceCreate(void** preference) {
  *preference = new Preference;
  return kSuccess;
}
int cublasLtMatmulPreferenceDestroy(void* preference) {
  delete static_cast<Preference*>(preference);
  return kSuccess;
}
int cublasLtMatmulPreferenceSetAttribute(void* preference, int attribute, const void* v, size_t bytes) {
  auto& p = as<Preference>(preference);
  if (attribute == 1 && bytes == 8)
    std::memcpy(&p.workspace, v, bytes);
  else if (attribute == 3 && bytes == 4)
    std::memcpy(&p.reductions, v, bytes);
  else if (attribute < 5 || attribute > 8 || bytes != 4)
    return kInvalidValue;
  return kSuccess;
}
// Three suggestions; the second is one that does not work.
int cublasLtMatmulAlgoGetHeuristic(void*, void* operation, void* a, void* b, void* c, void*, void* preference, int wanted, Heuristic* found,
                                   int* count) {
  *count = 0;
  if (as<Preference>(preference).reductions != 0 || as<Preference>(preference).workspace == 0 || wanted < 3) return kInvalidValue;
  if (!fits(as<Operation>(operation), as<Layout>(a), as<Layout>(b), as<Layout>(c))) return kNotSupported;
  for (*count = 0; *count < 3; ++*count) {
    found[*count] = {};
    found[*count].algorithm.data[0] = static_cast<uint64_t>(*count);
    found[*count].algorithm.data[7] = kMark;
    found[*count].workspace = 1000 * static_cast<size_t>(*count);
    found[*count].state = *count == 1 ? kNotSupported : kSuccess;
  }
  return kSuccess;
}
int cublasLtMatmulAlgoCheck(void*, void* operation, void* a, void* b, void* c, void*, const Algorithm* algorithm, Heuristic* result) {
  if (algorithm->data[7] != kMark || !fits(as<Operation>(operation), as<Layout>(a), as<Layout>(b), as<Layout>(c))) return kNotSupported;
  result->workspace = 1000 * algorithm->data[0];
  return kSuccess;
}
int cublasLtMatmul(void*, void* operation, const void* alpha, const void* a, void* layoutA, const void* b, void* layoutB, const void* beta,
                   const void* c, void* layoutC, void* d, void*, const Algorithm*, void*, size_t, void*) {
  const auto& o = as<Operation>(operation);
  const auto &la = as<Layout>(layoutA), &lb = as<Layout>(layoutB), &lc = as<Layout>(layoutC);
  if (!fits(o, la, lb, lc)) return kNotSupported;
  const float scale = *static_cast<const float*>(alpha), keep = *static_cast<const float*>(beta);
  const uint64_t depth = o.transposeA ? la.rows : la.cols;
  const auto strideA = static_cast<uint64_t>(la.stride), strideB = static_cast<uint64_t>(lb.stride),
             strideC = static_cast<uint64_t>(lc.stride);
  for (uint64_t j = 0; j < lc.cols; ++j) {
    for (uint64_t i = 0; i < lc.rows; ++i) {
      float sum = 0;
      for (uint64_t k = 0; k < depth; ++k) {
        sum += value(a, la.type, o.transposeA ? k + i * strideA : i + k * strideA) *
               value(b, lb.type, o.transposeB ? j + k * strideB : k + j * strideB);
      }
      sum *= scale;
      if (keep != 0) sum += keep * value(c, lc.type, i + j * strideC);
      if (o.epilogue == 4) sum += value(o.bias, o.biasType, i);
      store(d, lc.type, i + j * strideC, sum);
    }
  }
  return kSuccess;
}

}  // extern "C"

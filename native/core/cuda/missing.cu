// What is declared in cuda.h and not written yet. Weak: an op
// that has landed in ops/<op>.cu takes its entry's place; the file goes with the last one.
#include "cuda.h"

namespace bge {

[[noreturn]] static void missing(const char* op) { throw Error("ERR_BGE_INTERNAL", std::string(op) + " is not implemented on CUDA"); }

__attribute__((weak)) void CudaBackend::convert(Matrix, Matrix) { missing("convert"); }

__attribute__((weak)) void CudaBackend::linear(Matrix, Matrix, Weight, const float*, Activation, Matrix*) { missing("linear"); }
__attribute__((weak)) void CudaBackend::linearBackwardInput(Matrix, Matrix, Weight, bool, const Matrix*) { missing("linearBackwardInput"); }
__attribute__((weak)) void CudaBackend::linearBackwardWeight(float*, float*, Matrix, Matrix) { missing("linearBackwardWeight"); }
__attribute__((weak)) void CudaBackend::geluBackward(Matrix, Matrix, Matrix) { missing("geluBackward"); }
__attribute__((weak)) void CudaBackend::matmul(Matrix, Matrix, bool, Matrix, bool, float, float) { missing("matmul"); }

__attribute__((weak)) void CudaBackend::attention(Matrix, float*, const Attention&) { missing("attention"); }
__attribute__((weak)) void CudaBackend::attentionBackward(Matrix, Matrix, Matrix, Matrix, Matrix, const float*, const Attention&) {
  missing("attentionBackward");
}

__attribute__((weak)) void CudaBackend::embedding(Matrix, float*, float*, const float*, const int32_t*, const float*, const float*,
                                                  const float*, const float*, float, const Rows&, const Dropout&) {
  missing("embedding");
}
__attribute__((weak)) void CudaBackend::embeddingBackward(float*, float*, float*, float*, float*, Matrix, const float*, const float*,
                                                          const float*, int64_t, const int32_t*, const float*, const float*, const float*,
                                                          int32_t, const Rows&, const Dropout&) {
  missing("embeddingBackward");
}

__attribute__((weak)) void CudaBackend::addLayerNorm(Matrix, Matrix, float*, float*, Matrix, Matrix, const float*, const float*, float,
                                                     const Rows&, const Dropout&) {
  missing("addLayerNorm");
}
__attribute__((weak)) void CudaBackend::addLayerNormBackward(Matrix, Matrix, float*, float*, Matrix, Matrix, const float*, const float*,
                                                             const float*, const Rows&, const Dropout&) {
  missing("addLayerNormBackward");
}

__attribute__((weak)) void CudaBackend::gatherRows(Matrix, Matrix, const int32_t*, int64_t) { missing("gatherRows"); }
__attribute__((weak)) void CudaBackend::scatterRows(Matrix, const int32_t*, int64_t, Matrix, bool) { missing("scatterRows"); }
__attribute__((weak)) void CudaBackend::add(Matrix, Matrix, float) { missing("add"); }

__attribute__((weak)) void CudaBackend::crossEntropy(CrossEntropyResult*, Matrix, const int32_t*, float) { missing("crossEntropy"); }

__attribute__((weak)) void CudaBackend::meanPool(Matrix, Matrix, const Packed&) { missing("meanPool"); }
__attribute__((weak)) void CudaBackend::meanPoolBackward(Matrix, Matrix, const Packed&) { missing("meanPoolBackward"); }

__attribute__((weak)) void CudaBackend::normalize(Matrix, float*, Matrix) { missing("normalize"); }
__attribute__((weak)) void CudaBackend::normalizeBackward(Matrix, Matrix, Matrix, const float*) { missing("normalizeBackward"); }

__attribute__((weak)) void CudaBackend::contrastive(ContrastiveResult*, const Contrastive&) { missing("contrastive"); }
__attribute__((weak)) void CudaBackend::topK(int32_t*, float*, int32_t, Matrix, Matrix, int32_t, bool) { missing("topK"); }

__attribute__((weak)) void CudaBackend::squaredNorm(double*, const float*, int64_t) { missing("squaredNorm"); }
__attribute__((weak)) void CudaBackend::adamw(float*, float*, float*, const float*, int64_t, const AdamW&) { missing("adamw"); }

}  // namespace bge

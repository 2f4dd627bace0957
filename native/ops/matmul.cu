// Linear layers and products on CUDA: bf16 operands, fp32 sums. The weight is a bf16 copy of the fp32 master, made once a version.
#include "cuda/gemm.h"
#include "cuda/rows.cuh"

namespace bge {

namespace {

// x as bf16: itself, or a copy in `workspace` whose rows begin at multiples of 16 bytes, for the tensor cores (a vocabulary may be odd).
Matrix asBf16(CudaBackend& backend, Matrix x) {
  if (x.type == DType::bf16) return x;
  Matrix copy = takeMatrix(backend.workspace(), DType::bf16, x.rows, (x.cols + 7) / 8 * 8);
  copy.cols = x.cols;
  backend.convert(copy, x);
  return copy;
}

}  // namespace

void CudaBackend::linear(Matrix out, Matrix x, Weight w, const float* bias, Activation act, Matrix* preActivation) {
  Arena::Scope scope(workspace_);
  GemmCall c;
  c.d = out;
  c.a = asBf16(*this, x);
  c.b = stored(w);
  c.transposeB = true;
  c.bias = bias;
  c.biasVersion = w.version;
  c.gelu = act == Activation::gelu;
  if (preActivation) c.preActivation = *preActivation;
  product(c);
}

void CudaBackend::linearBackwardInput(Matrix dX, Matrix dOut, Weight w, bool accumulate, const Matrix* gelu) {
  Arena::Scope scope(workspace_);
  GemmCall c;
  c.d = dX;
  c.a = asBf16(*this, dOut);
  c.b = stored(w);
  c.beta = accumulate ? 1 : 0;
  if (gelu) c.geluInput = *gelu;
  product(c);
}

void CudaBackend::linearBackwardWeight(float* dW, float* dBias, Matrix dOut, Matrix x) {
  if (x.rows == 0) return;
  Arena::Scope scope(workspace_);
  if (dBias) columnSums(stream_, workspace_, dBias, dOut);
  GemmCall c;
  c.d = Matrix(dW, dOut.cols, x.cols);
  c.a = asBf16(*this, dOut);
  c.b = asBf16(*this, x);
  c.transposeA = true;
  c.beta = 1;
  product(c);
}

void CudaBackend::matmul(Matrix c, Matrix a, bool transposeA, Matrix b, bool transposeB, float alpha, float beta) {
  GemmCall call;
  call.d = c;
  call.a = a;
  call.b = b;
  call.transposeA = transposeA;
  call.transposeB = transposeB;
  call.alpha = alpha;
  call.beta = beta;
  ownGemm(stream_, workspace_, call, multiprocessors());
}

}  // namespace bge

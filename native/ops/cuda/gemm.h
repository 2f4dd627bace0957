// Our own matrix product on tensor cores (mma.sync), with the epilogues that the encoder needs. Where it stands beside cuBLASLt: matmul.cu.
#pragma once
#include "../../core/backend.h"
#include "../../core/cuda/runtime.h"

namespace bge {

// d (m, n) = epilogue(alpha op(a) op(b) + bias) [+ d]. op(a) is (m, k), op(b) is (k, n). a and b are both bf16, both f16, or both f32 (then
// computed to fp32 accuracy, see gemm_f32.cuh); d is bf16 or f32.
struct GemmCall {
  Matrix d, a, b;
  bool transposeA = false, transposeB = false;
  bool splitDepth = false;              // a product with few tiles and much depth: k may be cut into splits
  size_t workspace = size_t{32} << 20;  // bytes at most that cuBLASLt, or the parts of a split product, may take
  float alpha = 1;
  float beta = 0;                       // d is not read where it is 0
  const float* bias = nullptr;          // (n)
  uint64_t biasVersion = 0;             // Weight::version of the layer: cuBLASLt may want a bf16 copy, made once a version
  bool gelu = false;                    // d = GELU(x); with `preActivation`, x is stored there
  Matrix preActivation;                 // (m, n) bf16 or data null
  Matrix geluInput;                     // (m, n) bf16 or data null: d = x GELU'(geluInput)
  int64_t m() const { return d.rows; }
  int64_t n() const { return d.cols; }
  int64_t k() const { return transposeA ? a.rows : a.cols; }
};

// An element of d depends on its row of op(a) and column of op(b), k and the operands' layouts, on nothing else of the call - unless `splits`
// (of k) is more than 1, which is for products over rows (weight gradients) and where splitDepth allows it: their partial sums are added in
// order.
void ownGemm(cudaStream_t stream, Arena& workspace, const GemmCall& call, int multiprocessors);

}  // namespace bge

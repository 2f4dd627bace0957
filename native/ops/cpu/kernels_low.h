// Products of bf16 or int8 operands as function pointers: what an instruction set has beside its fp32 kernels (kernels.h).
//
// A word is 32 bits: `group` values that are neighbours in depth, two of bf16 or four of int8, zero beyond the depth. One instruction adds
// all products of two vectors of words, so a product in words looks like one in floats and shares GemmBlock: its depth counts words, its a
// and b point to words, alpha is 1.
#pragma once
#include <cstdint>

namespace bge {

struct GemmBlock;
struct AttentionHead;

// int8: x of a row is step q + low with q in 0 .. 255, w of a column is step q with q in -127 .. 127. So
// sum x w = rowStep colStep (sum of products) + rowLow (colStep sum of w's q), the last factor of which is colSum.
struct Steps {
  const float* row;     // (rows, 2): step and low
  const float* col;     // (cols): step
  const float* colSum;  // (cols): step times the sum over the whole depth; null: another block of depth adds it
};

struct LowKernels {
  const char* isa;      // the instruction set: "avx512vnni", "avx512bf16"
  const char* dtype;    // "int8", "bf16"
  int32_t group;        // values in a word
  int32_t tileRows, panel;
  int64_t aBytes;       // as in Kernels

  // x (rows, depth) into words, `outStride` apart. steps: int8's (rows, 2), not read or written for bf16.
  void (*packRows)(float* out, int64_t outStride, float* steps, const float* x, int64_t stride, int64_t rows, int64_t depth);
  // B (depth, cols) into panels of words, as Kernels::packPanels. int8: transposed only, with the steps (cols) of weightSteps; colSum += .
  void (*packPanels)(float* out, const float* b, int64_t stride, bool transposed, int64_t depth, int64_t cols, const float* colStep,
                     float* colSum);
  // int8: the steps of the rows of w (rows, depth). Null for bf16.
  void (*weightSteps)(float* steps, const float* w, int64_t stride, int64_t rows, int64_t depth);
  // As Kernels::packTransposedRows, two rows of a to a word. Null for int8, which is for inference.
  void (*packTransposedRows)(float* out, int64_t aTile, float* sums, const float* a, int64_t stride, int64_t rows, int64_t depth);
  // Sums are fp32 (bf16) or exact (int8). steps is not read for bf16.
  void (*gemm)(const GemmBlock& g, const Steps& steps);

  // Kernels::attention with products in bf16, of a head without mask and dropout; attentionScratch in floats. Null for int8.
  int64_t (*attentionScratch)(int64_t keys, int64_t size);
  void (*attention)(const AttentionHead& h);
};

#if defined(__x86_64__)
extern const LowKernels kernels_avx512bf16, kernels_avx512vnni;
#endif

// dispatch.cc. dtype: "fp32" gives null; "bf16" or "int8" what multiplies in it. isa as in chooseKernels. Throws
// ERR_BGE_DEVICE_UNAVAILABLE, naming what is missing, where this CPU, or the instruction set that was asked for, lacks it.
const LowKernels* chooseLowKernels(const char* dtype, const char* isa);
// Whose attention goes with that: bf16's, also beside int8 where the instruction set has it; null: fp32.
const LowKernels* chooseLowAttention(const char* dtype, const char* isa);

}  // namespace bge

// The kernels of one instruction set as plain function pointers. <isa>.cc defines one constant table each; dispatch.cc picks at run time.
// Kernel files include no STL and call no shared inline function: the linker may keep any one copy of those, also the AVX-512 one.
#pragma once
#include <cstdint>

#include "dropout.h"
#include "kernels_rows.h"

namespace bge {

// ---- matrix products ------------------------------------------------------------------------------------------------------------

// One block of C (rows, cols) = alpha * A (rows, depth) B (depth, cols) + beta * C, then the epilogue.
// Every element is one chain of fused multiply-adds over depth, whatever rows and cols are.
struct GemmBlock {
  int64_t rows, cols, depth;
  const float* a;
  bool aTransposed;       // false: A[r][k] = a[r * aStride + k]
  int64_t aStride, aTile; // true:  A[r][k] = a[(r / tileRows) * aTile + r % tileRows + k * aStride]
  const float* b;         // packed panels: B[k][n] = b[(n / panel) * panelStride + k * panel + n % panel], zero beyond cols
  int64_t panelStride;
  float* c;
  int64_t cStride;
  float alpha, beta;      // beta == 0 does not read C
  // Epilogue; null pointers are skipped. c += bias; pre = c; c = gelu(c); c *= gelu'(geluInput).
  const float* bias;      // (cols)
  float* pre;             // (rows, cols)
  int64_t preStride;
  const float* geluInput; // (rows, cols)
  int64_t geluStride;
  bool gelu;
};

// One block of C (rows, cols) = A (rows, depth) B (depth, cols) in float64: A[r][k] = a[r * aRow + k * aDepth], B[k][n] = b[k * bDepth + n * bCol].
// Every element is one chain of multiply-adds over depth, beginning with 0.
struct DoubleBlock {
  int64_t rows, cols, depth;
  const double* a;
  int64_t aRow, aDepth;
  const double* b;
  int64_t bDepth, bCol;
  double* c;
  int64_t cStride;
  double* panel;  // scratch: kDoubleDepth x doublePanel
};

constexpr int64_t kDoubleDepth = 128;

// ---- attention ----------------------------------------------------------------------------------------------------------------

// One head of one sequence: R query rows, L keys, d columns.
struct AttentionHead {
  int64_t queries, keys, size;                 // R, L, d
  const float *q, *k, *v;                      // (R, d), (L, d), (L, d)
  int64_t qStride, kStride, vStride;
  float scale;                                 // 1 / sqrt(d)
  const int32_t* position;                     // (R) position of each query row among the keys
  const uint64_t* maskBits;                    // null: no mask; else (masks, maskWords)
  int64_t maskWords;
  const int32_t* maskChoice;                   // (R)
  const DropoutSite* dropout;                  // null: off
  uint32_t stream, head;                       // of the dropout's element number
  float* out;                                  // (R, d): written by the forward, read by the backward pass
  int64_t outStride;
  float* lse;                                  // (R) or null
  // backward only
  const float* dOut;
  float *dQ, *dK, *dV;
  int64_t dOutStride, dQStride, dKStride, dVStride;
  float* scratch;                              // attentionScratch() floats, 64-byte aligned
};

constexpr int64_t kTileGap = 16;  // floats that packTransposedRows may overwrite behind a tile

struct Kernels {
  const char* name;  // "base", "avx2", "avx512"
  int32_t tileRows;  // rows of a register tile
  int32_t panel;     // columns of a packed panel
  int64_t aBytes;    // bytes of A that a block should keep in the second-level cache

  // B (depth, cols) into panels. transposed: B[k][n] = b[n * stride + k], else b[k * stride + n].
  void (*packPanels)(float* out, const float* b, int64_t stride, bool transposed, int64_t depth, int64_t cols);
  // A[r][k] = a[k * stride + r] into tiles for `gemm`, aTile >= depth * tileRows + kTileGap, its aStride is tileRows.
  // sums, if not null: (rows) += sum over k.
  void (*packTransposedRows)(float* out, int64_t aTile, float* sums, const float* a, int64_t stride, int64_t rows, int64_t depth);
  void (*gemm)(const GemmBlock& g);

  int32_t doublePanel;  // columns that a float64 product packs at a time
  void (*doubleProduct)(const DoubleBlock& g);

  int64_t (*attentionScratch)(int64_t keys, int64_t size, bool backward);  // floats
  void (*attention)(const AttentionHead& h);
  void (*attentionBackward)(const AttentionHead& h);

  // ---- the row kernels (layer norm, embedding, soft-max, ...) ----
  RowKernels rows;
};

#if defined(__x86_64__)
extern const Kernels kernels_avx2, kernels_avx512;
#endif
extern const Kernels kernels_base;

// dispatch.cc. isa: "" (best), "base", "avx2", "avx512", "avx512vnni" or "avx512bf16", each with all before it; the last two have the fp32
// kernels of avx512. Anything else, or one that this CPU lacks, throws ERR_BGE_DEVICE_UNAVAILABLE.
const Kernels& chooseKernels(const char* isa);

}  // namespace bge

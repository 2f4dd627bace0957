// The row kernels of one instruction set: one row (or one flat range) a call; ops/*.cc loop over rows. Plain function pointers, no STL.
// Sums run in a fixed order that depends on n alone. Any n >= 0, any alignment. "May alias": in place is fine.
#pragma once
#include <stdint.h>

#include "dropout.h"

namespace bge {

// One stretch of a row of contrastive scores, with what decides which of its columns are removed.
struct MaskRange {
  float* scores;              // (n); removed columns become -infinity
  const int32_t* ids;         // (n) passage ids; null: nothing is removed
  int64_t n;
  int32_t targetId;           // columns with this id are removed
  const int32_t* positives;   // ascending; columns with one of these ids are removed
  int64_t positiveCount;
  int64_t removed;            // += number of removed columns that were not -infinity before
};

struct AdamWStep {
  float clip;                 // multiplies the gradient
  float decay;                // 1 - learningRate * weightDecay
  float oneMinusBeta1, beta2, oneMinusBeta2;
  float stepSize;             // learningRate / (1 - beta1^t)
  float rootCorrection;       // sqrt(1 - beta2^t)
  float epsilon;
};

struct RowKernels {
  void (*add)(float* out, const float* x, float alpha, int64_t n);                                     // out += alpha x
  void (*sum3)(float* out, const float* a, const float* b, const float* c, int64_t n);                 // out = a + b + c
  void (*scale)(float* x, float factor, int64_t n);                                                    // x *= factor
  void (*geluBackward)(float* dX, const float* dOut, const float* preActivation, int64_t n);              // dX = dOut gelu'(pre); may alias
  void (*divide)(float* out, const float* x, float divisor, int64_t n);                                // may alias
  void (*subtractDivide)(float* out, const float* x, const float* y, float a, float divisor, int64_t n);  // (x - a y) / divisor; may alias
  double (*dot)(const float* a, const float* b, int64_t n);                                            // in double

  // out = residual + dropout(x). residual null: 0; site null: no dropout. `element` is that of column 0. May alias.
  void (*dropout)(float* out, const float* x, const float* residual, int64_t n, uint64_t element, uint32_t stream, const DropoutSite* site);
  // out may be x. Statistics in two passes, the second correcting the first's mean.
  void (*layerNorm)(float* out, float* mean, float* rstd, const float* x, const float* gamma, const float* beta, float epsilon, int64_t n);
  // dX may be dOut. dGamma, dBeta accumulate.
  void (*layerNormBackward)(float* dX, float* dGamma, float* dBeta, const float* dOut, const float* x, float mean, float rstd,
                            const float* gamma, int64_t n);

  float (*maximum)(const float* x, int64_t n);                            // NaN is skipped; -infinity when there is nothing
  int64_t (*find)(const float* x, float value, int64_t n);                // first index with x == value, or n
  double (*expSum)(float* x, float reference, float factor, int64_t n);   // x = exp((x - reference) * factor), returns the sum; NaN stays
  float (*maskedMaximum)(MaskRange* range);                               // maximum of what remains
  int64_t (*findId)(const int32_t* ids, int32_t id, int64_t n);           // first index with ids == id, or n
  // Writes the columns with x >= threshold, ascending, returns how many; room for n. NaN in x becomes -infinity first.
  int64_t (*atLeast)(int32_t* columns, float* x, float threshold, int64_t n);

  void (*adamw)(float* parameter, float* m, float* v, const float* gradient, int64_t n, const AdamWStep* step);
};

}  // namespace bge

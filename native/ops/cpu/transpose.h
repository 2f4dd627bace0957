// A square of W x W 32-bit values. Included after vector.h, under its rules.
#pragma once
#include "vector.h"

namespace bge {
namespace BGE_ISA {

// x becomes its transpose: log2(W) rounds of interleaving row i with row i + W/2.
BGE_INLINE void transpose(vf (&x)[W]) {
  vf y[W];
  for (int round = 1; round < W; round *= 2) {
#pragma GCC unroll 16
    for (int i = 0; i < W / 2; ++i) {
#if BGE_WIDTH == 16
      y[2 * i] = __builtin_shufflevector(x[i], x[i + W / 2], 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
      y[2 * i + 1] = __builtin_shufflevector(x[i], x[i + W / 2], 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
#elif BGE_WIDTH == 8
      y[2 * i] = __builtin_shufflevector(x[i], x[i + W / 2], 0, 8, 1, 9, 2, 10, 3, 11);
      y[2 * i + 1] = __builtin_shufflevector(x[i], x[i + W / 2], 4, 12, 5, 13, 6, 14, 7, 15);
#else
      y[2 * i] = __builtin_shufflevector(x[i], x[i + W / 2], 0, 4, 1, 5);
      y[2 * i + 1] = __builtin_shufflevector(x[i], x[i + W / 2], 2, 6, 3, 7);
#endif
    }
#pragma GCC unroll 16
    for (int i = 0; i < W; ++i) x[i] = y[i];
  }
}

}  // namespace BGE_ISA
}  // namespace bge

// What happens to the elements of a product on their way out of the registers.
#pragma once
#include "../../core/cuda/kernel.h"
#include "gelu.cuh"

namespace bge {

struct Epilogue {
  void* d = nullptr;
  int64_t stride = 0;
  float alpha = 1, beta = 0;
  const float* bias = nullptr;
  bf16* preActivation = nullptr;
  int64_t preStride = 0;
  const bf16* geluInput = nullptr;
  int64_t geluStride = 0;
  bool applyGelu = false, bf16Out = false;
  bool paired = false;       // rows of d, preActivation and geluInput begin at multiples of two values: pairs may be stored as one
  int64_t splitStride = 0;   // not 0: d is f32 scratch, this many values a split, and takes the bare sums

  // Columns col and, where `two`, col + 1 (col is even).
  __device__ void store(int64_t row, int64_t col, float x, float y, bool two, unsigned int split) const {
    if (splitStride) {
      float* to = static_cast<float*>(d) + split * splitStride + row * stride + col;
      to[0] = x;
      if (two) to[1] = y;
      return;
    }
    // Every index into v is a constant, or it would lie in memory.
    float v[2] = {x, y};
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      v[i] *= alpha;
      if (i == 1 && !two) continue;
      if (bias) v[i] += bias[col + i];
      if (geluInput) v[i] *= geluGradient(toFloat(geluInput[row * geluStride + col + i]));
    }
    if (preActivation) put(preActivation + row * preStride + col, v, two);
    if (applyGelu) {
      v[0] = gelu(v[0]);
      v[1] = gelu(v[1]);
    }
    if (bf16Out) {
      bf16* to = static_cast<bf16*>(d) + row * stride + col;
      if (beta != 0) {
        v[0] += beta * toFloat(to[0]);
        if (two) v[1] += beta * toFloat(to[1]);
      }
      put(to, v, two);
    } else {
      float* to = static_cast<float*>(d) + row * stride + col;
      if (beta != 0) {
        v[0] += beta * to[0];
        if (two) v[1] += beta * to[1];
      }
      if (two && paired) {
        *reinterpret_cast<float2*>(to) = make_float2(v[0], v[1]);
      } else {
        to[0] = v[0];
        if (two) to[1] = v[1];
      }
    }
  }

 private:
  __device__ void put(bf16* to, const float (&v)[2], bool two) const {
    if (two && paired) {
      *reinterpret_cast<uint32_t*>(to) = packBf16(v[0], v[1]);
    } else {
      to[0] = fromFloat<bf16>(v[0]);
      if (two) to[1] = fromFloat<bf16>(v[1]);
    }
  }
};

}  // namespace bge

// What the kernels need to know to draw a dropout mask (core/random.h): plain data, so that per-ISA files may include it.
#pragma once
#include <stdint.h>

namespace bge {

struct Dropout;  // core/backend.h

struct DropoutSite {
  uint32_t site = 0, step = 0;    // counter words 2 and 3; site = layer * 16 + Dropout::site
  uint32_t k0 = 0, k1 = 0;        // the seed's low and high half
  uint32_t threshold = 0;         // kept when word >= threshold
  float scale = 1;                // 1 / (1 - p)
};

DropoutSite dropoutSite(const Dropout& dropout);  // ops/rows.cc

}  // namespace bge

// Counter-based randomness (Philox4x32-10, Salmon et al. 2011): a dropout mask is a pure function of where it is used, so nothing is
// stored, GradCache's second pass replays it, and CPU and CUDA draw the same mask.
//
// Word `element` of a site: counter = (element / 4, stream, layer * 16 + site, step), key = the seed's two halves; output element % 4.
// Kept when word >= threshold(p), threshold = floor(p * 2^32).
#pragma once
#include <cstdint>

#if defined(__CUDACC__)
#define BGE_HD __host__ __device__ __forceinline__
#else
#define BGE_HD inline
#endif

namespace bge {

struct Philox4 { uint32_t v[4]; };

BGE_HD Philox4 philox(uint32_t c0, uint32_t c1, uint32_t c2, uint32_t c3, uint32_t k0, uint32_t k1) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t{0xD2511F53u} * c0;
    const uint64_t p1 = uint64_t{0xCD9E8D57u} * c2;
    const uint32_t n0 = static_cast<uint32_t>(p1 >> 32) ^ c1 ^ k0;
    const uint32_t n2 = static_cast<uint32_t>(p0 >> 32) ^ c3 ^ k1;
    c1 = static_cast<uint32_t>(p1);
    c3 = static_cast<uint32_t>(p0);
    c0 = n0;
    c2 = n2;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return {{c0, c1, c2, c3}};
}

BGE_HD uint32_t dropoutThreshold(float p) {
  const double t = static_cast<double>(p) * 4294967296.0;
  return t >= 4294967295.0 ? 4294967295u : static_cast<uint32_t>(t);
}

}  // namespace bge

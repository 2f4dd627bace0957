// Products in float64 for scoring (logistic regression, k-means). A computation of the host: it belongs to no device.
#pragma once
#include <cstdint>
#include <string>

namespace bge {

// c (m, n) = op(a) op(b), row-major without gaps. a is (m, k), or (k, m) when transposeA; b is (k, n), or (n, k) when transposeB.
struct DoubleProduct {
  double* c = nullptr;
  const double *a = nullptr, *b = nullptr;
  int64_t m = 0, n = 0, k = 0;
  bool transposeA = false, transposeB = false;
};

// Every element is one chain of (fused) multiply-adds over k in ascending order, beginning with 0, whatever m, n and the number of threads are.
// Products of float32 values are exact in float64, so for such input all instruction sets give the same bits; for other input one with
// fused multiply-adds (AVX2, AVX-512) rounds once where `base` rounds twice.
// threads <= 0: as many as affinity and cgroup limits allow. A small product runs on the calling thread alone.
// isa: as in DeviceOptions; one that this machine lacks throws Error ERR_BGE_DEVICE_UNAVAILABLE.
void doubleProduct(const DoubleProduct& product, int threads, const std::string& isa);  // ops/double_product.cc

}  // namespace bge

#include <string>

#include "../../core/tensor.h"
#include "kernels.h"

namespace bge {

const Kernels& chooseKernels(const char* isa) {
  const std::string wanted = isa;
  if (wanted != "" && wanted != "base" && wanted != "avx2" && wanted != "avx512") {
    throw Error("ERR_BGE_DEVICE_UNAVAILABLE", "the CPU instruction set must be base, avx2 or avx512, but was '" + wanted + "'");
  }
#if defined(__x86_64__)
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (avx512 && (wanted == "" || wanted == "avx512")) return kernels_avx512;
  if (avx2 && (wanted == "" || wanted == "avx2")) return kernels_avx2;
#endif
  if (wanted != "" && wanted != "base") {
    throw Error("ERR_BGE_DEVICE_UNAVAILABLE", "the instruction set " + wanted + " was asked for, but this CPU does not have it");
  }
  return kernels_base;
}

}  // namespace bge

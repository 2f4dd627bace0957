#include <iterator>
#include <string>

#include "../../core/tensor.h"
#include "kernels.h"
#include "kernels_low.h"

namespace bge {

namespace {

const char* const kIsas[] = {"base", "avx2", "avx512", "avx512vnni", "avx512bf16"};

// The last instruction set of kIsas that this CPU has with all before it.
int highestIsa() {
#if defined(__x86_64__)
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return 0;
  if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") || !__builtin_cpu_supports("avx512dq") ||
      !__builtin_cpu_supports("avx512vl")) {
    return 1;
  }
  if (!__builtin_cpu_supports("avx512vnni")) return 2;
  return __builtin_cpu_supports("avx512bf16") ? 4 : 3;
#else
  return 0;
#endif
}

// The number of `name` in kIsas; "": the highest.
int chooseIsa(const std::string& name) {
  if (name == "") return highestIsa();
  int wanted = 0;
  while (wanted < static_cast<int>(std::size(kIsas)) && name != kIsas[wanted]) ++wanted;
  if (wanted == static_cast<int>(std::size(kIsas))) {
    throw Error("ERR_BGE_DEVICE_UNAVAILABLE",
                "the CPU instruction set must be base, avx2, avx512, avx512vnni or avx512bf16, but was '" + name + "'");
  }
  if (wanted > highestIsa()) {
    throw Error("ERR_BGE_DEVICE_UNAVAILABLE", "the instruction set " + name + " was asked for, but this CPU does not have it");
  }
  return wanted;
}

}  // namespace

const Kernels& chooseKernels(const char* isa) {
  [[maybe_unused]] const int wanted = chooseIsa(isa);
#if defined(__x86_64__)
  if (wanted >= 2) return kernels_avx512;
  if (wanted == 1) return kernels_avx2;
#endif
  return kernels_base;
}

const LowKernels* chooseLowKernels(const char* dtype, const char* isa) {
  const std::string type = dtype;
  if (type == "fp32") return nullptr;
  if (type != "bf16" && type != "int8") {
    throw Error("ERR_BGE_DEVICE_UNAVAILABLE", "the CPU computes in fp32, bf16 or int8, but '" + type + "' was asked for");
  }
  const int needed = type == "bf16" ? 4 : 3;
#if defined(__x86_64__)
  if (chooseIsa(isa) >= needed) return type == "bf16" ? &kernels_avx512bf16 : &kernels_avx512vnni;
#endif
  throw Error("ERR_BGE_DEVICE_UNAVAILABLE",
              "dtype " + type + " on the CPU needs the instruction set " + kIsas[needed] + ", but " +
                  (*isa ? std::string(isa) + " was asked for" : std::string("this CPU has no more than ") + kIsas[highestIsa()]) +
                  "; leave dtype out to compute in fp32");
}

const LowKernels* chooseLowAttention(const char* dtype, const char* isa) {
#if defined(__x86_64__)
  if (dtype != std::string("fp32") && chooseIsa(isa) == 4) return &kernels_avx512bf16;
#endif
  return nullptr;
}

}  // namespace bge

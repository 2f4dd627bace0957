// cuBLASLt, opened at run time where it is found. The entry points are declared here: a machine may have nvcc and no cuBLAS headers.
#pragma once
#include <cstdint>
#include <map>
#include <memory>
#include <string>

#include "../../ops/cuda/gemm.h"
#include "cuda.h"

namespace bge {

struct BlasApi;  // the functions of the opened library

class Blas {
 public:
  // Search order: $BGE_CUBLASLT (a file, or a folder: it, lib/, nvidia/cu13/lib, nvidia/cublas/lib inside of it; nothing else is tried
  // then); the folder of bge_cuda.so; the loader's own search (LD_LIBRARY_PATH, ld.so.conf); $CUDA_HOME, $CUDA_PATH and /usr/local/cuda. In
  // each, libcublasLt.so.13, then .12. Null where BGE_CUDA_GEMM=own asks for our own products, and in the emulator unless BGE_CUBLASLT is
  // set. Throws ERR_BGE_DEVICE_UNAVAILABLE with the list of what was tried.
  static std::unique_ptr<Blas> open(CudaBackend& backend);
  ~Blas();

  std::string description() const;  // "cuBLASLt 13.1 from /path"

  // Does the product, or returns false where cuBLASLt has no algorithm for it: the caller's own kernel does it then. Not offered: GELU,
  // preActivation, geluInput.
  bool multiply(const GemmCall& call);

 private:
  // The algorithm for a kind of product: found once per device and cuBLASLt version by timing, kept in a file.
  struct Plan {
    bool exists = false;    // cuBLASLt has an algorithm
    bool bf16Bias = false;  // it takes the bias in bf16 only
    uint64_t algorithm[8] = {};
    size_t workspace = 0;
    float microseconds = 0;
  };
  explicit Blas(CudaBackend& backend);
  void load();
  void save();
  Plan find(const struct BlasProduct& product, const GemmCall& call);

  CudaBackend& backend_;
  std::unique_ptr<BlasApi> api_;
  std::string path_, file_;  // of the library; of the plans
  void* handle_ = nullptr;
  bool loaded_ = false;
  std::map<std::string, Plan> plans_;
};

}  // namespace bge

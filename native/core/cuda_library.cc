#include "cuda_library.h"

#if defined(__linux__)
#include <dlfcn.h>
#include <sys/stat.h>
#endif

namespace bge {

namespace {
[[noreturn]] void unavailable(const std::string& sentence) { throw Error("ERR_BGE_DEVICE_UNAVAILABLE", sentence); }
}  // namespace

#if defined(__linux__)

std::unique_ptr<Backend> makeCudaBackend(int32_t index, const std::vector<std::string>& candidates) {
  std::string path, tried;
  for (const std::string& candidate : candidates) {
    struct stat s{};
    if (stat(candidate.c_str(), &s) == 0) {
      path = candidate;
      break;
    }
    tried += (tried.empty() ? "" : ", ") + candidate;
  }
  if (path.empty()) {
    unavailable(
        "there is no CUDA library: build it with `npm run build:cuda` (needs nvcc), install the package bge-forge-cuda, or name the file "
        "in "
        "BGE_CUDA_LIBRARY" +
        (tried.empty() ? std::string() : "; not there: " + tried));
  }
  void* handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!handle) unavailable("the CUDA library does not load: " + std::string(dlerror()));
  const auto* library = static_cast<const CudaLibrary*>(dlsym(handle, "bgeCudaLibrary"));
  if (!library) unavailable(path + " is no CUDA library of bge-forge: it has no symbol bgeCudaLibrary");
  if (library->abi != cudaAbi()) {
    unavailable(path + " was built from another version of bge-forge (ABI " + std::to_string(library->abi) + ", this addon has " +
                std::to_string(cudaAbi()) + "): build both from the same sources, with `npm run build:native` and `npm run build:cuda`");
  }
  return std::unique_ptr<Backend>(library->open(index));
}

#else

std::unique_ptr<Backend> makeCudaBackend(int32_t, const std::vector<std::string>&) { unavailable("CUDA is supported on Linux only"); }

#endif

}  // namespace bge

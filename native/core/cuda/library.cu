// The one symbol that bge_cuda.so exports.
#include "../cuda_library.h"
#include "cuda.h"

namespace bge {
namespace {
Backend* open(int32_t index) { return new CudaBackend(index); }
}  // namespace
}  // namespace bge

extern "C" __attribute__((visibility("default"))) const bge::CudaLibrary bgeCudaLibrary = {bge::cudaAbi(), bge::open};

// The addon's side of bge_cuda.so, and what both sides must agree on. No CUDA header here: the addon builds and loads without CUDA.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "backend.h"

namespace bge {

// Raised by hand whenever a virtual function of Backend or Arena's code changes in a way that the layouts below do not show.
// test/cuda-library.test.ts compares it with the list of virtual functions.
constexpr uint64_t kCudaContract = 6;

// The number that addon and library compare: the contract, the layout of everything that crosses, and the C++ library's string.
constexpr uint64_t cudaAbi() {
  const uint64_t parts[] = {
      kCudaContract,
      sizeof(std::string), sizeof(Error), sizeof(Arena), sizeof(Arena::Mark), sizeof(MemoryInfo),
      sizeof(Matrix), offsetof(Matrix, data), offsetof(Matrix, rows), offsetof(Matrix, cols), offsetof(Matrix, stride),
      offsetof(Matrix, type),
      sizeof(Weight), offsetof(Weight, data), offsetof(Weight, out), offsetof(Weight, in), offsetof(Weight, version),
      sizeof(Packed), offsetof(Packed, rows), offsetof(Packed, maxLength), offsetof(Packed, offsets), offsetof(Packed, offsetsHost),
      sizeof(Rows), offsetof(Rows, sequence), offsetof(Rows, position), offsetof(Rows, stream),
      sizeof(Dropout), offsetof(Dropout, seed), offsetof(Dropout, step), offsetof(Dropout, layer), offsetof(Dropout, site),
      sizeof(PositionMask), offsetof(PositionMask, words), offsetof(PositionMask, choice),
      sizeof(Attention), offsetof(Attention, k), offsetof(Attention, v), offsetof(Attention, queries), offsetof(Attention, keys),
      offsetof(Attention, queryPosition), offsetof(Attention, stream), offsetof(Attention, heads), offsetof(Attention, headSize),
      offsetof(Attention, mask), offsetof(Attention, dropout),
      sizeof(Contrastive), offsetof(Contrastive, firstRow), offsetof(Contrastive, queries), offsetof(Contrastive, groupSize),
      offsetof(Contrastive, temperature), offsetof(Contrastive, ownGroupOnly), offsetof(Contrastive, infoNceWeight),
      offsetof(Contrastive, klWeight), offsetof(Contrastive, m3Weight), offsetof(Contrastive, lossScale), offsetof(Contrastive, teacher),
      offsetof(Contrastive, passageIds), offsetof(Contrastive, queryIds), offsetof(Contrastive, positiveOffsets),
      offsetof(Contrastive, positiveIds), offsetof(Contrastive, removedBegin), offsetof(Contrastive, removedEnd),
      offsetof(Contrastive, removedColumns), offsetof(Contrastive, sourceIds), offsetof(Contrastive, falseNegativeMargin),
      offsetof(Contrastive, falseNegativesInGroup),
      sizeof(ContrastiveResult), offsetof(ContrastiveResult, correct), offsetof(ContrastiveResult, masked),
      offsetof(ContrastiveResult, falseNegatives),
      sizeof(CrossEntropyResult), offsetof(CrossEntropyResult, correct), offsetof(CrossEntropyResult, count),
      sizeof(AdamW), offsetof(AdamW, beta1), offsetof(AdamW, beta2), offsetof(AdamW, epsilon),
      offsetof(AdamW, step), offsetof(AdamW, maxNorm),
      sizeof(AdamWPart), offsetof(AdamWPart, m), offsetof(AdamWPart, v), offsetof(AdamWPart, gradient), offsetof(AdamWPart, n),
      offsetof(AdamWPart, weightDecay), offsetof(AdamWPart, version),
      static_cast<uint64_t>(Activation::gelu), static_cast<uint64_t>(DType::bf16), static_cast<uint64_t>(DType::f16),
  };
  uint64_t hash = 0xcbf29ce484222325u;  // FNV-1a over the numbers
  for (const uint64_t part : parts) hash = (hash ^ part) * 0x100000001b3u;
  return hash;
}

// What bge_cuda.so exports as `bgeCudaLibrary`. These two members never change, so that any two versions can compare their numbers.
struct CudaLibrary {
  uint64_t abi;                  // cudaAbi() of the library
  Backend* (*open)(int32_t index);  // throws Error
};

// Opens the first of `candidates` that exists and makes the backend of device `index`. Throws Error ERR_BGE_DEVICE_UNAVAILABLE with a
// sentence for each thing that can be missing: the library (what was tried), a fitting ABI, the driver, the device, cuBLASLt. A library
// that exists and does not fit is an error, never a reason to try the next. It is never closed: it holds state of the driver.
//
// Exceptions cross the library's boundary: Error (with its code) from any call of the Backend, and std::bad_alloc. That is sound because
// both sides share one libstdc++.so (neither links it statically) and gcc compares exception types by name, not by address; the C++ library
// is part of the ABI number, and a test sends an ERR_BGE_OOM through.
std::unique_ptr<Backend> makeCudaBackend(int32_t index, const std::vector<std::string>& candidates);

}  // namespace bge

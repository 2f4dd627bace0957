#include "cpu.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "../ops/cpu/kernels.h"
#include "../ops/cpu/kernels_low.h"
#include "../ops/pack_cache.h"

namespace bge {

namespace {
constexpr size_t kAlign = 64;
constexpr size_t kHugePage = size_t{2} << 20;
constexpr size_t kCopyChunk = size_t{1} << 20;  // bytes a task copies or clears
}  // namespace

CpuBackend::CpuBackend(const DeviceOptions& options)
    : pool(options.threads),
      kernels(chooseKernels(options.isa.c_str())),
      low(chooseLowKernels(options.dtype.c_str(), options.isa.c_str())),
      lowAttention(chooseLowAttention(options.dtype.c_str(), options.isa.c_str())),
      packs_(std::make_unique<PackCache>()),
      workspace_([this](size_t bytes) { return allocate(bytes); }, [this](void* p) { release(p); }) {}

CpuBackend::~CpuBackend() {
  while (!packs_->entries.empty()) packs_->drop(*this, packs_->entries.begin());
}

std::string CpuBackend::description() const {
  const int n = pool.threads();
  return std::string("cpu ") + (low ? std::string((lowAttention ? lowAttention : low)->isa) + " " + low->dtype : kernels.name) + ", " + std::to_string(n) + (n == 1 ? " thread" : " threads");
}

void* CpuBackend::allocate(size_t bytes) {
  // Large blocks start at a huge page: fewer page faults and TLB misses.
  const size_t align = bytes >= 2 * kHugePage ? kHugePage : kAlign;
  void* p = nullptr;
  if (bytes < SIZE_MAX / 2) p = std::aligned_alloc(align, (std::max<size_t>(bytes, 1) + align - 1) / align * align);
  if (!p) {
    throw Error("ERR_BGE_OOM", "the CPU has no room for " + std::to_string(bytes) + " more bytes; this device already holds " +
                                   std::to_string(allocated_.load()) + " bytes");
  }
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  if (align == kHugePage) madvise(p, (bytes + align - 1) / align * align, MADV_HUGEPAGE);  // a hint: failure changes nothing
#endif
  sizes_[p] = bytes;
  allocated_ += bytes;
  return p;
}

void CpuBackend::release(void* p) {
  const auto it = sizes_.find(p);
  if (it == sizes_.end()) return;
  packs_->dropInside(*this, static_cast<const char*>(p), it->second);
  allocated_ -= it->second;
  sizes_.erase(p);
  std::free(p);
}

size_t CpuBackend::bytesAllocated() const { return allocated_; }
void CpuBackend::upload(void* device, const void* host, size_t bytes) { copy(device, host, bytes); }
void CpuBackend::download(void* host, const void* device, size_t bytes) { copy(host, device, bytes); }

void CpuBackend::copy(void* to, const void* from, size_t bytes) {
  if (bytes == 0) return;
  pool.parallelFor(static_cast<int64_t>((bytes + kCopyChunk - 1) / kCopyChunk), [=](int64_t i) {
    const size_t first = static_cast<size_t>(i) * kCopyChunk;
    std::memcpy(static_cast<char*>(to) + first, static_cast<const char*>(from) + first, std::min(kCopyChunk, bytes - first));
  });
}

void CpuBackend::zero(void* p, size_t bytes) {
  if (bytes == 0) return;
  pool.parallelFor(static_cast<int64_t>((bytes + kCopyChunk - 1) / kCopyChunk), [=](int64_t i) {
    const size_t first = static_cast<size_t>(i) * kCopyChunk;
    std::memset(static_cast<char*>(p) + first, 0, std::min(kCopyChunk, bytes - first));
  });
}

void CpuBackend::forget(const float* weight) { packs_->dropInside(*this, reinterpret_cast<const char*>(weight), 1); }

std::unique_ptr<Backend> makeCpuBackend(const DeviceOptions& options) { return std::make_unique<CpuBackend>(options); }

}  // namespace bge

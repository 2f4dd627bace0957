// The device: what must be there, memory, copies, the bf16 copies of weights.
#include "cuda.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <set>

#include "blas.h"

namespace bge {

namespace {

constexpr size_t kRound = 512;                   // sizes of blocks: a multiple of this
constexpr size_t kKeptMost = size_t{256} << 20;  // released bytes that are kept
constexpr size_t kKeptBlock = size_t{64} << 20;  // larger blocks go straight back
constexpr int kCastThreads = 256;

thread_local int threadDevice = -1;  // the current device of this thread, as set by attach()

#if defined(BGE_CUDA_EMULATED)
constexpr bool hasWgmma = true;
#else
constexpr int kArchitectures[] = {__CUDA_ARCH_LIST__};
constexpr bool listed(int architecture) {
  for (int a : kArchitectures) {
    if (a == architecture) return true;
  }
  return false;
}
constexpr bool hasWgmma = listed(900);
#endif

[[noreturn]] void unavailable(const std::string& sentence) { throw Error("ERR_BGE_DEVICE_UNAVAILABLE", sentence); }

std::string version(int v) { return std::to_string(v / 1000) + "." + std::to_string(v % 1000 / 10); }

// Why cudaGetDeviceCount failed, in words.
std::string noDriver(cudaError_t error) {
  const std::string code = " (CUDA error " + std::to_string(static_cast<int>(error)) + ")";
  int runtime = 0;
  switch (static_cast<int>(error)) {
    case 35:
      cudaRuntimeGetVersion(&runtime);
      return "no CUDA driver that runs CUDA " + version(runtime) + " was found: install or update the NVIDIA driver" + code;
    case 100:
      return "the NVIDIA driver sees no GPU: check nvidia-smi, CUDA_VISIBLE_DEVICES and, in a container, that the GPU is passed in" + code;
    case 3:
    case 999:
      return "the NVIDIA driver did not start: check nvidia-smi, and that its kernel module and its library have the same version" + code;
    case 802:
      return "the NVIDIA driver is not ready: on a machine with NVSwitch the fabric manager must run" + code;
    case 803:
      return "the NVIDIA driver's kernel module and its library differ in version: reboot, or reinstall the driver" + code;
    default:
      return std::string("CUDA did not start: ") + cudaGetErrorString(error) + code;
  }
}

__global__ void __launch_bounds__(kCastThreads) castKernel(bf16* out, const float* in, int64_t n) {
  const int64_t first = (static_cast<int64_t>(blockIdx.x) * kCastThreads + threadIdx.x) * 4;
  if (first + 4 <= n && reinterpret_cast<uintptr_t>(in) % 16 == 0) {
    const float4 v = *reinterpret_cast<const float4*>(in + first);
    *reinterpret_cast<uint2*>(out + first) = make_uint2(packBf16(v.x, v.y), packBf16(v.z, v.w));
    return;
  }
  for (int64_t i = first; i < n && i < first + 4; ++i) out[i] = fromFloat<bf16>(in[i]);
}

}  // namespace

void check(cudaError_t status, const std::string& what) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // clears what is not sticky
  if (status == cudaErrorMemoryAllocation) throw Error("ERR_BGE_OOM", what + ": " + cudaGetErrorString(status));
  throw Error("ERR_BGE_INTERNAL", what + ": " + cudaGetErrorString(status));
}

#if !defined(BGE_CUDA_EMULATED)
void raiseSharedLimit(const void* kernel, size_t bytes, const std::string& name) {
  static std::mutex mutex;
  static std::map<std::pair<int, const void*>, size_t> raised;  // kernels have a limit per device
  std::lock_guard<std::mutex> lock(mutex);
  size_t& limit = raised[{threadDevice, kernel}];
  if (bytes <= limit) return;
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)),
        "kernel " + name + " needs " + std::to_string(bytes) + " bytes of shared memory");
  limit = bytes;
}
#endif

CudaBackend::CudaBackend(int index)
    : index_(index),
      workspace_([this](size_t bytes) { return allocate(bytes); },
                 [this](void* p) {
                   dropGraphs();  // they may point into the block
                   release(p);
                 }) {
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error != cudaSuccess) {
    cudaGetLastError();
    unavailable(noDriver(error));
  }
  if (index < 0 || index >= count) {
    unavailable("device cuda:" + std::to_string(index) + " was asked for, but the driver shows " + std::to_string(count) +
                (count == 1 ? " device (cuda:0)" : " devices (cuda:0 .. cuda:" + std::to_string(count - 1) + ")"));
  }
  check(cudaGetDeviceProperties(&properties_, index), "the properties of device cuda:" + std::to_string(index));
  if (properties_.major < 8) {
    unavailable(std::string(properties_.name) + " (cuda:" + std::to_string(index) + ") has compute capability " +
                std::to_string(properties_.major) + "." + std::to_string(properties_.minor) + ", but 8.0 (Ampere) or later is needed");
  }
  const char* attention = std::getenv("BGE_CUDA_ATTENTION");
  if (attention && *attention && std::strcmp(attention, "mma") != 0) {
    if (std::strcmp(attention, "wgmma") != 0)
      throw Error("ERR_BGE_ARGUMENT", std::string("BGE_CUDA_ATTENTION must be mma or wgmma, but was \"") + attention + "\"");
    if (!hasWgmma || properties_.major != 9 || properties_.minor != 0) {
      unavailable("BGE_CUDA_ATTENTION=wgmma needs a GPU of compute capability 9.0 and a library compiled for it, but " +
                  std::string(properties_.name) + " (cuda:" + std::to_string(index) + ") has " + std::to_string(properties_.major) + "." +
                  std::to_string(properties_.minor) + (hasWgmma ? "" : " and this library has no code for 9.0"));
    }
    wgmmaAttention_ = true;
  }
  const char* similarity = std::getenv("BGE_CUDA_SIMILARITY");
  if (similarity && *similarity && std::strcmp(similarity, "f16") != 0) {
    if (std::strcmp(similarity, "f32") != 0)
      throw Error("ERR_BGE_ARGUMENT", std::string("BGE_CUDA_SIMILARITY must be f16 or f32, but was \"") + similarity + "\"");
    exactSimilarity_ = true;
  }
  blas_ = Blas::open(*this);
}

CudaBackend::~CudaBackend() {
  if (!stream_) return;
  cudaSetDevice(threadDevice = index_);
  cudaStreamSynchronize(stream_);
  dropGraphs();
  while (!casts_.empty()) {
    release(casts_.begin()->second.data);
    casts_.erase(casts_.begin());
  }
  blas_.reset();
  giveBack();
  for (Half& h : halves_) {
    cudaEventDestroy(h.done);
    cudaFreeHost(h.data);
  }
  // workspace_ is destroyed after this body: its blocks must go straight to the device, and the stream with them.
  cudaStreamDestroy(stream_);
  stream_ = nullptr;
}

std::string CudaBackend::description() const {
#if defined(BGE_CUDA_EMULATED)
  return "cuda emulated on the CPU (tests only)";
#else
  const long gib = std::lround(static_cast<double>(properties_.totalGlobalMem) / (1 << 30));
  return std::string("cuda ") + properties_.name + ", " + std::to_string(multiprocessors()) + " SMs, " + std::to_string(gib) + " GiB, " +
         (blas_ ? blas_->description() : "own matrix products (BGE_CUDA_GEMM=own)");
#endif
}

void CudaBackend::attach() {
  if (threadDevice != index_) {
    check(cudaSetDevice(index_), "device cuda:" + std::to_string(index_));
    threadDevice = index_;
  }
  if (stream_) return;
  check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "a CUDA stream");
  for (Half& h : halves_) {
    check(cudaMallocHost(reinterpret_cast<void**>(&h.data), kHalf), "pinned host memory");
    check(cudaEventCreateWithFlags(&h.done, cudaEventDisableTiming), "a CUDA event");
    check(cudaEventRecord(h.done, stream_), "a CUDA event");
  }
}

// -- memory ------------------------------------------------------------------------------------------------------------------------------

void CudaBackend::giveBack() {
  for (const auto& [size, p] : released_) cudaFree(p);  // waits for the device
  released_.clear();
  kept_ = 0;
}

void* CudaBackend::take(size_t bytes) {
  const auto it = released_.find(bytes);
  if (it != released_.end()) {
    void* p = it->second;
    released_.erase(it);
    kept_ -= bytes;
    return p;
  }
  notWhileCapturing("memory is allocated");
  void* p = nullptr;
  cudaError_t error = cudaMalloc(&p, bytes);
  if (error == cudaErrorMemoryAllocation && !released_.empty()) {
    cudaGetLastError();
    giveBack();
    error = cudaMalloc(&p, bytes);
  }
  if (error == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    size_t free = 0, total = 0;
    cudaMemGetInfo(&free, &total);
    throw Error("ERR_BGE_OOM", "device cuda:" + std::to_string(index_) + " has no room for " + std::to_string(bytes) +
                                   " more bytes; it already holds " + std::to_string(allocated_.load()) + " bytes, " +
                                   std::to_string(free) + " of " + std::to_string(total) + " are free");
  }
  check(error, "memory of device cuda:" + std::to_string(index_));
  return p;
}

void* CudaBackend::allocate(size_t bytes) {
  attach();
  if (bytes > SIZE_MAX / 2)
    throw Error("ERR_BGE_OOM", "device cuda:" + std::to_string(index_) + " has no room for " + std::to_string(bytes) + " bytes");
  const size_t rounded = (std::max<size_t>(bytes, 1) + kRound - 1) / kRound * kRound;
  void* p = take(rounded);
  sizes_[p] = rounded;
  allocated_ += rounded;
  return p;
}

void CudaBackend::release(void* p) {
  const auto it = sizes_.find(p);
  if (it == sizes_.end()) return;
  const size_t size = it->second;
  sizes_.erase(it);
  allocated_ -= size;
  dropCasts(static_cast<const float*>(p), reinterpret_cast<const float*>(static_cast<const char*>(p) + size));
  if (stream_ && size <= kKeptBlock && kept_ + size <= kKeptMost) {  // the next user's work comes later in the same stream
    released_.emplace(size, p);
    kept_ += size;
    return;
  }
  cudaFree(p);
}

size_t CudaBackend::bytesAllocated() const { return allocated_; }

MemoryInfo CudaBackend::memoryInfo() {
  attach();
  MemoryInfo m;
  check(cudaMemGetInfo(&m.free, &m.total), "the memory of device cuda:" + std::to_string(index_));
  m.free += kept_;
  return m;
}

// -- copies ------------------------------------------------------------------------------------------------------------------------------

CudaBackend::Half& CudaBackend::nextHalf() {
  check(cudaEventRecord(halves_[half_].done, stream_), "a copy");
  half_ ^= 1;
  Half& h = halves_[half_];
  check(cudaEventSynchronize(h.done), "a copy");
  h.used = 0;
  return h;
}

// Returns when `host` has been read; the device may still be copying.
void CudaBackend::upload(void* device, const void* host, size_t bytes) {
  attach();
  notWhileCapturing("data is uploaded");
  while (bytes > 0) {
    Half* h = &halves_[half_];
    if (h->used == kHalf || (h->used + bytes > kHalf && bytes <= kHalf)) h = &nextHalf();
    const size_t n = std::min(bytes, kHalf - h->used);
    std::memcpy(h->data + h->used, host, n);
    check(cudaMemcpyAsync(device, h->data + h->used, n, cudaMemcpyHostToDevice, stream_), "an upload of " + std::to_string(n) + " bytes");
    h->used += (n + 63) / 64 * 64;
    h->used = std::min(h->used, kHalf);
    device = static_cast<char*>(device) + n;
    host = static_cast<const char*>(host) + n;
    bytes -= n;
  }
}

void CudaBackend::download(void* host, const void* device, size_t bytes) {
  attach();
  notWhileCapturing("data is downloaded");
  synchronize();  // whatever went wrong before is said here, and both halves are free
  halves_[0].used = halves_[1].used = 0;
  const auto size = [&](size_t first) { return std::min(kHalf, bytes - first); };
  const auto begin = [&](size_t first) {
    Half& h = halves_[first / kHalf % 2];
    check(cudaMemcpyAsync(h.data, static_cast<const char*>(device) + first, size(first), cudaMemcpyDeviceToHost, stream_),
          "a download of " + std::to_string(bytes) + " bytes");
    check(cudaEventRecord(h.done, stream_), "a download");
  };
  if (bytes > 0) begin(0);
  for (size_t first = 0; first < bytes; first += kHalf) {
    if (first + kHalf < bytes) begin(first + kHalf);
    Half& h = halves_[first / kHalf % 2];
    check(cudaEventSynchronize(h.done), "a download");
    std::memcpy(static_cast<char*>(host) + first, h.data, size(first));
  }
}

void CudaBackend::copy(void* to, const void* from, size_t bytes) {
  attach();
  if (bytes > 0)
    check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, stream_), "a copy of " + std::to_string(bytes) + " bytes");
}

void CudaBackend::zero(void* p, size_t bytes) {
  attach();
  if (bytes > 0) check(cudaMemsetAsync(p, 0, bytes, stream_), "clearing " + std::to_string(bytes) + " bytes");
}

void CudaBackend::synchronize() {
  attach();
  notWhileCapturing("the device is waited for");
  check(cudaStreamSynchronize(stream_), "CUDA");
}

// -- bf16 copies of weights --------------------------------------------------------------------------------------------------------------

const bf16* CudaBackend::cast(const float* data, int64_t n, uint64_t version) {
  bf16* out;
  if (version == 0) {
    out = workspace_.take<bf16>(n);
  } else {
    auto it = casts_.find(data);
    // The query weight is the head of the joined query-key-value weight: the longer copy serves both.
    if (it != casts_.end() && it->second.version == version && it->second.n >= n) return it->second.data;
    if (it != casts_.end() && it->second.n < n) {
      release(it->second.data);
      casts_.erase(it);
      it = casts_.end();
    }
    if (it == casts_.end())
      it = casts_.emplace(data, Cast{0, n, static_cast<bf16*>(allocate(static_cast<size_t>(n) * sizeof(bf16)))}).first;
    it->second.version = version;
    n = it->second.n;
    out = it->second.data;
  }
  if (n > 0)
    launch(castKernel, static_cast<unsigned>((n + 4 * kCastThreads - 1) / (4 * kCastThreads)), kCastThreads, 0, stream_, out, data, n);
  return out;
}

Matrix CudaBackend::stored(const Weight& w) {
  return {const_cast<bf16*>(cast(w.data, w.out * w.in, w.version)), DType::bf16, w.out, w.in, w.in};
}

// Copies of what begins in [first, last).
void CudaBackend::dropCasts(const float* first, const float* last) {
  for (auto it = casts_.lower_bound(first); it != casts_.end() && it->first < last;) {
    bf16* data = it->second.data;
    it = casts_.erase(it);  // first: release() looks here
    release(data);
  }
}

void CudaBackend::forget(const float* weight) { dropCasts(weight, weight + 1); }

}  // namespace bge

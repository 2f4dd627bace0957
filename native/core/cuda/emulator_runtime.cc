// The runtime API of the emulated device: memory, lazy streams, events, graphs. See emulator.h.
#include "runtime.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <stdexcept>
#include <vector>

namespace bge::emulated {

struct Graph {
  std::vector<std::function<void()>> work;
};
struct GraphExec {
  std::shared_ptr<const Graph> graph;
};
struct Stream {
  std::deque<std::function<void()>> work;  // nothing runs before somebody waits
  std::unique_ptr<Graph> capture;
  bool captureBroken = false;
};
struct Event {
  std::chrono::steady_clock::time_point time;
};

namespace {

constexpr size_t kPage = 4096, kGuard = 256;
constexpr size_t kDeviceMemory = size_t{16} << 30;

struct Device {
  std::recursive_mutex mutex;
  std::map<char*, size_t> allocations;
  size_t allocated = 0;
  std::set<Stream*> streams;
  std::string message;  // of the last launch failure
  cudaError_t last = cudaSuccess;
};

Device& device() {
  static auto* d = new Device;
  return *d;
}

cudaError_t note(cudaError_t error) {
  if (error != cudaSuccess) device().last = error;
  return error;
}

// The allocation that holds [p, p + bytes), or null.
bool onDevice(const void* p, size_t bytes) {
  auto& all = device().allocations;
  auto* c = static_cast<char*>(const_cast<void*>(p));
  auto it = all.upper_bound(c);
  if (it == all.begin()) return false;
  --it;
  return c >= it->first && c + bytes <= it->first + it->second;
}

void checkGuards(const std::string& who) {
  for (const auto& [p, bytes] : device().allocations) {
    for (const bool behind : {false, true}) {
      auto* guard =
          reinterpret_cast<unsigned char*>(p) + (behind ? static_cast<std::ptrdiff_t>(bytes) : -static_cast<std::ptrdiff_t>(kGuard));
      if (poisoned(guard, kGuard)) continue;
      std::memset(guard, kPoison, kGuard);  // told once
      throw std::runtime_error(who + " wrote " + (behind ? "behind the end of" : "in front of") + " an allocation of " +
                               std::to_string(bytes) + " bytes");
    }
  }
}

cudaError_t drain(Stream* s) {
  std::lock_guard<std::recursive_mutex> lock(device().mutex);
  try {
    while (!s->work.empty()) {
      auto next = std::move(s->work.front());
      s->work.pop_front();
      next();
    }
    return cudaSuccess;
  } catch (const std::exception& e) {
    s->work.clear();
    device().message = e.what();
    return note(cudaErrorLaunchFailure);
  }
}

cudaError_t enqueue(Stream* s, std::function<void()> work) {
  std::lock_guard<std::recursive_mutex> lock(device().mutex);
  if (s->capture)
    s->capture->work.push_back(std::move(work));
  else
    s->work.push_back(std::move(work));
  return cudaSuccess;
}

// What a capture forbids.
cudaError_t breakCapture(Stream* s) {
  s->captureBroken = true;
  return note(cudaErrorStreamCaptureUnsupported);
}

bool capturing() {
  const auto& all = device().streams;
  return std::any_of(all.begin(), all.end(), [](Stream* s) { return s->capture != nullptr; });
}

}  // namespace

void checkDevicePointer(const void* p, const std::string& kernel) {
  std::lock_guard<std::recursive_mutex> lock(device().mutex);
  if (p && !onDevice(p, 0)) throw std::runtime_error("kernel " + kernel + " was given a pointer that is not device memory");
}

int submit(Stream* stream, Launch launch) {
  const uint64_t threads = uint64_t{launch.blockSize.x} * launch.blockSize.y * launch.blockSize.z;
  if (threads == 0 || threads > static_cast<uint64_t>(kThreadsMost) || launch.gridSize.x == 0 || launch.gridSize.y == 0 ||
      launch.gridSize.z == 0 || launch.gridSize.x > 0x7fffffffu || launch.gridSize.y > 65535 || launch.gridSize.z > 65535 ||
      launch.sharedBytes > kSharedMost) {
    return note(cudaErrorInvalidConfiguration);
  }
  return enqueue(stream, [launch = std::move(launch)] {
    run(launch);
    checkGuards("kernel " + launch.kernel);
  });
}

}  // namespace bge::emulated

using namespace bge::emulated;

namespace {
std::recursive_mutex& apiMutex() { return device().mutex; }
using Lock = std::lock_guard<std::recursive_mutex>;
}  // namespace

const char* cudaGetErrorString(cudaError_t error) {
  static thread_local std::string kept;
  switch (error) {
    case cudaSuccess:
      return "no error";
    case cudaErrorInvalidValue:
      return "invalid argument";
    case cudaErrorMemoryAllocation:
      return "out of memory";
    case cudaErrorInvalidConfiguration:
      return "invalid configuration argument";
    case cudaErrorInvalidMemcpyDirection:
      return "invalid copy direction for memcpy";
    case cudaErrorInvalidDevice:
      return "invalid device ordinal";
    case cudaErrorStreamCaptureUnsupported:
      return "operation not permitted when stream is capturing";
    case cudaErrorLaunchFailure: {
      Lock lock(apiMutex());
      kept = device().message;
      return kept.c_str();
    }
    default:
      return "unknown error";
  }
}
cudaError_t cudaGetLastError() {
  Lock lock(apiMutex());
  return std::exchange(device().last, cudaSuccess);
}
cudaError_t cudaGetDeviceCount(int* count) {
  *count = 1;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int device) { return device == 0 ? cudaSuccess : note(cudaErrorInvalidDevice); }
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* p, int device) {
  if (device != 0) return note(cudaErrorInvalidDevice);
  *p = {};
  std::snprintf(p->name, sizeof p->name, "emulated");
  p->totalGlobalMem = kDeviceMemory;
  p->sharedMemPerBlock = kStaticMost;
  p->sharedMemPerBlockOptin = kSharedMost;
  p->sharedMemPerMultiprocessor = kSharedMost + 1024;
  p->major = 9;
  p->minor = 0;
  p->multiProcessorCount = 4;
  p->maxThreadsPerBlock = kThreadsMost;
  p->maxThreadsPerMultiProcessor = 2048;
  p->regsPerMultiprocessor = 65536;
  p->l2CacheSize = 1 << 20;
  return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int* version) { return *version = 0, cudaSuccess; }
cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  Lock lock(apiMutex());
  *total = kDeviceMemory;
  *free = kDeviceMemory - std::min(kDeviceMemory, device().allocated);
  return cudaSuccess;
}
cudaError_t cudaDeviceSynchronize() {
  Lock lock(apiMutex());
  cudaError_t result = cudaSuccess;
  for (Stream* s : device().streams) {
    if (s->capture) return breakCapture(s);
    if (const cudaError_t e = drain(s); e != cudaSuccess) result = e;
  }
  return result;
}
cudaError_t cudaMalloc(void** p, size_t bytes) {
  Lock lock(apiMutex());
  if (capturing()) return note(cudaErrorStreamCaptureUnsupported);
  if (bytes > kDeviceMemory - std::min(kDeviceMemory, device().allocated)) return note(cudaErrorMemoryAllocation);
  auto* raw = static_cast<char*>(std::aligned_alloc(kGuard, (bytes + 3 * kGuard) / kGuard * kGuard));
  if (!raw) return note(cudaErrorMemoryAllocation);
  std::memset(raw, kPoison, bytes + 2 * kGuard);
  *p = raw + kGuard;
  device().allocations[raw + kGuard] = bytes;
  device().allocated += bytes;
  return cudaSuccess;
}
cudaError_t cudaFree(void* p) {
  if (!p) return cudaSuccess;
  Lock lock(apiMutex());
  if (capturing()) return note(cudaErrorStreamCaptureUnsupported);
  const cudaError_t result = cudaDeviceSynchronize();
  const auto it = device().allocations.find(static_cast<char*>(p));
  if (it == device().allocations.end()) return note(cudaErrorInvalidValue);
  device().allocated -= it->second;
  device().allocations.erase(it);
  std::free(static_cast<char*>(p) - kGuard);
  return result;
}
cudaError_t cudaMallocHost(void** p, size_t bytes) {
  *p = std::aligned_alloc(kPage, (bytes + kPage - 1) / kPage * kPage);
  return *p ? cudaSuccess : note(cudaErrorMemoryAllocation);
}
cudaError_t cudaFreeHost(void* p) {
  const cudaError_t result = cudaDeviceSynchronize();
  std::free(p);
  return result;
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
  if (bytes == 0) return cudaSuccess;
  Lock lock(apiMutex());
  const bool toDevice = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
  const bool fromDevice = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
  if (toDevice != onDevice(to, bytes) || fromDevice != onDevice(from, bytes)) return note(cudaErrorInvalidMemcpyDirection);
  return enqueue(stream, [=] { std::memcpy(to, from, bytes); });
}
cudaError_t cudaMemsetAsync(void* p, int value, size_t bytes, cudaStream_t stream) {
  if (bytes == 0) return cudaSuccess;
  Lock lock(apiMutex());
  if (!onDevice(p, bytes)) return note(cudaErrorInvalidValue);
  return enqueue(stream, [=] { std::memset(p, value, bytes); });
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned int) {
  Lock lock(apiMutex());
  device().streams.insert(*stream = new Stream);
  return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  Lock lock(apiMutex());
  const cudaError_t result = drain(stream);
  device().streams.erase(stream);
  delete stream;
  return result;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  Lock lock(apiMutex());
  return stream->capture ? breakCapture(stream) : drain(stream);
}
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  Lock lock(apiMutex());
  if (stream->capture) return note(cudaErrorStreamCaptureUnsupported);
  stream->capture = std::make_unique<Graph>();
  stream->captureBroken = false;
  return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  Lock lock(apiMutex());
  *graph = nullptr;
  if (!stream->capture) return note(cudaErrorInvalidValue);
  auto captured = std::move(stream->capture);
  if (stream->captureBroken) return note(cudaErrorStreamCaptureUnsupported);
  *graph = captured.release();
  return cudaSuccess;
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned int) { return *event = new Event, cudaSuccess; }
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  cudaDeviceSynchronize();
  delete event;
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  return enqueue(stream, [event] { event->time = std::chrono::steady_clock::now(); });
}
cudaError_t cudaEventSynchronize(cudaEvent_t) { return cudaDeviceSynchronize(); }
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t start, cudaEvent_t end) {
  *milliseconds = std::chrono::duration<float, std::milli>(end->time - start->time).count();
  return cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* exec, cudaGraph_t graph, unsigned long long) {
  *exec = new GraphExec{std::make_shared<Graph>(*graph)};
  return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream) {
  return enqueue(stream, [graph = exec->graph] {
    for (const auto& work : graph->work) work();
  });
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) {
  delete exec;
  return cudaSuccess;
}

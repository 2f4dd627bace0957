// A CUDA device made of the CPU, for tests: the same kernel sources, compiled by g++ -x c++ -DBGE_CUDA_EMULATED. Slow, and stricter than a
// GPU.
//
// Every CUDA thread is a fiber with a stack of its own; blocks run one after another. What a GPU would forgive now and then is shown here:
//   - shared memory is NaN at the start of every block; its ends are guarded; device memory is NaN when allocated, and guarded;
//   - cp.async: the destination is NaN from the copy to the wait, and is written at the wait: a missing wait, and a copy into a buffer that
//     is still being read, both show as NaN;
//   - a __syncthreads() that some threads do not reach (they have exited, or wait elsewhere) is an error that names kernel, block and line;
//     so are lanes of a warp that meet in different warp operations, misaligned or outlying ldmatrix and cp.async addresses, and host
//     pointers given to a kernel;
//   - streams are lazy: work runs when somebody waits for it, so that a missing wait shows;
//   - BGE_CUDA_EMULATED_ORDER=<seed> runs blocks, warps and lanes in a random order: results that differ between two orders miss a barrier.
#pragma once
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>

#define __global__
#define __device__
#define __host__
#define __constant__ static
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))
#define __grid_constant__
#define __shared__ static  // blocks run one after another; not poisoned: prefer BGE_SHARED and BGE_SHARED_STATIC (kernel.h)

// -- vector types ------------------------------------------------------------------------------------------------------------------------
#define BGE_EMULATED_VECTOR(name, T, bytes)                          \
  struct alignas(bytes / 2) name##2 { T x, y; };                     \
  struct name##3 { T x, y, z; };                                     \
  struct alignas(bytes > 16 ? 16 : bytes) name##4 { T x, y, z, w; }; \
  inline name##2 make_##name##2(T x, T y) { return {x, y}; }         \
  inline name##3 make_##name##3(T x, T y, T z) { return {x, y, z}; } \
  inline name##4 make_##name##4(T x, T y, T z, T w) { return {x, y, z, w}; }
BGE_EMULATED_VECTOR(char, signed char, 4)
BGE_EMULATED_VECTOR(uchar, unsigned char, 4)
BGE_EMULATED_VECTOR(short, short, 8)
BGE_EMULATED_VECTOR(ushort, unsigned short, 8)
BGE_EMULATED_VECTOR(int, int, 16)
BGE_EMULATED_VECTOR(uint, unsigned int, 16)
BGE_EMULATED_VECTOR(float, float, 16)
BGE_EMULATED_VECTOR(longlong, long long, 32)
BGE_EMULATED_VECTOR(ulonglong, unsigned long long, 32)
BGE_EMULATED_VECTOR(double, double, 32)
#undef BGE_EMULATED_VECTOR

struct dim3 {
  unsigned int x, y, z;
  constexpr dim3(unsigned int x_ = 1, unsigned int y_ = 1, unsigned int z_ = 1) : x(x_), y(y_), z(z_) {}
};

// -- fibers ------------------------------------------------------------------------------------------------------------------------------
namespace bge::emulated {

constexpr int kWarp = 32;
constexpr uint32_t kFullMask = 0xffffffffu;

struct Running {  // the CUDA thread that is running
  uint3 index{};
  int lane = 0;
};
struct Grid {
  dim3 gridSize, blockSize;
  uint3 blockIndex{};
};
extern Running* self;  // launches of all devices take turns, so these are plain globals
extern Grid grid;

void syncThreads(const char* file, int line);                          // __syncthreads()
void syncNamed(int barrier, int threads, const char* file, int line);  // bar.sync barrier, threads
void* dynamicShared();
void* staticShared(const void* key, size_t bytes, size_t alignment);
void checkShared(const void* p, size_t bytes, size_t alignment, const char* what);
void copyAsync(void* shared, const void* global, bool valid);
void commitAsync();
void waitAsync(int pending);
[[noreturn]] void fail(const std::string& message);  // ends the launch with an error that names the kernel, the block and the thread

// A warp operation: the lanes of `mask` meet, then `perform` runs once over their inputs and outputs (null for lanes that take no part).
struct Lanes {
  const void* in[kWarp];
  void* out[kWarp];
};
void meet(const char* operation, uint32_t mask, bool wholeWarp, const void* in, void* out, void (*perform)(const Lanes&));

template <class T>
struct ShuffleIn {
  T value;
  int from;
};  // from: a lane of the warp

template <class T>
T shuffle(const char* operation, uint32_t mask, T value, int from) {
  static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= 8, "a shuffle moves 32- and 64-bit values");
  const ShuffleIn<T> in{value, from};
  T out;
  meet(operation, mask, false, &in, &out, [](const Lanes& lanes) {
    for (int i = 0; i < kWarp; ++i) {
      if (!lanes.in[i]) continue;
      const auto* source = static_cast<const ShuffleIn<T>*>(lanes.in[static_cast<const ShuffleIn<T>*>(lanes.in[i])->from]);
      if (source)
        std::memcpy(lanes.out[i], &source->value, sizeof(T));
      else
        std::memset(lanes.out[i], 0xff, sizeof(T));  // undefined on a GPU
    }
  });
  return out;
}

inline uint32_t ballot(const char* operation, uint32_t mask, bool predicate) {
  uint32_t out;
  meet(operation, mask, false, &predicate, &out, [](const Lanes& lanes) {
    uint32_t bits = 0;
    for (int i = 0; i < kWarp; ++i) bits |= lanes.in[i] && *static_cast<const bool*>(lanes.in[i]) ? 1u << i : 0u;
    for (int i = 0; i < kWarp; ++i) {
      if (lanes.out[i]) *static_cast<uint32_t*>(lanes.out[i]) = bits;
    }
  });
  return out;
}

// -- tensor cores: fragments as the PTX ISA lays them out (sections of mma.m16n8k16, mma.m16n8k8 and ldmatrix) ---------------------------
enum class Operand { bf16, f16 };
void mma16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], Operand type);  // m16n8k16
void mmaTf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]);              // m16n8k8
void ldmatrix(uint32_t* r, int matrices, bool transposed, const void* row);

// -- wgmma (emulator_tensor.cc) -----------------------------------------------------------------------------------------------------------
// One warp at a time computes its 16 of the 64 rows, at the call; the accumulator is NaN from there to the wait. Errors: a descriptor that
// is misaligned or of another swizzle, a tile whose cp.async was not followed by fence.proxy.async, an operand or an accumulator that
// changes before the wait, no wgmma.fence after the last wait, a warp of the four that takes no part, an end without a wait.
constexpr uint32_t kSharedStart = 1024 + 128;  // address of dynamic shared memory: aligned to 128 bytes, as on a GPU, and to no more
uint32_t sharedAddress(const void* p);
void fenceAsyncProxy();
void wgmmaFence();
void wgmmaCommit();
void wgmmaWait(int pending);
// a: four registers, or null: descriptorA. b (16, 64): stored as (64, 16), or transposed as (16, 64).
void wgmma(float (&d)[8][4], const uint32_t* a, uint64_t descriptorA, uint64_t descriptorB, bool transposedB, bool accumulate);
void startWgmma(int threads);    // a block begins
void landed(const void* shared);  // a cp.async of the running thread
std::string wgmmaProblem();      // a block has ended: what is wrong, or nothing

// -- launches ----------------------------------------------------------------------------------------------------------------------------
struct Launch {
  std::string kernel;
  dim3 gridSize, blockSize;
  size_t sharedBytes = 0;
  std::function<void()> thread;  // the kernel with its arguments
};
void checkDevicePointer(const void* p, const std::string& kernel);
int submit(struct Stream* stream, Launch launch);  // a cudaError_t
void run(const Launch& launch);                    // now; throws what went wrong

constexpr unsigned char kPoison = 0xff;                            // a NaN in every floating-point format
constexpr size_t kSharedMost = 227 << 10, kStaticMost = 48 << 10;  // of a block; compute capability 9.0
constexpr int kThreadsMost = 1024;
bool poisoned(const unsigned char* p, size_t bytes);

}  // namespace bge::emulated

#define threadIdx (::bge::emulated::self->index)
#define blockIdx (::bge::emulated::grid.blockIndex)
#define blockDim (::bge::emulated::grid.blockSize)
#define gridDim (::bge::emulated::grid.gridSize)
constexpr int warpSize = 32;
#define __syncthreads() ::bge::emulated::syncThreads(__FILE__, __LINE__)

inline void __syncwarp(uint32_t mask = bge::emulated::kFullMask) {
  bge::emulated::meet("__syncwarp", mask, false, &mask, &mask, [](const bge::emulated::Lanes&) {});
}
inline void __threadfence() {}
inline void __threadfence_block() {}
inline void __threadfence_system() {}

template <class T>
T __shfl_sync(uint32_t mask, T v, int from, int width = 32) {
  const int lane = bge::emulated::self->lane;
  return bge::emulated::shuffle("__shfl_sync", mask, v, (lane & ~(width - 1)) | (from & (width - 1)));
}
template <class T>
T __shfl_xor_sync(uint32_t mask, T v, int bits, int width = 32) {
  const int lane = bge::emulated::self->lane, from = lane ^ bits;
  return bge::emulated::shuffle("__shfl_xor_sync", mask, v, (from & ~(width - 1)) > (lane & ~(width - 1)) ? lane : from);
}
template <class T>
T __shfl_down_sync(uint32_t mask, T v, unsigned int by, int width = 32) {
  const int lane = bge::emulated::self->lane, from = lane + static_cast<int>(by);
  return bge::emulated::shuffle("__shfl_down_sync", mask, v, (lane & (width - 1)) + static_cast<int>(by) < width ? from : lane);
}
template <class T>
T __shfl_up_sync(uint32_t mask, T v, unsigned int by, int width = 32) {
  const int lane = bge::emulated::self->lane, from = lane - static_cast<int>(by);
  return bge::emulated::shuffle("__shfl_up_sync", mask, v, (lane & (width - 1)) >= static_cast<int>(by) ? from : lane);
}
inline uint32_t __ballot_sync(uint32_t mask, int predicate) { return bge::emulated::ballot("__ballot_sync", mask, predicate != 0); }
inline int __any_sync(uint32_t mask, int predicate) { return bge::emulated::ballot("__any_sync", mask, predicate != 0) != 0; }
inline int __all_sync(uint32_t mask, int predicate) { return bge::emulated::ballot("__all_sync", mask, predicate == 0) == 0; }

// Integers only: an atomic on floats has no place in this library. Blocks and threads take turns, so plain code is atomic.
template <class T, class V, class F>
T bgeEmulatedAtomic(T* p, V v, F f) {
  static_assert(std::is_integral_v<T>, "no atomics on floats: their order is not fixed");
  const T old = *p;
  *p = f(old, static_cast<T>(v));
  return old;
}
template <class T, class V>
T atomicAdd(T* p, V v) {
  return bgeEmulatedAtomic(p, v, [](T a, T b) { return static_cast<T>(a + b); });
}
template <class T, class V>
T atomicSub(T* p, V v) {
  return bgeEmulatedAtomic(p, v, [](T a, T b) { return static_cast<T>(a - b); });
}
template <class T, class V>
T atomicMax(T* p, V v) {
  return bgeEmulatedAtomic(p, v, [](T a, T b) { return a > b ? a : b; });
}
template <class T, class V>
T atomicMin(T* p, V v) {
  return bgeEmulatedAtomic(p, v, [](T a, T b) { return a < b ? a : b; });
}
template <class T, class V>
T atomicOr(T* p, V v) {
  return bgeEmulatedAtomic(p, v, [](T a, T b) { return static_cast<T>(a | b); });
}
template <class T, class V>
T atomicAnd(T* p, V v) {
  return bgeEmulatedAtomic(p, v, [](T a, T b) { return static_cast<T>(a & b); });
}
template <class T, class V>
T atomicExch(T* p, V v) {
  return bgeEmulatedAtomic(p, v, [](T, T b) { return b; });
}
template <class T, class C, class V>
T atomicCAS(T* p, C compare, V v) {
  return bgeEmulatedAtomic(p, v, [compare](T a, T b) { return a == static_cast<T>(compare) ? b : a; });
}
// atomicInc wraps to zero after `limit`: the counter of a "last block" reduction.
inline unsigned int atomicInc(unsigned int* p, unsigned int limit) {
  return bgeEmulatedAtomic(p, limit, [](unsigned int a, unsigned int b) { return a >= b ? 0u : a + 1u; });
}

#include "emulator_math.h"
#include "emulator_runtime.h"

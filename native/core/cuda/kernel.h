// Words of the kernels, the same on a GPU (sm_80 and later) and in the emulator.
#pragma once
#include "runtime.h"

#include <cstddef>
#include <cstdint>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>

#include "../tensor.h"

namespace bge {

using bf16 = __nv_bfloat16;
using f16 = __half;

constexpr unsigned int kFullWarp = 0xffffffffu;

// -- shared memory -----------------------------------------------------------------------------------------------------------------------
// BGE_SHARED(type, name): `name` points to the block's dynamic shared memory (128-byte aligned).
// BGE_SHARED_STATIC(type, name, count): an array of fixed size; poisoned and guarded in the emulator, which plain __shared__ is not.
#if defined(BGE_CUDA_EMULATED)
#define BGE_SHARED(type, name) type* const name = static_cast<type*>(::bge::emulated::dynamicShared())
#define BGE_SHARED_STATIC(type, name, count) \
  static const char bgeShared_##name = 0;    \
  type(&name)[count] = *static_cast<type(*)[count]>(::bge::emulated::staticShared(&bgeShared_##name, sizeof(type[count]), 16))
#else
#define BGE_SHARED(type, name)                                 \
  extern __shared__ __align__(128) unsigned char bgeShared_[]; \
  type* const name = reinterpret_cast<type*>(bgeShared_)
#define BGE_SHARED_STATIC(type, name, count) __shared__ __align__(16) type name[count]
#endif

// -- numbers -----------------------------------------------------------------------------------------------------------------------------
__host__ __device__ __forceinline__ float toFloat(float v) { return v; }
__host__ __device__ __forceinline__ float toFloat(bf16 v) { return __bfloat162float(v); }
__host__ __device__ __forceinline__ float toFloat(f16 v) { return __half2float(v); }
template <class T>
__host__ __device__ __forceinline__ T fromFloat(float v);  // round to nearest even
template <>
__host__ __device__ __forceinline__ float fromFloat<float>(float v) {
  return v;
}
template <>
__host__ __device__ __forceinline__ bf16 fromFloat<bf16>(float v) {
  return __float2bfloat16_rn(v);
}
template <>
__host__ __device__ __forceinline__ f16 fromFloat<f16>(float v) {
  return __float2half_rn(v);
}

template <class To, class From>
__host__ __device__ __forceinline__ To bitsAs(const From& v) {
  static_assert(sizeof(To) == sizeof(From), "the same bits");
  To r;
  memcpy(static_cast<void*>(&r), &v, sizeof(To));
  return r;
}

// Two 16-bit numbers in a register, the first in the low half.
__host__ __device__ __forceinline__ uint32_t packBf16(float lo, float hi) { return bitsAs<uint32_t>(__floats2bfloat162_rn(lo, hi)); }
__host__ __device__ __forceinline__ uint32_t packF16(float lo, float hi) { return bitsAs<uint32_t>(__floats2half2_rn(lo, hi)); }
__host__ __device__ __forceinline__ float2 unpackBf16(uint32_t v) {
  return make_float2(bitsAs<float>(v << 16), bitsAs<float>(v & 0xffff0000u));
}
__host__ __device__ __forceinline__ float2 unpackF16(uint32_t v) { return __half22float2(bitsAs<__half2>(v)); }

// 2^v, relative error about 2^-22 (ex2.approx); 2^-inf = 0, NaN stays.
__host__ __device__ __forceinline__ float exp2Approx(float v) {
#if defined(__CUDA_ARCH__)
  float r;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(v));
  return r;
#else
  return exp2f(v);
#endif
}

// -- warps and blocks --------------------------------------------------------------------------------------------------------------------
template <class T>
__device__ __forceinline__ T shuffleXor(T v, int lane) {
  return __shfl_xor_sync(kFullWarp, v, lane);
}
template <class T>
__device__ __forceinline__ T shuffle(T v, int lane) {
  return __shfl_sync(kFullWarp, v, lane);
}

// Every lane gets the same bits: the order of the additions is a butterfly.
__device__ __forceinline__ float warpSum(float v) {
#pragma unroll
  for (int i = 16; i > 0; i >>= 1) v += shuffleXor(v, i);
  return v;
}
// NaN wins: it must stay visible.
__device__ __forceinline__ float warpMax(float v) {
#pragma unroll
  for (int i = 16; i > 0; i >>= 1) {
    const float o = shuffleXor(v, i);
    v = v > o || v != v ? v : o;
  }
  return v;
}
// Sum over the block, the same bits in every thread: warps first, then their sums in order. `scratch`: 32 floats of shared memory, free
// again after the call's last barrier. Block size: a multiple of 32. All threads call it.
__device__ __forceinline__ float blockSum(float v, float* scratch) {
  const int warps = static_cast<int>(blockDim.x * blockDim.y * blockDim.z) / 32;
  const int thread = static_cast<int>(threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z));
  v = warpSum(v);
  if (thread % 32 == 0) scratch[thread / 32] = v;
  __syncthreads();
  float sum = 0;
  for (int i = 0; i < warps; ++i) sum += scratch[i];
  __syncthreads();
  return sum;
}

// Barrier `number` (1 .. 15; 0 is __syncthreads) over `threads` threads, whole warps.
#if defined(BGE_CUDA_EMULATED)
#define BGE_SYNC_NAMED(number, threads) ::bge::emulated::syncNamed(number, threads, __FILE__, __LINE__)
#else
#define BGE_SYNC_NAMED(number, threads) asm volatile("bar.sync %0, %1;" ::"r"(number), "r"(threads) : "memory")
#endif

// -- tensor cores ------------------------------------------------------------------------------------------------------------------------
// Lane l: g = l / 4, t = l % 4.
//   A (16, 16) row-major: a[0] = (g, 2t), (g, 2t+1)   a[1] = rows g+8   a[2] = columns + 8   a[3] = both
//   B (16, 8):            b[0] = (2t, g), (2t+1, g)    b[1] = rows + 8
//   D (16, 8), f32:       d[0], d[1] = (g, 2t), (g, 2t+1)   d[2], d[3] = rows g+8
// d += a b. All 32 lanes.
__device__ __forceinline__ void mmaBf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#if defined(BGE_CUDA_EMULATED)
  emulated::mma16(d, a, b, emulated::Operand::bf16);
#elif defined(__CUDA_ARCH__)
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}
__device__ __forceinline__ void mmaF16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#if defined(BGE_CUDA_EMULATED)
  emulated::mma16(d, a, b, emulated::Operand::f16);
#elif defined(__CUDA_ARCH__)
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}
// m16n8k8. A (16, 8): a[0] = (g, t), a[1] = (g+8, t), a[2] = (g, t+4), a[3] = (g+8, t+4). B (8, 8): b[0] = (t, g), b[1] = (t+4, g). D as
// above. The hardware drops the low 13 bits of an operand: round them first (roundTf32), a truncated operand is biased.
__device__ __forceinline__ void mmaTf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#if defined(BGE_CUDA_EMULATED)
  emulated::mmaTf32(d, a, b);
#elif defined(__CUDA_ARCH__)
  asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}
// Nearest tf32, ties away from zero (cvt.rna.tf32.f32).
__host__ __device__ __forceinline__ uint32_t roundTf32(float v) {
#if defined(__CUDA_ARCH__)
  uint32_t r;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(r) : "f"(v));
  return r;
#else
  const uint32_t u = bitsAs<uint32_t>(v);
  return (u & 0x7f800000u) == 0x7f800000u ? u : (u + 0x1000u) & 0xffffe000u;
#endif
}

#if defined(BGE_CUDA_EMULATED)
inline uint32_t sharedAddress(const void* p) { return emulated::sharedAddress(p); }
#else
__device__ __forceinline__ uint32_t sharedAddress(const void* p) { return static_cast<uint32_t>(__cvta_generic_to_shared(p)); }
#endif

// Loads 8x8 matrices of 16-bit values: lane 8m + i gives the shared address (16-byte aligned) of row i of matrix m. r[m] of lane l is then
// elements (l/4, 2(l%4)) and (l/4, 2(l%4)+1) of matrix m; transposed: (2(l%4), l/4) and (2(l%4)+1, l/4). All 32 lanes.
__device__ __forceinline__ void ldmatrix4(uint32_t (&r)[4], const void* shared) {
#if defined(BGE_CUDA_EMULATED)
  emulated::ldmatrix(r, 4, false, shared);
#elif defined(__CUDA_ARCH__)
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(sharedAddress(shared))
               : "memory");
#endif
}
__device__ __forceinline__ void ldmatrix4Transposed(uint32_t (&r)[4], const void* shared) {
#if defined(BGE_CUDA_EMULATED)
  emulated::ldmatrix(r, 4, true, shared);
#elif defined(__CUDA_ARCH__)
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(sharedAddress(shared))
               : "memory");
#endif
}
__device__ __forceinline__ void ldmatrix2(uint32_t (&r)[2], const void* shared) {  // addresses of lanes 0 .. 15
#if defined(BGE_CUDA_EMULATED)
  emulated::ldmatrix(r, 2, false, shared);
#elif defined(__CUDA_ARCH__)
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];" : "=r"(r[0]), "=r"(r[1]) : "r"(sharedAddress(shared)) : "memory");
#endif
}
__device__ __forceinline__ void ldmatrix2Transposed(uint32_t (&r)[2], const void* shared) {
#if defined(BGE_CUDA_EMULATED)
  emulated::ldmatrix(r, 2, true, shared);
#elif defined(__CUDA_ARCH__)
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(sharedAddress(shared))
               : "memory");
#endif
}

// -- asynchronous copies -----------------------------------------------------------------------------------------------------------------
// 16 bytes from global to shared memory, both 16-byte aligned; zeros when !valid (`global` is then not read, but keep it a mapped address).
// Readable after commitAsync(), waitAsync<N>() (all but the newest N groups are complete, for this thread) and a barrier (for the others).
__device__ __forceinline__ void copyAsync16(void* shared, const void* global, bool valid = true) {
#if defined(BGE_CUDA_EMULATED)
  emulated::copyAsync(shared, global, valid);
#elif defined(__CUDA_ARCH__)
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(sharedAddress(shared)), "l"(global), "r"(valid ? 16 : 0) : "memory");
#endif
}
__device__ __forceinline__ void commitAsync() {
#if defined(BGE_CUDA_EMULATED)
  emulated::commitAsync();
#elif defined(__CUDA_ARCH__)
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}
template <int pending>
__device__ __forceinline__ void waitAsync() {
#if defined(BGE_CUDA_EMULATED)
  emulated::waitAsync(pending);
#elif defined(__CUDA_ARCH__)
  asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
#endif
}

// -- warpgroup products, sm_90a only ------------------------------------------------------------------------------------------------------
// Asynchronous products of a warpgroup, four whole warps: d (64, 64) f32 (+)= a (64, 16) b (16, 64), bf16. Warp w has rows 16 w .. of d, as
// eight tiles of mma.m16n8: d[n][i] is d[i] of mmaBf16 for columns 8 n ...
//   wgmmaFence(r...)  before the first product after registers were touched: those of d (unless by a product) or of a. r: all of them
//   wgmmaCommit()     closes a group of products
//   wgmmaWait<N>(r...) all but the newest N groups are complete: only then are d, a and the tiles in shared memory free again. r: these d
//   fenceAsyncProxy() products read shared memory through another path than threads: after writes (or waitAsync), before the barrier
// BGE_WGMMA: the code being compiled may use them; elsewhere these words do nothing, so a kernel must not be run there.
#if defined(BGE_CUDA_EMULATED) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define BGE_WGMMA
#endif

// A tile in shared memory under the 128-byte swizzle: rows of 128 bytes, eight of them a unit of 1024 bytes that starts at a multiple of
// 1024; in row r the 16-byte chunk c lies at c ^ (r % 8). `shared`: the tile, plus 32 bytes for every 16 of depth that lie along the rows.
//   rows are d's rows or columns (K-major): strideBytes from one unit to the next 8 rows; leadingBytes is not used
//   rows are the depth (transposed, MN-major): strideBytes from one unit to the next 8 of depth; leadingBytes to the next 64 columns
__device__ __forceinline__ uint64_t wgmmaDescriptor(const void* shared, uint32_t leadingBytes, uint32_t strideBytes) {
  const uint64_t address = sharedAddress(shared) >> 4 & 0x3fffu, leading = leadingBytes >> 4 & 0x3fffu, stride = strideBytes >> 4 & 0x3fffu;
  return address | leading << 16 | stride << 32 | uint64_t{1} << 62;
}

__device__ __forceinline__ void fenceAsyncProxy() {
#if defined(BGE_CUDA_EMULATED)
  emulated::fenceAsyncProxy();
#elif defined(BGE_WGMMA)
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

#define BGE_WGMMA_D                                                                                                       \
  "+f"(d[0][0]), "+f"(d[0][1]), "+f"(d[0][2]), "+f"(d[0][3]), "+f"(d[1][0]), "+f"(d[1][1]), "+f"(d[1][2]), "+f"(d[1][3]), \
  "+f"(d[2][0]), "+f"(d[2][1]), "+f"(d[2][2]), "+f"(d[2][3]), "+f"(d[3][0]), "+f"(d[3][1]), "+f"(d[3][2]), "+f"(d[3][3]), \
  "+f"(d[4][0]), "+f"(d[4][1]), "+f"(d[4][2]), "+f"(d[4][3]), "+f"(d[5][0]), "+f"(d[5][1]), "+f"(d[5][2]), "+f"(d[5][3]), \
  "+f"(d[6][0]), "+f"(d[6][1]), "+f"(d[6][2]), "+f"(d[6][3]), "+f"(d[7][0]), "+f"(d[7][1]), "+f"(d[7][2]), "+f"(d[7][3])
// An empty statement that reads and writes registers, so that the compiler moves no use of them past the fence or the wait beside it.
__device__ __forceinline__ void holdRegisters([[maybe_unused]] float (&d)[8][4]) {
#if !defined(BGE_CUDA_EMULATED) && defined(BGE_WGMMA)
  asm volatile("" : BGE_WGMMA_D : : "memory");
#endif
}
__device__ __forceinline__ void holdRegisters([[maybe_unused]] uint32_t (&a)[4]) {
#if !defined(BGE_CUDA_EMULATED) && defined(BGE_WGMMA)
  asm volatile("" : "+r"(a[0]), "+r"(a[1]), "+r"(a[2]), "+r"(a[3]) : : "memory");
#endif
}
template <class... Registers>
__device__ __forceinline__ void wgmmaFence(Registers&... registers) {
  (holdRegisters(registers), ...);
#if defined(BGE_CUDA_EMULATED)
  emulated::wgmmaFence();
#elif defined(BGE_WGMMA)
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#endif
}
__device__ __forceinline__ void wgmmaCommit() {
#if defined(BGE_CUDA_EMULATED)
  emulated::wgmmaCommit();
#elif defined(BGE_WGMMA)
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
#endif
}
template <int pending, class... Registers>
__device__ __forceinline__ void wgmmaWait(Registers&... registers) {
#if defined(BGE_CUDA_EMULATED)
  emulated::wgmmaWait(pending);
#elif defined(BGE_WGMMA)
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(pending) : "memory");
#endif
  (holdRegisters(registers), ...);
}

// d = a b (accumulate: d += a b): a (64, 16) from a tile whose rows are d's rows, b (16, 64) from one whose rows are d's columns.
__device__ __forceinline__ void wgmmaBf16(float (&d)[8][4], uint64_t a, uint64_t b, bool accumulate) {
#if defined(BGE_CUDA_EMULATED)
  emulated::wgmma(d, nullptr, a, b, false, accumulate);
#elif defined(BGE_WGMMA)
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %34, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
      "%32, %33, p, 1, 1, 0, 0;\n}"
      : BGE_WGMMA_D
      : "l"(a), "l"(b), "r"(static_cast<int>(accumulate)));
#endif
}
// d += a b: a in registers, as operand A of mmaBf16 for the warp's 16 rows; b (16, 64) from a tile whose rows are the depth.
__device__ __forceinline__ void wgmmaBf16Transposed(float (&d)[8][4], const uint32_t (&a)[4], uint64_t b) {
#if defined(BGE_CUDA_EMULATED)
  emulated::wgmma(d, a, 0, b, true, true);
#elif defined(BGE_WGMMA)
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, 1, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
      "{%32, %33, %34, %35}, %36, p, 1, 1, 1;\n}"
      : BGE_WGMMA_D
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
#endif
}
#undef BGE_WGMMA_D

// -- host --------------------------------------------------------------------------------------------------------------------------------
// Throws Error (ERR_BGE_OOM for want of memory, else ERR_BGE_INTERNAL) unless status is cudaSuccess. `what`: what was being done.
void check(cudaError_t status, const std::string& what);
void raiseSharedLimit(const void* kernel, size_t bytes, const std::string& name);  // cuda.cu

// launch(kernel, dim3 grid, dim3 block, size_t sharedBytes, cudaStream_t stream, args...): checks for errors, raises the kernel's limit of
// dynamic shared memory where it needs more than 48 KiB, and names the kernel in the error. A grid without blocks launches nothing.
#define launch(...) ::bge::launchNamed(#__VA_ARGS__, __VA_ARGS__)

template <class... Parameters, class... Arguments>
void launchNamed(const char* call, void (*kernel)(Parameters...), dim3 gridSize, dim3 blockSize, size_t sharedBytes, cudaStream_t stream,
                 Arguments&&... arguments) {
  static_assert(sizeof...(Parameters) == sizeof...(Arguments), "the kernel's number of arguments");
  if (gridSize.x == 0 || gridSize.y == 0 || gridSize.z == 0) return;
  // "attention<64, true>, dim3(...), ...": up to the comma that is not inside of brackets.
  const auto name = [call] {
    int depth = 0;
    const char* p = call;
    for (; *p && (*p != ',' || depth > 0); ++p) depth += (*p == '<' || *p == '(') - (*p == '>' || *p == ')');
    return std::string(call, p);
  };
  std::tuple<std::decay_t<Parameters>...> values(static_cast<std::decay_t<Parameters>>(std::forward<Arguments>(arguments))...);
#if defined(BGE_CUDA_EMULATED)
  const std::string named = name();
  std::apply(
      [&](const auto&... v) {
        const auto one = [&](const auto& value) {
          if constexpr (std::is_pointer_v<std::decay_t<decltype(value)>>) {
            try {
              emulated::checkDevicePointer(reinterpret_cast<const void*>(value), named);
            } catch (const std::exception& e) {
              throw Error("ERR_BGE_INTERNAL", e.what());
            }
          }
        };
        (one(v), ...);
      },
      values);
  const auto status = static_cast<cudaError_t>(
      emulated::submit(stream, {named, gridSize, blockSize, sharedBytes, [kernel, values] { std::apply(kernel, values); }}));
#else
  if (sharedBytes > (48u << 10)) raiseSharedLimit(reinterpret_cast<const void*>(kernel), sharedBytes, name());
  const auto status = std::apply(
      [&](auto&... v) {
        void* pointers[] = {static_cast<void*>(&v)..., nullptr};
        return cudaLaunchKernel(reinterpret_cast<const void*>(kernel), gridSize, blockSize, pointers, sharedBytes, stream);
      },
      values);
#endif
  if (status != cudaSuccess) {
    check(status, "kernel " + name() + " with grid " + std::to_string(gridSize.x) + "x" + std::to_string(gridSize.y) + "x" +
                      std::to_string(gridSize.z) + ", block " + std::to_string(blockSize.x * blockSize.y * blockSize.z) + ", " +
                      std::to_string(sharedBytes) + " bytes of shared memory");
  }
}

}  // namespace bge

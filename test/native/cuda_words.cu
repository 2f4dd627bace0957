// The words of kernel.h. Fragments are built here by the formulas of the PTX ISA, element by element, and products compared with plain
// loops: in the emulator this checks the emulator, on a GPU it checks these formulas. What only the emulator shows (a missing wait or
// barrier, divergence, writes out of bounds) is asked of it with faulty kernels.
#include <algorithm>
#include <cmath>

#include "check.h"
#include "core/cuda/kernel.h"

namespace bge {

namespace {

// a_i of the PTX ISA: row = groupID for i in [0, 2) and [4, 6), else groupID + 8; column = threadID_in_group * 2 + (i & 1), + 8 for i >= 4.
// b_i: row = threadID_in_group * 2 + (i & 1), + 8 for i >= 2; column = groupID. c_i: row = groupID, + 8 for i >= 2; column = ... * 2 + (i &
// 1).
__global__ void mma16Kernel(float* d, const uint16_t* a, const uint16_t* b, bool half) {
  const int lane = static_cast<int>(threadIdx.x), group = lane >> 2, inGroup = lane % 4;
  uint32_t fa[4], fb[2];
  float fd[4];
  for (int r = 0; r < 4; ++r) {
    uint32_t pair[2];
    for (int e = 0; e < 2; ++e) {
      const int i = r * 2 + e, row = i < 2 || (i >= 4 && i < 6) ? group : group + 8, column = inGroup * 2 + (i & 1) + (i < 4 ? 0 : 8);
      pair[e] = a[row * 16 + column];
    }
    fa[r] = pair[0] | pair[1] << 16;
  }
  for (int r = 0; r < 2; ++r) {
    uint32_t pair[2];
    for (int e = 0; e < 2; ++e) {
      const int i = r * 2 + e, row = inGroup * 2 + (i & 1) + (i < 2 ? 0 : 8);
      pair[e] = b[row * 8 + group];
    }
    fb[r] = pair[0] | pair[1] << 16;
  }
  for (int i = 0; i < 4; ++i) fd[i] = d[(i < 2 ? group : group + 8) * 8 + inGroup * 2 + (i & 1)];
  if (half)
    mmaF16(fd, fa, fb);
  else
    mmaBf16(fd, fa, fb);
  for (int i = 0; i < 4; ++i) d[(i < 2 ? group : group + 8) * 8 + inGroup * 2 + (i & 1)] = fd[i];
}

// m16n8k8: a_i: row = groupID for i in {0, 2}, else + 8; column = threadID_in_group, + 4 for i >= 2. b_i: row = threadID_in_group + 4 i.
__global__ void mmaTf32Kernel(float* d, const float* a, const float* b) {
  const int lane = static_cast<int>(threadIdx.x), group = lane >> 2, inGroup = lane % 4;
  uint32_t fa[4], fb[2];
  float fd[4] = {0, 0, 0, 0};
  for (int i = 0; i < 4; ++i) fa[i] = roundTf32(a[(i == 0 || i == 2 ? group : group + 8) * 8 + inGroup + (i < 2 ? 0 : 4)]);
  for (int i = 0; i < 2; ++i) fb[i] = roundTf32(b[(inGroup + (i == 0 ? 0 : 4)) * 8 + group]);
  mmaTf32(fd, fa, fb);
  for (int i = 0; i < 4; ++i) d[(i < 2 ? group : group + 8) * 8 + inGroup * 2 + (i & 1)] = fd[i];
}

// The way of a real kernel: cp.async, ldmatrix, mma. B is stored as (column, depth), or as (depth, column) and loaded transposed.
__global__ void pathKernel(float* d, const bf16* a, const bf16* b, bool transposed) {
  BGE_SHARED(bf16, shared);
  bf16 *sharedA = shared, *sharedB = shared + 256;
  const int lane = static_cast<int>(threadIdx.x), group = lane >> 2, inGroup = lane % 4;
  copyAsync16(sharedA + lane * 8, a + lane * 8);
  if (lane < 16) copyAsync16(sharedB + lane * 8, b + lane * 8);
  commitAsync();
  waitAsync<0>();
  __syncwarp();
  uint32_t fa[4], fb[2];
  ldmatrix4(fa, sharedA + lane % 16 * 16 + lane / 16 * 8);
  if (transposed)
    ldmatrix2Transposed(fb, sharedB + lane % 16 * 8);
  else
    ldmatrix2(fb, sharedB + lane % 8 * 16 + lane / 8 % 2 * 8);
  float fd[4] = {0, 0, 0, 0};
  mmaBf16(fd, fa, fb);
  for (int i = 0; i < 4; ++i) d[(i < 2 ? group : group + 8) * 8 + inGroup * 2 + (i & 1)] = fd[i];
}

__global__ void ldmatrixKernel(uint32_t* out, const uint16_t* in, bool transposed) {  // four 8x8 matrices
  BGE_SHARED_STATIC(uint16_t, shared, 256);
  for (int i = static_cast<int>(threadIdx.x); i < 256; i += 32) shared[i] = in[i];
  __syncthreads();
  uint32_t r[4];
  if (transposed)
    ldmatrix4Transposed(r, shared + threadIdx.x * 8);
  else
    ldmatrix4(r, shared + threadIdx.x * 8);
  for (int m = 0; m < 4; ++m) out[threadIdx.x * 4 + m] = r[m];
}

// The last of three groups is still under way when the first two are used; the fourth is not copied.
__global__ void pipelineKernel(float* out, const float* in) {
  BGE_SHARED(float, shared);
  const int t = static_cast<int>(threadIdx.x);
  for (int stage = 0; stage < 3; ++stage) {
    copyAsync16(shared + (stage * 32 + t) * 4, in + (stage * 32 + t) * 4, stage != 1);
    commitAsync();
  }
  waitAsync<1>();
  for (int i = 0; i < 4; ++i) out[t * 4 + i] = shared[t * 4 + i] + shared[(32 + t) * 4 + i];
}

__global__ void sumKernel(float* sums, float* largest, const float* in, int n) {
  BGE_SHARED_STATIC(float, scratch, 32);
  const int t = static_cast<int>(threadIdx.x + blockDim.x * threadIdx.y), threads = static_cast<int>(blockDim.x * blockDim.y);
  float v = 0;
  for (int i = t; i < n; i += threads) v += in[i];
  v = blockSum(v, scratch);
  sums[static_cast<int>(blockIdx.x) * threads + t] = v;
  if (t < 32) largest[t] = warpMax(in[t]);
}

__global__ void halfWarpsKernel(int* out) {
  const int t = static_cast<int>(threadIdx.x);
  out[t] = t < 16 ? __shfl_xor_sync(0x0000ffffu, t, 3) : __shfl_xor_sync(0xffff0000u, t, 5);
}

constexpr size_t kTwoTiles = 2 * 8192 + 1024;
#if defined(BGE_WGMMA)
// Where element (row, column) of a tile of 64 columns lies under the 128-byte swizzle of the PTX ISA: rows of 128 bytes from a multiple of
// 1024 on; of the resulting address, bits 4 .. 6 are exclusive-ored with bits 7 .. 9.
__device__ char* swizzled(char* shared, int row, int column) {
  const uint32_t start = sharedAddress(shared), linear = start + static_cast<uint32_t>(row * 128 + column * 2);
  return shared + ((linear ^ ((linear >> 7 & 7) << 4)) - start);
}
__device__ char* nextUnit(char* shared) { return shared + (-sharedAddress(shared) & 1023u); }
#endif

// d (64, 64) += a (64, 64) b, a in tile 0 or in registers. b: stored as its transpose (a in a tile), or as it is (a in registers).
template <bool registers>
__global__ void wgmmaKernel(float* d, const uint16_t* a, const uint16_t* b, bool accumulate) {
#if defined(BGE_WGMMA)
  BGE_SHARED(char, unaligned);
  char *const tileA = nextUnit(unaligned), *const tileB = tileA + 8192;
  const int t = static_cast<int>(threadIdx.x), lane = t % 32, warp = t / 32;
  for (int i = t; i < 4096; i += 128) {
    const int row = i / 64, column = i % 64;
    *reinterpret_cast<uint16_t*>(swizzled(tileA, row, column)) = a[i];
    if (registers)
      *reinterpret_cast<uint16_t*>(swizzled(tileB, row, column)) = b[i];
    else
      *reinterpret_cast<uint16_t*>(swizzled(tileB, column, row)) = b[i];
  }
  fenceAsyncProxy();
  __syncthreads();
  // d_i of the PTX ISA: row = 16 (warp % 4) + lane / 4 + 8 ((i / 2) % 2), column = 8 (i / 4) + 2 (lane % 4) + i % 2.
  const auto at = [&](int i) { return (16 * warp + lane / 4 + 8 * (i / 2 % 2)) * 64 + 8 * (i / 4) + 2 * (lane % 4) + i % 2; };
  float fd[8][4];
  uint32_t fa[4][4];
  for (int i = 0; i < 32; ++i) fd[i / 4][i % 4] = d[at(i)];
  for (int step = 0; step < 4; ++step) {
    for (int r = 0; r < 4; ++r) {  // a_i: row = 16 warp + lane / 4 + 8 ((i / 2) % 2), column = 8 (i / 4) + 2 (lane % 4) + i % 2
      const int row = 16 * warp + lane / 4 + 8 * (r % 2), column = 16 * step + 8 * (r / 2) + 2 * (lane % 4);
      fa[step][r] = a[row * 64 + column] | static_cast<uint32_t>(a[row * 64 + column + 1]) << 16;
    }
  }
  wgmmaFence(fd, fa[0], fa[1], fa[2], fa[3]);
#pragma unroll
  for (int step = 0; step < 4; ++step) {
    if (registers)
      wgmmaBf16Transposed(fd, fa[step], wgmmaDescriptor(tileB + step * 16 * 128, 1024, 1024));
    else
      wgmmaBf16(fd, wgmmaDescriptor(tileA + step * 32, 1024, 1024), wgmmaDescriptor(tileB + step * 32, 1024, 1024), accumulate || step > 0);
    if (step == 1) wgmmaCommit();  // the second group goes on from the first's results
  }
  wgmmaCommit();
  wgmmaWait<0>(fd);
  for (int i = 0; i < 32; ++i) d[at(i)] = fd[i / 4][i % 4];
#endif
}

__global__ void addOneKernel(int* p) {
  if (threadIdx.x == 0) p[blockIdx.x] += 1;
}

#if defined(BGE_CUDA_EMULATED)
__global__ void missingWait(float* out, const float* in) {
  BGE_SHARED(float, shared);
  copyAsync16(shared + threadIdx.x * 4, in + threadIdx.x * 4);
  commitAsync();
  __syncthreads();
  out[threadIdx.x] = shared[threadIdx.x * 4];
}
__global__ void uninitialised(float* out) {
  BGE_SHARED(float, shared);
  BGE_SHARED_STATIC(float, fixed, 128);
  out[threadIdx.x] = threadIdx.x % 2 == 0 ? shared[threadIdx.x] : fixed[threadIdx.x];
}
__global__ void missingBarrier(float* out) {
  BGE_SHARED(float, shared);
  shared[threadIdx.x] = static_cast<float>(threadIdx.x);
  out[threadIdx.x] = shared[(threadIdx.x + 64) % blockDim.x];
}
__global__ void earlyExit(float* out) {
  if (threadIdx.x == 3) return;
  __syncthreads();
  out[threadIdx.x] = 1;
}
__global__ void twoBarriers(float* out) {
  if (threadIdx.x < 32)
    __syncthreads();
  else
    __syncthreads();
  out[threadIdx.x] = 1;
}
__global__ void divergentWarp(float* out) {
  float v = 1;
  if (threadIdx.x < 16)
    v = shuffleXor(v, 1);
  else
    __syncwarp();
  out[threadIdx.x] = v;
}
__global__ void overrun(float* out) {
  BGE_SHARED(float, shared);
  shared[threadIdx.x + 1] = 1;
  out[threadIdx.x] = 1;
}
__global__ void overrunDevice(float* out) { out[threadIdx.x + 1] = 1; }
enum class Wgmma : int { right, wait, fence, proxyFence, alignment, swizzle, warp, accumulator, operand };
// One product with one fault. `in`: 8 KiB, which is both operands.
__global__ void faultyWgmma(float* out, const float* in, Wgmma fault) {
  BGE_SHARED(char, unaligned);
  char* const tile = nextUnit(unaligned) + (fault == Wgmma::alignment ? 128 : 0);
  const int t = static_cast<int>(threadIdx.x);
  for (int i = t; i < 512; i += 128) copyAsync16(tile + i * 16, in + i * 4);
  commitAsync();
  waitAsync<0>();
  if (fault != Wgmma::proxyFence) fenceAsyncProxy();
  __syncthreads();
  float d[8][4] = {};
  const uint64_t both = wgmmaDescriptor(tile, 1024, 1024) ^ (fault == Wgmma::swizzle ? uint64_t{3} << 62 : 0);
  if (fault != Wgmma::fence) wgmmaFence();
  if (fault != Wgmma::warp || t < 96) wgmmaBf16(d, both, both, false);
  if (fault == Wgmma::accumulator) d[3][1] = 0;
  if (fault == Wgmma::operand) *reinterpret_cast<float*>(tile) = 8;
  wgmmaCommit();
  if (fault == Wgmma::wait) out[t] = d[1][2];
  wgmmaWait<0>();
  if (fault != Wgmma::wait) out[t] = d[1][2];
}
__global__ void unendedWgmma(float* out) {
  BGE_SHARED(char, unaligned);
  char* const tile = nextUnit(unaligned);
  float d[8][4] = {};
  wgmmaFence();
  wgmmaBf16(d, wgmmaDescriptor(tile, 1024, 1024), wgmmaDescriptor(tile, 1024, 1024), false);
  out[threadIdx.x] = 1;
}
__global__ void misaligned(float* out) {
  BGE_SHARED(char, shared);
  uint32_t r[4];
  ldmatrix4(r, shared + threadIdx.x * 8);
  out[threadIdx.x] = static_cast<float>(r[0]);
}
#endif

struct Stream {
  cudaStream_t stream = nullptr;
  Stream() { check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "a stream"); }
  ~Stream() { cudaStreamDestroy(stream); }
  void wait() const { check(cudaStreamSynchronize(stream), "waiting"); }
};

template <class T>
struct Array {
  const Stream& s;
  size_t n;
  T* p = nullptr;
  Array(const Stream& stream, size_t size) : s(stream), n(size) {
    check(cudaMalloc(reinterpret_cast<void**>(&p), n * sizeof(T)), "memory");
  }
  Array(const Stream& stream, const std::vector<T>& v) : Array(stream, v.size()) {
    check(cudaMemcpyAsync(p, v.data(), n * sizeof(T), cudaMemcpyHostToDevice, s.stream), "an upload");
    s.wait();
  }
  ~Array() { cudaFree(p); }
  std::vector<T> read() const {
    std::vector<T> v(n);
    check(cudaMemcpyAsync(v.data(), p, n * sizeof(T), cudaMemcpyDeviceToHost, s.stream), "a download");
    s.wait();
    return v;
  }
};

// The largest difference between d (rows, columns) and c + a (rows, K) b.
template <class A, class B>
double difference(const std::vector<float>& d, const std::vector<float>& c, int K, A a, B b, int rows = 16, int columns = 8) {
  double worst = 0;
  for (int i = 0; i < rows; ++i) {
    for (int j = 0; j < columns; ++j) {
      double sum = static_cast<double>(c[static_cast<size_t>(i * columns + j)]);
      for (int k = 0; k < K; ++k) sum += static_cast<double>(a(i, k)) * static_cast<double>(b(k, j));
      worst = std::max(worst, std::fabs(sum - static_cast<double>(d[static_cast<size_t>(i * columns + j)])));
    }
  }
  return worst;
}
// 16 products of numbers up to 2, summed in fp32: far below this, and a wrong fragment is far above.
constexpr double kSmall = 1e-4;

void products(const Stream& s) {
  const std::vector<float> zeros(128, 0.0f);
  for (int round = 0; round < 10; ++round) {
    std::vector<float> a(256), b(128), c(128);
    for (float& v : a) v = test::anyNumber();
    for (float& v : b) v = test::anyNumber();
    for (float& v : c) v = test::anyNumber();
    for (const bool half : {false, true}) {
      const auto bits = [&](float v) { return half ? __half_as_ushort(__float2half_rn(v)) : __bfloat16_as_ushort(__float2bfloat16_rn(v)); };
      const auto value = [&](float v) { return half ? toFloat(fromFloat<f16>(v)) : toFloat(fromFloat<bf16>(v)); };
      std::vector<uint16_t> bitsA, bitsB;
      for (float v : a) bitsA.push_back(bits(v));
      for (float v : b) bitsB.push_back(bits(v));
      const Array<uint16_t> da(s, bitsA), db(s, bitsB);
      const Array<float> d(s, c);
      launch(mma16Kernel, 1, 32, 0, s.stream, d.p, da.p, db.p, half);
      const auto A = [&](int i, int k) { return value(a[static_cast<size_t>(i * 16 + k)]); };
      EXPECT(difference(d.read(), c, 16, A, [&](int k, int j) { return value(b[static_cast<size_t>(k * 8 + j)]); }) < kSmall);
      if (half) continue;
      for (const bool transposed : {false, true}) {
        launch(pathKernel, 1, 32, 768, s.stream, d.p, reinterpret_cast<const bf16*>(da.p), reinterpret_cast<const bf16*>(db.p), transposed);
        const auto B = [&](int k, int j) { return value(b[static_cast<size_t>(transposed ? k * 8 + j : j * 16 + k)]); };
        EXPECT(difference(d.read(), zeros, 16, A, B) < kSmall);
      }
    }
    const Array<float> da(s, a), db(s, b), d(s, zeros);
    launch(mmaTf32Kernel, 1, 32, 0, s.stream, d.p, da.p, db.p);
    const auto rounded = [](float v) { return bitsAs<float>(roundTf32(v)); };
    EXPECT(difference(
               d.read(), zeros, 8, [&](int i, int k) { return rounded(a[static_cast<size_t>(i * 8 + k)]); },
               [&](int k, int j) { return rounded(b[static_cast<size_t>(k * 8 + j)]); }) < kSmall);
  }
}

void warpgroupProducts(const Stream& s) {
  cudaDeviceProp properties;
  check(cudaGetDeviceProperties(&properties, 0), "the device's properties");
  if (properties.major != 9 || properties.minor != 0) return;  // the words need it
  std::vector<float> a(4096), b(4096), c(4096);
  for (float& v : a) v = test::anyNumber();
  for (float& v : b) v = test::anyNumber();
  for (float& v : c) v = test::anyNumber();
  std::vector<uint16_t> bitsA, bitsB;
  for (float v : a) bitsA.push_back(__bfloat16_as_ushort(__float2bfloat16_rn(v)));
  for (float v : b) bitsB.push_back(__bfloat16_as_ushort(__float2bfloat16_rn(v)));
  const Array<uint16_t> da(s, bitsA), db(s, bitsB);
  const auto A = [&](int i, int k) { return toFloat(fromFloat<bf16>(a[static_cast<size_t>(i * 64 + k)])); };
  const auto B = [&](int k, int j) { return toFloat(fromFloat<bf16>(b[static_cast<size_t>(k * 64 + j)])); };
  const auto expect = [&](void (*kernel)(float*, const uint16_t*, const uint16_t*, bool), bool accumulate) {
    const Array<float> d(s, c);
    launch(kernel, 1, 128, kTwoTiles, s.stream, d.p, da.p, db.p, accumulate);
    EXPECT(difference(d.read(), accumulate ? c : std::vector<float>(4096, 0.0f), 64, A, B, 64, 64) < 4 * kSmall);
  };
  expect(wgmmaKernel<false>, false);
  expect(wgmmaKernel<false>, true);
  expect(wgmmaKernel<true>, true);
}

void loads(const Stream& s) {
  std::vector<uint16_t> in(256);
  for (size_t i = 0; i < in.size(); ++i) in[i] = static_cast<uint16_t>(i);
  const Array<uint16_t> from(s, in);
  const Array<uint32_t> out(s, 128);
  for (const bool transposed : {false, true}) {
    launch(ldmatrixKernel, 1, 32, 0, s.stream, out.p, from.p, transposed);
    const auto r = out.read();
    bool good = true;
    for (uint32_t lane = 0; lane < 32; ++lane) {
      for (uint32_t m = 0; m < 4; ++m) {
        const uint32_t i = lane / 4, j = lane % 4 * 2;
        const uint32_t low = m * 64 + (transposed ? j * 8 + i : i * 8 + j), high = m * 64 + (transposed ? (j + 1) * 8 + i : i * 8 + j + 1);
        good = good && r[lane * 4 + m] == (low | high << 16);
      }
    }
    EXPECT(good);
  }
  std::vector<float> numbers(384);
  for (float& v : numbers) v = test::anyNumber();
  const Array<float> source(s, numbers), sum(s, 128);
  launch(pipelineKernel, 1, 32, 1536, s.stream, sum.p, source.p);
  EXPECT(sum.read() == std::vector<float>(numbers.begin(), numbers.begin() + 128));  // group 1 is zeros
}

void reductions(const Stream& s) {
  std::vector<float> in(1000);
  double exact = 0;
  for (float& v : in) exact += static_cast<double>(v = test::anyNumber());
  const Array<float> from(s, in), sums(s, 480), largest(s, 32);
  for (const dim3& block : {dim3(160), dim3(32, 5)}) {
    launch(sumKernel, 3, block, 0, s.stream, sums.p, largest.p, from.p, 1000);
    const auto r = sums.read();
    for (float v : r) EXPECT(v == r[0]);
    EXPECT(std::fabs(static_cast<double>(r[0]) - exact) < 1e-3);
    EXPECT(largest.read() == std::vector<float>(32, *std::max_element(in.begin(), in.begin() + 32)));
  }
  in[7] = NAN;
  const Array<float> withNaN(s, in);
  launch(sumKernel, 3, 160, 0, s.stream, sums.p, largest.p, withNaN.p, 1000);
  for (float v : largest.read()) EXPECT(std::isnan(v));
  const Array<int> out(s, 32);
  launch(halfWarpsKernel, 1, 32, 0, s.stream, out.p);
  const auto r = out.read();
  for (int i = 0; i < 32; ++i) EXPECT(r[static_cast<size_t>(i)] == (i < 16 ? i ^ 3 : i ^ 5));
}

void graphs(const Stream& s) {
  const Array<int> counters(s, std::vector<int>(4, 10));
  check(cudaStreamBeginCapture(s.stream, cudaStreamCaptureModeThreadLocal), "a capture");
  for (int i = 0; i < 3; ++i) launch(addOneKernel, 4, 32, 0, s.stream, counters.p);
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t exec = nullptr;
  check(cudaStreamEndCapture(s.stream, &graph), "a capture");
  check(cudaGraphInstantiate(&exec, graph, 0), "a graph");
  check(cudaGraphDestroy(graph), "a graph");
  EXPECT(counters.read() == std::vector<int>(4, 10));
  for (int i = 0; i < 2; ++i) check(cudaGraphLaunch(exec, s.stream), "a replay");
  EXPECT(counters.read() == std::vector<int>(4, 16));
  check(cudaGraphExecDestroy(exec), "a graph");
}

// 16-bit rounding on the host side of the words: ties to even, overflow, subnormals, NaN.
void rounding() {
  const auto viaBf16 = [](float v) { return toFloat(fromFloat<bf16>(v)); };
  const auto viaF16 = [](float v) { return toFloat(fromFloat<f16>(v)); };
  EXPECT(viaBf16(1.00390625f) == 1.0f && viaBf16(1.01171875f) == 1.015625f);  // halves go to the even neighbour
  EXPECT(std::isinf(viaBf16(3.4e38f)) && std::isnan(viaBf16(NAN)));
  EXPECT(viaF16(2049.0f) == 2048.0f && viaF16(2051.0f) == 2052.0f);
  EXPECT(viaF16(65519.0f) == 65504.0f && std::isinf(viaF16(65520.0f)) && std::isnan(viaF16(NAN)));
  EXPECT(viaF16(5.9604644775390625e-08f) == 5.9604644775390625e-08f && viaF16(2.9802322387695312e-08f) == 0.0f && viaF16(-1e-5f) < 0);
  EXPECT(unpackBf16(packBf16(1.5f, -2.0f)).x == 1.5f && unpackBf16(packBf16(1.5f, -2.0f)).y == -2.0f);
  EXPECT(unpackF16(packF16(1.5f, -2.0f)).x == 1.5f && unpackF16(packF16(1.5f, -2.0f)).y == -2.0f);
}

#if defined(BGE_CUDA_EMULATED)
void faults(const Stream& s) {
  const Array<float> in(s, std::vector<float>(512, 3.0f)), out(s, std::vector<float>(128, 0.0f));
  const Array<float> tile(s, std::vector<float>(2048, bitsAs<float>(0x3f803f80u)));  // ones in bf16
  constexpr float ones = 16;
  const auto under = [](const char* seed) { setenv("BGE_CUDA_EMULATED_ORDER", seed, 1); };
  launch(missingWait, 1, 128, 2048, s.stream, out.p, in.p);
  for (float v : out.read()) EXPECT(std::isnan(v));
  launch(uninitialised, 1, 128, 512, s.stream, out.p);
  for (float v : out.read()) EXPECT(std::isnan(v));
  std::vector<std::vector<float>> orders;
  for (const char* seed : {"5", "6"}) {
    under(seed);
    launch(missingBarrier, 1, 128, 512, s.stream, out.p);
    orders.push_back(out.read());
  }
  EXPECT(std::memcmp(orders[0].data(), orders[1].data(), 512) != 0);
  for (const char* seed : {"0", "7"}) {
    under(seed);
    const auto error = [&](void (*kernel)(float*), unsigned int threads, size_t shared) {
      return test::errorOf([&] {
        launch(kernel, 1, threads, shared, s.stream, out.p);
        s.wait();
      });
    };
    EXPECT(test::has(error(earlyExit, 64, 0), "1 of 64 threads have exited, 63 wait at"));
    EXPECT(test::has(error(twoBarriers, 64, 0), "divergence: 32 threads wait at barrier 0"));
    EXPECT(test::has(error(divergentWarp, 32, 0), "divergence: lane"));
    EXPECT(test::has(error(overrun, 128, 512), "outside of its 512 bytes of dynamic shared memory"));
    EXPECT(test::has(error(overrunDevice, 128, 0), "behind the end of an allocation of 512 bytes"));
    EXPECT(test::has(error(misaligned, 32, 4096), "ldmatrix: the shared address is not 16-byte aligned"));
    EXPECT(test::has(error(misaligned, 32, 64), "outside of shared memory") || test::has(error(misaligned, 32, 64), "16-byte aligned"));
    const auto wgmmaError = [&](Wgmma fault) {
      return test::errorOf([&] {
        launch(faultyWgmma, 1, 128, kTwoTiles, s.stream, out.p, tile.p, fault);
        s.wait();
      });
    };
    EXPECT(wgmmaError(Wgmma::right).empty());
    for (float v : out.read()) EXPECT(v == ones);
    EXPECT(wgmmaError(Wgmma::wait).empty());
    for (float v : out.read()) EXPECT(std::isnan(v));
    EXPECT(test::has(wgmmaError(Wgmma::fence), "without a wgmma.fence"));
    EXPECT(test::has(wgmmaError(Wgmma::proxyFence), "without a fence.proxy.async"));
    EXPECT(test::has(wgmmaError(Wgmma::alignment), "must start at a multiple of 1024 bytes"));
    EXPECT(test::has(wgmmaError(Wgmma::swizzle), "128-byte swizzle only"));
    EXPECT(test::has(wgmmaError(Wgmma::warp), "different numbers of wgmma"));
    EXPECT(test::has(wgmmaError(Wgmma::accumulator), "an accumulator was written before the wait"));
    EXPECT(test::has(wgmmaError(Wgmma::operand), "an operand in shared memory changed before the wait"));
    EXPECT(test::has(error(unendedWgmma, 128, kTwoTiles), "has exited while its wgmma is in flight"));
    EXPECT(test::has(error(overrun, 2000, 0), "invalid configuration"));
    EXPECT(test::has(error(overrun, 32, 1 << 20), "invalid configuration"));
  }
  under("0");
  std::vector<float> host(128);
  EXPECT(test::has(test::errorOf([&] { launch(overrunDevice, 1, 32, 0, s.stream, host.data()); }),
                   "overrunDevice was given a pointer that is not device memory"));
}
#endif

}  // namespace

void test::words() {
  const Stream s;
  rounding();
  products(s);
  warpgroupProducts(s);
  loads(s);
  reductions(s);
  graphs(s);
#if defined(BGE_CUDA_EMULATED)
  faults(s);
#endif
}

}  // namespace bge

// The peaks of this machine, from registers: fp32 multiply-adds, and the dot products of bf16 and int8 where it has them. `peak <threads>` prints
// GFLOP/s in fp32, the best of several short runs. Compile with -O3 -march=native -ffp-contract=fast.
// BGE_PEAK_WITHOUT_MAIN leaves the functions only, for kernels.cc.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

// Independent chains: at least latency (4) times units (2), and no more than there are registers.
#if defined(__AVX512F__)
constexpr int kBytes = 64, kChains = 16;
#elif defined(__AVX__)
constexpr int kBytes = 32, kChains = 12;
#else
constexpr int kBytes = 16, kChains = 12;
#endif
typedef float Vector __attribute__((vector_size(kBytes)));
constexpr int kSteps = 2000000;

template <class V, class Number, class Step>
static float chains(Step step) {
  V x[kChains];
  // Each from a value that is its own, and unknown: chains that are equal are one chain to the compiler, and a known one is no chain at all.
  volatile int one = 1;
  for (int c = 0; c < kChains; ++c) x[c] = V{} + static_cast<Number>(one + c);
  for (int i = 0; i < kSteps; ++i) {
#pragma GCC unroll 16
    for (int c = 0; c < kChains; ++c) x[c] = step(x[c]);
  }
  float sum = 0;
  for (int c = 0; c < kChains; ++c) sum += static_cast<float>(x[c][0]);
  return sum;
}

static float fp32Chains() {
  const Vector factor = Vector{} + 0.999f, term = Vector{} + 0.001f;
  return chains<Vector, float>([=](Vector x) { return x * factor + term; });
}

// Multiplications and additions of one step of a chain, on `threads` threads, in 1e9 a second.
static double best(float (*work)(), double operations, int threads) {
  double most = 0;
  volatile float sink = 0;
  for (int run = 0; run < 7; ++run) {
    std::vector<std::thread> all;
    const auto start = std::chrono::steady_clock::now();
    for (int t = 0; t < threads; ++t) all.emplace_back([&sink, work] { sink = work(); });
    for (auto& thread : all) thread.join();
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    most = std::max(most, operations * kSteps * kChains * threads / seconds / 1e9);
  }
  return most;
}

// GFLOP/s of `threads` threads
double fmaPeak(int threads) { return best(fp32Chains, 2.0 * (kBytes / 4), threads); }

// The same in bf16 and int8; 0 where the machine lacks the instruction.
#if defined(__AVX512BF16__)
static float bf16Chains() {
  const __m512bh one = (__m512bh)_mm512_set1_epi16(0x3f80);
  return chains<__m512, float>([=](__m512 x) { return _mm512_dpbf16_ps(x, one, one); });
}
double bf16Peak(int threads) { return best(bf16Chains, 4.0 * 16, threads); }
#else
double bf16Peak(int) { return 0; }
#endif
#if defined(__AVX512VNNI__)
typedef int Integers __attribute__((vector_size(64)));
static float int8Chains() {
  const __m512i one = _mm512_set1_epi8(1);
  return chains<Integers, int>([=](Integers x) { return (Integers)_mm512_dpbusd_epi32((__m512i)x, one, one); });
}
double int8Peak(int threads) { return best(int8Chains, 8.0 * 16, threads); }
#else
double int8Peak(int) { return 0; }
#endif

#ifndef BGE_PEAK_WITHOUT_MAIN
int main(int argc, char** argv) { std::printf("%.1f\n", fmaPeak(argc > 1 ? std::atoi(argv[1]) : 1)); }
#endif

// The fp32 FMA peak of this machine: `peak <threads>` prints GFLOP/s, the best of several short runs. Compile with -O3 -march=native -ffp-contract=fast.
// BGE_PEAK_WITHOUT_MAIN leaves the function only, for kernels.cc.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>

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

static float chains() {
  Vector x[kChains], factor = Vector{} + 0.999f, term = Vector{} + 0.001f;
  for (int c = 0; c < kChains; ++c) x[c] = Vector{} + static_cast<float>(c);
  for (int step = 0; step < kSteps; ++step) {
#pragma GCC unroll 16
    for (int c = 0; c < kChains; ++c) x[c] = x[c] * factor + term;
  }
  float sum = 0;
  for (int c = 0; c < kChains; ++c) sum += x[c][0];
  return sum;
}

// GFLOP/s of `threads` threads
double fmaPeak(int threads) {
  double best = 0;
  volatile float sink = 0;
  for (int run = 0; run < 7; ++run) {
    std::vector<std::thread> all;
    const auto start = std::chrono::steady_clock::now();
    for (int t = 0; t < threads; ++t) all.emplace_back([&sink] { sink = chains(); });
    for (auto& thread : all) thread.join();
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    best = std::max(best, 2.0 * kSteps * kChains * (kBytes / 4) * threads / seconds / 1e9);
  }
  return best;
}

#ifndef BGE_PEAK_WITHOUT_MAIN
int main(int argc, char** argv) { std::printf("%.1f\n", fmaPeak(argc > 1 ? std::atoi(argv[1]) : 1)); }
#endif

// The harness of the kernel benchmark: arrays on the device, checks against double precision, timing beside the machine's FMA peak.
#pragma once
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <functional>
#include <map>
#include <random>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

#include "core/backend.h"

double fmaPeak(int threads), bf16Peak(int threads), int8Peak(int threads);  // peak.cc

namespace bge::bench {

using std::string;
using std::to_string;
using std::vector;

// Rounded to nearest even.
inline float bf16(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  bits = (bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000u;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

// As in test/support/check.ts: on the entries looked at, an op may err so many times as much as the plain formula of its type does, both against
// double precision, or two units in the last place of the largest entry.
enum Kind { kValue = 2, kGradient = 3 };

class Checks {
 public:
  // f(0.0) is the formula in double, f(0.0f) in float.
  template <class F> void compare(const string& output, double got, F&& f) { add(output, got, f(0.0), f(0.0f)); }
  void add(const string& output, double got, double exact, double plain) {
    if (!std::isfinite(got)) throw std::runtime_error(output + " must be " + to_string(exact) + ", but was " + to_string(got));
    Output& o = outputs_[output];
    o.error = std::max(o.error, std::fabs(got - exact));
    o.plain = std::max(o.plain, std::fabs(plain - exact));
    o.scale = std::max(o.scale, std::fabs(exact));
    ++entries;
  }
  void equal(const string& what, int64_t got, int64_t wanted) {
    if (got != wanted) throw std::runtime_error(what + " must be " + to_string(wanted) + ", but was " + to_string(got));
  }
  // The largest error as a share of what is allowed.
  double verify(Kind kind) const {
    double worst = 0;
    for (const auto& [name, o] : outputs_) {
      const double allowed = std::max(kind * o.plain, 2 * std::ldexp(o.scale, -23));
      char text[200];
      std::snprintf(text, sizeof text, ": error %.3g, allowed %.3g, largest entry %.3g", o.error, allowed, o.scale);
      if (o.scale == 0 || o.error > allowed) throw std::runtime_error(name + text);
      worst = std::max(worst, o.error / allowed);
    }
    return worst;
  }
  int64_t entries = 0;

 private:
  struct Output { double error = 0, plain = 0, scale = 0; };
  std::map<string, Output> outputs_;
};

struct Result { string name; double seconds, median, gflops, gigabytes, errorOfAllowed; int64_t entries; };

struct Bench {
  Backend& device;
  int threads;
  vector<string> words;
  string dtype = "fp32";  // what the device's linear layers multiply in
  std::minstd_rand random{1};
  double measurePeak() const { return dtype == "bf16" ? bf16Peak(threads) : dtype == "int8" ? int8Peak(threads) : fmaPeak(threads); }
  double peak = measurePeak();  // taken again after every case, the best is kept: other programs only ever make it smaller
  vector<Result> results = {};

  // What a linear layer makes of an operand: n values `stride` apart, rows of x (activation) or of W.
  vector<float> operand(const float* x, int64_t stride, int64_t n, bool activation) const {
    vector<float> row(static_cast<size_t>(n));
    for (int64_t i = 0; i < n; ++i) row[i] = x[i * stride];
    if (dtype == "bf16") {
      for (float& v : row) v = bf16(v);
    } else if (dtype == "int8") {
      const auto [least, most] = std::minmax_element(row.begin(), row.end());
      const float low = activation ? *least : 0, step = activation ? (*most - low) / 255 : std::max(-*least, *most) / 127;
      for (float& v : row) v = step > 0 ? low + step * std::nearbyint((v - low) / step) : low;
    }
    return row;
  }
  // Visits 100 entries (row, column) of an output, the last one among them.
  template <class F> void sample(int64_t rows, int64_t cols, F&& visit) {
    visit(rows - 1, cols - 1);
    for (int i = 1; i < 100; ++i) {
      const int64_t row = below(rows);  // before the column: the order of two arguments would be the compiler's choice
      visit(row, below(cols));
    }
  }
  int64_t below(int64_t n) { return static_cast<int64_t>(random() % static_cast<uint64_t>(n)); }
  bool wants(const string& name) const {
    return std::all_of(words.begin(), words.end(), [&](const string& w) { return name.find(w) != string::npos; });
  }
  // flops or bytes of one run, the other is 0; bytes count every value read and every value written once. `reset`, not timed, comes before
  // every run of an op that works in place.
  void measure(const string& name, Kind kind, double flops, double bytes, const std::function<void()>& reset,
               const std::function<void()>& run, const std::function<void(Checks&)>& check) {
    Checks checks;
    double worst, spent = 0;
    reset();
    run();
    try {
      check(checks);
      worst = checks.verify(kind);
    } catch (const std::runtime_error& e) {
      throw std::runtime_error(name + ": wrong result: " + e.what());
    }
    vector<double> seconds;
    while (seconds.size() < 5 || (spent < 0.3 && seconds.size() < 1000)) {
      reset();
      device.synchronize();
      const auto start = std::chrono::steady_clock::now();
      run();
      device.synchronize();
      seconds.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
      spent += seconds.back();
    }
    std::sort(seconds.begin(), seconds.end());
    const double best = seconds.front();
    results.push_back({name, best, seconds[seconds.size() / 2], flops / best / 1e9, bytes / best / 1e9, worst, checks.entries});
    peak = std::max(peak, measurePeak());
    std::fprintf(stderr, "%s: %lld entries right, %.3f ms\n", name.c_str(), static_cast<long long>(checks.entries), 1e3 * best);
  }
};

// An array on the device, and on the host the values it began with.
template <class T>
struct Array {
  Bench& bench;
  vector<T> host;
  T* data;
  Array(Bench& b, vector<T> values)
      : bench(b), host(std::move(values)), data(static_cast<T*>(b.device.allocate(host.size() * sizeof(T)))) { upload(); }
  Array(Bench& b, int64_t n, float scale = 1, float shift = 0) : Array(b, values(b, n, scale, shift)) {}
  ~Array() { bench.device.release(data); }
  Array(const Array&) = delete;
  Array& operator=(const Array&) = delete;
  void upload() { bench.device.upload(data, host.data(), host.size() * sizeof(T)); }
  vector<T> download() const {
    vector<T> now(host.size());
    bench.device.download(now.data(), data, now.size() * sizeof(T));
    return now;
  }
  static vector<T> values(Bench& b, int64_t n, float scale, float shift) {  // uniform in shift +- scale
    vector<T> v(static_cast<size_t>(n));
    for (T& x : v) x = static_cast<T>(shift + scale * (static_cast<float>(b.random()) / 1073741824.0f - 1));
    return v;
  }
};
using Floats = Array<float>;
inline const auto nothing = [] {};

// Plain formulas are templates: in double they are the truth, in float the measure of the error that is allowed.
template <class Real>
Real dot(const float* a, int64_t aStep, const float* b, int64_t bStep, int64_t n) {
  Real sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += static_cast<Real>(a[i * aStep]) * static_cast<Real>(b[i * bStep]);
  return sum;
}

// A product of a linear layer: exact in double, plain in float, of operands as the device's type has them.
template <class Real>
Real dotOf(const Bench& bench, const float* a, int64_t aStep, const float* b, int64_t bStep, int64_t n) {
  if constexpr (std::is_same_v<Real, double>) return dot<Real>(a, aStep, b, bStep, n);
  else return dot<Real>(bench.operand(a, aStep, n, true).data(), 1, bench.operand(b, bStep, n, false).data(), 1, n);
}

// kernels_products.cc; R rows, I inputs, O outputs, N sequences of L tokens, H heads
void linear(Bench& bench, const string& model, int64_t R, int64_t I, int64_t O, Activation activation);
void linearBackwardInput(Bench& bench, const string& model, int64_t R, int64_t I, int64_t O, bool gelu);
void linearBackwardWeight(Bench& bench, const string& model, int64_t R, int64_t I, int64_t O);
void attention(Bench& bench, const string& model, int64_t N, int64_t L, int64_t H, bool backward);
// kernels_objectives.cc; R masked positions, V words, B queries with G passages each, M passages of width D
void crossEntropy(Bench& bench, int64_t R, int64_t V);
void contrastive(Bench& bench, int64_t rows, int64_t B, int32_t G);
void topK(Bench& bench, const string& model, int64_t B, int64_t M, int64_t D, int32_t k);

}  // namespace bge::bench

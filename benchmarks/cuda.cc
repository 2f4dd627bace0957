// Speed of the CUDA kernels at BERT shapes, through core/backend.h: no CUDA header, no Node.
//   npm run bench:cuda -- [words of the case ...] [--library FILE] [--device N] [--json FILE] [--quick]
// Ceilings first, in the same process: a burst (10 products of 8192^3, bf16, random data, after 3 to warm up), the same product for
// --sustained SECONDS (default 10), and a copy of 1 GiB. Every case: one run to warm up, then runs in groups that fill about a millisecond,
// each group timed from an idle device to an idle device, at least 30 groups, a pause between cases. Caches are warm: a case finds its
// operands as its last run left them. Median, fastest and 95th percentile are of groups. Correctness is not checked here (npm run
// gpu:check).
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <functional>
#include <random>
#include <thread>

#include "core/cuda_library.h"

using namespace bge;
using std::string;
using std::to_string;
using std::vector;

namespace {

struct Result {
  string name;
  double fastest, median, p95, flops, bytes;
  int64_t groups;
};

struct Bench {
  Backend& device;
  vector<string> words;
  bool quick;
  std::minstd_rand random{1};
  vector<Result> results = {};
  vector<void*> owned = {};

  ~Bench() { releaseAll(); }
  void releaseAll() {
    for (void* p : owned) device.release(p);
    owned.clear();
  }
  bool wants(const string& name) const {
    return std::all_of(words.begin(), words.end(), [&](const string& w) { return name.find(w) != string::npos; });
  }
  template <class T>
  T* upload(const vector<T>& v) {
    auto* p = static_cast<T*>(device.allocate(v.size() * sizeof(T)));
    owned.push_back(p);
    device.upload(p, v.data(), v.size() * sizeof(T));
    return p;
  }
  float* floats(int64_t n, float scale = 1, float shift = 0) {
    vector<float> v(static_cast<size_t>(n));
    for (float& x : v) x = shift + scale * (static_cast<float>(random()) / 1073741824.0f - 1);
    return upload(v);
  }
  // Hidden states: of the device's own type.
  Matrix hidden(int64_t rows, int64_t cols, float scale = 1) {
    float* plain = floats(rows * cols, scale);
    if (device.activation() == DType::f32) return {plain, rows, cols};
    void* p = device.allocate(static_cast<size_t>(rows * cols * sizeOf(device.activation())));
    owned.push_back(p);
    const Matrix m(p, device.activation(), rows, cols, cols);
    device.convert(m, {plain, rows, cols});
    return m;
  }
  double seconds(const std::function<void()>& run, int64_t times) {
    device.synchronize();
    const auto start = std::chrono::steady_clock::now();
    for (int64_t i = 0; i < times; ++i) run();
    device.synchronize();
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() / static_cast<double>(times);
  }
  void measure(const string& name, double flops, double bytes, const std::function<void()>& run) {
    try {
      seconds(run, 1);
      const double once = seconds(run, 1);
      const auto each = static_cast<int64_t>(std::clamp(1e-3 / once, 1.0, 100.0));
      vector<double> all;
      const int64_t groups = quick ? 3 : 30;
      double spent = 0;
      while (static_cast<int64_t>(all.size()) < groups || (!quick && spent < 0.2 && all.size() < 300)) {
        all.push_back(seconds(run, each));
        spent += all.back() * static_cast<double>(each);
      }
      std::sort(all.begin(), all.end());
      results.push_back(
          {name, all.front(), all[all.size() / 2], all[all.size() * 95 / 100], flops, bytes, static_cast<int64_t>(all.size())});
      const Result& r = results.back();
      std::printf("%-44s %10.1f us", name.c_str(), 1e6 * r.median);
      if (flops > 0) std::printf("  %8.1f TFLOP/s", flops / r.median / 1e12);
      if (bytes > 0) std::printf("  %8.1f GB/s", bytes / r.median / 1e9);
      std::printf("\n");
      std::fflush(stdout);
    } catch (const Error& e) {
      std::printf("%-44s %s\n", name.c_str(), e.what());
      results.push_back({name, 0, 0, 0, 0, 0, 0});
    }
    releaseAll();
    if (!quick) std::this_thread::sleep_for(std::chrono::milliseconds(200));  // the card cools between cases
  }
};

struct Model {
  const char* name;
  int64_t C, F, H;
};
constexpr Model kModels[] = {{"small", 512, 2048, 8}, {"base", 768, 3072, 12}, {"large", 1024, 4096, 16}};

// The products of a layer over R tokens.
void products(Bench& b, const Model& m, int64_t R) {
  const struct {
    const char* name;
    int64_t in, out;
    bool gelu;
  } layers[] = {{"qkv", m.C, 3 * m.C, false}, {"attention-out", m.C, m.C, false}, {"ffn-in", m.C, m.F, true}, {"ffn-out", m.F, m.C, false}};
  uint64_t version = 1;
  for (const auto& l : layers) {
    const string shape = string(m.name) + " " + to_string(R) + " " + l.name;
    const double flops = 2.0 * static_cast<double>(R * l.in * l.out);
    if (b.wants("linear " + shape)) {
      const Matrix x = b.hidden(R, l.in), out = b.hidden(R, l.out);
      const float* w = b.floats(l.out * l.in, 0.05f);
      const float* bias = b.floats(l.out, 0.1f);
      const Weight weight{w, l.out, l.in, version++};
      b.measure("linear " + shape, flops, 0,
                [&] { b.device.linear(out, x, weight, bias, l.gelu ? Activation::gelu : Activation::none, nullptr); });
    }
    if (b.wants("dgrad " + shape)) {
      const Matrix dX = b.hidden(R, l.in), dOut = b.hidden(R, l.out), pre = b.hidden(R, l.in);
      const float* w = b.floats(l.out * l.in, 0.05f);
      const Weight weight{w, l.out, l.in, version++};
      const bool gelu = l.in == m.F;
      b.measure("dgrad " + shape, flops, 0, [&] { b.device.linearBackwardInput(dX, dOut, weight, false, gelu ? &pre : nullptr); });
    }
    if (b.wants("wgrad " + shape)) {
      const Matrix x = b.hidden(R, l.in), dOut = b.hidden(R, l.out);
      float* dW = b.floats(l.out * l.in, 0);
      float* dBias = b.floats(l.out, 0);
      b.measure("wgrad " + shape, flops, 0, [&] { b.device.linearBackwardWeight(dW, dBias, dOut, x); });
    }
  }
}

// N sequences of L tokens, dropout 0.1 in training.
void attention(Bench& b, const Model& m, int64_t N, int64_t L) {
  const int64_t R = N * L, D = m.C / m.H;
  for (const bool backward : {false, true}) {
    for (const float p : {0.0f, 0.1f}) {
      const string name = string(backward ? "attention-backward " : "attention ") + m.name + " " + to_string(N) + "x" + to_string(L) +
                          (p > 0 ? " dropout" : "");
      if (!b.wants(name)) continue;
      vector<int32_t> offsets, position;
      vector<uint32_t> stream;
      for (int64_t n = 0; n <= N; ++n) offsets.push_back(static_cast<int32_t>(n * L));
      for (int64_t n = 0; n < N; ++n) stream.push_back(static_cast<uint32_t>(n));
      for (int64_t r = 0; r < R; ++r) position.push_back(static_cast<int32_t>(r % L));
      const Matrix qkv = b.hidden(R, 3 * m.C), out = b.hidden(R, m.C), dOut = b.hidden(R, m.C), dQkv = b.hidden(R, 3 * m.C);
      Attention a;
      a.q = qkv.columns(0, m.C), a.k = qkv.columns(m.C, m.C), a.v = qkv.columns(2 * m.C, m.C);
      a.keys.count = static_cast<int32_t>(N), a.keys.rows = R, a.keys.maxLength = static_cast<int32_t>(L);
      a.keys.offsets = b.upload(offsets), a.keys.offsetsHost = offsets.data();
      a.queries = a.keys;
      a.queryPosition = b.upload(position), a.stream = b.upload(stream);
      a.heads = static_cast<int32_t>(m.H), a.headSize = static_cast<int32_t>(D);
      a.dropout.p = p;
      float* lse = b.floats(m.H * R);
      const double flops = (backward ? 10.0 : 4.0) * static_cast<double>(N * L * L * m.C);
      b.device.attention(out, lse, a);
      b.measure(name, flops, 0, [&] {
        if (backward)
          b.device.attentionBackward(dQkv.columns(0, m.C), dQkv.columns(m.C, m.C), dQkv.columns(2 * m.C, m.C), dOut, out, lse, a);
        else
          b.device.attention(out, lse, a);
      });
    }
  }
}

void rows(Bench& b, const Model& m, int64_t R, int64_t L) {
  const string shape = string(m.name) + " " + to_string(R);
  const double element = static_cast<double>(sizeOf(b.device.activation())) * static_cast<double>(R * m.C);
  vector<int32_t> sequence, position, ids;
  vector<uint32_t> stream;
  for (int64_t r = 0; r < R; ++r) {
    sequence.push_back(static_cast<int32_t>(r / L));
    position.push_back(static_cast<int32_t>(r % L));
    ids.push_back(static_cast<int32_t>(b.random() % 21128));
  }
  for (int64_t n = 0; n * L < R; ++n) stream.push_back(static_cast<uint32_t>(n));
  const auto where = [&] { return Rows{R, b.upload(sequence), b.upload(position), b.upload(stream)}; };
  Dropout dropout;
  dropout.p = 0.1f;
  if (b.wants("addLayerNorm " + shape)) {
    const Rows w = where();
    const Matrix x = b.hidden(R, m.C), residual = b.hidden(R, m.C), sum = b.hidden(R, m.C), out = b.hidden(R, m.C);
    float *mean = b.floats(R), *rstd = b.floats(R), *gamma = b.floats(m.C, 0.1f, 1), *beta = b.floats(m.C, 0.1f);
    b.measure("addLayerNorm " + shape, 0, 4 * element,
              [&] { b.device.addLayerNorm(out, sum, mean, rstd, x, residual, gamma, beta, 1e-12f, w, dropout); });
  }
  if (b.wants("addLayerNormBackward " + shape)) {
    const Rows w = where();
    const Matrix sum = b.hidden(R, m.C), dOut = b.hidden(R, m.C), dSum = b.hidden(R, m.C), dX = b.hidden(R, m.C);
    float *mean = b.floats(R, 0.1f), *rstd = b.floats(R, 0.1f, 1), *gamma = b.floats(m.C, 0.1f, 1), *dGamma = b.floats(m.C, 0),
          *dBeta = b.floats(m.C, 0);
    b.measure("addLayerNormBackward " + shape, 0, 4 * element,
              [&] { b.device.addLayerNormBackward(dSum, dX, dGamma, dBeta, dOut, sum, mean, rstd, gamma, w, dropout); });
  }
  if (b.wants("embedding " + shape)) {
    const Rows w = where();
    const int32_t* index = b.upload(ids);
    float *table = b.floats(21128 * m.C), *positions = b.floats(512 * m.C), *type = b.floats(2 * m.C), *gamma = b.floats(m.C, 0.1f, 1),
          *beta = b.floats(m.C);
    const Matrix out = b.hidden(R, m.C);
    b.measure("embedding " + shape, 0, 4.0 * static_cast<double>(R * m.C) + element,
              [&] { b.device.embedding(out, nullptr, nullptr, table, index, positions, type, gamma, beta, 1e-12f, w, dropout); });
  }
  if (b.wants("geluBackward " + shape)) {
    const Matrix d = b.hidden(R, m.F), pre = b.hidden(R, m.F);
    b.measure("geluBackward " + shape, 0, 3 * element * static_cast<double>(m.F) / static_cast<double>(m.C),
              [&] { b.device.geluBackward(d, d, pre); });
  }
}

void objectives(Bench& b) {
  if (b.wants("crossEntropy 4096 x 21128")) {
    const int64_t R = 4096, V = 21128;
    vector<int32_t> labels;
    for (int64_t r = 0; r < R; ++r) labels.push_back(static_cast<int32_t>(b.random() % 21128));
    const int32_t* l = b.upload(labels);
    auto* result = b.upload(vector<CrossEntropyResult>(1));
    float* logits = b.floats(R * V, 3);
    b.measure("crossEntropy 4096 x 21128", 0, 8.0 * R * V, [&] { b.device.crossEntropy(result, {logits, R, V}, l, 1.0f / R); });
  }
  for (const int64_t B : {int64_t{4096}, int64_t{19200}}) {
    const int64_t rows = std::min<int64_t>(B, 4096), D = 768;
    const string name = "contrastive " + to_string(rows) + " of " + to_string(B) + " x " + to_string(B) + " D 768";
    if (!b.wants(name)) continue;
    float *q = b.floats(rows * D, 0.06f), *p = b.floats(B * D, 0.06f), *scores = b.floats(rows * B, 0);
    auto* result = b.upload(vector<ContrastiveResult>(1));
    Contrastive c;
    c.scores = {scores, rows, B};
    c.queries = B;
    c.temperature = 0.02f;
    b.measure(name, 2.0 * static_cast<double>(rows * B * D), 0, [&] {
      b.device.matmul({scores, rows, B}, {q, rows, D}, false, {p, B, D}, true, 1, 0);
      b.device.contrastive(result, c);
    });
  }
  if (b.wants("topK 128 of 1000000 D 768")) {
    const int64_t B = 128, M = 1000000, D = 768;
    const int32_t k = 100;
    float *q = b.floats(B * D), *p = b.floats(M * D), *scores = b.floats(B * k);
    int32_t* indices = b.upload(vector<int32_t>(static_cast<size_t>(B * k)));
    b.measure("topK 128 of 1000000 D 768", 2.0 * B * M * D, 4.0 * M * D,
              [&] { b.device.topK(indices, scores, k, {q, B, D}, {p, M, D}, 0, false); });
  }
  if (b.wants("adamw 102000000")) {
    const int64_t n = 102000000;
    float *parameter = b.floats(n), *m = b.floats(n, 0.1f), *v = b.floats(n, 0.004f, 0.005f), *gradient = b.floats(n);
    auto* norm = b.upload(vector<double>{0});
    AdamW o;
    o.learningRate = 1e-5, o.step = 100, o.maxNorm = 1;
    const AdamWPart part{parameter, m, v, gradient, n, 0.01};
    b.measure("adamw 102000000", 0, 36.0 * n, [&] { b.device.adamw(norm, &part, 1, o); });
  }
}

struct Ceilings {
  double burst = 0, sustained = 0, copy = 0;
};

Ceilings ceilings(Bench& b, double seconds) {
  Ceilings c;
  const int64_t n = b.quick ? 256 : 8192;
  const Matrix x = b.hidden(n, n), out = b.hidden(n, n);
  const Weight w{b.floats(n * n, 0.05f), n, n, 1u << 30};
  const auto run = [&] { b.device.linear(out, x, w, nullptr, Activation::none, nullptr); };
  const double flops = 2.0 * static_cast<double>(n) * static_cast<double>(n) * static_cast<double>(n);
  b.seconds(run, 3);
  c.burst = flops / b.seconds(run, b.quick ? 1 : 10) / 1e12;
  if (seconds > 0 && !b.quick) {
    const auto until = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
    double last = 0;
    while (std::chrono::steady_clock::now() < until) last = b.seconds(run, 100);
    c.sustained = flops / last / 1e12;  // of the last hundred
  }
  b.releaseAll();
  const size_t bytes = b.quick ? size_t{1} << 20 : size_t{1} << 30;
  void *from = b.device.allocate(bytes), *to = b.device.allocate(bytes);
  b.device.zero(from, bytes);
  const auto move = [&] { b.device.copy(to, from, bytes); };
  b.seconds(move, 3);
  c.copy = 2.0 * static_cast<double>(bytes) / b.seconds(move, 10) / 1e9;
  b.device.release(from);
  b.device.release(to);
  std::printf("bf16 product %lld^3: burst %.1f TFLOP/s, sustained %.1f TFLOP/s; copy %.1f GB/s (read and written)\n",
              static_cast<long long>(n), c.burst, c.sustained, c.copy);
  return c;
}

void writeJson(const char* file, const Bench& b, const Ceilings& c) {
  FILE* out = std::fopen(file, "w");
  if (!out) throw Error("ERR_BGE_FILE", string("--json: ") + file + " cannot be written: " + std::strerror(errno));
  char date[32];
  const std::time_t now = std::time(nullptr);
  std::strftime(date, sizeof date, "%Y-%m-%dT%H:%M:%SZ", std::gmtime(&now));
  std::fprintf(out, "{\n  \"device\": \"%s\",\n  \"date\": \"%s\",\n", b.device.description().c_str(), date);
  std::fprintf(out,
               "  \"ceilings\": { \"burstTflops\": %.1f, \"sustainedTflops\": %.1f, \"copyGigabytesPerSecond\": %.1f },\n  \"results\": [",
               c.burst, c.sustained, c.copy);
  for (const Result& r : b.results) {
    std::fprintf(out, "%s\n    { \"case\": \"%s\", ", &r == b.results.data() ? "" : ",", r.name.c_str());
    if (r.groups == 0) {
      std::fprintf(out, "\"failed\": true }");
      continue;
    }
    std::fprintf(out, "\"microseconds\": %.2f, \"fastest\": %.2f, \"p95\": %.2f, \"groups\": %lld", 1e6 * r.median, 1e6 * r.fastest,
                 1e6 * r.p95, static_cast<long long>(r.groups));
    if (r.flops > 0) std::fprintf(out, ", \"tflops\": %.2f", r.flops / r.median / 1e12);
    if (r.bytes > 0) std::fprintf(out, ", \"gigabytesPerSecond\": %.1f", r.bytes / r.median / 1e9);
    std::fprintf(out, " }");
  }
  std::fputs("\n  ]\n}\n", out);
  if (std::fclose(out) != 0) throw Error("ERR_BGE_FILE", string("--json: ") + file + " cannot be written: " + std::strerror(errno));
}

// The library beside this program, which is where the build puts it.
string libraryBeside(const char* program) {
  const string p = program;
  const size_t slash = p.rfind('/');
  return (slash == string::npos ? string(".") : p.substr(0, slash)) + "/bge_cuda.so";
}

}  // namespace

int main(int argc, char** argv) {
  string library = libraryBeside(argv[0]);
  const char* json = nullptr;
  int32_t index = 0;
  double sustained = 10;
  bool quick = false;
  vector<string> words;
  for (int i = 1; i < argc; ++i) {
    const string a = argv[i];
    const auto value = [&] {
      if (i + 1 < argc) return argv[++i];
      std::fprintf(stderr, "%s needs a value\n", a.c_str());
      std::exit(2);
    };
    if (a == "--library")
      library = value();
    else if (a == "--json")
      json = value();
    else if (a == "--device")
      index = std::atoi(value());
    else if (a == "--sustained")
      sustained = std::atof(value());
    else if (a == "--quick")
      quick = true;
    else
      words.push_back(a);
  }
  try {
    const auto device = makeCudaBackend(index, {library});
    Bench bench{*device, words, quick};
    std::printf("%s\n", device->description().c_str());
    const Ceilings c = ceilings(bench, sustained);
    const int64_t tokens = quick ? 64 : 16896;  // 132 x 128: whole waves on an H200
    for (const Model& m : kModels) {
      if (quick && &m != kModels) break;
      products(bench, m, tokens);
      if (!quick) products(bench, m, 128);
      for (const int64_t L : {int64_t{32}, int64_t{128}, int64_t{512}}) {
        if (!quick || L == 32) attention(bench, m, tokens / L, L);
      }
      rows(bench, m, tokens, quick ? 32 : 128);
    }
    if (!quick) objectives(bench);
    if (json) writeJson(json, bench, c);
  } catch (const Error& e) {
    std::fprintf(stderr, "%s: %s\n", e.code.c_str(), e.what());
    return 1;
  }
}

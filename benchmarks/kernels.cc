// Speed of the kernels at BERT shapes, through core/backend.h and without Node; every result is checked before it is timed (kernels.h).
//   npm run bench:kernels -- [words of the case ...] [--isa base|avx2|avx512] [--dtype fp32|bf16|int8] [--threads N] [--json FILE]
// GFLOP/s stand next to the peak of all threads in that type, the best of those taken between the cases of the same run.
// bf16 and int8 change linear layers alone: the other cases are fp32's.
#include "kernels.h"

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <tuple>

#include "core/thread_pool.h"

using namespace bge;
using namespace bge::bench;

namespace {

constexpr int64_t kRows = 2048;  // tokens of a micro-batch
constexpr int64_t kVocabulary = 21128;

void addLayerNorm(Bench& bench, const string& model, int64_t R, int64_t C) {
  const string name = model + " addLayerNorm " + to_string(R) + " x " + to_string(C);
  if (!bench.wants(name)) return;
  Floats x(bench, R * C), residual(bench, R * C), sum(bench, R * C), out(bench, R * C), gamma(bench, C, 0.2f, 1), beta(bench, C, 0.2f);
  Floats mean(bench, R), rstd(bench, R);
  const float epsilon = 1e-12f;
  const auto run = [&] {
    bench.device.addLayerNorm({out.data, R, C}, {sum.data, R, C}, mean.data, rstd.data, {x.data, R, C}, {residual.data, R, C}, gamma.data,
                              beta.data, epsilon, {}, {});
  };
  bench.measure(name, kValue, 0, 4.0 * 4 * R * C, nothing, run, [&](Checks& checks) {
    const auto gotOut = out.download(), gotSum = sum.download();
    for (int64_t r = R - 1; r >= 0; r -= R / 8) {
      const auto row = [&](auto real) {  // the sum, then the normalised row
        using Real = decltype(real);
        vector<Real> s(2 * C);
        Real m = 0, variance = 0;
        for (int64_t c = 0; c < C; ++c) m += s[c] = static_cast<Real>(x.host[r * C + c]) + residual.host[r * C + c];
        m /= static_cast<Real>(C);
        for (int64_t c = 0; c < C; ++c) variance += (s[c] - m) * (s[c] - m);
        const Real scale = 1 / std::sqrt(variance / static_cast<Real>(C) + epsilon);
        for (int64_t c = 0; c < C; ++c) s[C + c] = (s[c] - m) * scale * gamma.host[c] + beta.host[c];
        return s;
      };
      const auto exact = row(0.0);
      const auto plain = row(0.0f);
      for (int64_t c = 0; c < C; ++c) {
        checks.add("sum", gotSum[r * C + c], exact[c], plain[c]);
        checks.add("out", gotOut[r * C + c], exact[C + c], plain[C + c]);
      }
    }
  });
}

// torch.optim.AdamW with clipping; as in torch the scalars are double whatever the tensors are.
void adamw(Bench& bench, int64_t n) {
  const string name = "adamw " + to_string(n);
  if (!bench.wants(name)) return;
  Floats parameter(bench, n), m(bench, n, 0.1f), v(bench, n, 0.004f, 0.005f), gradient(bench, n);
  Array<double> squaredNorm(bench, vector<double>{0});
  AdamW o;
  o.learningRate = 1e-3;
  o.step = 100;
  o.maxNorm = 1;
  const AdamWPart part{parameter.data, m.data, v.data, gradient.data, n, 0.01};
  double squares = 0;
  for (const float g : gradient.host) squares += static_cast<double>(g) * g;
  const auto reset = [&] { parameter.upload(), m.upload(), v.upload(), gradient.upload(); };
  const auto run = [&] { bench.device.adamw(squaredNorm.data, &part, 1, o); };
  bench.measure(name, kValue, 0, 9.0 * 4 * n, reset, run, [&](Checks& checks) {
    const auto gotP = parameter.download(), gotM = m.download(), gotV = v.download();
    bench.sample(n, 1, [&](int64_t i, int64_t) {
      const auto step = [&](auto real) {  // m, v, parameter
        using Real = decltype(real);
        const auto scalar = [](double s) { return static_cast<Real>(s); };
        const Real g = gradient.host[i] * scalar(o.maxNorm / (std::sqrt(squares) + 1e-6));
        const Real m1 = scalar(o.beta1) * m.host[i] + scalar(1 - o.beta1) * g;
        const Real v1 = scalar(o.beta2) * v.host[i] + scalar(1 - o.beta2) * (g * g);
        const Real down = std::sqrt(v1) / scalar(std::sqrt(1 - std::pow(o.beta2, o.step))) + scalar(o.epsilon);
        const Real rate = scalar(o.learningRate / (1 - std::pow(o.beta1, o.step)));
        return vector<Real>{m1, v1, parameter.host[i] * scalar(1 - o.learningRate * part.weightDecay) - rate * (m1 / down)};
      };
      checks.compare("m", gotM[i], [&](auto real) { return step(real)[0]; });
      checks.compare("v", gotV[i], [&](auto real) { return step(real)[1]; });
      checks.compare("parameter", gotP[i], [&](auto real) { return step(real)[2]; });
    });
  });
}

void runLow(Bench& bench) {
  for (const int64_t rows : {16, 128, 512, 2048, 8192}) {
    linear(bench, "small", rows, 512, 2048, Activation::none);
    linear(bench, "small", rows, 512, 2048, Activation::gelu);
    linear(bench, "small", rows, 2048, 512, Activation::none);
  }
  for (const int64_t rows : {16, 512, 2048}) {
    linear(bench, "base", rows, 768, 3072, Activation::none);
    linear(bench, "base", rows, 768, 3072, Activation::gelu);
    linear(bench, "base", rows, 3072, 768, Activation::none);
  }
  if (bench.dtype == "int8") return;
  for (const auto& [model, C, F] : {std::tuple("small", 512, 2048), std::tuple("base", 768, 3072)}) {
    for (const int64_t rows : {int64_t{512}, kRows}) {
      linearBackwardInput(bench, model, rows, C, F, false);
      linearBackwardInput(bench, model, rows, F, C, true);
      linearBackwardWeight(bench, model, rows, C, F);
      linearBackwardWeight(bench, model, rows, F, C);
    }
  }
}

void runAll(Bench& bench) {
  struct Model { const char* name; int64_t hidden, feedForward, heads; };
  for (const auto& [name, C, F, H] : {Model{"small", 512, 2048, 8}, Model{"base", 768, 3072, 12}, Model{"large", 1024, 4096, 16}}) {
    linear(bench, name, 16, C, F, Activation::gelu);  // one query
    linear(bench, name, kRows, C, 3 * C, Activation::none);
    linear(bench, name, kRows, C, F, Activation::gelu);
    linear(bench, name, kRows, F, C, Activation::none);
    linearBackwardInput(bench, name, kRows, C, 3 * C, false);
    linearBackwardInput(bench, name, kRows, F, C, true);
    linearBackwardWeight(bench, name, kRows, C, F);
    for (const int64_t length : {128, 512}) {
      attention(bench, name, kRows / length, length, H, false);
      attention(bench, name, kRows / length, length, H, true);
    }
    addLayerNorm(bench, name, kRows, C);
    topK(bench, name, 64, 32768, C, 100);
  }
  crossEntropy(bench, 256, kVocabulary);
  contrastive(bench, 256, 2048, 8);
  adamw(bench, kVocabulary * 512);  // the largest tensor of bge-small
}

string firstLine(const char* command) {
  char line[256] = "";
  if (FILE* pipe = popen(command, "r")) {
    if (!std::fgets(line, sizeof line, pipe)) line[0] = 0;
    pclose(pipe);
  }
  const string text = string(line).substr(0, std::strcspn(line, "\n"));
  return text.empty() ? "unknown" : text;
}

void print(const Bench& bench) {
  std::printf("%s, %s peak %.1f GFLOP/s\n", bench.device.description().c_str(), bench.dtype.c_str(), bench.peak);
  bool disturbed = false;
  for (const Result& r : bench.results) {
    std::printf("%-50s %9.3f ms  ", r.name.c_str(), 1e3 * r.seconds);
    if (r.gflops > 0) std::printf("%7.1f GFLOP/s  %5.1f %% of the peak\n", r.gflops, 100 * r.gflops / bench.peak);
    else std::printf("%7.1f GB/s\n", r.gigabytes);
    disturbed = disturbed || r.gflops > bench.peak;
  }
  if (disturbed) std::printf("A share above 100 %%: other programs disturbed the peak; run again on a quiet machine.\n");
}

void writeJson(const char* file, const Bench& bench) {
  FILE* out = std::fopen(file, "w");
  if (!out) throw std::runtime_error(string("--json: ") + file + " cannot be written: " + std::strerror(errno));
  char date[32];
  const std::time_t now = std::time(nullptr);
  std::strftime(date, sizeof date, "%Y-%m-%dT%H:%M:%SZ", std::gmtime(&now));
  const string cpu = firstLine("sed -n 's/^model name[^:]*: //p' /proc/cpuinfo 2>/dev/null || sysctl -n machdep.cpu.brand_string");
  const string commit = firstLine("git describe --always --exclude='*' --dirty=' with changes' 2>/dev/null");
  std::fprintf(out, "{\n  \"machine\": { \"cpu\": \"%s\", \"device\": \"%s\", ", cpu.c_str(), bench.device.description().c_str());
  std::fprintf(out, "\"commit\": \"%s\", \"date\": \"%s\" },\n  \"peakGflops\": %.1f,\n", commit.c_str(), date, bench.peak);
  std::fputs("  \"results\": [", out);
  for (const Result& r : bench.results) {
    std::fprintf(out, "%s\n    { \"case\": \"%s\", ", &r == bench.results.data() ? "" : ",", r.name.c_str());
    std::fprintf(out, "\"milliseconds\": %.4f, \"medianMilliseconds\": %.4f, ", 1e3 * r.seconds, 1e3 * r.median);
    if (r.gflops > 0) std::fprintf(out, "\"gflops\": %.1f, \"share\": %.3f, ", r.gflops, r.gflops / bench.peak);
    else std::fprintf(out, "\"gigabytesPerSecond\": %.1f, ", r.gigabytes);
    std::fprintf(out, "\"checkedEntries\": %lld, \"errorOfAllowed\": %.3f }", static_cast<long long>(r.entries), r.errorOfAllowed);
  }
  std::fputs("\n  ]\n}\n", out);
  if (std::fclose(out) != 0) throw std::runtime_error(string("--json: ") + file + " cannot be written: " + std::strerror(errno));
}

}  // namespace

int main(int argc, char** argv) {
  DeviceOptions options;
  const char* json = nullptr;
  vector<string> words;
  for (int i = 1; i < argc; ++i) {
    const string argument = argv[i];
    if (argument.rfind("--", 0) != 0) {
      words.push_back(argument);
      continue;
    }
    const char* value = ++i < argc ? argv[i] : "";
    if (argument == "--isa" && *value) options.isa = value;
    else if (argument == "--dtype" && *value) options.dtype = value;
    else if (argument == "--json" && *value) json = value;
    else if (argument == "--threads" && std::atoi(value) > 0) options.threads = std::atoi(value);
    else {
      const char* allowed = "options must be --isa base|avx2|avx512, --dtype fp32|bf16|int8, --threads N (1 or more) or --json FILE";
      std::fprintf(stderr, "%s, but was %s %s\n", allowed, argument.c_str(), value);
      return 2;
    }
  }
  try {
    if (options.threads == 0) options.threads = ThreadPool::availableThreads();
    const auto device = makeCpuBackend(options);
    Bench bench{*device, options.threads, words, options.dtype};
    if (options.dtype == "fp32") runAll(bench);
    else runLow(bench);
    if (bench.results.empty()) throw std::runtime_error("no case has all of the words given");
    print(bench);
    if (json) writeJson(json, bench);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "%s\n", e.what());
    return 1;
  }
}

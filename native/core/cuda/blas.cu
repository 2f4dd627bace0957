// Plans and calls of cuBLASLt. Everything here is row-major; cuBLASLt is column-major, so it is asked for D^T = op(B)^T op(A)^T: its A is
// our B.
#include "blas.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cinttypes>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <vector>

namespace bge {

// Names and numbers of cublasLt.h (12.0 and later), as far as they are used.
struct BlasAlgorithm {
  uint64_t data[8];
};
struct BlasHeuristic {
  BlasAlgorithm algorithm;
  size_t workspace;
  int state;
  float waves;
  int reserved[4];
};
static_assert(sizeof(BlasHeuristic) == 96, "cublasLtMatmulHeuristicResult_t");

struct BlasApi {
  using Handle = void*;
  int (*Create)(Handle*);
  int (*Destroy)(Handle);
  size_t (*GetVersion)();
  int (*MatmulDescCreate)(void**, int compute, int scale);
  int (*MatmulDescDestroy)(void*);
  int (*MatmulDescSetAttribute)(void*, int attribute, const void*, size_t);
  int (*MatrixLayoutCreate)(void**, int type, uint64_t rows, uint64_t cols, int64_t stride);
  int (*MatrixLayoutDestroy)(void*);
  int (*MatmulPreferenceCreate)(void**);
  int (*MatmulPreferenceDestroy)(void*);
  int (*MatmulPreferenceSetAttribute)(void*, int attribute, const void*, size_t);
  int (*MatmulAlgoGetHeuristic)(Handle, void* operation, void* a, void* b, void* c, void* d, void* preference, int wanted, BlasHeuristic*,
                                int* found);
  int (*MatmulAlgoCheck)(Handle, void* operation, void* a, void* b, void* c, void* d, const BlasAlgorithm*, BlasHeuristic*);
  int (*Matmul)(Handle, void* operation, const void* alpha, const void* a, void* aLayout, const void* b, void* bLayout, const void* beta,
                const void* c, void* cLayout, void* d, void* dLayout, const BlasAlgorithm*, void* workspace, size_t workspaceBytes,
                cudaStream_t);
};

namespace {

constexpr int kCompute32F = 68, kR32F = 0, kR16F = 2, kR16BF = 14;
constexpr int kTransA = 3, kTransB = 4, kEpilogue = 7, kBiasPointer = 8, kBiasType = 26;  // cublasLtMatmulDescAttributes_t
constexpr int kMaxWorkspace = 1, kReductionScheme = 3, kAlignmentA = 5;  // cublasLtMatmulPreferenceAttributes_t; 5 .. 8: A .. D
constexpr int kEpilogueDefault = 1, kEpilogueBias = 4;

constexpr int kCandidates = 8, kTimed = 3;

int cudaType(DType t) { return t == DType::f32 ? kR32F : t == DType::f16 ? kR16F : kR16BF; }

// The largest power of two up to 256 that divides address and row length in bytes.
uint32_t alignment(const Matrix& x) {
  const uint64_t bits = reinterpret_cast<uintptr_t>(x.data) | static_cast<uint64_t>(x.stride * sizeOf(x.type)) | 256u;
  return static_cast<uint32_t>(bits & (~bits + 1));
}

// 1 .. 16, then in steps of a third to a half: 24, 32, 48, 64, 96, ... One algorithm serves all row counts up to the next step.
int64_t bucket(int64_t m) {
  if (m <= 16) return m;
  int64_t b = 16;
  while (b < m) b = b % 3 == 0 ? b / 3 * 4 : b / 2 * 3;
  return b;
}

bool isFile(const std::string& path) {
  struct stat s{};
  return stat(path.c_str(), &s) == 0 && S_ISREG(s.st_mode);
}
bool isFolder(const std::string& path) {
  struct stat s{};
  return stat(path.c_str(), &s) == 0 && S_ISDIR(s.st_mode);
}
std::string variable(const char* name) {
  const char* v = std::getenv(name);
  return v ? v : "";
}
std::string folderOf(const std::string& path) { return path.substr(0, path.rfind('/')); }

// The folder that this library was loaded from.
std::string ownFolder() {
  static const char here = 0;
  Dl_info info{};
  return dladdr(&here, &info) && info.dli_fname && std::string(info.dli_fname).find('/') != std::string::npos ? folderOf(info.dli_fname)
                                                                                                              : "";
}

std::vector<std::string> candidates() {
  std::vector<std::string> found;
  const std::string given = variable("BGE_CUBLASLT");
  const auto inside = [&](const std::string& folder) {
    for (const char* name : {"libcublasLt.so.13", "libcublasLt.so.12"}) found.push_back(folder.empty() ? name : folder + "/" + name);
  };
  if (!given.empty()) {
    if (!isFolder(given)) return {given};
    for (const char* below : {"", "/lib", "/nvidia/cu13/lib", "/nvidia/cublas/lib"}) inside(given + below);
    return found;
  }
  if (const std::string own = ownFolder(); !own.empty()) inside(own);
  inside("");
  for (const char* name : {"CUDA_HOME", "CUDA_PATH"}) {
    if (const std::string home = variable(name); !home.empty()) inside(home + "/lib64");
  }
  inside("/usr/local/cuda/lib64");
  return found;
}

void* openLibrary(std::string& path) {
  std::string tried;
  for (const std::string& candidate : candidates()) {
    // A name without a folder is the loader's to find; a file that is not there needs no word of the loader's.
    const bool named = candidate.find('/') == std::string::npos;
    void* library = named || isFile(candidate) ? dlopen(candidate.c_str(), RTLD_NOW | RTLD_LOCAL) : nullptr;
    if (library) {
      path = candidate;
      return library;
    }
    tried += (tried.empty() ? "" : "; ") + candidate + (named || !isFile(candidate) ? "" : std::string(" (") + dlerror() + ")");
  }
  throw Error(
      "ERR_BGE_DEVICE_UNAVAILABLE",
      "cuBLASLt was not found: install it (for example `pip install nvidia-cublas`) and name its file or folder in BGE_CUBLASLT, or set "
      "BGE_CUDA_GEMM=own for our own slower matrix products. Tried " +
          tried);
}

template <class F>
void resolve(F& function, void* library, const std::string& path, const char* name) {
  const std::string full = std::string("cublasLt") + name;
  function = reinterpret_cast<F>(dlsym(library, full.c_str()));
  if (!function) throw Error("ERR_BGE_DEVICE_UNAVAILABLE", path + " is no cuBLASLt that fits: it lacks " + full);
}

// Creates and destroys one of cuBLASLt's descriptors.
struct Owned {
  void* p = nullptr;
  int (*destroy)(void*) = nullptr;
  ~Owned() {
    if (p) destroy(p);
  }
};

}  // namespace

// One product as cuBLASLt sees it. `ready` is false where a descriptor could not be made.
struct BlasProduct {
  Owned operation, a, b, d;
  bool ready = false;
  BlasProduct(const BlasApi& api, const GemmCall& call, const void* bias, int biasType) {
    const auto layout = [&](Owned& o, const Matrix& x) {
      o.destroy = api.MatrixLayoutDestroy;
      return api.MatrixLayoutCreate(&o.p, cudaType(x.type), static_cast<uint64_t>(x.cols), static_cast<uint64_t>(x.rows), x.stride) == 0;
    };
    const auto set = [&](int attribute, auto value) {
      return api.MatmulDescSetAttribute(operation.p, attribute, &value, sizeof value) == 0;
    };
    operation.destroy = api.MatmulDescDestroy;
    ready = api.MatmulDescCreate(&operation.p, kCompute32F, kR32F) == 0 && set(kTransA, static_cast<int32_t>(call.transposeB)) &&
            set(kTransB, static_cast<int32_t>(call.transposeA)) &&
            set(kEpilogue, static_cast<int32_t>(bias ? kEpilogueBias : kEpilogueDefault)) && layout(a, call.b) && layout(b, call.a) &&
            layout(d, call.d);
    if (ready && bias) ready = set(kBiasPointer, bias) && set(kBiasType, static_cast<int32_t>(biasType));
  }
};

std::unique_ptr<Blas> Blas::open(CudaBackend& backend) {
  const std::string choice = variable("BGE_CUDA_GEMM");
  if (!choice.empty() && choice != "own" && choice != "cublaslt") {
    throw Error("ERR_BGE_ARGUMENT", "BGE_CUDA_GEMM must be cublaslt or own, but was \"" + choice + "\"");
  }
  if (choice == "own") return nullptr;
#if defined(BGE_CUDA_EMULATED)
  if (variable("BGE_CUBLASLT").empty()) return nullptr;
#endif
  std::unique_ptr<Blas> blas(new Blas(backend));
  void* library = openLibrary(blas->path_);  // never closed: it holds state of the driver
  blas->api_ = std::make_unique<BlasApi>();
  BlasApi& api = *blas->api_;
#define BGE_BIND(name) resolve(api.name, library, blas->path_, #name)
  BGE_BIND(Create);
  BGE_BIND(Destroy);
  BGE_BIND(GetVersion);
  BGE_BIND(MatmulDescCreate);
  BGE_BIND(MatmulDescDestroy);
  BGE_BIND(MatmulDescSetAttribute);
  BGE_BIND(MatrixLayoutCreate);
  BGE_BIND(MatrixLayoutDestroy);
  BGE_BIND(MatmulPreferenceCreate);
  BGE_BIND(MatmulPreferenceDestroy);
  BGE_BIND(MatmulPreferenceSetAttribute);
  BGE_BIND(MatmulAlgoGetHeuristic);
  BGE_BIND(MatmulAlgoCheck);
  BGE_BIND(Matmul);
#undef BGE_BIND
  std::string folder = variable("BGE_CACHE"), device = backend.properties_.name;
  if (folder.empty()) folder = variable("HOME").empty() ? "" : variable("HOME") + "/.cache/bge-forge";
  for (char& c : device) {
    if (!std::isalnum(static_cast<unsigned char>(c))) c = '-';
  }
  if (!folder.empty()) blas->file_ = folder + "/cublaslt-" + device + "-" + std::to_string(api.GetVersion()) + ".json";
  return blas;
}

Blas::Blas(CudaBackend& backend) : backend_(backend) {}

Blas::~Blas() {
  if (handle_) api_->Destroy(handle_);
}

std::string Blas::description() const {
  const size_t v = api_->GetVersion();  // 130100 is 13.1.0; 120804 was 12.8.4
  return "cuBLASLt " + std::to_string(v / 10000) + "." + std::to_string(v / 100 % 100) + " from " + path_;
}

// The fused epilogues are worth more than cuBLASLt's speed: a GELU of its own would read and write the widest matrix of a layer once more.
void CudaBackend::product(const GemmCall& call) {
  if (!blas_ || !blas_->multiply(call)) ownGemm(stream_, workspace_, call, multiprocessors());
}

bool Blas::multiply(const GemmCall& call) {
  if (call.gelu || call.preActivation.data || call.geluInput.data || call.m() == 0 || call.n() == 0 || call.k() == 0) return false;
  if (!handle_) {
    if (const int status = api_->Create(&handle_); status != 0) {
      throw Error("ERR_BGE_DEVICE_UNAVAILABLE", path_ + " did not start (cublasLtCreate: status " + std::to_string(status) + ")");
    }
    load();
  }
  const GemmCall& c = call;
  std::ostringstream key;
  const auto operand = [&](const char* name, const Matrix& x, bool transposed) {
    key << ' ' << name
        << (x.type == DType::f32   ? "f32"
            : x.type == DType::f16 ? "f16"
                                   : "bf16")
        << (transposed ? "T" : "") << '/' << alignment(x);
  };
  // A weight gradient's depth is the number of tokens, so depth goes by buckets as well. Row blocks of the contrastive loss differ in height and
  // only the first does not add: one plan for all, found in place.
  key << "m" << bucket(c.m()) << " n" << c.n() << " k" << (!c.transposeA ? c.k() : c.splitDepth ? 0 : bucket(c.k()));
  operand("a", c.a, c.transposeA);
  operand("b", c.b, c.transposeB);
  operand("d", c.d, false);
  key << (c.bias ? " bias" : "") << (c.splitDepth ? " split" : c.beta != 0 ? " add" : "");

  const Arena::Scope scope(backend_.workspace_);
  auto it = plans_.find(key.str());
  if (it == plans_.end()) {
    backend_.notWhileCapturing("a matrix product is timed");
    Plan plan;
    {
      const BlasProduct product(*api_, c, c.bias, kR32F);
      plan = find(product, c);
    }
    if (!plan.exists && c.bias) {
      const BlasProduct product(*api_, c, backend_.cast(c.bias, c.n(), c.biasVersion), kR16BF);
      plan = find(product, c);
      plan.bf16Bias = plan.exists;
    }
    it = plans_.emplace(key.str(), plan).first;
    save();
  }
  const Plan& plan = it->second;
  if (!plan.exists) return false;
  const void* bias = c.bias && plan.bf16Bias ? static_cast<const void*>(backend_.cast(c.bias, c.n(), c.biasVersion)) : c.bias;
  const BlasProduct product(*api_, c, bias, plan.bf16Bias ? kR16BF : kR32F);
  BlasAlgorithm algorithm;
  std::copy_n(plan.algorithm, 8, algorithm.data);
  // Timed at another number of rows of the same bucket, so asked whether it fits; what it needs may differ.
  BlasHeuristic fits{};
  if (!product.ready ||
      api_->MatmulAlgoCheck(handle_, product.operation.p, product.a.p, product.b.p, product.d.p, product.d.p, &algorithm, &fits) != 0 ||
      fits.workspace > c.workspace) {
    return false;
  }
  void* workspace = fits.workspace ? backend_.workspace_.bytes((fits.workspace + 255) / 256 * 256) : nullptr;
#if defined(BGE_CUDA_EMULATED)
  backend_.synchronize();  // the stand-in of the tests computes at once
#endif
  const int status = api_->Matmul(handle_, product.operation.p, &c.alpha, c.b.data, product.a.p, c.a.data, product.b.p, &c.beta, c.d.data,
                                  product.d.p, c.d.data, product.d.p, &algorithm, workspace, fits.workspace, backend_.stream_);
  if (status != 0) throw Error("ERR_BGE_INTERNAL", "cublasLtMatmul failed with status " + std::to_string(status) + " for " + key.str());
  return true;
}

// Times the first eight suggestions: one run to warm up, then the best of three, operands and result as the run before left them in the
// second-level cache (as they are in a model). Suggestions that split the depth are left out where the depth is the width: an embedding must not
// depend on the other rows of the call. A weight gradient's depth is the rows themselves, with few tiles and much depth: there, and where
// splitDepth says so, a split whose partial sums are added in order (scheme 2, by compute type) is allowed.
Blas::Plan Blas::find(const BlasProduct& product, const GemmCall& c) {
  Plan best;
  Owned preference;
  preference.destroy = api_->MatmulPreferenceDestroy;
  if (!product.ready || api_->MatmulPreferenceCreate(&preference.p) != 0) return best;
  const auto set = [&](int attribute, auto value) { api_->MatmulPreferenceSetAttribute(preference.p, attribute, &value, sizeof value); };
  set(kMaxWorkspace, uint64_t{c.workspace});
  set(kReductionScheme, uint32_t{c.transposeA || c.splitDepth ? 2u : 0u});
  set(kAlignmentA, alignment(c.b));
  set(kAlignmentA + 1, alignment(c.a));
  set(kAlignmentA + 2, alignment(c.d));
  set(kAlignmentA + 3, alignment(c.d));
  BlasHeuristic found[kCandidates]{};
  int count = 0;
  if (api_->MatmulAlgoGetHeuristic(handle_, product.operation.p, product.a.p, product.b.p, product.d.p, product.d.p, preference.p,
                                   kCandidates, found, &count) != 0) {
    return best;
  }
  // With beta the product is not repeatable in place: time it on scratch.
  void* d = c.d.data;
  if (c.beta != 0) d = backend_.workspace_.bytes(static_cast<size_t>(c.d.rows * c.d.stride * sizeOf(c.d.type)));
  void* workspace = backend_.workspace_.bytes(c.workspace);
  cudaEvent_t start = nullptr, stop = nullptr;
  check(cudaEventCreateWithFlags(&start, 0), "a CUDA event");
  check(cudaEventCreateWithFlags(&stop, 0), "a CUDA event");
  for (int i = 0; i < count; ++i) {
    if (found[i].state != 0 || found[i].workspace > c.workspace) continue;
    const auto run = [&] {
      return api_->Matmul(handle_, product.operation.p, &c.alpha, c.b.data, product.a.p, c.a.data, product.b.p, &c.beta, d, product.d.p, d,
                          product.d.p, &found[i].algorithm, workspace, found[i].workspace, backend_.stream_);
    };
    if (run() != 0) continue;
    float fastest = 0;
    for (int t = 0; t < kTimed; ++t) {
      float milliseconds = 0;
      check(cudaEventRecord(start, backend_.stream_), "timing a matrix product");
      const int status = run();
      check(cudaEventRecord(stop, backend_.stream_), "timing a matrix product");
      check(cudaEventSynchronize(stop), "timing a matrix product");
      check(cudaEventElapsedTime(&milliseconds, start, stop), "timing a matrix product");
      if (status == 0 && (t == 0 || milliseconds < fastest)) fastest = milliseconds;
    }
    if (best.exists && 1000 * fastest >= best.microseconds) continue;
    best.exists = true;
    std::copy_n(found[i].algorithm.data, 8, best.algorithm);
    best.workspace = found[i].workspace;
    best.microseconds = 1000 * fastest;
  }
  cudaEventDestroy(start);
  cudaEventDestroy(stop);
  return best;
}

// The file: a JSON object, a plan a line:  "key": [exists, bf16Bias, workspace, microseconds, "8 hexadecimal words"],
// Read line by line; anything else in it makes it useless, which is said once, and it is written anew.
void Blas::load() {
  if (loaded_ || file_.empty()) return;
  loaded_ = true;
  std::ifstream in(file_);
  if (!in) return;
  std::map<std::string, Plan> plans;
  std::string line;
  int number = 0;
  bool opened = false, closed = false, good = true;
  while (good && std::getline(in, line)) {
    ++number;
    if (line == "{" && !opened) {
      opened = true;
      continue;
    }
    if (line == "}" && opened && !closed) {
      closed = true;
      continue;
    }
    char key[256], words[160];
    int exists = 0, bf16Bias = 0;
    Plan p;
    good = opened && !closed &&
           std::sscanf(line.c_str(), " \"%255[^\"]\": [%d, %d, %zu, %f, \"%159[0-9a-f ]\"", key, &exists, &bf16Bias, &p.workspace,
                       &p.microseconds, words) == 6;
    if (!good) break;
    const char* next = words;
    for (uint64_t& w : p.algorithm) {
      char* end = nullptr;
      w = std::strtoull(next, &end, 16);
      good = good && end != next;
      next = end;
    }
    p.exists = exists != 0;
    p.bf16Bias = bf16Bias != 0;
    plans[key] = p;
  }
  if (!good || !closed) {
    std::fprintf(stderr, "bge-forge: %s is damaged at line %d and is written anew\n", file_.c_str(), number);
    return;
  }
  plans_ = std::move(plans);
}

// Atomic: written beside, then renamed. A folder that cannot be written costs the timing at the next start, nothing else.
void Blas::save() {
  if (file_.empty()) return;
  const std::string folder = folderOf(file_);
  for (size_t i = 1; i != std::string::npos; i = folder.find('/', i + 1)) mkdir(folder.substr(0, folder.find('/', i)).c_str(), 0777);
  mkdir(folder.c_str(), 0777);
  const std::string beside = file_ + "." + std::to_string(getpid());
  {
    std::ofstream out(beside);
    out << "{\n";
    size_t left = plans_.size();
    for (const auto& [key, p] : plans_) {
      char words[160];
      int n = 0;
      for (int i = 0; i < 8; ++i)
        n += std::snprintf(words + n, sizeof words - static_cast<size_t>(n), i ? " %" PRIx64 : "%" PRIx64, p.algorithm[i]);
      out << "  \"" << key << "\": [" << p.exists << ", " << p.bf16Bias << ", " << p.workspace << ", " << p.microseconds << ", \"" << words
          << "\"]" << (--left ? ",\n" : "\n");
    }
    out << "}\n";
    if (!out.flush()) {
      unlink(beside.c_str());
      return;
    }
  }
  if (std::rename(beside.c_str(), file_.c_str()) != 0) unlink(beside.c_str());
}

}  // namespace bge

// One call of the side door (op.h): device buffers with guards around them, attributes, timing, and the checks after the op.
#pragma once
#include <algorithm>
#include <chrono>
#include <cstring>
#include <functional>
#include <set>
#include <type_traits>

#include "op.h"

namespace bge {

// Around outputs and between rows, and what an output holds before the op: NaNs in fp32 and in both halves as bf16, so that reading
// them shows in the result as well.
inline constexpr uint32_t kGuard = 0x7fd57fd5, kPoison = 0x7feb7feb;
inline constexpr size_t kBefore = 64, kAfter = 256;  // bytes of guard; 64 keeps the alignment that allocate() promises

// One call: its device buffers, its attributes, and the checks.
class OpCall {
 public:
  OpCall(Backend& b, const std::string& op, const OpTensors& in, const std::map<std::string, double>& attributes)
      : backend(b), op_(op), in_(in), attributes_(attributes), pad_(size("pad", 0)) {}
  ~OpCall() {
    for (auto& x : buffers_) {
      backend.forget(reinterpret_cast<const float*>(x.data()));
      backend.release(x.device);
    }
  }
  OpCall(const OpCall&) = delete;
  OpCall& operator=(const OpCall&) = delete;

  Backend& backend;

  double attribute(const std::string& name, double fallback) {
    used_.insert(name);
    const auto it = attributes_.find(name);
    return it == attributes_.end() ? fallback : it->second;
  }
  int64_t size(const std::string& name) {
    if (!attributes_.count(name)) fail("needs the attribute " + name);
    return size(name, 0);
  }
  int64_t size(const std::string& name, int64_t fallback) {
    const double x = attribute(name, static_cast<double>(fallback));
    if (!(x >= 0 && x <= 9007199254740992.0) || x != static_cast<double>(static_cast<int64_t>(x))) {
      fail("needs a whole number, 0 or more, as attribute " + name + ", but got " + std::to_string(x));
    }
    return static_cast<int64_t>(x);
  }
  bool flag(const std::string& name) { return size(name, 0) != 0; }
  bool has(const std::string& name) const { return in_.f.count(name) || in_.i.count(name) || in_.u.count(name) || in_.w.count(name); }

  // Hidden states, rows `pad` values apart. inOut: `from` holds the values before the call, `name` what it leaves there.
  Matrix matrix(const std::string& name, int64_t rows, int64_t cols) {
    return view(makeHidden(name, "", rows, cols, find(in_.f, name, rows * cols)));
  }
  Matrix out(const std::string& name, int64_t rows, int64_t cols) { return view(makeHidden("", name, rows, cols, nullptr)); }
  Matrix inOut(const std::string& from, const std::string& name, int64_t rows, int64_t cols) {
    return view(makeHidden(from, name, rows, cols, find(in_.f, from, rows * cols)));
  }
  // The same for what every device stores as fp32.
  Matrix plainMatrix(const std::string& name, int64_t rows, int64_t cols) {
    return view(make(name, "", rows, cols, cols + pad_, find(in_.f, name, rows * cols)));
  }
  Matrix plainOut(const std::string& name, int64_t rows, int64_t cols) {
    return view(make<float>("", name, rows, cols, cols + pad_, nullptr));
  }
  Matrix plainInOut(const std::string& from, const std::string& name, int64_t rows, int64_t cols) {
    return view(make(from, name, rows, cols, cols + pad_, find(in_.f, from, rows * cols)));
  }
  // Contiguous arrays.
  float* floats(const std::string& name, int64_t n) { return array<float>(make(name, "", 1, n, n, find(in_.f, name, n))); }
  float* outFloats(const std::string& name, int64_t n) { return array<float>(make<float>("", name, 1, n, n, nullptr)); }
  float* inOutFloats(const std::string& name, int64_t n) { return array<float>(make(name, name, 1, n, n, find(in_.f, name, n))); }
  int32_t* ints(const std::string& name, int64_t n) { return array<int32_t>(make(name, "", 1, n, n, find(in_.i, name, n))); }
  int32_t* outInts(const std::string& name, int64_t n) { return array<int32_t>(make<int32_t>("", name, 1, n, n, nullptr)); }
  int32_t* inOutInts(const std::string& name, int64_t n) { return array<int32_t>(make(name, name, 1, n, n, find(in_.i, name, n))); }
  uint32_t* unsignedInts(const std::string& name, int64_t n) { return array<uint32_t>(make(name, "", 1, n, n, find(in_.u, name, n))); }
  uint64_t* words(const std::string& name, int64_t n) { return array<uint64_t>(make(name, "", 1, n, n, find(in_.w, name, n))); }
  const int32_t* hostInts(const std::string& name, int64_t n) { return find(in_.i, name, n); }
  int64_t entries(const std::string& name) const {
    if (in_.i.count(name)) return static_cast<int64_t>(in_.i.at(name).size());
    if (in_.u.count(name)) return static_cast<int64_t>(in_.u.at(name).size());
    if (in_.w.count(name)) return static_cast<int64_t>(in_.w.at(name).size());
    if (in_.f.count(name)) return static_cast<int64_t>(in_.f.at(name).size());
    fail("needs the input " + name);
  }
  // What a forward pass leaves for the backward pass: run()'s `before` writes it, the op must leave it as it is.
  Matrix saved(int64_t rows, int64_t cols) { return view(makeHidden("", kSaved, rows, cols, nullptr)); }
  float* savedFloats(int64_t n) { return array<float>(make<float>("", kSaved, 1, n, n, nullptr)); }
  // A result struct of the contract, with its starting value; read it with value() in `finish`.
  template <class T>
  T* result(const T& initial) {
    return array<T>(make("", kHidden, 1, 1, 1, &initial));
  }
  template <class T>
  T value(const T* device) {
    T v;
    backend.download(&v, device, sizeof(T));
    return v;
  }

  // Runs the op, then returns its outputs. `finish` adds what is not a plain array; `before` runs once, ahead of the op and untimed.
  OpTensors run(const std::function<void()>& op, const std::function<void(OpTensors&)>& finish = nullptr,
                const std::function<void()>& before = nullptr) {
    const int64_t repeat = size("repeat", 0);
    for (auto& [name, unused] : attributes_) {
      if (!used_.count(name)) fail("has no attribute " + name);
    }
    refuseUnused(in_.f), refuseUnused(in_.i), refuseUnused(in_.u), refuseUnused(in_.w);
    const auto mark = backend.workspace().mark();
    std::vector<double> seconds;
    for (int64_t i = 0; i < std::max<int64_t>(repeat, 1); ++i) {
      for (auto& x : buffers_) {
        if (i == 0 || !x.out.empty()) backend.upload(x.device, x.image.data(), x.image.size());
      }
      if (i == 0 && before) {
        before();
        for (auto& x : buffers_) {
          if (x.out == kSaved) freeze(x);
        }
      }
      backend.synchronize();
      const auto start = std::chrono::steady_clock::now();
      op();
      backend.synchronize();
      seconds.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
    }
    const auto after = backend.workspace().mark();
    if (mark.block != after.block || mark.used != after.used) broken("did not give its workspace back");
    OpTensors outputs;
    for (auto& x : buffers_) collect(x, outputs);
    if (repeat > 0) {
      std::nth_element(seconds.begin(), seconds.begin() + static_cast<int64_t>(seconds.size() / 2), seconds.end());
      OpTensors timing;
      timing.f["seconds"] = {static_cast<float>(seconds[seconds.size() / 2])};
      return timing;
    }
    if (finish) finish(outputs);
    return outputs;
  }

  [[noreturn]] void fail(const std::string& what) const { throw Error("ERR_BGE_ARGUMENT", "op " + op_ + " " + what); }

 private:
  enum class Kind { f, i, u, w, raw };
  struct Buffer {
    std::string in, out;  // names; empty out: the op must leave it as it is
    Kind kind;
    size_t element;
    int64_t rows, cols, stride;
    std::vector<char> image;  // guards included
    char* device;
    DType type = DType::f32;  // of a matrix
    char* data() const { return device + kBefore; }
  };
  static constexpr const char* kHidden = "(result)";
  static constexpr const char* kSaved = "(saved)";

  // From here on an input.
  void freeze(Buffer& x) {
    backend.download(x.image.data(), x.device, x.image.size());
    x.in = "(a value saved by the forward pass)";
    x.out.clear();
  }

  template <class T>
  static constexpr Kind kindOf() {
    return std::is_same<T, float>::value ? Kind::f : std::is_same<T, int32_t>::value ? Kind::i : std::is_same<T, uint32_t>::value ? Kind::u
           : std::is_same<T, uint64_t>::value ? Kind::w : Kind::raw;
  }
  static void fill(char* at, size_t bytes, uint32_t pattern) {
    for (size_t k = 0; k < bytes; k += 2) std::memcpy(at + k, &pattern, 2);  // both halves are the same
  }

  template <class T>
  const T* find(const std::map<std::string, std::vector<T>>& values, const std::string& name, int64_t n) {
    used_.insert(name);
    const auto it = values.find(name);
    if (it == values.end()) {
      static constexpr const char* types[] = {"Float32Array", "Int32Array", "Uint32Array", "BigUint64Array"};
      fail("needs the input " + name + ", of type " + types[static_cast<int>(kindOf<T>())]);
    }
    if (static_cast<int64_t>(it->second.size()) != n) {
      throw Error("ERR_BGE_SHAPE", "input " + name + " of op " + op_ + " must have " + std::to_string(n) + " entries, but has " +
                                       std::to_string(it->second.size()));
    }
    return it->second.data();
  }
  template <class T>
  void refuseUnused(const std::map<std::string, std::vector<T>>& values) const {
    for (auto& [name, unused] : values) {
      if (!used_.count(name)) fail("has no input " + name + " with these attributes");
    }
  }

  template <class T>
  Buffer& make(const std::string& in, const std::string& out, int64_t rows, int64_t cols, int64_t stride, const T* values) {
    Buffer x{in, out, kindOf<T>(), sizeof(T), rows, cols, stride, {}, nullptr};
    x.image.resize(kBefore + static_cast<size_t>(rows * stride) * sizeof(T) + kAfter);
    fill(x.image.data(), x.image.size(), kGuard);
    for (int64_t r = 0; r < rows; ++r) {
      char* row = x.image.data() + kBefore + static_cast<size_t>(r * stride) * sizeof(T);
      const size_t bytes = static_cast<size_t>(cols) * sizeof(T);
      if (values == nullptr) fill(row, bytes, kPoison);
      else if (bytes > 0) std::memcpy(row, values + r * cols, bytes);
    }
    x.device = static_cast<char*>(backend.allocate(x.image.size()));
    buffers_.push_back(std::move(x));
    return buffers_.back();
  }
  // A matrix in the device's activation type, or in fp32 where the attribute `<name>F32` is set (name: of the output, if it is one).
  Buffer& makeHidden(const std::string& in, const std::string& out, int64_t rows, int64_t cols, const float* values) {
    const bool plain = flag((out.empty() ? in : out) + "F32");
    if (plain || backend.activation() == DType::f32) return make(in, out, rows, cols, cols + pad_, values);
    std::vector<uint16_t> stored;
    if (values) {
      for (int64_t i = 0; i < rows * cols; ++i) stored.push_back(toBf16(values[i]));
    }
    Buffer& x = make(in, out, rows, cols, cols + pad_, values ? stored.data() : static_cast<const uint16_t*>(nullptr));
    x.kind = Kind::f;
    x.type = DType::bf16;
    return x;
  }
  static uint16_t toBf16(float value) {  // ties to even
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    if (value != value) return 0x7fc0;
    return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
  }
  static float fromBf16(uint16_t stored) {
    const uint32_t bits = uint32_t{stored} << 16;
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
  }
  Matrix view(const Buffer& x) const { return Matrix(static_cast<void*>(x.data()), x.type, x.rows, x.cols, x.stride); }
  template <class T>
  static T* array(const Buffer& x) {
    return reinterpret_cast<T*>(x.data());
  }

  void collect(const Buffer& x, OpTensors& outputs) {
    std::vector<char> now(x.image.size());
    backend.download(now.data(), x.device, now.size());
    if (x.out.empty()) {
      if (now != x.image) broken("changed its input " + x.in + " (or what lies around it)");
      return;
    }
    const size_t rowBytes = static_cast<size_t>(x.cols) * x.element, strideBytes = static_cast<size_t>(x.stride) * x.element;
    size_t at = 0;
    auto same = [&](size_t end, const char* where) {
      if (std::memcmp(now.data() + at, x.image.data() + at, end - at) != 0) broken("wrote " + std::string(where) + " its output " + x.out);
    };
    same(kBefore, "in front of");
    for (int64_t r = 0; r < x.rows; ++r) {
      at = kBefore + static_cast<size_t>(r) * strideBytes + rowBytes;
      same(kBefore + static_cast<size_t>(r + 1) * strideBytes, "between the rows of");
    }
    at = kBefore + static_cast<size_t>(x.rows) * strideBytes;
    same(now.size(), "behind");
    auto take = [&](auto& map) {
      auto& values = map[x.out];
      values.resize(static_cast<size_t>(x.rows * x.cols));
      for (int64_t r = 0; r < x.rows && rowBytes > 0; ++r) {
        std::memcpy(values.data() + r * x.cols, now.data() + kBefore + static_cast<size_t>(r) * strideBytes, rowBytes);
      }
    };
    if (x.type == DType::bf16) {
      auto& values = outputs.f[x.out];
      for (int64_t r = 0; r < x.rows; ++r) {
        for (int64_t i = 0; i < x.cols; ++i) {
          uint16_t stored;
          std::memcpy(&stored, now.data() + kBefore + static_cast<size_t>(r * x.stride + i) * 2, 2);
          values.push_back(fromBf16(stored));
        }
      }
    } else if (x.kind == Kind::f) take(outputs.f);
    else if (x.kind == Kind::i) take(outputs.i);
  }

  [[noreturn]] void broken(const std::string& what) const {
    throw Error("ERR_BGE_INTERNAL", "op " + op_ + " of device " + backend.description() + " " + what);
  }

  std::string op_;
  const OpTensors& in_;
  const std::map<std::string, double>& attributes_;
  std::set<std::string> used_;
  std::vector<Buffer> buffers_;
  int64_t pad_;
};

}  // namespace bge

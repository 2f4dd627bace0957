#include "parameters.h"

#include <algorithm>
#include <atomic>

namespace bge {

namespace {

constexpr int64_t kAlign = 16;  // floats: 64 bytes

int64_t roundUp(int64_t n) { return (n + kAlign - 1) / kAlign * kAlign; }

class Table {
 public:
  void weight(const std::string& name, std::vector<int64_t> shape) { specs_.push_back({name, std::move(shape), true, 0, 0}); }
  void bias(const std::string& name, int64_t n) { specs_.push_back({name, {n}, false, 0, 0}); }
  void linear(const std::string& name, int64_t out, int64_t in) {
    weight(name + ".weight", {out, in});
    bias(name + ".bias", out);
  }
  void layerNorm(const std::string& name, int64_t n) {
    bias(name + ".weight", n);
    bias(name + ".bias", n);
  }
  void layer(const std::string& prefix, const ModelConfig& c) {
    linear(prefix + "attention.self.query", c.hidden, c.hidden);
    linear(prefix + "attention.self.key", c.hidden, c.hidden);
    linear(prefix + "attention.self.value", c.hidden, c.hidden);
    linear(prefix + "attention.output.dense", c.hidden, c.hidden);
    layerNorm(prefix + "attention.output.LayerNorm", c.hidden);
    linear(prefix + "intermediate.dense", c.intermediate, c.hidden);
    linear(prefix + "output.dense", c.hidden, c.intermediate);
    layerNorm(prefix + "output.LayerNorm", c.hidden);
  }

  // All decayed parameters, then all others: an optimizer step is two runs over a module, and since the trio's weights (and its biases)
  // follow one another in the list, they are neighbours in memory too.
  std::vector<ParameterSpec> finish() {
    int64_t end = 0;
    for (const bool decay : {true, false}) {
      for (auto& s : specs_) {
        s.size = 1;
        for (const int64_t d : s.shape) s.size *= d;
        if (s.decay != decay) continue;
        s.offset = joinsPrevious(s.name) ? end : roundUp(end);
        end = s.offset + s.size;
      }
    }
    return std::move(specs_);
  }

 private:
  static bool joinsPrevious(const std::string& name) {
    return name.find(".self.key.") != std::string::npos || name.find(".self.value.") != std::string::npos;
  }
  std::vector<ParameterSpec> specs_;
};

}  // namespace

std::vector<ParameterSpec> encoderParameters(const ModelConfig& c) {
  Table t;
  t.weight("embeddings.word_embeddings.weight", {c.vocab, c.hidden});
  t.weight("embeddings.position_embeddings.weight", {c.maxPositions, c.hidden});
  t.weight("embeddings.token_type_embeddings.weight", {c.typeVocab, c.hidden});
  t.layerNorm("embeddings.LayerNorm", c.hidden);
  for (int32_t l = 0; l < c.layers; ++l) t.layer("encoder.layer." + std::to_string(l) + ".", c);
  return t.finish();
}

std::vector<ParameterSpec> mlmHeadParameters(const ModelConfig& c) {
  Table t;
  t.bias("cls.predictions.bias", c.vocab);
  t.linear("cls.predictions.transform.dense", c.hidden, c.hidden);
  t.layerNorm("cls.predictions.transform.LayerNorm", c.hidden);
  return t.finish();
}

std::vector<ParameterSpec> decoderParameters(const ModelConfig& c) {
  Table t;
  t.layer("c_head.", c);
  return t.finish();
}

Parameters::Parameters(Backend& b, std::vector<ParameterSpec> s) : backend(b), specs(std::move(s)), version_(nextVersion()) {
  for (const auto& spec : specs) total = std::max(total, roundUp(spec.offset + spec.size));
  const size_t bytes = static_cast<size_t>(total) * sizeof(float);
  values_ = static_cast<float*>(backend.allocate(bytes));
  backend.zero(values_, bytes);
}

Parameters::~Parameters() {
  for (const auto& spec : specs) backend.forget(values_ + spec.offset);
  backend.release(values_);
  if (gradients_) backend.release(gradients_);
}

const ParameterSpec& Parameters::find(const std::string& name) const {
  for (const auto& spec : specs)
    if (spec.name == name) return spec;
  throw Error("ERR_BGE_MODEL_FORMAT", "this module has no parameter named \"" + name + "\"");
}

float* Parameters::value(const std::string& name) const { return values_ + find(name).offset; }

float* Parameters::gradient(const std::string& name) { return gradients() + find(name).offset; }

float* Parameters::gradients() {
  if (!gradients_) {
    gradients_ = static_cast<float*>(backend.allocate(static_cast<size_t>(total) * sizeof(float)));
    zeroGradients();
  }
  return gradients_;
}

void Parameters::zeroGradients() {
  if (gradients_) backend.zero(gradients_, static_cast<size_t>(total) * sizeof(float));
}

Weight Parameters::weight(const std::string& name, int64_t out, int64_t in) const { return {value(name), out, in, version_}; }

void Parameters::changed() { version_ = nextVersion(); }

uint64_t nextVersion() {
  static std::atomic<uint64_t> last{0};
  return ++last;
}

}  // namespace bge

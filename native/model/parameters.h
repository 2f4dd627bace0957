// Parameters of one module in one flat buffer, and the ONE table of their Hugging Face names, shapes and weight-decay groups.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "../core/backend.h"
#include "config.h"

namespace bge {

struct ParameterSpec {
  std::string name;           // Hugging Face state-dict name without a `bert.` prefix
  std::vector<int64_t> shape;
  bool decay = true;          // false for biases and LayerNorm parameters
  int64_t offset = 0;         // in floats from the start of the flat buffer; a multiple of 16 (64 bytes), but key and value just follow
  int64_t size = 0;           // floats
};

// query, key and value of a layer are adjacent (weights together, biases together), so that one (3C, C) product computes all three.
std::vector<ParameterSpec> encoderParameters(const ModelConfig& c);
std::vector<ParameterSpec> mlmHeadParameters(const ModelConfig& c);    // cls.predictions.*; the decoder matrix is the tied word embedding
std::vector<ParameterSpec> decoderParameters(const ModelConfig& c);    // c_head.*: one BERT layer, names as FlagEmbedding's RetroMAE

class Parameters {
 public:
  Parameters(Backend& backend, std::vector<ParameterSpec> specs);  // values start as zero
  ~Parameters();
  Parameters(const Parameters&) = delete;
  Parameters& operator=(const Parameters&) = delete;

  Backend& backend;
  const std::vector<ParameterSpec> specs;
  int64_t total = 0;             // floats in the flat buffer, padding included (padding stays zero)
  const ParameterSpec& find(const std::string& name) const;  // throws ERR_BGE_MODEL_FORMAT
  float* value(const std::string& name) const;
  float* gradient(const std::string& name);   // allocates the gradient buffer (zeroed) on first use
  float* values() const { return values_; }
  float* gradients();                          // flat, allocated on first use
  bool hasGradients() const { return gradients_ != nullptr; }
  void zeroGradients();
  Weight weight(const std::string& name, int64_t out, int64_t in) const;  // with the current version
  uint64_t version() const { return version_; }
  void changed();                              // call after values were written: invalidates packed copies

 private:
  float* values_ = nullptr;
  float* gradients_ = nullptr;
  uint64_t version_;
};

// A fresh version number, never repeated in the process.
uint64_t nextVersion();

}  // namespace bge

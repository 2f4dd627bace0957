// The two building blocks of the encoder and of RetroMAE's decoder, each forward and backward: the embedding layer and one post-LN
// transformer layer (Devlin et al. 2018). A layer's queries may be other rows than its keys and values: the encoder's last layer is
// computed for the rows that are needed, the decoder's queries are a stream of their own.
#pragma once
#include <optional>
#include <string>

#include "batch.h"
#include "parameters.h"

namespace bge {

constexpr uint32_t kEmbeddingLayer = 255;  // names of dropout masks, see Dropout
constexpr uint32_t kDecoderLayer = 256, kDecoderKeyLayer = 257, kDecoderQueryLayer = 258;
constexpr uint32_t kEmbeddingSite = 0, kAttentionSite = 1, kAttentionOutputSite = 2, kOutputSite = 3;
constexpr int32_t kPaddingId = 0;  // [PAD]; torch's padding_idx: looking it up teaches nothing

// The dropout of one pass: a model's rates under a key, or none in inference.
struct DropoutPlan {
  float hidden = 0, attention = 0;
  DropoutKey key;
  DropoutPlan(const ModelConfig& c, const std::optional<DropoutKey>& k);
  Dropout at(uint32_t layer, uint32_t site) const {
    return {site == kAttentionSite ? attention : hidden, key.seed, key.step, layer, site};
  }
};

// dropout(LayerNorm(table[index] + position + type 0)). The table is the word embedding, or for the decoder's query stream the CLS vectors.
struct EmbeddingLayer {
  EmbeddingLayer(Parameters& p, const ModelConfig& c);
  const float* wordTable() const { return p_.values() + word_; }  // (V, C)
  float* wordGradient() const { return p_.gradients() + word_; }
  // out (R, C); index (R); mean, rstd (R), null in inference
  void forward(Matrix out, float* mean, float* rstd, const float* table, const int32_t* index, const Rows& rows,
               const Dropout& dropout) const;
  // dTable (tableRows, C) accumulates, as do the gradients of the module
  void backward(float* dTable, Matrix dOut, const float* mean, const float* rstd, const float* table, int64_t tableRows,
                const int32_t* index, int32_t paddingIndex, const Rows& rows, const Dropout& dropout) const;

 private:
  Parameters& p_;
  float epsilon_;
  int64_t word_, position_, type_, gamma_, beta_;
};

// What one layer computes; backward() reads all of it. The inputs are set by the caller. `joint`: the queries are all T rows, so that
// one (3C, C) product gives query, key and value. Otherwise R query rows have a product of their own.
struct LayerActivations {
  bool joint = false;
  Matrix queryInput, keyInput;  // (R, C), (T, C)
  Matrix query, key, value;     // (R, C), (T, C), (T, C): columns of qkv (T, 3C), or of kv (T, 2C)
  Matrix context;               // (R, C)
  float* lse = nullptr;         // (H, R)
  Matrix attentionSum;          // (R, C) before the LayerNorm
  float *attentionMean = nullptr, *attentionRstd = nullptr;  // (R)
  Matrix attentionOut;          // (R, C)
  Matrix preActivation, gelu;   // (R, F)
  Matrix outputSum;             // (R, C) before the LayerNorm
  float *outputMean = nullptr, *outputRstd = nullptr;        // (R)

  static LayerActivations kept(Arena& arena, DType type, const ModelConfig& c, int64_t queries, int64_t keys, bool joint);
  // Inference: no statistics, memory is used twice. The layer's output may be written over its query input.
  // gelu has min(R, chainRows) rows: the feed-forward part goes through so many at a time.
  static LayerActivations scratch(Arena& arena, DType type, const ModelConfig& c, int64_t queries, int64_t keys, bool joint,
                                  int64_t chainRows);
};

struct LayerCall {
  Packed queries, keys;
  Rows rows;                           // (R) the query rows
  const PositionMask* mask = nullptr;
  DropoutPlan dropout;
  uint32_t layer = 0;                  // for dropout
};

class TransformerLayer {
 public:
  // prefix: "encoder.layer.3." or "c_head."
  TransformerLayer(Parameters& p, const std::string& prefix, const ModelConfig& c);
  // out (R, C)
  void forward(Matrix out, LayerActivations& a, const LayerCall& call) const;
  // d (R, C): the gradient of `out` comes in, that of queryInput goes out. dKeyInput (T, C) is overwritten; a joint layer has none, its
  // d is the gradient of the one input. Accumulates the gradients of the module.
  void backward(Matrix d, Matrix dKeyInput, const LayerActivations& a, const LayerCall& call) const;

 private:
  Weight weight(int64_t offset, int64_t out, int64_t in) const { return {p_.values() + offset, out, in, p_.version()}; }
  const float* value(int64_t offset) const { return p_.values() + offset; }
  float* gradient(int64_t offset) const { return p_.gradients() + offset; }
  Attention attention(const LayerActivations& a, const LayerCall& call) const;

  Parameters& p_;
  int64_t C_, F_;
  int32_t heads_;
  float epsilon_;
  int64_t qkv_, qkvBias_, attentionDense_, attentionDenseBias_, attentionGamma_, attentionBeta_;
  int64_t intermediate_, intermediateBias_, output_, outputBias_, outputGamma_, outputBeta_;
};

}  // namespace bge

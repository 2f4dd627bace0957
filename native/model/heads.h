// RetroMAE's two heads (Xiao et al. 2022; FlagEmbedding variant, recipe.md 2.4).
#pragma once
#include <optional>

#include "encoder.h"

namespace bge {

struct HeadResult { double loss = 0; int64_t correct = 0, count = 0; };  // loss: SUM over labelled rows

// transform (dense C -> C, GELU, LayerNorm), then the tied word embeddings and a bias. Loss and gradients in row chunks: the (R, V) logits
// of a whole batch never exist.
class MlmHead {
 public:
  explicit MlmHead(Encoder& encoder);
  Encoder& encoder;
  Parameters parameters;
  // hidden (R, C), labels (R, -100: none). scale multiplies the gradient: 1 / (labelled tokens of the whole batch) gives the mean loss's.
  // dHidden (R, C) overwritten; accumulates into parameters and into the encoder's word embeddings. dHidden.data null: loss only.
  HeadResult step(Matrix dHidden, Matrix hidden, const std::vector<int32_t>& labels, float scale);
};

// One BERT layer whose queries are LN(cls + type + position) and whose keys/values are [cls, LN(embeddings)[1:]], masked per position.
class EnhancedDecoder {
 public:
  EnhancedDecoder(Encoder& encoder, MlmHead& head);
  Encoder& encoder;
  MlmHead& head;
  Parameters parameters;
  // cls (N, C). dCls (N, C) overwritten. Accumulates into parameters, the head and the encoder's embedding tables.
  // dCls.data null: loss only. scale as in MlmHead::step. Only rows with a label are computed.
  HeadResult step(Matrix dCls, Matrix cls, const DecoderBatch& batch, const std::optional<DropoutKey>& key, float scale);

 private:
  Backend& backend_;
};

}  // namespace bge

#pragma once
#include <cstdint>

namespace bge {

enum class Pooling : int32_t { cls, mean };

// A post-LN BERT encoder (recipe.md 1.1). The embedding width D equals hidden.
struct ModelConfig {
  int32_t layers = 0, hidden = 0, heads = 0, intermediate = 0, vocab = 0, maxPositions = 0, typeVocab = 2;
  float layerNormEps = 1e-12f, hiddenDropout = 0.1f, attentionDropout = 0.1f;
  Pooling pooling = Pooling::cls;
  bool normalize = true;  // embeddings are L2-normalised
  int32_t headSize() const { return hidden / heads; }
};

// Which dropout masks to draw. Absent: inference, no dropout.
struct DropoutKey { uint64_t seed = 0; uint32_t step = 0; };

}  // namespace bge

// The BERT encoder, forward and backward (post-LN, exact-erf GELU; Devlin et al. 2018, C-Pack section 3).
#pragma once
#include <memory>
#include <optional>

#include "../core/backend.h"
#include "batch.h"
#include "config.h"
#include "parameters.h"

namespace bge {

class Encoder {
 public:
  Encoder(Backend& backend, const ModelConfig& config);
  ~Encoder();

  const ModelConfig config;
  Parameters parameters;

  // Inference path: out (N, C) = pooled (and, if config.normalize, L2-normalised) vectors; keeps nothing. With a key: the same values,
  // bit for bit, as forward() with that key. For CLS pooling the last layer computes K and V for all tokens and the rest for CLS rows only.
  void embed(Matrix out, const TokenBatch& batch, const std::optional<DropoutKey>& key);

  // Training path: keeps activations until backward(). Any output may have data == null (not wanted).
  // hidden (R, C): last hidden states of batch.rows. cls (N, C): last hidden state of each sequence's first token.
  // embeddings (N, C): as embed(). The last layer is computed only for the rows that are needed. Any number of forwards
  // may be outstanding; their activations lie one behind the other.
  void forward(Matrix hidden, Matrix cls, Matrix embeddings, const TokenBatch& batch, const std::optional<DropoutKey>& key);

  // Accumulates parameter gradients for the newest outstanding forward(); each gradient may have data == null. Frees its activations.
  void backward(Matrix dHidden, Matrix dCls, Matrix dEmbeddings);
  void discard();              // frees the activations of every outstanding forward
  void reserve(size_t bytes);  // of activations, in one block: Arena::reserve. Not while a forward is outstanding

 private:
  struct Activations;
  struct Saved;
  std::unique_ptr<Saved> saved_;
  Backend& backend_;
};

}  // namespace bge

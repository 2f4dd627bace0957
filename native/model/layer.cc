#include "layer.h"

#include <algorithm>

namespace bge {

DropoutPlan::DropoutPlan(const ModelConfig& c, const std::optional<DropoutKey>& k) {
  if (!k) return;
  hidden = c.hiddenDropout;
  attention = c.attentionDropout;
  key = *k;
}

// -- embeddings -----------------------------------------------------------------------------------------------------------------------

EmbeddingLayer::EmbeddingLayer(Parameters& p, const ModelConfig& c)
    : p_(p),
      epsilon_(c.layerNormEps),
      word_(p.find("embeddings.word_embeddings.weight").offset),
      position_(p.find("embeddings.position_embeddings.weight").offset),
      type_(p.find("embeddings.token_type_embeddings.weight").offset),
      gamma_(p.find("embeddings.LayerNorm.weight").offset),
      beta_(p.find("embeddings.LayerNorm.bias").offset) {}

void EmbeddingLayer::forward(Matrix out, float* mean, float* rstd, const float* table, const int32_t* index, const Rows& rows,
                             const Dropout& dropout) const {
  const float* v = p_.values();
  p_.backend.embedding(out, mean, rstd, table, index, v + position_, v + type_, v + gamma_, v + beta_, epsilon_, rows, dropout);
}

void EmbeddingLayer::backward(float* dTable, Matrix dOut, const float* mean, const float* rstd, const float* table, int64_t tableRows,
                              const int32_t* index, int32_t paddingIndex, const Rows& rows, const Dropout& dropout) const {
  const float* v = p_.values();
  float* g = p_.gradients();
  p_.backend.embeddingBackward(dTable, g + position_, g + type_, g + gamma_, g + beta_, dOut, mean, rstd, table, tableRows, index,
                               v + position_, v + type_, v + gamma_, paddingIndex, rows, dropout);
}

// -- activations ----------------------------------------------------------------------------------------------------------------------

LayerActivations LayerActivations::kept(Arena& arena, DType type, const ModelConfig& c, int64_t queries, int64_t keys,
                                        bool joint) {
  const int64_t R = queries, T = keys, C = c.hidden, F = c.intermediate;
  const auto matrix = [&](int64_t rows, int64_t cols) { return takeMatrix(arena, type, rows, cols); };
  LayerActivations a;
  a.joint = joint;
  if (joint) {
    const Matrix qkv = matrix(T, 3 * C);
    a.query = qkv.columns(0, C);
    a.key = qkv.columns(C, C);
    a.value = qkv.columns(2 * C, C);
  } else {
    const Matrix kv = matrix(T, 2 * C);
    a.query = matrix(R, C);
    a.key = kv.columns(0, C);
    a.value = kv.columns(C, C);
  }
  a.context = matrix(R, C);
  a.lse = arena.take<float>(c.heads * R);
  a.attentionSum = matrix(R, C);
  a.attentionMean = arena.take<float>(R);
  a.attentionRstd = arena.take<float>(R);
  a.attentionOut = matrix(R, C);
  a.preActivation = matrix(R, F);
  a.gelu = matrix(R, F);
  a.outputSum = matrix(R, C);
  a.outputMean = arena.take<float>(R);
  a.outputRstd = arena.take<float>(R);
  return a;
}

LayerActivations LayerActivations::scratch(Arena& arena, DType type, const ModelConfig& c, int64_t queries, int64_t keys, bool joint,
                                           int64_t chainRows) {
  const int64_t R = queries, T = keys, C = c.hidden, F = c.intermediate;
  const Matrix memory = takeMatrix(arena, type, R + 2 * T, C);
  const auto wide = [&](int64_t columns) { return Matrix(memory.data, type, T, columns, columns); };
  LayerActivations a;
  a.joint = joint;
  if (joint) {
    const Matrix qkv = wide(3 * C);
    a.query = qkv.columns(0, C);
    a.key = qkv.columns(C, C);
    a.value = qkv.columns(2 * C, C);
  } else {
    const Matrix kv = wide(2 * C);
    a.query = memory.slice(2 * T, R);
    a.key = kv.columns(0, C);
    a.value = kv.columns(C, C);
  }
  a.context = takeMatrix(arena, type, R, C);
  // The projections are dead once `context` is there; R <= T, so the three (R, C) results that follow fit in their memory.
  a.attentionSum = memory.slice(0, R);
  a.attentionOut = memory.slice(R, R);
  a.outputSum = memory.slice(2 * R, R);
  a.gelu = takeMatrix(arena, type, std::min(R, chainRows), F);
  return a;
}

// -- one layer ------------------------------------------------------------------------------------------------------------------------

TransformerLayer::TransformerLayer(Parameters& p, const std::string& prefix, const ModelConfig& c)
    : p_(p),
      C_(c.hidden),
      F_(c.intermediate),
      heads_(c.heads),
      epsilon_(c.layerNormEps),
      qkv_(p.find(prefix + "attention.self.query.weight").offset),
      qkvBias_(p.find(prefix + "attention.self.query.bias").offset),
      attentionDense_(p.find(prefix + "attention.output.dense.weight").offset),
      attentionDenseBias_(p.find(prefix + "attention.output.dense.bias").offset),
      attentionGamma_(p.find(prefix + "attention.output.LayerNorm.weight").offset),
      attentionBeta_(p.find(prefix + "attention.output.LayerNorm.bias").offset),
      intermediate_(p.find(prefix + "intermediate.dense.weight").offset),
      intermediateBias_(p.find(prefix + "intermediate.dense.bias").offset),
      output_(p.find(prefix + "output.dense.weight").offset),
      outputBias_(p.find(prefix + "output.dense.bias").offset),
      outputGamma_(p.find(prefix + "output.LayerNorm.weight").offset),
      outputBeta_(p.find(prefix + "output.LayerNorm.bias").offset) {}

Attention TransformerLayer::attention(const LayerActivations& a, const LayerCall& call) const {
  Attention op;
  op.q = a.query;
  op.k = a.key;
  op.v = a.value;
  op.queries = call.queries;
  op.keys = call.keys;
  op.queryPosition = call.rows.position;
  op.stream = call.rows.stream;
  op.heads = heads_;
  op.headSize = static_cast<int32_t>(C_ / heads_);
  op.mask = call.mask;
  op.dropout = call.dropout.at(call.layer, kAttentionSite);
  return op;
}

void TransformerLayer::forward(Matrix out, LayerActivations& a, const LayerCall& call) const {
  Backend& b = p_.backend;
  const int64_t T = a.keyInput.rows;
  if (a.joint) {
    const Matrix qkv(a.query.data, a.query.type, T, 3 * C_, a.query.stride);
    b.linear(qkv, a.keyInput, weight(qkv_, 3 * C_, C_), value(qkvBias_), Activation::none, nullptr);
  } else {
    b.linear(a.query, a.queryInput, weight(qkv_, C_, C_), value(qkvBias_), Activation::none, nullptr);
    const Matrix kv(a.key.data, a.key.type, T, 2 * C_, a.key.stride);
    b.linear(kv, a.keyInput, weight(qkv_ + C_ * C_, 2 * C_, C_), value(qkvBias_ + C_), Activation::none, nullptr);
  }
  b.attention(a.context, a.lse, attention(a, call));
  b.linear(a.attentionSum, a.context, weight(attentionDense_, C_, C_), value(attentionDenseBias_), Activation::none, nullptr);
  b.addLayerNorm(a.attentionOut, a.attentionSum, a.attentionMean, a.attentionRstd, a.attentionSum, a.queryInput, value(attentionGamma_),
                 value(attentionBeta_), epsilon_, call.rows, call.dropout.at(call.layer, kAttentionOutputSite));
  const Weight wide = weight(intermediate_, F_, C_), narrow = weight(output_, C_, F_);
  const int64_t R = a.attentionOut.rows, chain = a.gelu.rows;  // fewer than R only in inference
  for (int64_t first = 0; first < R; first += chain) {
    const int64_t n = std::min(chain, R - first);
    const Matrix gelu = a.gelu.slice(0, n);
    b.linear(gelu, a.attentionOut.slice(first, n), wide, value(intermediateBias_), Activation::gelu,
             a.preActivation.data ? &a.preActivation : nullptr);
    b.linear(a.outputSum.slice(first, n), gelu, narrow, value(outputBias_), Activation::none, nullptr);
  }
  b.addLayerNorm(out, a.outputSum, a.outputMean, a.outputRstd, a.outputSum, a.attentionOut, value(outputGamma_), value(outputBeta_),
                 epsilon_, call.rows, call.dropout.at(call.layer, kOutputSite));
}

void TransformerLayer::backward(Matrix d, Matrix dKeyInput, const LayerActivations& a, const LayerCall& call) const {
  Backend& b = p_.backend;
  Arena::Scope scope(b.workspace());
  const int64_t R = d.rows, T = a.keyInput.rows;
  const auto matrix = [&](int64_t rows, int64_t cols) { return takeMatrix(b.workspace(), b.activation(), rows, cols); };
  // `d` is in turn the gradient of the output, of outputSum, of attentionOut, of attentionSum and of queryInput: the residual path.
  // `branch` is the gradient of what the residual was added to; without dropout that is `d` itself.
  const Matrix branch = call.dropout.hidden > 0 ? matrix(R, C_) : d;

  b.addLayerNormBackward(d, branch, gradient(outputGamma_), gradient(outputBeta_), d, a.outputSum, a.outputMean, a.outputRstd,
                         value(outputGamma_), call.rows, call.dropout.at(call.layer, kOutputSite));
  const Matrix dPre = matrix(R, F_);
  b.linearBackwardWeight(gradient(output_), gradient(outputBias_), branch, a.gelu);
  b.linearBackwardInput(dPre, branch, weight(output_, C_, F_), false, &a.preActivation);
  b.linearBackwardWeight(gradient(intermediate_), gradient(intermediateBias_), dPre, a.attentionOut);
  b.linearBackwardInput(d, dPre, weight(intermediate_, F_, C_), true, nullptr);

  b.addLayerNormBackward(d, branch, gradient(attentionGamma_), gradient(attentionBeta_), d, a.attentionSum, a.attentionMean,
                         a.attentionRstd, value(attentionGamma_), call.rows, call.dropout.at(call.layer, kAttentionOutputSite));
  const Matrix dContext = matrix(R, C_);
  b.linearBackwardWeight(gradient(attentionDense_), gradient(attentionDenseBias_), branch, a.context);
  b.linearBackwardInput(dContext, branch, weight(attentionDense_, C_, C_), false, nullptr);

  if (a.joint) {
    const Matrix dQkv = matrix(T, 3 * C_);
    const Matrix dQ = dQkv.columns(0, C_), dK = dQkv.columns(C_, C_), dV = dQkv.columns(2 * C_, C_);
    b.attentionBackward(dQ, dK, dV, dContext, a.context, a.lse, attention(a, call));
    b.linearBackwardWeight(gradient(qkv_), gradient(qkvBias_), dQkv, a.keyInput);
    b.linearBackwardInput(d, dQkv, weight(qkv_, 3 * C_, C_), true, nullptr);
    return;
  }
  const Matrix dQuery = matrix(R, C_), dKv = matrix(T, 2 * C_);
  b.attentionBackward(dQuery, dKv.columns(0, C_), dKv.columns(C_, C_), dContext, a.context, a.lse, attention(a, call));
  b.linearBackwardWeight(gradient(qkv_), gradient(qkvBias_), dQuery, a.queryInput);
  b.linearBackwardInput(d, dQuery, weight(qkv_, C_, C_), true, nullptr);
  b.linearBackwardWeight(gradient(qkv_ + C_ * C_), gradient(qkvBias_ + C_), dKv, a.keyInput);
  b.linearBackwardInput(dKeyInput, dKv, weight(qkv_ + C_ * C_, 2 * C_, C_), false, nullptr);
}

}  // namespace bge

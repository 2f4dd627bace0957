#include <algorithm>

#include "heads.h"
#include "layer.h"

namespace bge {

namespace {

constexpr int32_t kNoLabel = -100;

// Rows of logits at a time: what a cache holds, in whole tiles. On CUDA 448 rows of BERT's 21,128 tokens in a GPU's second-level cache.
int64_t chunkRows(int64_t rows, int64_t vocab, DType activation) {
  const bool cpu = activation == DType::f32;
  const int64_t bytes = int64_t{cpu ? 24 : 37} << 20, tile = cpu ? 8 : 64, least = cpu ? 16 : 64;
  const int64_t fit = bytes / (vocab * static_cast<int64_t>(sizeof(float)));
  return std::min(rows, std::max(least, fit / tile * tile));
}

// Rows of logits begin where tensor cores can read them, whatever the vocabulary.
int64_t padded(int64_t vocab) { return (vocab + 7) / 8 * 8; }

}  // namespace

MlmHead::MlmHead(Encoder& e) : encoder(e), parameters(e.parameters.backend, mlmHeadParameters(e.config)) {}

HeadResult MlmHead::step(Matrix dHidden, Matrix hidden, const std::vector<int32_t>& labels, float scale) {
  Backend& b = parameters.backend;
  const int64_t C = encoder.config.hidden, V = encoder.config.vocab;
  if (hidden.cols != C || hidden.rows != static_cast<int64_t>(labels.size()))
    throw Error("ERR_BGE_SHAPE", "hidden must be (" + std::to_string(labels.size()) + " labels, " + std::to_string(C) + "), but was (" +
                                     std::to_string(hidden.rows) + ", " + std::to_string(hidden.cols) + ")");
  std::vector<int32_t> rows, wanted;  // the labelled rows, and their labels
  for (size_t r = 0; r < labels.size(); ++r) {
    if (labels[r] == kNoLabel) continue;
    if (labels[r] < 0 || labels[r] >= V)
      throw Error("ERR_BGE_ARGUMENT", "labels must lie in 0 .. " + std::to_string(V - 1) + " or be -100, but labels[" + std::to_string(r) +
                                          "] is " + std::to_string(labels[r]));
    rows.push_back(static_cast<int32_t>(r));
    wanted.push_back(labels[r]);
  }

  Arena& arena = b.workspace();
  Arena::Scope scope(arena);
  const auto matrix = [&](int64_t r, int64_t c) { return takeMatrix(arena, b.activation(), r, c); };
  const int64_t R = static_cast<int64_t>(rows.size());
  const bool some = R < hidden.rows;  // some rows have no label: the others are gathered, and only they are computed
  const int32_t* index = some ? uploadTo(b, arena, rows) : nullptr;
  Matrix h = hidden, dH = dHidden;
  if (some && R > 0) {
    h = matrix(R, C);
    b.gatherRows(h, hidden, index, R);
  }
  if (some && dHidden.data) dH = matrix(R, C);

  HeadResult result;
  if (R > 0) {
    const Rows plain{R, nullptr, nullptr, nullptr};  // the head has no dropout
    const Weight dense = parameters.weight("cls.predictions.transform.dense.weight", C, C);
    const float* gamma = parameters.value("cls.predictions.transform.LayerNorm.weight");
    Matrix pre = matrix(R, C);
    const Matrix act = matrix(R, C), t = matrix(R, C);
    float *mean = arena.take<float>(R), *rstd = arena.take<float>(R);
    b.linear(act, h, dense, parameters.value("cls.predictions.transform.dense.bias"), Activation::gelu, &pre);
    b.addLayerNorm(t, act, mean, rstd, act, Matrix(), gamma, parameters.value("cls.predictions.transform.LayerNorm.bias"),
                   encoder.config.layerNormEps, plain, Dropout());

    const Weight tied = encoder.parameters.weight("embeddings.word_embeddings.weight", V, C);
    const float* bias = parameters.value("cls.predictions.bias");
    const int32_t* labelsDevice = uploadTo(b, arena, wanted);
    auto* sums = arena.take<CrossEntropyResult>(1);
    b.zero(sums, sizeof(CrossEntropyResult));
    const Matrix dT = dHidden.data ? matrix(R, C) : Matrix();
    const int64_t chunk = chunkRows(R, V, b.activation());
    Matrix logits = takeMatrix(arena, DType::f32, chunk, padded(V));
    logits.cols = V;
    for (int64_t first = 0; first < R; first += chunk) {
      const int64_t n = std::min(chunk, R - first);
      const Matrix z = logits.slice(0, n);
      b.linear(z, t.slice(first, n), tied, bias, Activation::none, nullptr);
      b.crossEntropy(sums, z, labelsDevice + first, scale);
      if (!dHidden.data) continue;
      b.linearBackwardWeight(encoder.parameters.gradient("embeddings.word_embeddings.weight"), parameters.gradient("cls.predictions.bias"),
                             z, t.slice(first, n));
      b.linearBackwardInput(dT.slice(first, n), z, tied, false, nullptr);
    }
    if (dHidden.data) {
      b.addLayerNormBackward(dT, Matrix(), parameters.gradient("cls.predictions.transform.LayerNorm.weight"),
                             parameters.gradient("cls.predictions.transform.LayerNorm.bias"), dT, act, mean, rstd, gamma, plain, Dropout());
      b.geluBackward(dT, dT, pre);
      b.linearBackwardWeight(parameters.gradient("cls.predictions.transform.dense.weight"),
                             parameters.gradient("cls.predictions.transform.dense.bias"), dT, h);
      b.linearBackwardInput(dH, dT, dense, false, nullptr);
    }
    CrossEntropyResult host;
    b.download(&host, sums, sizeof(host));
    result = {host.loss, host.correct, host.count};
  }
  if (some && dHidden.data) {
    zero(b, dHidden);
    if (R > 0) b.scatterRows(dHidden, index, R, dH, false);
  }
  return result;
}

}  // namespace bge

#include <algorithm>

#include "heads.h"
#include "layer.h"

namespace bge {

namespace {

constexpr int32_t kNoLabel = -100;

void checkDecoderBatch(const DecoderBatch& batch, const ModelConfig& config, int64_t clsRows, int64_t clsCols) {
  const auto text = [](size_t n) { return std::to_string(n); };
  checkBatch(batch.tokens, config);
  const size_t T = batch.tokens.ids.size();
  if (clsRows != batch.tokens.sequences() || clsCols != config.hidden)
    throw Error("ERR_BGE_SHAPE", "cls must be (" + std::to_string(batch.tokens.sequences()) + ", " + std::to_string(config.hidden) +
                                     "), but was (" + std::to_string(clsRows) + ", " + std::to_string(clsCols) + ")");
  if (batch.labels.size() != T || batch.maskChoice.size() != T)
    throw Error("ERR_BGE_SHAPE", "labels and maskChoice must hold one number per token (" + text(T) + "), but hold " +
                                     text(batch.labels.size()) + " and " + text(batch.maskChoice.size()));
  size_t words = 0;
  for (int32_t n = 0; n < batch.tokens.sequences(); ++n)
    words = std::max(words, static_cast<size_t>(batch.tokens.offsets[n + 1] - batch.tokens.offsets[n] + 63) / 64);
  if (batch.maskBits.size() % words != 0)
    throw Error("ERR_BGE_SHAPE", "maskBits must be rows of " + text(words) + " words (the longest sequence / 64), but holds " +
                                     text(batch.maskBits.size()));
  const size_t masks = batch.maskBits.size() / words;
  for (size_t t = 0; t < T; ++t)
    if (batch.maskChoice[t] < 0 || static_cast<size_t>(batch.maskChoice[t]) >= masks)
      throw Error("ERR_BGE_ARGUMENT", "maskChoice must name one of the " + text(masks) + " rows of maskBits, but maskChoice[" + text(t) +
                                          "] is " + std::to_string(batch.maskChoice[t]));
}

}  // namespace

EnhancedDecoder::EnhancedDecoder(Encoder& e, MlmHead& h)
    : encoder(e), head(h), parameters(e.parameters.backend, decoderParameters(e.config)), backend_(e.parameters.backend) {
  if (&h.encoder != &e)
    throw Error("ERR_BGE_ARGUMENT", "the decoder's MLM head must belong to the decoder's encoder, but belongs to another");
}

HeadResult EnhancedDecoder::step(Matrix dCls, Matrix cls, const DecoderBatch& host, const std::optional<DropoutKey>& key, float scale) {
  const ModelConfig& c = encoder.config;
  checkDecoderBatch(host, c, cls.rows, cls.cols);
  const TokenBatch& tokens = host.tokens;
  const int64_t N = tokens.sequences(), T = tokens.tokens(), C = c.hidden;
  // Only rows with a label enter the loss, and a query row of a single layer depends on no other query row: only they are computed.
  std::vector<int32_t> labelled, labels, choices;
  for (int32_t t = 0; t < T; ++t) {
    if (host.labels[t] == kNoLabel) continue;
    labelled.push_back(t);
    labels.push_back(host.labels[t]);
    choices.push_back(host.maskChoice[t]);
  }
  if (labelled.empty()) {
    if (dCls.data) zero(backend_, dCls);
    return {};
  }

  Arena& arena = backend_.workspace();
  Arena::Scope scope(arena);
  const auto hiddenMatrix = [&](int64_t rows) { return takeMatrix(arena, backend_.activation(), rows, C); };
  const auto clsMatrix = [&](int64_t rows) { return takeMatrix(arena, DType::f32, rows, C); };
  const DeviceBatch batch(backend_, tokens);
  const RowSelection selected(backend_, arena, tokens, batch.all, std::move(labelled));
  const int64_t R = selected.count();
  const int32_t* firsts = batch.packed.offsets;  // (N) the CLS slots
  const DropoutPlan dropout(c, key);
  const EmbeddingLayer embeddings(encoder.parameters, c);
  const TransformerLayer layer(parameters, "c_head.", c);
  LayerActivations a = LayerActivations::kept(arena, backend_.activation(), c, R, T, false);

  // Keys and values: [cls, embeddings of the clean text]. The CLS slot is the raw vector, without position or LayerNorm.
  const Dropout keyDropout = dropout.at(kDecoderKeyLayer, kEmbeddingSite), queryDropout = dropout.at(kDecoderQueryLayer, kEmbeddingSite);
  a.keyInput = hiddenMatrix(T);
  float *keyMean = arena.take<float>(T), *keyRstd = arena.take<float>(T);
  embeddings.forward(a.keyInput, keyMean, keyRstd, embeddings.wordTable(), batch.ids, batch.all, keyDropout);
  backend_.scatterRows(a.keyInput, firsts, N, cls, false);
  // Queries: the CLS vector at every position, LN(cls + type + position).
  Matrix table = cls;  // (N, C), dense, f32 like every embedding table
  if (cls.stride != C) {
    std::vector<int32_t> identity(static_cast<size_t>(N));
    for (int32_t n = 0; n < N; ++n) identity[n] = n;
    table = clsMatrix(N);
    backend_.gatherRows(table, cls, uploadTo(backend_, arena, identity), N);
  }
  a.queryInput = hiddenMatrix(R);
  float *queryMean = arena.take<float>(R), *queryRstd = arena.take<float>(R);
  embeddings.forward(a.queryInput, queryMean, queryRstd, table.as<float>(), selected.rows.sequence, selected.rows, queryDropout);

  PositionMask mask;
  mask.bits = uploadTo(backend_, arena, host.maskBits);
  mask.words = (batch.packed.maxLength + 63) / 64;
  mask.choice = uploadTo(backend_, arena, choices);
  const LayerCall call{selected.packed, batch.packed, selected.rows, &mask, dropout, kDecoderLayer};
  const Matrix hidden = hiddenMatrix(R);
  layer.forward(hidden, a, call);

  const Matrix d = dCls.data ? hiddenMatrix(R) : Matrix();
  const HeadResult result = head.step(d, hidden, labels, scale);
  if (!dCls.data) return result;

  const Matrix dKeys = hiddenMatrix(T), dTable = clsMatrix(N), dSlots = clsMatrix(N);
  layer.backward(d, dKeys, a, call);
  zero(backend_, dTable);
  embeddings.backward(dTable.as<float>(), d, queryMean, queryRstd, table.as<float>(), N, selected.rows.sequence, -1, selected.rows, queryDropout);
  backend_.gatherRows(dSlots, dKeys, firsts, N);
  zero(backend_, dCls);
  backend_.add(dCls, dTable, 1);
  backend_.add(dCls, dSlots, 1);
  zero(backend_, dSlots);
  backend_.scatterRows(dKeys, firsts, N, dSlots, false);  // the text's first tokens were replaced: nothing flows to them
  embeddings.backward(embeddings.wordGradient(), dKeys, keyMean, keyRstd, embeddings.wordTable(), c.vocab, batch.ids, kPaddingId, batch.all,
                      keyDropout);
  return result;
}

}  // namespace bge

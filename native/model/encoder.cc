#include "encoder.h"

#include <algorithm>
#include <iterator>

#include "layer.h"

namespace bge {

namespace {

const ModelConfig& checked(const ModelConfig& c) {
  if (c.layers < 1 || c.hidden < 1 || c.heads < 1 || c.intermediate < 1 || c.vocab < 1 || c.maxPositions < 1 || c.typeVocab < 1)
    throw Error("ERR_BGE_ARGUMENT",
                "layers, hidden, heads, intermediate, vocab, maxPositions and typeVocab must be at least 1, but were " +
                    std::to_string(c.layers) + ", " + std::to_string(c.hidden) + ", " + std::to_string(c.heads) + ", " +
                    std::to_string(c.intermediate) + ", " + std::to_string(c.vocab) + ", " + std::to_string(c.maxPositions) + " and " +
                    std::to_string(c.typeVocab));
  if (c.hidden % c.heads != 0)
    throw Error("ERR_BGE_ARGUMENT",
                "hidden (" + std::to_string(c.hidden) + ") must be a multiple of heads (" + std::to_string(c.heads) + ")");
  return c;
}

void checkShape(const char* name, Matrix m, int64_t rows, int64_t cols) {
  if (m.data && (m.rows != rows || m.cols != cols))
    throw Error("ERR_BGE_SHAPE", std::string(name) + " must be (" + std::to_string(rows) + ", " + std::to_string(cols) + "), but was (" +
                                     std::to_string(m.rows) + ", " + std::to_string(m.cols) + ")");
}

// The first token of every sequence.
std::vector<int32_t> clsRows(const TokenBatch& batch) { return {batch.offsets.begin(), batch.offsets.end() - 1}; }

// Batches of at most so many tokens are worth recording: above, the device is busy for longer than it takes to launch.
constexpr int64_t kRepeatTokens = 2048;

uint64_t hashOf(std::initializer_list<uint64_t> numbers) {  // FNV-1a, never 0
  uint64_t hash = 0xcbf29ce484222325u;
  for (const uint64_t n : numbers) hash = (hash ^ n) * 0x100000001b3u;
  return hash | 1;
}

// Where each of `wanted` stands in `rows`; both ascending.
std::vector<int32_t> indicesIn(const std::vector<int32_t>& rows, const std::vector<int32_t>& wanted) {
  std::vector<int32_t> at;
  at.reserve(wanted.size());
  for (const int32_t w : wanted) at.push_back(static_cast<int32_t>(std::lower_bound(rows.begin(), rows.end(), w) - rows.begin()));
  return at;
}

}  // namespace

// What one forward() leaves for its backward(): device memory of the encoder's arena behind `mark`.
struct Encoder::Activations {
  Arena::Mark mark;
  bool hasHidden = false, hasCls = false, hasEmbeddings = false;
  TokenBatch host;
  DropoutPlan dropout;
  std::optional<DeviceBatch> batch;
  std::optional<RowSelection> selected;  // the last layer's rows; absent: all
  float *mean = nullptr, *rstd = nullptr;  // (T) of the embedding LayerNorm
  std::vector<LayerActivations> layers;
  std::vector<int32_t> hiddenAt, clsAt;  // rows of the last layer's output
  const int32_t *hiddenAtDevice = nullptr, *clsAtDevice = nullptr;
  Matrix pooled;  // (N, C) before the normalisation
  float* norm = nullptr;
};

// The layers, and the forwards that are outstanding. Their activations have an arena of their own: embed(), the heads and the losses use
// the workspace meanwhile, and several encoders on one device may each have forwards outstanding.
struct Encoder::Saved {
  const ModelConfig& config;
  Backend& backend;
  EmbeddingLayer embeddings;
  std::vector<TransformerLayer> layers;
  Arena arena;
  std::vector<std::unique_ptr<Activations>> outstanding;  // the newest last, as their memory lies in the arena

  Saved(Encoder& e)
      : config(e.config),
        backend(e.backend_),
        embeddings(e.parameters, e.config),
        arena([&b = e.backend_](size_t n) { return b.allocate(n); }, [&b = e.backend_](void* p) { b.release(p); }) {
    for (int32_t l = 0; l < config.layers; ++l) layers.emplace_back(e.parameters, "encoder.layer." + std::to_string(l) + ".", config);
  }

  Matrix hiddenMatrix(Arena& a, int64_t rows) const { return takeMatrix(a, backend.activation(), rows, config.hidden); }
  Matrix embeddingMatrix(Arena& a, int64_t rows) const { return takeMatrix(a, DType::f32, rows, config.hidden); }
  LayerCall call(const DeviceBatch& b, const RowSelection* pruned, const DropoutPlan& plan, int32_t l) const {
    return {pruned ? pruned->packed : b.packed, b.packed, pruned ? pruned->rows : b.all, nullptr, plan, static_cast<uint32_t>(l)};
  }
  Matrix run(Arena& a, const DeviceBatch& b, const RowSelection* rows, const DropoutPlan& plan, Activations* keep);
  void pool(Matrix out, Matrix pooled, float* norm, Matrix last, const DeviceBatch& b, const int32_t* cls) const;
  void dropNewest();
};

// Embeddings and all layers: the last hidden states (T, C), or of `rows` only, (R, C).
Matrix Encoder::Saved::run(Arena& a, const DeviceBatch& b, const RowSelection* rows, const DropoutPlan& plan, Activations* keep) {
  const int64_t T = b.all.count;
  Matrix x = hiddenMatrix(a, T);
  if (keep) {
    keep->mean = a.take<float>(T);
    keep->rstd = a.take<float>(T);
  }
  embeddings.forward(x, keep ? keep->mean : nullptr, keep ? keep->rstd : nullptr, embeddings.wordTable(), b.ids, b.all,
                     plan.at(kEmbeddingLayer, kEmbeddingSite));
  for (int32_t l = 0; l < config.layers; ++l) {
    const RowSelection* pruned = l + 1 == config.layers ? rows : nullptr;
    const int64_t R = pruned ? pruned->count() : T;
    Matrix queries = x, out = x;  // in inference a layer writes its output over its input
    if (pruned) {
      queries = hiddenMatrix(a, R);
      backend.gatherRows(queries, x, pruned->index, R);
    }
    if (pruned || keep) out = hiddenMatrix(a, R);
    const Arena::Mark unused = a.mark();
    const DType type = backend.activation();
    LayerActivations layer =
        keep ? LayerActivations::kept(a, type, config, R, T, !pruned) : LayerActivations::scratch(a, type, config, R, T, !pruned, backend.chainRows());
    layer.queryInput = queries;
    layer.keyInput = x;
    layers[l].forward(out, layer, call(b, pruned, plan, l));
    if (keep) keep->layers.push_back(layer);
    else a.reset(unused);
    x = out;
  }
  return x;
}

// out (N, C): the embeddings of `last`, whose rows `cls` (N) are the CLS tokens. pooled (N, C), norm (N): for the backward pass.
void Encoder::Saved::pool(Matrix out, Matrix pooled, float* norm, Matrix last, const DeviceBatch& b, const int32_t* cls) const {
  const Matrix to = config.normalize ? pooled : out;
  if (config.pooling == Pooling::mean) backend.meanPool(to, last, b.packed);
  else backend.gatherRows(to, last, cls, b.packed.count);
  if (config.normalize) backend.normalize(out, norm, pooled);
}

void Encoder::Saved::dropNewest() {
  const Arena::Mark mark = outstanding.back()->mark;
  outstanding.pop_back();
  arena.reset(mark);
}

Encoder::Encoder(Backend& backend, const ModelConfig& c)
    : config(checked(c)), parameters(backend, encoderParameters(config)), backend_(backend) {
  saved_ = std::make_unique<Saved>(*this);
}

Encoder::~Encoder() = default;

void Encoder::embed(Matrix out, const TokenBatch& host, const std::optional<DropoutKey>& key) {
  checkBatch(host, config);
  const int64_t N = host.sequences();
  checkShape("embeddings", out, N, config.hidden);
  Arena& arena = backend_.workspace();
  Arena::Scope scope(arena);
  const DeviceBatch batch(backend_, host);
  std::optional<RowSelection> selected;
  const int32_t* clsAt = nullptr;
  if (config.pooling == Pooling::cls) {
    const std::vector<int32_t> cls = clsRows(host);
    selected.emplace(backend_, arena, host, batch.all, cls);
    clsAt = uploadTo(backend_, arena, indicesIn(cls, cls));
  }
  const Matrix embeddings = saved_->embeddingMatrix(arena, N);  // `out` may lie elsewhere the next time
  const Arena::Mark mark = arena.mark();
  const bool repeats = !key && host.tokens() <= kRepeatTokens;
  const uint64_t sequence = hashOf({reinterpret_cast<uintptr_t>(parameters.values()), parameters.version(), static_cast<uint64_t>(N),
                                    static_cast<uint64_t>(host.tokens()), static_cast<uint64_t>(batch.packed.maxLength), mark.block, mark.used});
  backend_.repeat(repeats ? sequence : 0, [&] {
    Arena::Scope inner(arena);
    const Matrix last = saved_->run(arena, batch, selected ? &*selected : nullptr, DropoutPlan(config, key), nullptr);
    saved_->pool(embeddings, saved_->embeddingMatrix(arena, N), arena.take<float>(N), last, batch, clsAt);
  });
  backend_.copy(out.data, embeddings.data, static_cast<size_t>(N * config.hidden) * sizeof(float));
}

void Encoder::forward(Matrix hidden, Matrix cls, Matrix embeddings, const TokenBatch& host, const std::optional<DropoutKey>& key) {
  Saved& saved = *saved_;
  checkBatch(host, config);
  const int64_t N = host.sequences(), R = static_cast<int64_t>(host.rows.size()), C = config.hidden;
  checkShape("hidden", hidden, R, C);
  checkShape("cls", cls, N, C);
  checkShape("embeddings", embeddings, N, C);
  const bool hasHidden = hidden.data && R > 0;
  if (!hasHidden && !cls.data && !embeddings.data)
    throw Error("ERR_BGE_ARGUMENT", "forward must be asked for hidden (with rows), cls or embeddings, but none is wanted");

  Arena& arena = saved.arena;
  saved.outstanding.push_back(std::unique_ptr<Activations>(
      new Activations{arena.mark(), hasHidden, cls.data != nullptr, embeddings.data != nullptr, host, DropoutPlan(config, key), {}, {}, nullptr, nullptr, {}, {}, {}, nullptr, nullptr, {}, nullptr}));
  try {
    Activations& s = *saved.outstanding.back();
    s.batch.emplace(backend_, arena, s.host);
    const bool mean = config.pooling == Pooling::mean;
    const std::vector<int32_t> none, firsts = clsRows(host);
    std::vector<int32_t> wanted;  // the last layer's rows, if not all
    if (s.hasEmbeddings && mean) {
      s.hiddenAt = host.rows;
      s.clsAt = firsts;
    } else {
      const auto& a = s.hasHidden ? host.rows : none;
      const auto& b = s.hasCls || s.hasEmbeddings ? firsts : none;
      std::set_union(a.begin(), a.end(), b.begin(), b.end(), std::back_inserter(wanted));
      s.hiddenAt = indicesIn(wanted, a);
      s.clsAt = indicesIn(wanted, b);
      s.selected.emplace(backend_, arena, s.host, s.batch->all, std::move(wanted));
    }
    s.hiddenAtDevice = uploadTo(backend_, arena, s.hiddenAt);
    s.clsAtDevice = uploadTo(backend_, arena, s.clsAt);

    const Matrix last = saved.run(arena, *s.batch, s.selected ? &*s.selected : nullptr, s.dropout, &s);
    if (s.hasHidden) backend_.gatherRows(hidden, last, s.hiddenAtDevice, R);
    if (s.hasCls) backend_.gatherRows(cls, last, s.clsAtDevice, N);
    if (s.hasEmbeddings) {
      s.pooled = saved.embeddingMatrix(arena, N);
      s.norm = arena.take<float>(N);
      saved.pool(embeddings, s.pooled, s.norm, last, *s.batch, s.clsAtDevice);
    }
  } catch (...) {
    saved.dropNewest();
    throw;
  }
}

void Encoder::backward(Matrix dHidden, Matrix dCls, Matrix dEmbeddings) {
  Saved& saved = *saved_;
  if (saved.outstanding.empty()) throw Error("ERR_BGE_ARGUMENT", "backward needs an outstanding forward, but there is none");
  Activations& s = *saved.outstanding.back();
  const int64_t N = s.host.sequences(), R = static_cast<int64_t>(s.host.rows.size()), C = config.hidden, T = s.host.tokens();
  checkShape("dHidden", dHidden, R, C);
  checkShape("dCls", dCls, N, C);
  checkShape("dEmbeddings", dEmbeddings, N, C);
  if (R == 0) dHidden.data = nullptr;
  if ((dHidden.data && !s.hasHidden) || (dCls.data && !s.hasCls) || (dEmbeddings.data && !s.hasEmbeddings))
    throw Error("ERR_BGE_ARGUMENT", "backward was given a gradient of an output that the forward was not asked for");
  struct Free {
    Saved& saved;
    ~Free() { saved.dropNewest(); }
  } freeOnLeaving{saved};

  Backend& b = backend_;
  Arena& arena = b.workspace();
  Arena::Scope scope(arena);
  Matrix d = saved.hiddenMatrix(arena, s.selected ? s.selected->count() : T);  // gradient of the last layer's output, then of each layer's input
  zero(b, d);
  if (dEmbeddings.data) {
    Matrix dPooled = dEmbeddings;
    if (config.normalize) {
      const Matrix normalized = saved.embeddingMatrix(arena, N);
      dPooled = saved.embeddingMatrix(arena, N);
      b.normalize(normalized, s.norm, s.pooled);
      b.normalizeBackward(dPooled, dEmbeddings, normalized, s.norm);
    }
    if (config.pooling == Pooling::mean) b.meanPoolBackward(d, dPooled, s.batch->packed);
    else b.scatterRows(d, s.clsAtDevice, N, dPooled, true);
  }
  if (dCls.data) b.scatterRows(d, s.clsAtDevice, N, dCls, true);
  if (dHidden.data) b.scatterRows(d, s.hiddenAtDevice, R, dHidden, true);

  for (int32_t l = config.layers - 1; l >= 0; --l) {
    const RowSelection* pruned = l + 1 == config.layers && s.selected ? &*s.selected : nullptr;
    const Matrix dKeys = pruned ? saved.hiddenMatrix(arena, T) : Matrix();
    saved.layers[l].backward(d, dKeys, s.layers[l], saved.call(*s.batch, pruned, s.dropout, l));
    if (pruned) {
      b.scatterRows(dKeys, pruned->index, pruned->count(), d, true);
      d = dKeys;
    }
  }
  saved.embeddings.backward(saved.embeddings.wordGradient(), d, s.mean, s.rstd, saved.embeddings.wordTable(), config.vocab, s.batch->ids, kPaddingId,
                        s.batch->all, s.dropout.at(kEmbeddingLayer, kEmbeddingSite));
}

void Encoder::discard() {
  while (!saved_->outstanding.empty()) saved_->dropNewest();
}

void Encoder::reserve(size_t bytes) { saved_->arena.reserve(bytes); }

}  // namespace bge

#include "op.h"

#include <algorithm>
#include <limits>

#include "op_call.h"

namespace bge {

namespace {

// ---- linear algebra ----

Weight weight(OpCall& c, int64_t out, int64_t in) {
  return {c.floats("weight", out * in), out, in, static_cast<uint64_t>(c.size("version", 1))};
}

OpTensors linear(OpCall& c) {
  const int64_t r = c.size("rows"), i = c.size("in"), o = c.size("out");
  auto x = c.matrix("x", r, i), y = c.out("out", r, o);
  auto w = weight(c, o, i);
  const float* bias = c.has("bias") ? c.floats("bias", o) : nullptr;
  const auto act = c.flag("gelu") ? Activation::gelu : Activation::none;
  const bool keep = c.flag("preActivation");
  Matrix pre = keep ? c.out("preActivation", r, o) : Matrix();
  return c.run([&] { c.backend.linear(y, x, w, bias, act, keep ? &pre : nullptr); });
}

OpTensors linearBackwardInput(OpCall& c) {
  const int64_t r = c.size("rows"), i = c.size("in"), o = c.size("out");
  const bool accumulate = c.flag("accumulate"), hasGelu = c.has("preActivation");
  auto dOut = c.matrix("dOut", r, o), dX = accumulate ? c.inOut("dX", "dX", r, i) : c.out("dX", r, i);
  auto w = weight(c, o, i);
  Matrix gelu = hasGelu ? c.matrix("preActivation", r, i) : Matrix();
  return c.run([&] { c.backend.linearBackwardInput(dX, dOut, w, accumulate, hasGelu ? &gelu : nullptr); });
}

OpTensors linearBackwardWeight(OpCall& c) {
  const int64_t r = c.size("rows"), i = c.size("in"), o = c.size("out");
  auto dOut = c.matrix("dOut", r, o), x = c.matrix("x", r, i);
  float* dW = c.inOutFloats("dW", o * i);
  float* dBias = c.has("dBias") ? c.inOutFloats("dBias", o) : nullptr;
  return c.run([&] { c.backend.linearBackwardWeight(dW, dBias, dOut, x); });
}

// `alias` 1: dX is dOut's memory.
OpTensors geluBackward(OpCall& c) {
  const int64_t r = c.size("rows"), w = c.size("cols");
  const bool alias = c.flag("alias");
  auto dX = alias ? c.inOut("dOut", "dX", r, w) : c.out("dX", r, w);
  auto dOut = alias ? dX : c.matrix("dOut", r, w), pre = c.matrix("preActivation", r, w);
  return c.run([&] { c.backend.geluBackward(dX, dOut, pre); });
}

OpTensors matmul(OpCall& c) {
  const int64_t m = c.size("rows"), n = c.size("cols"), k = c.size("depth");
  const bool ta = c.flag("transposeA"), tb = c.flag("transposeB");
  const auto alpha = static_cast<float>(c.attribute("alpha", 1)), beta = static_cast<float>(c.attribute("beta", 0));
  auto a = c.plainMatrix("a", ta ? k : m, ta ? m : k), b = c.plainMatrix("b", tb ? n : k, tb ? k : n);
  auto y = beta == 0 ? c.plainOut("c", m, n) : c.plainInOut("c", "c", m, n);
  return c.run([&] { c.backend.matmul(y, a, ta, b, tb, alpha, beta); });
}

// ---- attention ----

Dropout dropout(OpCall& c) {
  Dropout d;
  d.p = static_cast<float>(c.attribute("p", 0));
  d.seed = static_cast<uint64_t>(c.size("seed", 0));
  d.step = static_cast<uint32_t>(c.size("step", 0));
  d.layer = static_cast<uint32_t>(c.size("layer", 0));
  d.site = static_cast<uint32_t>(c.size("site", 0));
  return d;
}

Packed packed(OpCall& c, const std::string& name) {
  Packed p;
  const int64_t n = c.entries(name);
  if (n < 2) c.fail("needs two or more entries in " + name);
  p.offsetsHost = c.hostInts(name, n);
  p.offsets = c.ints(name, n);
  p.count = static_cast<int32_t>(n - 1);
  p.rows = p.offsetsHost[n - 1];
  for (int64_t s = 0; s + 1 < n; ++s) p.maxLength = std::max(p.maxLength, p.offsetsHost[s + 1] - p.offsetsHost[s]);
  return p;
}

struct AttentionInputs {
  Attention a;
  PositionMask mask;
  explicit AttentionInputs(OpCall& c) {
    a.heads = static_cast<int32_t>(c.size("heads"));
    a.headSize = static_cast<int32_t>(c.size("headSize"));
    a.queries = packed(c, "queryOffsets");
    a.keys = packed(c, "keyOffsets");
    const int64_t width = int64_t{a.heads} * a.headSize;
    a.q = c.matrix("q", a.queries.rows, width);
    a.k = c.matrix("k", a.keys.rows, width);
    a.v = c.matrix("v", a.keys.rows, width);
    a.queryPosition = c.ints("queryPosition", a.queries.rows);
    a.stream = c.unsignedInts("stream", a.queries.count);
    a.dropout = dropout(c);
    if (c.has("maskBits")) {
      mask.words = (a.keys.maxLength + 63) / 64;
      mask.bits = c.words("maskBits", c.entries("maskBits"));
      mask.choice = c.ints("maskChoice", a.queries.rows);
      a.mask = &mask;
    }
  }
  AttentionInputs(const AttentionInputs&) = delete;
};

OpTensors attention(OpCall& c) {
  AttentionInputs in(c);
  auto y = c.out("out", in.a.q.rows, in.a.q.cols);
  float* lse = c.flag("lse") ? c.outFloats("lse", in.a.heads * in.a.q.rows) : nullptr;
  return c.run([&] { c.backend.attention(y, lse, in.a); });
}

OpTensors attentionBackward(OpCall& c) {
  AttentionInputs in(c);
  const auto& a = in.a;
  auto dQ = c.out("dQ", a.q.rows, a.q.cols), dK = c.out("dK", a.k.rows, a.k.cols), dV = c.out("dV", a.k.rows, a.k.cols);
  // `out` and `lse` come from this device's own forward pass: with large scores another one's lse is further off than a gradient may be.
  auto dOut = c.matrix("dOut", a.q.rows, a.q.cols), y = c.saved(a.q.rows, a.q.cols);
  float* lse = c.savedFloats(a.heads * a.q.rows);
  return c.run([&] { c.backend.attentionBackward(dQ, dK, dV, dOut, y, lse, a); }, nullptr, [&] { c.backend.attention(y, lse, a); });
}

// ---- rows ----

// Inputs sequence, rowPosition (R) and stream (N).
Rows rows(OpCall& c, int64_t count) {
  Rows r;
  r.count = count;
  r.sequence = c.ints("sequence", count);
  r.position = c.ints("rowPosition", count);
  r.stream = c.unsignedInts("stream", c.entries("stream"));
  return r;
}

OpTensors embedding(OpCall& c) {
  const int64_t r = c.size("rows"), w = c.size("cols");
  auto y = c.out("out", r, w);
  const bool stats = c.flag("stats");
  float *mean = stats ? c.outFloats("mean", r) : nullptr, *rstd = stats ? c.outFloats("rstd", r) : nullptr;
  const float *table = c.floats("table", c.size("tableRows") * w), *position = c.floats("position", c.size("positions") * w),
              *type = c.floats("type", w), *gamma = c.floats("gamma", w), *beta = c.floats("beta", w);
  const int32_t* index = c.ints("index", r);
  const auto epsilon = static_cast<float>(c.attribute("epsilon", 1e-12));
  const auto where = rows(c, r);
  const auto drop = dropout(c);
  return c.run([&] { c.backend.embedding(y, mean, rstd, table, index, position, type, gamma, beta, epsilon, where, drop); });
}

OpTensors embeddingBackward(OpCall& c) {
  const int64_t r = c.size("rows"), w = c.size("cols"), n = c.size("tableRows"), p = c.size("positions");
  float *dTable = c.inOutFloats("dTable", n * w), *dPosition = c.inOutFloats("dPosition", p * w), *dType = c.inOutFloats("dType", w),
        *dGamma = c.inOutFloats("dGamma", w), *dBeta = c.inOutFloats("dBeta", w);
  auto dOut = c.matrix("dOut", r, w);
  const float *mean = c.floats("mean", r), *rstd = c.floats("rstd", r), *table = c.floats("table", n * w),
              *position = c.floats("position", p * w), *type = c.floats("type", w), *gamma = c.floats("gamma", w);
  const int32_t* index = c.ints("index", r);
  const auto padding = static_cast<int32_t>(c.attribute("paddingIndex", -1));
  const auto where = rows(c, r);
  const auto drop = dropout(c);
  return c.run([&] {
    c.backend.embeddingBackward(dTable, dPosition, dType, dGamma, dBeta, dOut, mean, rstd, table, n, index, position, type, gamma, padding,
                                where, drop);
  });
}

// `alias`: 0 sum is its own memory, 1 it is x's, 2 it is the residual's.
OpTensors addLayerNorm(OpCall& c) {
  const int64_t r = c.size("rows"), w = c.size("cols"), alias = c.size("alias", 0);
  const bool stats = c.flag("stats"), hasResidual = c.has("residual");
  auto x = alias == 1 ? c.inOut("x", "sum", r, w) : c.matrix("x", r, w);
  auto residual = !hasResidual ? Matrix() : alias == 2 ? c.inOut("residual", "sum", r, w) : c.matrix("residual", r, w);
  auto y = c.out("out", r, w), sum = alias == 1 ? x : alias == 2 ? residual : c.out("sum", r, w);
  float *mean = stats ? c.outFloats("mean", r) : nullptr, *rstd = stats ? c.outFloats("rstd", r) : nullptr;
  const float *gamma = c.floats("gamma", w), *beta = c.floats("beta", w);
  const auto epsilon = static_cast<float>(c.attribute("epsilon", 1e-12));
  const auto where = rows(c, r);
  const auto drop = dropout(c);
  return c.run([&] { c.backend.addLayerNorm(y, sum, mean, rstd, x, residual, gamma, beta, epsilon, where, drop); });
}

// `alias`: 0 all apart, 1 dOut is dSum's memory, 2 dOut is dX's memory, 3 dX is dSum's memory (p = 0), 4 dX is not wanted.
OpTensors addLayerNormBackward(OpCall& c) {
  const int64_t r = c.size("rows"), w = c.size("cols"), alias = c.size("alias", 0);
  auto dSum = alias == 1 ? c.inOut("dOut", "dSum", r, w) : c.out("dSum", r, w);
  auto dX = alias == 4 ? Matrix() : alias == 3 ? dSum : alias == 2 ? c.inOut("dOut", "dX", r, w) : c.out("dX", r, w);
  auto dOut = alias == 1 ? dSum : alias == 2 ? dX : c.matrix("dOut", r, w);
  auto sum = c.matrix("sum", r, w);
  float *dGamma = c.inOutFloats("dGamma", w), *dBeta = c.inOutFloats("dBeta", w);
  const float *mean = c.floats("mean", r), *rstd = c.floats("rstd", r), *gamma = c.floats("gamma", w);
  const auto where = rows(c, r);
  const auto drop = dropout(c);
  return c.run([&] { c.backend.addLayerNormBackward(dSum, dX, dGamma, dBeta, dOut, sum, mean, rstd, gamma, where, drop); });
}

OpTensors convert(OpCall& c) {
  const int64_t r = c.size("rows"), w = c.size("cols");
  auto y = c.out("out", r, w), x = c.matrix("x", r, w);
  return c.run([&] { c.backend.convert(y, x); });
}

OpTensors gatherRows(OpCall& c) {
  const int64_t r = c.size("rows"), w = c.size("cols"), n = c.entries("index");
  auto y = c.out("out", n, w), x = c.matrix("x", r, w);
  const int32_t* index = c.ints("index", n);
  return c.run([&] { c.backend.gatherRows(y, x, index, n); });
}

OpTensors scatterRows(OpCall& c) {
  const int64_t r = c.size("rows"), w = c.size("cols"), n = c.entries("index");
  const bool accumulate = c.flag("accumulate");
  auto y = c.inOut("out", "out", r, w), x = c.matrix("x", n, w);
  const int32_t* index = c.ints("index", n);
  return c.run([&] { c.backend.scatterRows(y, index, n, x, accumulate); });
}

OpTensors add(OpCall& c) {
  const int64_t r = c.size("rows"), w = c.size("cols");
  auto y = c.inOut("out", "out", r, w), x = c.matrix("x", r, w);
  const auto alpha = static_cast<float>(c.attribute("alpha", 1));
  return c.run([&] { c.backend.add(y, x, alpha); });
}

OpTensors crossEntropy(OpCall& c) {
  const int64_t r = c.size("rows"), v = c.size("cols");
  auto logits = c.plainInOut("logits", "dLogits", r, v);
  const int32_t* labels = c.ints("labels", r);
  const auto scale = static_cast<float>(c.attribute("scale", 1));
  auto* result = c.result(CrossEntropyResult{});
  return c.run([&] { c.backend.crossEntropy(result, logits, labels, scale); },
               [&](OpTensors& out) {
                 const auto v = c.value(result);
                 out.f["loss"] = {static_cast<float>(v.loss)};
                 out.i["correct"] = {static_cast<int32_t>(v.correct)};
                 out.i["count"] = {static_cast<int32_t>(v.count)};
               });
}

// ---- embeddings and objectives ----

OpTensors meanPool(OpCall& c) {
  const auto p = packed(c, "offsets");
  const int64_t w = c.size("cols");
  auto y = c.plainOut("out", p.count, w), x = c.matrix("x", p.rows, w);
  return c.run([&] { c.backend.meanPool(y, x, p); });
}

OpTensors meanPoolBackward(OpCall& c) {
  const auto p = packed(c, "offsets");
  const int64_t w = c.size("cols");
  auto dX = c.out("dX", p.rows, w), dOut = c.plainMatrix("dOut", p.count, w);
  return c.run([&] { c.backend.meanPoolBackward(dX, dOut, p); });
}

OpTensors normalize(OpCall& c) {
  const int64_t r = c.size("rows"), w = c.size("cols");
  auto y = c.plainOut("out", r, w), x = c.plainMatrix("x", r, w);
  float* norm = c.outFloats("norm", r);
  return c.run([&] { c.backend.normalize(y, norm, x); });
}

// `alias` 1: dX is dOut's memory.
OpTensors normalizeBackward(OpCall& c) {
  const int64_t r = c.size("rows"), w = c.size("cols");
  const bool alias = c.flag("alias");
  auto dX = alias ? c.plainInOut("dOut", "dX", r, w) : c.plainOut("dX", r, w);
  auto dOut = alias ? dX : c.plainMatrix("dOut", r, w), y = c.plainMatrix("out", r, w);
  const float* norm = c.floats("norm", r);
  return c.run([&] { c.backend.normalizeBackward(dX, dOut, y, norm); });
}

// Everything of a tile but its scores; `m` columns.
Contrastive contrastiveOptions(OpCall& c, int64_t queries, int64_t m) {
  Contrastive t;
  t.queries = queries;
  t.groupSize = static_cast<int32_t>(c.size("groupSize", 1));
  t.temperature = static_cast<float>(c.attribute("temperature", 1));
  t.infoNceWeight = static_cast<float>(c.attribute("infoNceWeight", 1));
  t.klWeight = static_cast<float>(c.attribute("klWeight", 0));
  t.m3Weight = static_cast<float>(c.attribute("m3Weight", 0));
  t.lossScale = static_cast<float>(c.attribute("lossScale", 1));
  if (c.has("teacher")) t.teacher = c.floats("teacher", t.queries * t.groupSize);
  if (c.has("passageIds")) t.passageIds = c.ints("passageIds", m);
  if (c.has("queryIds")) t.queryIds = c.ints("queryIds", t.queries);
  if (c.has("positiveOffsets")) {
    t.positiveOffsets = c.ints("positiveOffsets", t.queries + 1);
    t.positiveIds = c.ints("positiveIds", c.entries("positiveIds"));
  }
  if (c.has("removedOffsets")) {
    t.removedBegin = c.ints("removedOffsets", t.queries + 1);
    t.removedEnd = t.removedBegin + 1;
    t.removedColumns = c.ints("removedColumns", c.entries("removedColumns"));
  }
  if (c.has("sourceIds")) t.sourceIds = c.ints("sourceIds", t.queries);
  t.falseNegativeMargin = static_cast<float>(c.attribute("falseNegativeMargin", t.falseNegativeMargin));
  t.falseNegativesInGroup = c.flag("falseNegativesInGroup");
  return t;
}

void addResult(OpTensors& out, const ContrastiveResult& v) {
  out.f["loss"] = {static_cast<float>(v.loss)};
  out.i["correct"] = {static_cast<int32_t>(v.correct)};
  out.i["masked"] = {static_cast<int32_t>(v.masked)};
  out.i["falseNegatives"] = {static_cast<int32_t>(v.falseNegatives)};
}

OpTensors contrastive(OpCall& c) {
  const int64_t r = c.size("rows"), m = c.size("cols");
  Contrastive t = contrastiveOptions(c, c.size("queries"), m);
  t.scores = c.plainInOut("scores", "dScores", r, m);
  t.firstRow = c.size("firstRow", 0);
  t.ownGroupOnly = c.flag("ownGroupOnly");
  auto* result = c.result(ContrastiveResult{});
  return c.run([&] { c.backend.contrastive(result, t); }, [&](OpTensors& out) { addResult(out, c.value(result)); });
}

// `only` 1: dQ alone, 2: dP alone. What is accumulated to comes as the inputs dQ and dP.
OpTensors contrastivePass(OpCall& c) {
  const int64_t b = c.size("queries"), m = b * c.size("groupSize", 1), w = c.size("width"), only = c.size("only", 0);
  const Contrastive t = contrastiveOptions(c, b, m);
  const bool accumulate = c.flag("accumulate");
  const auto gradient = [&](const char* name, int64_t rows) {
    return accumulate ? c.plainInOut(name, name, rows, w) : c.plainOut(name, rows, w);
  };
  const Matrix dQ = only == 2 ? Matrix() : gradient("dQ", b), dP = only == 1 ? Matrix() : gradient("dP", m);
  const Matrix q = c.plainMatrix("q", b, w), p = c.plainMatrix("p", m, w);
  auto* result = c.result(ContrastiveResult{});
  return c.run([&] { c.backend.contrastivePass(result, dQ, dP, q, p, t, accumulate); },
               [&](OpTensors& out) { addResult(out, c.value(result)); });
}

OpTensors topK(OpCall& c) {
  const int64_t b = c.size("rows"), m = c.size("candidates"), w = c.size("cols"), k = c.size("k");
  const bool merge = c.has("indices");
  auto q = c.plainMatrix("q", b, w), p = c.plainMatrix("p", m, w);
  int32_t* indices = merge ? c.inOutInts("indices", b * k) : c.outInts("indices", b * k);
  float* scores = merge ? c.inOutFloats("scores", b * k) : c.outFloats("scores", b * k);
  const auto first = static_cast<int32_t>(c.size("firstIndex", 0));
  return c.run([&] { c.backend.topK(indices, scores, static_cast<int32_t>(k), q, p, first, merge); });
}

// ---- optimizer ----

// `parts`: equal stretches but for the last, every other one without weight decay.
OpTensors adamw(OpCall& c) {
  const int64_t n = c.size("entries"), parts = std::max<int64_t>(1, c.size("parts", 1)), each = n / parts;
  AdamW o;
  o.learningRate = c.attribute("learningRate", 1e-3);
  o.beta1 = c.attribute("beta1", 0.9);
  o.beta2 = c.attribute("beta2", 0.999);
  o.epsilon = c.attribute("epsilon", 1e-8);
  const double decay = c.attribute("weightDecay", 0);
  o.step = c.size("step", 1);
  o.maxNorm = static_cast<float>(c.attribute("maxNorm", 0));
  float *parameter = c.inOutFloats("parameter", n), *m = c.inOutFloats("m", n), *v = c.inOutFloats("v", n);
  float* gradient = c.inOutFloats("gradient", n);
  auto* squaredNorm = c.result(std::numeric_limits<double>::quiet_NaN());
  std::vector<AdamWPart> list;
  for (int64_t i = 0; i < parts; ++i) {
    const int64_t at = i * each;
    list.push_back({parameter + at, m + at, v + at, gradient + at, i + 1 == parts ? n - at : each, i % 2 == 0 ? decay : 0, 0});
  }
  return c.run([&] { c.backend.adamw(squaredNorm, list.data(), static_cast<int32_t>(list.size()), o); },
               [&](OpTensors& out) { out.f["squaredNorm"] = {static_cast<float>(c.value(squaredNorm))}; });
}

struct Op {
  const char* name;
  OpTensors (*run)(OpCall&);
};
constexpr Op kOps[] = {{"linear", linear},
                       {"linear_backward_input", linearBackwardInput},
                       {"linear_backward_weight", linearBackwardWeight},
                       {"gelu_backward", geluBackward},
                       {"matmul", matmul},
                       {"attention", attention},
                       {"attention_backward", attentionBackward},
                       {"embedding", embedding},
                       {"embedding_backward", embeddingBackward},
                       {"add_layer_norm", addLayerNorm},
                       {"add_layer_norm_backward", addLayerNormBackward},
                       {"convert", convert},
                       {"gather_rows", gatherRows},
                       {"scatter_rows", scatterRows},
                       {"add", add},
                       {"cross_entropy", crossEntropy},
                       {"mean_pool", meanPool},
                       {"mean_pool_backward", meanPoolBackward},
                       {"normalize", normalize},
                       {"normalize_backward", normalizeBackward},
                       {"contrastive", contrastive},
                       {"contrastive_pass", contrastivePass},
                       {"top_k", topK},
                       {"adamw", adamw}};

}  // namespace

OpTensors runOp(Backend& backend, const std::string& name, const OpTensors& in, const std::map<std::string, double>& attributes) {
  for (const auto& op : kOps) {
    if (name != op.name) continue;
    OpCall call(backend, name, in, attributes);
    return op.run(call);
  }
  std::string known;
  for (const auto& op : kOps) known += (known.empty() ? "" : ", ") + std::string(op.name);
  throw Error("ERR_BGE_ARGUMENT", "op must be one of " + known + ", but was \"" + name + "\"");
}

}  // namespace bge

#include "../model/objective.h"

#include <limits>

#include "convert.h"
#include "handles.h"

namespace bge {

namespace {

struct ContrastiveJob {
  ContrastiveResult result;
  SlotPtr<DeviceBuffer> dQ, dP;
};

std::string string(Napi::Value v, const char* name, std::initializer_list<const char*> allowed) {
  std::string expected;
  if (v.IsString()) {
    const auto s = v.As<Napi::String>().Utf8Value();
    for (const auto* a : allowed) {
      if (s == a) return s;
    }
  }
  for (const auto* a : allowed) expected += (expected.empty() ? "'" : " or '") + std::string(a) + "'";
  throw makeError(v.Env(), "ERR_BGE_ARGUMENT", std::string(name) + " must be " + expected + ", but was " + v.ToString().Utf8Value());
}

ObjectiveOptions objectiveOptions(Napi::Env env, Napi::Object o, int64_t queries, int64_t passages, int64_t width) {
  ObjectiveOptions out;
  out.temperature = static_cast<float>(number(o.Get("temperature"), "temperature", 1e-4, 1e4));
  if (present(o.Get("groupSize"))) out.groupSize = static_cast<int32_t>(integer(o.Get("groupSize"), "groupSize", 1, 1 << 20));
  if (passages != queries * out.groupSize) {
    throw makeError(env, "ERR_BGE_SHAPE", "p must have groupSize rows per query (" + std::to_string(queries) + " x " + std::to_string(out.groupSize) +
                                              "), but has " + std::to_string(passages));
  }
  std::string candidates = "batch";
  if (present(o.Get("candidates"))) candidates = string(o.Get("candidates"), "candidates", {"batch", "source", "group"});
  out.ownGroupOnly = candidates == "group";
  if (present(o.Get("direction"))) {
    out.symmetric = string(o.Get("direction"), "direction", {"query-to-passage", "symmetric"}) == "symmetric";
  }
  if (present(o.Get("falseNegatives"))) {
    out.falseNegativesInGroup = string(o.Get("falseNegatives"), "falseNegatives", {"in-batch", "all"}) == "all";
    out.falseNegativeMargin = static_cast<float>(number(o.Get("falseNegativeMargin"), "falseNegativeMargin", -2, 2));
  } else if (present(o.Get("falseNegativeMargin"))) {
    throw makeError(env, "ERR_BGE_ARGUMENT", "falseNegativeMargin needs falseNegatives, 'in-batch' or 'all'");
  }
  if (present(o.Get("infoNce"))) out.infoNceWeight = static_cast<float>(number(o.Get("infoNce"), "infoNce", 0, 1e6));
  if (present(o.Get("distillation"))) {
    const bool kl = string(o.Get("distillation"), "distillation", {"kl_div", "m3_kd_loss"}) == "kl_div";
    (kl ? out.klWeight : out.m3Weight) = 1;
    if (!kl && !present(o.Get("infoNce"))) out.infoNceWeight = 0;
    out.teacher = floats(o.Get("teacher"), "teacher");
    if (static_cast<int64_t>(out.teacher.size()) != passages) {
      throw makeError(env, "ERR_BGE_SHAPE", "teacher must have one score per passage (" + std::to_string(passages) + "), but has " +
                                                std::to_string(out.teacher.size()));
    }
  }
  if (present(o.Get("matryoshka"))) {
    auto v = o.Get("matryoshka");
    if (!v.IsArray()) throw makeError(env, "ERR_BGE_ARGUMENT", "matryoshka must be an array of widths");
    auto a = v.As<Napi::Array>();
    for (uint32_t i = 0; i < a.Length(); ++i) {
      out.matryoshka.push_back(static_cast<int32_t>(integer(a.Get(i), ("matryoshka[" + std::to_string(i) + "]").c_str(), 1, width)));
    }
  }
  auto ids = [&](const char* name, std::vector<int32_t>& target, int64_t size) {
    if (!present(o.Get(name))) return;
    target = ints(o.Get(name), name);
    if (size >= 0 && static_cast<int64_t>(target.size()) != size) {
      throw makeError(env, "ERR_BGE_SHAPE", std::string(name) + " must have " + std::to_string(size) + " entries, but has " + std::to_string(target.size()));
    }
  };
  ids("passageIds", out.passageIds, passages);
  ids("queryIds", out.queryIds, queries);
  ids("sourceIds", out.sourceIds, queries);
  if (out.sourceIds.empty() != (candidates != "source")) {
    throw makeError(env, "ERR_BGE_ARGUMENT", "candidates 'source' and sourceIds need each other");
  }
  ids("positiveOffsets", out.positiveOffsets, queries + 1);
  ids("positiveIds", out.positiveIds, -1);
  if (!out.positiveOffsets.empty()) {
    if (out.passageIds.empty()) throw makeError(env, "ERR_BGE_ARGUMENT", "positiveOffsets needs passageIds");
    for (size_t i = 0; i < out.positiveOffsets.size(); ++i) {
      const int32_t low = i == 0 ? 0 : out.positiveOffsets[i - 1];
      if (out.positiveOffsets[i] < low || out.positiveOffsets[i] > static_cast<int64_t>(out.positiveIds.size()) || (i == 0 && out.positiveOffsets[0] != 0)) {
        throw makeError(env, "ERR_BGE_SHAPE", "positiveOffsets must ascend from 0 to the number of positiveIds");
      }
    }
  }
  return out;
}

}  // namespace

Napi::Value DeviceHandle::contrastive(const Napi::CallbackInfo& info) {
  check(info);
  auto env = info.Env();
  auto& q = TensorHandle::from(info[0], "q", core);
  auto& p = TensorHandle::from(info[1], "p", core, q.cols);
  auto options = objectiveOptions(env, object(info[2], "options"), q.rows, p.rows, q.cols);
  const int64_t b = q.rows, m = p.rows, d = q.cols;
  if (b == 0) throw makeError(env, "ERR_BGE_SHAPE", "q must have at least one row");
  auto dQ = core->slot<DeviceBuffer>([n = b * d](Backend& k) { return std::make_unique<DeviceBuffer>(k, n); });
  auto dP = core->slot<DeviceBuffer>([n = m * d](Backend& k) { return std::make_unique<DeviceBuffer>(k, n); });
  return core->run(
      env,
      [qs = q.slot, ps = p.slot, dQ, dP, options = std::move(options), b, m, d](Backend& k) {
        auto r = contrastiveObjective(k, Matrix(dQ->get().data, b, d), Matrix(dP->get().data, m, d), Matrix(qs->get().data, b, d),
                                      Matrix(ps->get().data, m, d), options);
        k.synchronize();
        return ContrastiveJob{r, dQ, dP};
      },
      [device = core, b, m, d](Napi::Env e, ContrastiveJob& r) {
        auto o = Napi::Object::New(e);
        o.Set("loss", r.result.loss);
        o.Set("accuracy", static_cast<double>(r.result.correct) / static_cast<double>(b));
        o.Set("masked", static_cast<double>(r.result.masked));
        o.Set("falseNegatives", static_cast<double>(r.result.falseNegatives));
        o.Set("dQ", TensorHandle::wrap(e, device, r.dQ, b, d));
        o.Set("dP", TensorHandle::wrap(e, device, r.dP, m, d));
        return o;
      });
}

Napi::Value DeviceHandle::topK(const Napi::CallbackInfo& info) {
  check(info);
  auto env = info.Env();
  auto& q = TensorHandle::from(info[0], "q", core);
  auto& p = TensorHandle::from(info[1], "p", core, q.cols);
  const auto k = static_cast<int32_t>(integer(info[2], "k", 1, 1 << 20));
  int32_t first = 0;
  struct Result { std::vector<int32_t> indices; std::vector<float> scores; };
  Result start;
  bool merge = false;
  if (present(info[3])) {
    auto o = object(info[3], "options");
    if (present(o.Get("firstIndex"))) first = static_cast<int32_t>(integer(o.Get("firstIndex"), "firstIndex", 0, std::numeric_limits<int32_t>::max() - p.rows));
    if (present(o.Get("into"))) {
      auto into = object(o.Get("into"), "into");
      start.indices = ints(into.Get("indices"), "into.indices");
      start.scores = floats(into.Get("scores"), "into.scores");
      merge = true;
      if (static_cast<int64_t>(start.indices.size()) != q.rows * k || start.scores.size() != start.indices.size()) {
        throw makeError(env, "ERR_BGE_SHAPE", "into must hold k entries per query (" + std::to_string(q.rows * k) + "), but holds " +
                                                  std::to_string(start.indices.size()));
      }
    }
  }
  return core->run(
      env,
      [qs = q.slot, ps = p.slot, start = std::move(start), merge, first, k, b = q.rows, m = p.rows, d = q.cols](Backend& backend) mutable {
        Arena::Scope scope(backend.workspace());
        const auto n = static_cast<size_t>(b) * static_cast<size_t>(k);
        auto* indices = backend.workspace().take<int32_t>(static_cast<int64_t>(n));
        auto* scores = backend.workspace().take<float>(static_cast<int64_t>(n));
        if (merge) {
          backend.upload(indices, start.indices.data(), n * sizeof(int32_t));
          backend.upload(scores, start.scores.data(), n * sizeof(float));
        }
        backend.topK(indices, scores, k, Matrix(qs->get().data, b, d), Matrix(ps->get().data, m, d), first, merge);
        Result r{std::vector<int32_t>(n), std::vector<float>(n)};
        backend.download(r.indices.data(), indices, n * sizeof(int32_t));
        backend.download(r.scores.data(), scores, n * sizeof(float));
        return r;
      },
      [](Napi::Env e, Result& r) {
        auto o = Napi::Object::New(e);
        o.Set("indices", toInt32Array(e, r.indices));
        o.Set("scores", toFloat32Array(e, r.scores));
        return o;
      });
}

}  // namespace bge

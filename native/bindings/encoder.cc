#include "convert.h"
#include "handles.h"

namespace bge {

namespace {

Matrix view(const SlotPtr<DeviceBuffer>& s, int64_t rows, int64_t cols) { return s ? Matrix(s->get().data, rows, cols) : Matrix(); }

SlotPtr<DeviceBuffer> buffer(const std::shared_ptr<DeviceCore>& core, int64_t rows, int64_t cols, Priority priority = Priority::normal) {
  return core->slot<DeviceBuffer>([n = rows * cols](Backend& b) { return std::make_unique<DeviceBuffer>(b, n); }, priority);
}

Priority priorityOf(Napi::Value v) {
  if (!present(v)) return Priority::normal;
  const auto word = v.IsString() ? v.As<Napi::String>().Utf8Value() : std::string();
  if (word == "query") return Priority::urgent;
  if (word != "bulk") throw makeError(v.Env(), "ERR_BGE_ARGUMENT", "priority must be 'query' or 'bulk', but was " + v.ToString().Utf8Value());
  return Priority::normal;
}

template <class Handle>
Handle& unwrapAs(Napi::Value v, const char* name, Napi::FunctionReference& constructor, const std::shared_ptr<DeviceCore>& core, const char* what) {
  if (!v.IsObject() || !v.As<Napi::Object>().InstanceOf(constructor.Value())) {
    throw makeError(v.Env(), "ERR_BGE_ARGUMENT", std::string(name) + " must be " + what + " of this device");
  }
  auto& h = *Napi::ObjectWrap<Handle>::Unwrap(v.As<Napi::Object>());
  h.module.state->check(v.Env(), name);
  if (h.module.state->core != core) throw makeError(v.Env(), "ERR_BGE_ARGUMENT", std::string(name) + " must belong to this device");
  return h;
}

template <class T>
void closeModule(ModuleState& module, const SlotPtr<T>& slot) {
  if (module.state->disposed) return;
  module.state->disposed = true;
  module.state->core->post([slot] { slot->close(); });
}

// Finishes a module handle: parameters object and what the optimizer needs.
template <class T>
void attach(Napi::Env env, Napi::Object object, ModuleState& module, const std::shared_ptr<DeviceCore>& core, const SlotPtr<T>& slot,
            std::vector<ParameterSpec> specs) {
  module.state->core = core;
  module.specs = std::move(specs);
  module.parameters = [slot]() -> Parameters& { return slot->get().parameters; };
  object.DefineProperty(Napi::PropertyDescriptor::Value(
      "parameters", ParametersHandle::wrap(env, core, module.specs, module.parameters, module.state), napi_enumerable));
}

Napi::Object headResult(Napi::Env env, const HeadResult& r) {
  auto o = Napi::Object::New(env);
  o.Set("loss", r.loss);
  o.Set("correct", static_cast<double>(r.correct));
  o.Set("count", static_cast<double>(r.count));
  return o;
}

float gradientScale(Napi::Value v) { return static_cast<float>(number(v, "scale", 0, 1e30)); }

}  // namespace

// ---- Encoder ----

Napi::Function EncoderHandle::define(Napi::Env env) {
  return DefineClass(env, "Encoder",
                     {InstanceMethod<&EncoderHandle::embed>("embed"), InstanceMethod<&EncoderHandle::forward>("forward"),
                      InstanceMethod<&EncoderHandle::backward>("backward"), InstanceMethod<&EncoderHandle::discard>("discard"),
                      InstanceMethod<&EncoderHandle::reserve>("reserve"),
                      InstanceMethod<&EncoderHandle::dispose>("dispose")});
}

EncoderHandle::EncoderHandle(const Napi::CallbackInfo& info) : Napi::ObjectWrap<EncoderHandle>(info) {}

Napi::Object EncoderHandle::create(Napi::Env env, std::shared_ptr<DeviceCore> core, Napi::Value options) {
  const auto config = modelConfig(options);
  auto object = env.GetInstanceData<AddonData>()->encoder.New({});
  auto* h = Unwrap(object);
  h->config = config;
  h->slot = core->slot<Encoder>([config](Backend& b) { return std::make_unique<Encoder>(b, config); });
  attach(env, object, h->module, core, h->slot, encoderParameters(config));
  object.DefineProperty(Napi::PropertyDescriptor::Value("config", options, napi_enumerable));
  return object;
}

EncoderHandle& EncoderHandle::from(Napi::Value v, const char* name, const std::shared_ptr<DeviceCore>& core) {
  return unwrapAs<EncoderHandle>(v, name, v.Env().GetInstanceData<AddonData>()->encoder, core, "an Encoder");
}

Napi::Value EncoderHandle::embed(const Napi::CallbackInfo& info) {
  module.state->check(info.Env(), "the encoder");
  auto batch = tokenBatch(info[0], config);
  auto key = dropoutKey(info[1]);
  // Never before its own encoder.
  const auto priority = priorityOf(info[2]) == Priority::urgent && slot->made ? Priority::urgent : Priority::normal;
  const int64_t n = batch.sequences(), c = config.hidden;
  auto core = module.state->core;
  auto out = buffer(core, n, c, priority);
  return core->run(
      info.Env(),
      [s = slot, out, batch = std::move(batch), key, n, c](Backend& b) {
        s->get().embed(view(out, n, c), batch, key);
        b.synchronize();
        return Made{out, n, c};
      },
      [core, priority](Napi::Env env, Made& m) { return TensorHandle::wrap(env, core, m.slot, m.rows, m.cols, priority); }, priority);
}

Napi::Value EncoderHandle::forward(const Napi::CallbackInfo& info) {
  refuseTraining(info.Env(), *module.state->core, "forward() keeps activations for backward(), and");
  module.state->check(info.Env(), "the encoder");
  const std::string others = present(info[2]) ? info[2].ToString().Utf8Value() : "none";
  if (others != "none" && others != "allowed") {
    throw makeError(info.Env(), "ERR_BGE_ARGUMENT", "others must be 'none' or 'allowed', but was '" + others + "'");
  }
  if (others == "none" && !outstanding_.empty()) {
    throw makeError(info.Env(), "ERR_BGE_ARGUMENT", "forward needs the previous forward's backward or discard first: one may be outstanding");
  }
  auto batch = tokenBatch(info[0], config);
  auto key = dropoutKey(info[1]);
  const int64_t n = batch.sequences(), c = config.hidden, r = static_cast<int64_t>(batch.rows.size());
  outstanding_.push_back({r, n});
  auto core = module.state->core;
  auto hidden = buffer(core, r, c), cls = buffer(core, n, c), embeddings = buffer(core, n, c);
  return core->run(
      info.Env(),
      [s = slot, hidden, cls, embeddings, batch = std::move(batch), key, n, c, r](Backend& b) {
        s->get().forward(r > 0 ? view(hidden, r, c) : Matrix(), view(cls, n, c), view(embeddings, n, c), batch, key);
        b.synchronize();
        return 0;
      },
      [core, hidden, cls, embeddings, n, c, r](Napi::Env env, int&) {
        auto o = Napi::Object::New(env);
        o.Set("hidden", TensorHandle::wrap(env, core, hidden, r, c));
        o.Set("cls", TensorHandle::wrap(env, core, cls, n, c));
        o.Set("embeddings", TensorHandle::wrap(env, core, embeddings, n, c));
        return o;
      });
}

Napi::Value EncoderHandle::backward(const Napi::CallbackInfo& info) {
  auto env = info.Env();
  module.state->check(env, "the encoder");
  if (outstanding_.empty()) throw makeError(env, "ERR_BGE_ARGUMENT", "backward needs an outstanding forward");
  auto o = object(info[0], "gradients");
  const int64_t c = config.hidden, r = outstanding_.back().rows, n = outstanding_.back().sequences;
  auto core = module.state->core;
  auto take = [&](const char* name, int64_t rows) -> SlotPtr<DeviceBuffer> {
    auto v = o.Get(name);
    if (!present(v)) return nullptr;
    auto& t = TensorHandle::from(v, name, core, c);
    if (t.rows != rows) {
      throw makeError(env, "ERR_BGE_SHAPE", std::string(name) + " must have " + std::to_string(rows) + " rows like the outstanding forward, but has " +
                                                std::to_string(t.rows));
    }
    return rows > 0 ? t.slot : nullptr;
  };
  auto dHidden = take("dHidden", r), dCls = take("dCls", n), dEmbeddings = take("dEmbeddings", n);
  if (!dHidden && !dCls && !dEmbeddings) throw makeError(env, "ERR_BGE_ARGUMENT", "gradients must hold dHidden, dCls or dEmbeddings, but holds none");
  outstanding_.pop_back();
  return core->run(
      env,
      [s = slot, dHidden, dCls, dEmbeddings, r, n, c](Backend& b) {
        s->get().backward(view(dHidden, r, c), view(dCls, n, c), view(dEmbeddings, n, c));
        b.synchronize();
        return 0;
      },
      [](Napi::Env e, int&) { return e.Undefined(); });
}

Napi::Value EncoderHandle::discard(const Napi::CallbackInfo& info) {
  module.state->check(info.Env(), "the encoder");
  outstanding_.clear();
  return module.state->core->run(
      info.Env(),
      [s = slot](Backend&) {
        s->get().discard();
        return 0;
      },
      [](Napi::Env e, int&) { return e.Undefined(); });
}

Napi::Value EncoderHandle::reserve(const Napi::CallbackInfo& info) {
  module.state->check(info.Env(), "the encoder");
  const auto bytes = static_cast<size_t>(integer(info[0], "bytes", 0, int64_t{1} << 50));
  return module.state->core->run(
      info.Env(),
      [s = slot, bytes](Backend&) {
        s->get().reserve(bytes);
        return 0;
      },
      [](Napi::Env e, int&) { return e.Undefined(); });
}

Napi::Value EncoderHandle::dispose(const Napi::CallbackInfo& info) {
  closeModule(module, slot);
  return info.Env().Undefined();
}

// ---- MlmHead ----

Napi::Function MlmHeadHandle::define(Napi::Env env) {
  return DefineClass(env, "MlmHead", {InstanceMethod<&MlmHeadHandle::step>("step"), InstanceMethod<&MlmHeadHandle::dispose>("dispose")});
}

MlmHeadHandle::MlmHeadHandle(const Napi::CallbackInfo& info) : Napi::ObjectWrap<MlmHeadHandle>(info) {}

Napi::Object MlmHeadHandle::create(Napi::Env env, std::shared_ptr<DeviceCore> core, EncoderHandle& encoder) {
  refuseTraining(env, *core, "an MLM head");
  auto object = env.GetInstanceData<AddonData>()->mlmHead.New({});
  auto* h = Unwrap(object);
  h->config = encoder.config;
  h->encoder = encoder.slot;
  h->slot = core->slot<MlmHead>([e = encoder.slot](Backend&) { return std::make_unique<MlmHead>(e->get()); });
  attach(env, object, h->module, core, h->slot, mlmHeadParameters(encoder.config));
  return object;
}

MlmHeadHandle& MlmHeadHandle::from(Napi::Value v, const char* name, const std::shared_ptr<DeviceCore>& core) {
  return unwrapAs<MlmHeadHandle>(v, name, v.Env().GetInstanceData<AddonData>()->mlmHead, core, "an MlmHead");
}

Napi::Value MlmHeadHandle::step(const Napi::CallbackInfo& info) {
  auto env = info.Env();
  module.state->check(env, "the MLM head");
  auto core = module.state->core;
  const int64_t c = config.hidden;
  auto& hidden = TensorHandle::from(info[0], "hidden", core, c);
  auto labels = ints(info[1], "labels");
  if (static_cast<int64_t>(labels.size()) != hidden.rows) {
    throw makeError(env, "ERR_BGE_SHAPE", "labels must have one entry per row of hidden (" + std::to_string(hidden.rows) + "), but has " +
                                              std::to_string(labels.size()));
  }
  for (size_t i = 0; i < labels.size(); ++i) {
    if (labels[i] != -100 && (labels[i] < 0 || labels[i] >= config.vocab)) {
      throw makeError(env, "ERR_BGE_ARGUMENT", "labels[" + std::to_string(i) + "] must be -100 or a token id below " + std::to_string(config.vocab) +
                                                   ", but was " + std::to_string(labels[i]));
    }
  }
  const float scale = gradientScale(info[2]);
  const int64_t r = hidden.rows;
  auto dHidden = buffer(core, r, c);
  return core->run(
      env,
      [s = slot, e = encoder, h = hidden.slot, dHidden, labels = std::move(labels), scale, r, c](Backend& b) {
        e->get();
        auto result = s->get().step(view(dHidden, r, c), view(h, r, c), labels, scale);
        b.synchronize();
        return result;
      },
      [core, dHidden, r, c](Napi::Env e, HeadResult& result) {
        auto o = headResult(e, result);
        o.Set("dHidden", TensorHandle::wrap(e, core, dHidden, r, c));
        return o;
      });
}

Napi::Value MlmHeadHandle::dispose(const Napi::CallbackInfo& info) {
  closeModule(module, slot);
  return info.Env().Undefined();
}

// ---- EnhancedDecoder ----

Napi::Function DecoderHandle::define(Napi::Env env) {
  return DefineClass(env, "EnhancedDecoder", {InstanceMethod<&DecoderHandle::step>("step"), InstanceMethod<&DecoderHandle::dispose>("dispose")});
}

DecoderHandle::DecoderHandle(const Napi::CallbackInfo& info) : Napi::ObjectWrap<DecoderHandle>(info) {}

Napi::Object DecoderHandle::create(Napi::Env env, std::shared_ptr<DeviceCore> core, EncoderHandle& encoder, MlmHeadHandle& head) {
  refuseTraining(env, *core, "an enhanced decoder");
  if (head.encoder != encoder.slot) throw makeError(env, "ERR_BGE_ARGUMENT", "head must be the MlmHead of the same encoder");
  auto object = env.GetInstanceData<AddonData>()->decoder.New({});
  auto* h = Unwrap(object);
  h->config = encoder.config;
  h->encoder = encoder.slot;
  h->head = head.slot;
  h->slot = core->slot<EnhancedDecoder>(
      [e = encoder.slot, m = head.slot](Backend&) { return std::make_unique<EnhancedDecoder>(e->get(), m->get()); });
  attach(env, object, h->module, core, h->slot, decoderParameters(encoder.config));
  return object;
}

Napi::Value DecoderHandle::step(const Napi::CallbackInfo& info) {
  auto env = info.Env();
  module.state->check(env, "the decoder");
  auto core = module.state->core;
  const int64_t c = config.hidden;
  auto& cls = TensorHandle::from(info[0], "cls", core, c);
  auto batch = decoderBatch(info[1], config);
  if (batch.tokens.sequences() != cls.rows) {
    throw makeError(env, "ERR_BGE_SHAPE", "cls must have one row per sequence (" + std::to_string(batch.tokens.sequences()) + "), but has " +
                                              std::to_string(cls.rows));
  }
  auto key = dropoutKey(info[2]);
  const float scale = gradientScale(info[3]);
  const int64_t n = cls.rows;
  auto dCls = buffer(core, n, c);
  return core->run(
      env,
      [s = slot, e = encoder, m = head, in = cls.slot, dCls, batch = std::move(batch), key, scale, n, c](Backend& b) {
        e->get();
        m->get();
        auto result = s->get().step(view(dCls, n, c), view(in, n, c), batch, key, scale);
        b.synchronize();
        return result;
      },
      [core, dCls, n, c](Napi::Env e, HeadResult& result) {
        auto o = headResult(e, result);
        o.Set("dCls", TensorHandle::wrap(e, core, dCls, n, c));
        return o;
      });
}

Napi::Value DecoderHandle::dispose(const Napi::CallbackInfo& info) {
  closeModule(module, slot);
  return info.Env().Undefined();
}

}  // namespace bge

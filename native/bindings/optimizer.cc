#include "convert.h"
#include "handles.h"

namespace bge {

Napi::Function AdamWHandle::define(Napi::Env env) {
  return DefineClass(env, "AdamW",
                     {InstanceMethod<&AdamWHandle::step>("step"), InstanceMethod<&AdamWHandle::readMoment>("readMoment"),
                      InstanceMethod<&AdamWHandle::writeMoment>("writeMoment"),
                      InstanceAccessor<&AdamWHandle::getSteps, &AdamWHandle::setSteps>("steps"), InstanceMethod<&AdamWHandle::dispose>("dispose")});
}

AdamWHandle::AdamWHandle(const Napi::CallbackInfo& info) : Napi::ObjectWrap<AdamWHandle>(info) {}

Napi::Object AdamWHandle::create(Napi::Env env, std::shared_ptr<DeviceCore> core, Napi::Value modules, Napi::Value optionsValue) {
  refuseTraining(env, *core, "an optimizer");
  if (!modules.IsArray() || modules.As<Napi::Array>().Length() == 0) {
    throw makeError(env, "ERR_BGE_ARGUMENT", "modules must be an array of at least one Encoder, MlmHead or EnhancedDecoder");
  }
  auto* addon = env.GetInstanceData<AddonData>();
  std::vector<std::function<Parameters&()>> get;
  std::vector<std::vector<ParameterSpec>> specs;
  auto list = modules.As<Napi::Array>();
  for (uint32_t i = 0; i < list.Length(); ++i) {
    Napi::Value v = list[i];
    const std::string name = "modules[" + std::to_string(i) + "]";
    ModuleState* module = nullptr;
    if (v.IsObject()) {
      auto o = v.As<Napi::Object>();
      if (o.InstanceOf(addon->encoder.Value())) module = &EncoderHandle::Unwrap(o)->module;
      else if (o.InstanceOf(addon->mlmHead.Value())) module = &MlmHeadHandle::Unwrap(o)->module;
      else if (o.InstanceOf(addon->decoder.Value())) module = &DecoderHandle::Unwrap(o)->module;
    }
    if (module == nullptr || module->state->core != core) {
      throw makeError(env, "ERR_BGE_ARGUMENT", name + " must be an Encoder, MlmHead or EnhancedDecoder of this device");
    }
    module->state->check(env, name.c_str());
    get.push_back(module->parameters);
    specs.push_back(module->specs);
  }
  OptimizerOptions options;
  if (present(optionsValue)) {
    auto o = object(optionsValue, "options");
    auto take = [&](const char* key, double& target, double max) {
      if (present(o.Get(key))) target = number(o.Get(key), key, 0, max);
    };
    take("beta1", options.beta1, 1);
    take("beta2", options.beta2, 1);
    take("epsilon", options.epsilon, 1);
    take("weightDecay", options.weightDecay, 1e6);
  }
  auto object = addon->adamW.New({});
  auto* h = Unwrap(object);
  h->state_.core = core;
  h->specs_ = std::move(specs);
  h->slot_ = core->slot<Optimizer>([get, options](Backend&) {
    std::vector<Parameters*> p;
    for (auto& g : get) p.push_back(&g());
    return std::make_unique<Optimizer>(p, options);
  });
  h->modules_ = std::move(get);
  return object;
}

Napi::Value AdamWHandle::step(const Napi::CallbackInfo& info) {
  state_.check(info.Env(), "the optimizer");
  const auto lr = static_cast<float>(number(info[0], "learningRate", 0, 1e6));
  const auto maxNorm = static_cast<float>(number(info[1], "maxNorm", 0, 1e30));
  auto self = std::make_shared<Napi::ObjectReference>(Napi::Persistent(info.This().As<Napi::Object>()));
  struct Result { double norm; int64_t steps; };
  return state_.core->run(
      info.Env(),
      [s = slot_, get = modules_, lr, maxNorm](Backend&) {
        for (auto& g : get) g();  // a disposed module is an error, not a dangling pointer
        auto& o = s->get();
        const double norm = o.step(lr, maxNorm);
        return Result{norm, o.steps};
      },
      [self](Napi::Env env, Result& r) -> Napi::Value {
        Unwrap(self->Value())->steps_ = r.steps;
        return Napi::Number::New(env, r.norm);
      });
}

AdamWHandle::Moment AdamWHandle::moment(const Napi::CallbackInfo& info) {
  state_.check(info.Env(), "the optimizer");
  const auto module = static_cast<size_t>(integer(info[0], "module", 0, static_cast<int64_t>(specs_.size()) - 1));
  const auto which = static_cast<int>(integer(info[1], "which", 0, 1));
  const auto name = info[2].ToString().Utf8Value();
  for (const auto& s : specs_[module]) {
    if (s.name == name) return {module, which, s};
  }
  throw makeError(info.Env(), "ERR_BGE_ARGUMENT", "name must be a parameter of module " + std::to_string(module) + ", but was \"" + name + "\"");
}

Napi::Value AdamWHandle::readMoment(const Napi::CallbackInfo& info) {
  return state_.core->run(
      info.Env(),
      [s = slot_, m = moment(info)](Backend& b) {
        std::vector<float> out(static_cast<size_t>(m.spec.size));
        b.download(out.data(), s->get().moment(m.module, m.which) + m.spec.offset, out.size() * sizeof(float));
        return out;
      },
      [](Napi::Env env, std::vector<float>& v) { return toFloat32Array(env, v); });
}

Napi::Value AdamWHandle::writeMoment(const Napi::CallbackInfo& info) {
  auto m = moment(info);
  auto values = floats(info[3], "values");
  if (static_cast<int64_t>(values.size()) != m.spec.size) {
    throw makeError(info.Env(), "ERR_BGE_SHAPE", m.spec.name + " must have " + std::to_string(m.spec.size) + " values, but got " + std::to_string(values.size()));
  }
  return state_.core->run(
      info.Env(),
      [s = slot_, m, values = std::move(values)](Backend& b) {
        b.upload(s->get().moment(m.module, m.which) + m.spec.offset, values.data(), values.size() * sizeof(float));
        return 0;
      },
      [](Napi::Env env, int&) { return env.Undefined(); });
}

Napi::Value AdamWHandle::getSteps(const Napi::CallbackInfo& info) { return Napi::Number::New(info.Env(), static_cast<double>(steps_)); }

void AdamWHandle::setSteps(const Napi::CallbackInfo& info, const Napi::Value& value) {
  state_.check(info.Env(), "the optimizer");
  steps_ = integer(value, "steps", 0, int64_t{1} << 52);
  state_.core->post([s = slot_, n = steps_] {
    if (s->value) s->value->steps = n;
  });
}

Napi::Value AdamWHandle::dispose(const Napi::CallbackInfo& info) {
  if (!state_.disposed) {
    state_.disposed = true;
    state_.core->post([s = slot_] { s->close(); });
  }
  return info.Env().Undefined();
}

}  // namespace bge

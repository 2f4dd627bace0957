#include "convert.h"
#include "handles.h"

namespace bge {

Napi::Function ParametersHandle::define(Napi::Env env) {
  return DefineClass(env, "Parameters",
                     {InstanceAccessor<&ParametersHandle::list>("list"), InstanceMethod<&ParametersHandle::read>("read"),
                      InstanceMethod<&ParametersHandle::write>("write"), InstanceMethod<&ParametersHandle::gradient>("gradient"),
                      InstanceMethod<&ParametersHandle::zeroGradients>("zeroGradients")});
}

ParametersHandle::ParametersHandle(const Napi::CallbackInfo& info) : Napi::ObjectWrap<ParametersHandle>(info) {}

Napi::Object ParametersHandle::wrap(Napi::Env env, std::shared_ptr<DeviceCore> core, std::vector<ParameterSpec> specs,
                                    std::function<Parameters&()> get, std::shared_ptr<HandleState> owner) {
  auto object = env.GetInstanceData<AddonData>()->parameters.New({});
  auto* h = Unwrap(object);
  h->core_ = std::move(core);
  h->specs_ = std::move(specs);
  h->get_ = std::move(get);
  h->owner_ = std::move(owner);
  return object;
}

Napi::Value ParametersHandle::list(const Napi::CallbackInfo& info) {
  auto env = info.Env();
  auto out = Napi::Array::New(env, specs_.size());
  for (size_t i = 0; i < specs_.size(); ++i) {
    auto o = Napi::Object::New(env);
    auto shape = Napi::Array::New(env, specs_[i].shape.size());
    for (size_t k = 0; k < specs_[i].shape.size(); ++k) shape.Set(static_cast<uint32_t>(k), static_cast<double>(specs_[i].shape[k]));
    o.Set("name", specs_[i].name);
    o.Set("shape", shape);
    o.Set("decay", specs_[i].decay);
    out.Set(static_cast<uint32_t>(i), o);
  }
  return out;
}

const ParameterSpec& ParametersHandle::find(const Napi::CallbackInfo& info) {
  owner_->check(info.Env(), "the module");
  if (info[0].IsString()) {
    const auto name = info[0].As<Napi::String>().Utf8Value();
    for (const auto& s : specs_) {
      if (s.name == name) return s;
    }
    throw makeError(info.Env(), "ERR_BGE_ARGUMENT", "name must be a parameter of this module, but was \"" + name + "\"");
  }
  throw makeError(info.Env(), "ERR_BGE_ARGUMENT", "name must be a string");
}

Napi::Value ParametersHandle::read(const Napi::CallbackInfo& info) {
  return core_->run(
      info.Env(),
      [get = get_, spec = find(info)](Backend& b) {
        std::vector<float> out(static_cast<size_t>(spec.size));
        b.download(out.data(), get().values() + spec.offset, out.size() * sizeof(float));
        return out;
      },
      [](Napi::Env env, std::vector<float>& v) { return toFloat32Array(env, v); });
}

Napi::Value ParametersHandle::write(const Napi::CallbackInfo& info) {
  const auto& spec = find(info);
  auto values = floats(info[1], "values");
  if (static_cast<int64_t>(values.size()) != spec.size) {
    throw makeError(info.Env(), "ERR_BGE_SHAPE", spec.name + " must have " + std::to_string(spec.size) + " values, but got " + std::to_string(values.size()));
  }
  return core_->run(
      info.Env(),
      [get = get_, spec, values = std::move(values)](Backend& b) {
        auto& p = get();
        b.upload(p.values() + spec.offset, values.data(), values.size() * sizeof(float));
        p.changed();
        return 0;
      },
      [](Napi::Env env, int&) { return env.Undefined(); });
}

Napi::Value ParametersHandle::gradient(const Napi::CallbackInfo& info) {
  return core_->run(
      info.Env(),
      [get = get_, spec = find(info)](Backend& b) {
        std::vector<float> out(static_cast<size_t>(spec.size), 0.0f);
        auto& p = get();
        if (p.hasGradients()) b.download(out.data(), p.gradients() + spec.offset, out.size() * sizeof(float));
        return out;
      },
      [](Napi::Env env, std::vector<float>& v) { return toFloat32Array(env, v); });
}

Napi::Value ParametersHandle::zeroGradients(const Napi::CallbackInfo& info) {
  owner_->check(info.Env(), "the module");
  return core_->run(
      info.Env(),
      [get = get_](Backend&) {
        auto& p = get();
        if (p.hasGradients()) p.zeroGradients();
        return 0;
      },
      [](Napi::Env env, int&) { return env.Undefined(); });
}

}  // namespace bge

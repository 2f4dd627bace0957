#include "../core/cuda_library.h"
#include "convert.h"
#include "handles.h"
#include "op.h"

namespace bge {

Napi::Function DeviceHandle::define(Napi::Env env) {
  return DefineClass(
      env, "Device",
      {InstanceAccessor<&DeviceHandle::kind>("kind"), InstanceAccessor<&DeviceHandle::description>("description"),
       InstanceAccessor<&DeviceHandle::dtype>("dtype"),
       InstanceMethod<&DeviceHandle::memory>("memory"), InstanceMethod<&DeviceHandle::memoryInfo>("memoryInfo"),
       InstanceMethod<&DeviceHandle::reserve>("reserve"), InstanceMethod<&DeviceHandle::synchronize>("synchronize"),
       InstanceMethod<&DeviceHandle::dispose>("dispose"), InstanceMethod<&DeviceHandle::tensor>("tensor"),
       InstanceMethod<&DeviceHandle::zeros>("zeros"), InstanceMethod<&DeviceHandle::encoder>("encoder"),
       InstanceMethod<&DeviceHandle::mlmHead>("mlmHead"), InstanceMethod<&DeviceHandle::enhancedDecoder>("enhancedDecoder"),
       InstanceMethod<&DeviceHandle::adamW>("adamW"), InstanceMethod<&DeviceHandle::contrastive>("contrastive"),
       InstanceMethod<&DeviceHandle::topK>("topK"), InstanceMethod<&DeviceHandle::op>("op")});
}

DeviceHandle::DeviceHandle(const Napi::CallbackInfo& info) : Napi::ObjectWrap<DeviceHandle>(info) {}

// openDevice({ threads, isa, dtype, note }) or openDevice({ cuda: index, libraries: [path ...] }). note: added to the description.
Napi::Value DeviceHandle::open(const Napi::CallbackInfo& info) {
  auto env = info.Env();
  auto o = object(info[0], "options");
  std::unique_ptr<Backend> backend;
  std::string dtype = "bf16";  // CUDA
  try {
    if (present(o.Get("cuda"))) {
      if (!o.Get("libraries").IsArray()) throw makeError(env, "ERR_BGE_ARGUMENT", "libraries must be an array");
      const auto paths = o.Get("libraries").As<Napi::Array>();
      std::vector<std::string> libraries;
      for (uint32_t i = 0; i < paths.Length(); ++i) libraries.push_back(paths.Get(i).ToString().Utf8Value());
      backend = makeCudaBackend(static_cast<int32_t>(integer(o.Get("cuda"), "cuda", 0, 1023)), libraries);
    } else {
      DeviceOptions options;
      if (present(o.Get("threads"))) options.threads = static_cast<int32_t>(integer(o.Get("threads"), "threads", 1, 1024));
      if (present(o.Get("isa"))) options.isa = o.Get("isa").ToString().Utf8Value();
      if (present(o.Get("dtype"))) options.dtype = o.Get("dtype").ToString().Utf8Value();
      dtype = options.dtype;
      backend = makeCpuBackend(options);
    }
  } catch (const Error& e) {
    throw makeError(env, e.code, e.what());
  }
  auto* addon = env.GetInstanceData<AddonData>();
  auto handle = addon->device.New({});
  auto core = DeviceCore::create(env, std::move(backend));
  core->dtype = dtype;
  Unwrap(handle)->core = core;
  if (present(o.Get("note"))) Unwrap(handle)->note_ = " (" + o.Get("note").ToString().Utf8Value() + ")";
  addon->devices.push_back(core);
  return handle;
}

void DeviceHandle::check(const Napi::CallbackInfo& info) {
  if (core->closed) throw makeError(info.Env(), "ERR_BGE_CLOSED", "the device was used after it was disposed");
}

Napi::Value DeviceHandle::kind(const Napi::CallbackInfo& info) { return Napi::String::New(info.Env(), core->kind); }
Napi::Value DeviceHandle::description(const Napi::CallbackInfo& info) { return Napi::String::New(info.Env(), core->description + note_); }

Napi::Value DeviceHandle::dtype(const Napi::CallbackInfo& info) { return Napi::String::New(info.Env(), core->dtype); }

void refuseTraining(Napi::Env env, const DeviceCore& core, const char* what) {
  if (core.dtype != "int8") return;
  throw makeError(env, "ERR_BGE_ARGUMENT", std::string(what) + " needs a device that trains, but this one was opened with dtype int8, which is for "
                                               "inference only; open it with dtype fp32 or bf16");
}

Napi::Value DeviceHandle::memory(const Napi::CallbackInfo& info) {
  auto o = Napi::Object::New(info.Env());
  o.Set("allocated", static_cast<double>(core->bytesAllocated));
  o.Set("workspace", static_cast<double>(core->workspace));
  o.Set("workspacePeak", static_cast<double>(core->workspacePeak));
  return o;
}

Napi::Value DeviceHandle::memoryInfo(const Napi::CallbackInfo& info) {
  check(info);
  return core->run(
      info.Env(), [](Backend& b) { return b.memoryInfo(); },
      [](Napi::Env env, MemoryInfo& m) -> Napi::Value {
        if (m.total == 0) return env.Undefined();
        auto o = Napi::Object::New(env);
        o.Set("free", static_cast<double>(m.free));
        o.Set("total", static_cast<double>(m.total));
        return o;
      });
}

Napi::Value DeviceHandle::reserve(const Napi::CallbackInfo& info) {
  check(info);
  const auto bytes = static_cast<size_t>(integer(info[0], "bytes", 0, int64_t{1} << 50));
  return core->run(
      info.Env(),
      [bytes](Backend& b) {
        b.workspace().reserve(bytes);
        return 0;
      },
      [](Napi::Env env, int&) { return env.Undefined(); });
}

Napi::Value DeviceHandle::synchronize(const Napi::CallbackInfo& info) {
  check(info);
  return core->run(
      info.Env(),
      [](Backend& b) {
        b.synchronize();
        return 0;
      },
      [](Napi::Env env, int&) { return env.Undefined(); });
}

Napi::Value DeviceHandle::dispose(const Napi::CallbackInfo& info) {
  core->dispose();
  return info.Env().Undefined();
}

Napi::Value DeviceHandle::tensor(const Napi::CallbackInfo& info) {
  check(info);
  auto values = floats(info[0], "values");
  const int64_t rows = integer(info[1], "rows", 0, int64_t{1} << 40), cols = integer(info[2], "cols", 1, int64_t{1} << 32);
  if (rows * cols != static_cast<int64_t>(values.size())) {
    throw makeError(info.Env(), "ERR_BGE_SHAPE", "values must have rows * cols (" + std::to_string(rows) + " x " + std::to_string(cols) +
                                                     ") entries, but has " + std::to_string(values.size()));
  }
  auto slot = core->slot<DeviceBuffer>([values = std::move(values)](Backend& b) {
    auto buffer = std::make_unique<DeviceBuffer>(b, static_cast<int64_t>(values.size()));
    b.upload(buffer->data, values.data(), values.size() * sizeof(float));
    return buffer;
  });
  return TensorHandle::wrap(info.Env(), core, slot, rows, cols);
}

Napi::Value DeviceHandle::zeros(const Napi::CallbackInfo& info) {
  check(info);
  const int64_t rows = integer(info[0], "rows", 0, int64_t{1} << 40), cols = integer(info[1], "cols", 1, int64_t{1} << 32);
  auto slot = core->slot<DeviceBuffer>([n = rows * cols](Backend& b) {
    auto buffer = std::make_unique<DeviceBuffer>(b, n);
    b.zero(buffer->data, static_cast<size_t>(n) * sizeof(float));
    return buffer;
  });
  return TensorHandle::wrap(info.Env(), core, slot, rows, cols);
}

Napi::Value DeviceHandle::encoder(const Napi::CallbackInfo& info) {
  check(info);
  return EncoderHandle::create(info.Env(), core, info[0]);
}

Napi::Value DeviceHandle::mlmHead(const Napi::CallbackInfo& info) {
  check(info);
  return MlmHeadHandle::create(info.Env(), core, EncoderHandle::from(info[0], "encoder", core));
}

Napi::Value DeviceHandle::enhancedDecoder(const Napi::CallbackInfo& info) {
  check(info);
  return DecoderHandle::create(info.Env(), core, EncoderHandle::from(info[0], "encoder", core), MlmHeadHandle::from(info[1], "head", core));
}

Napi::Value DeviceHandle::adamW(const Napi::CallbackInfo& info) {
  check(info);
  return AdamWHandle::create(info.Env(), core, info[0], info[1]);
}

Napi::Value DeviceHandle::op(const Napi::CallbackInfo& info) {
  check(info);
  auto env = info.Env();
  if (!info[0].IsString()) throw makeError(env, "ERR_BGE_ARGUMENT", "name must be a string");
  auto name = info[0].As<Napi::String>().Utf8Value();
  OpTensors in;
  auto inputs = object(info[1], "inputs");
  auto names = inputs.GetPropertyNames();
  for (uint32_t i = 0; i < names.Length(); ++i) {
    const auto key = names.Get(i).ToString().Utf8Value();
    auto v = inputs.Get(key);
    if (!v.IsTypedArray()) throw makeError(env, "ERR_BGE_ARGUMENT", "inputs." + key + " must be a typed array");
    switch (v.As<Napi::TypedArray>().TypedArrayType()) {
      case napi_float32_array: in.f[key] = floats(v, key.c_str()); break;
      case napi_int32_array: in.i[key] = ints(v, key.c_str()); break;
      case napi_uint32_array: in.u[key] = unsignedInts(v, key.c_str()); break;
      case napi_biguint64_array: in.w[key] = words(v, key.c_str()); break;
      default: throw makeError(env, "ERR_BGE_ARGUMENT", "inputs." + key + " must be a Float32Array, Int32Array, Uint32Array or BigUint64Array");
    }
  }
  std::map<std::string, double> attributes;
  auto attrs = object(info[2], "attributes");
  auto attrNames = attrs.GetPropertyNames();
  for (uint32_t i = 0; i < attrNames.Length(); ++i) {
    const auto key = attrNames.Get(i).ToString().Utf8Value();
    if (!attrs.Get(key).IsNumber()) throw makeError(env, "ERR_BGE_ARGUMENT", "attributes." + key + " must be a number");
    attributes[key] = attrs.Get(key).As<Napi::Number>().DoubleValue();
  }
  return core->run(
      env,
      [name, in = std::move(in), attributes = std::move(attributes)](Backend& b) { return runOp(b, name, in, attributes); },
      [](Napi::Env e, OpTensors& out) {
        auto o = Napi::Object::New(e);
        for (auto& [key, v] : out.f) o.Set(key, toFloat32Array(e, v));
        for (auto& [key, v] : out.i) o.Set(key, toInt32Array(e, v));
        return o;
      });
}

}  // namespace bge

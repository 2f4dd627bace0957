#include <algorithm>

#include "convert.h"
#include "handles.h"
#include "numeric.h"
#include "tokenizer.h"

namespace bge {

static Napi::Value configure(const Napi::CallbackInfo& info) {
  if (!info[0].IsFunction()) throw makeError(info.Env(), "ERR_BGE_ARGUMENT", "errorClass must be a constructor (code, message)");
  info.Env().GetInstanceData<AddonData>()->errorClass = Napi::Persistent(info[0].As<Napi::Function>());
  return info.Env().Undefined();
}

static Napi::Object init(Napi::Env env, Napi::Object exports) {
  auto* data = new AddonData();
  env.SetInstanceData(data);  // deleted by Node after the cleanup hook below has run
  data->device = Napi::Persistent(DeviceHandle::define(env));
  data->tensor = Napi::Persistent(TensorHandle::define(env));
  data->parameters = Napi::Persistent(ParametersHandle::define(env));
  data->encoder = Napi::Persistent(EncoderHandle::define(env));
  data->mlmHead = Napi::Persistent(MlmHeadHandle::define(env));
  data->decoder = Napi::Persistent(DecoderHandle::define(env));
  data->adamW = Napi::Persistent(AdamWHandle::define(env));
  data->wordPiece = Napi::Persistent(WordPieceHandle::define(env));
  env.AddCleanupHook(
      [](AddonData* d) {
        for (auto& weak : d->devices) {
          if (auto core = weak.lock()) core->teardown();
        }
      },
      data);
  exports.Set("configure", Napi::Function::New(env, configure, "configure"));
  exports.Set("multiplyFloat64", Napi::Function::New(env, multiplyFloat64, "multiplyFloat64"));
  exports.Set("openDevice", Napi::Function::New(env, DeviceHandle::open, "openDevice"));
  exports.Set("wordPiece", Napi::Function::New(env, WordPieceHandle::create, "wordPiece"));
  return exports;
}

static Napi::Object start(Napi::Env env, Napi::Object exports) { return init(env, exports); }
NODE_API_MODULE(bge, start)

}  // namespace bge

// The JavaScript classes. Check, unwrap, enqueue, wrap: no mathematics.
#pragma once
#include <napi.h>

#include <memory>
#include <vector>

#include "../model/heads.h"
#include "../model/optimizer.h"
#include "queue.h"

namespace bge {

// Per environment (one per worker_thread). Nothing in this addon is static.
struct AddonData {
  Napi::FunctionReference device, tensor, parameters, encoder, mlmHead, decoder, adamW, wordPiece, errorClass;
  std::vector<std::weak_ptr<DeviceCore>> devices;
};

struct DeviceBuffer {  // (rows, cols) floats on the device
  Backend& backend;
  float* data;
  DeviceBuffer(Backend& b, int64_t floats) : backend(b), data(static_cast<float*>(b.allocate(static_cast<size_t>(floats > 0 ? floats : 1) * sizeof(float)))) {}
  ~DeviceBuffer() { backend.release(data); }
  DeviceBuffer(const DeviceBuffer&) = delete;
  DeviceBuffer& operator=(const DeviceBuffer&) = delete;
};

// What every handle shares: its device and whether dispose() was called.
struct HandleState {
  std::shared_ptr<DeviceCore> core;
  bool disposed = false;
  void check(Napi::Env env, const char* what) const;
};

// Throws unless the device computes in a type that trains. `what` begins the sentence.
void refuseTraining(Napi::Env env, const DeviceCore& core, const char* what);

class TensorHandle : public Napi::ObjectWrap<TensorHandle> {
 public:
  static Napi::Function define(Napi::Env env);
  explicit TensorHandle(const Napi::CallbackInfo& info);
  static Napi::Object wrap(Napi::Env env, std::shared_ptr<DeviceCore> core, SlotPtr<DeviceBuffer> slot, int64_t rows, int64_t cols,
                           Priority priority = Priority::normal);
  // Throws ERR_BGE_ARGUMENT / ERR_BGE_CLOSED / ERR_BGE_SHAPE unless v is a live tensor of this device (and of `cols` columns when >= 0).
  static TensorHandle& from(Napi::Value v, const char* name, const std::shared_ptr<DeviceCore>& core, int64_t cols = -1);

  HandleState state;
  SlotPtr<DeviceBuffer> slot;
  int64_t rows = 0, cols = 0;
  Priority priority = Priority::normal;  // of its toArray: that of the job that made it

 private:
  Napi::Value shape(const Napi::CallbackInfo& info);
  Napi::Value toArray(const Napi::CallbackInfo& info);
  Napi::Value scatterRows(const Napi::CallbackInfo& info);
  Napi::Value gatherRows(const Napi::CallbackInfo& info);
  Napi::Value dispose(const Napi::CallbackInfo& info);
};

// A native matrix made inside a job, to be wrapped when the job finishes.
struct Made {
  SlotPtr<DeviceBuffer> slot;
  int64_t rows = 0, cols = 0;
};

class ParametersHandle : public Napi::ObjectWrap<ParametersHandle> {
 public:
  static Napi::Function define(Napi::Env env);
  explicit ParametersHandle(const Napi::CallbackInfo& info);
  static Napi::Object wrap(Napi::Env env, std::shared_ptr<DeviceCore> core, std::vector<ParameterSpec> specs,
                           std::function<Parameters&()> get, std::shared_ptr<HandleState> owner);

 private:
  const ParameterSpec& find(const Napi::CallbackInfo& info);
  Napi::Value list(const Napi::CallbackInfo& info);
  Napi::Value read(const Napi::CallbackInfo& info);
  Napi::Value write(const Napi::CallbackInfo& info);
  Napi::Value gradient(const Napi::CallbackInfo& info);
  Napi::Value zeroGradients(const Napi::CallbackInfo& info);
  std::shared_ptr<DeviceCore> core_;
  std::shared_ptr<HandleState> owner_;
  std::vector<ParameterSpec> specs_;
  std::function<Parameters&()> get_;  // on the worker
};

// Encoder, MLM head and decoder: the things an optimizer can train.
struct ModuleState {
  std::shared_ptr<HandleState> state = std::make_shared<HandleState>();
  std::function<Parameters&()> parameters;  // on the worker
  std::vector<ParameterSpec> specs;
};

class EncoderHandle : public Napi::ObjectWrap<EncoderHandle> {
 public:
  static Napi::Function define(Napi::Env env);
  explicit EncoderHandle(const Napi::CallbackInfo& info);
  static Napi::Object create(Napi::Env env, std::shared_ptr<DeviceCore> core, Napi::Value config);
  static EncoderHandle& from(Napi::Value v, const char* name, const std::shared_ptr<DeviceCore>& core);
  ModuleState module;
  SlotPtr<Encoder> slot;
  ModelConfig config;

 private:
  Napi::Value embed(const Napi::CallbackInfo& info);
  Napi::Value forward(const Napi::CallbackInfo& info);
  Napi::Value backward(const Napi::CallbackInfo& info);
  Napi::Value discard(const Napi::CallbackInfo& info);
  Napi::Value reserve(const Napi::CallbackInfo& info);
  Napi::Value dispose(const Napi::CallbackInfo& info);
  struct Outstanding { int64_t rows, sequences; };
  std::vector<Outstanding> outstanding_;  // the forwards, as enqueued
};

class MlmHeadHandle : public Napi::ObjectWrap<MlmHeadHandle> {
 public:
  static Napi::Function define(Napi::Env env);
  explicit MlmHeadHandle(const Napi::CallbackInfo& info);
  static Napi::Object create(Napi::Env env, std::shared_ptr<DeviceCore> core, EncoderHandle& encoder);
  static MlmHeadHandle& from(Napi::Value v, const char* name, const std::shared_ptr<DeviceCore>& core);
  ModuleState module;
  SlotPtr<MlmHead> slot;
  SlotPtr<Encoder> encoder;
  ModelConfig config;

 private:
  Napi::Value step(const Napi::CallbackInfo& info);
  Napi::Value dispose(const Napi::CallbackInfo& info);
};

class DecoderHandle : public Napi::ObjectWrap<DecoderHandle> {
 public:
  static Napi::Function define(Napi::Env env);
  explicit DecoderHandle(const Napi::CallbackInfo& info);
  static Napi::Object create(Napi::Env env, std::shared_ptr<DeviceCore> core, EncoderHandle& encoder, MlmHeadHandle& head);
  ModuleState module;
  SlotPtr<EnhancedDecoder> slot;
  SlotPtr<Encoder> encoder;
  SlotPtr<MlmHead> head;
  ModelConfig config;

 private:
  Napi::Value step(const Napi::CallbackInfo& info);
  Napi::Value dispose(const Napi::CallbackInfo& info);
};

class AdamWHandle : public Napi::ObjectWrap<AdamWHandle> {
 public:
  static Napi::Function define(Napi::Env env);
  explicit AdamWHandle(const Napi::CallbackInfo& info);
  static Napi::Object create(Napi::Env env, std::shared_ptr<DeviceCore> core, Napi::Value modules, Napi::Value options);

 private:
  Napi::Value step(const Napi::CallbackInfo& info);
  Napi::Value readMoment(const Napi::CallbackInfo& info);
  Napi::Value writeMoment(const Napi::CallbackInfo& info);
  Napi::Value getSteps(const Napi::CallbackInfo& info);
  void setSteps(const Napi::CallbackInfo& info, const Napi::Value& value);
  Napi::Value dispose(const Napi::CallbackInfo& info);
  struct Moment { size_t module; int which; ParameterSpec spec; };
  Moment moment(const Napi::CallbackInfo& info);
  HandleState state_;
  SlotPtr<Optimizer> slot_;
  std::vector<std::function<Parameters&()>> modules_;
  std::vector<std::vector<ParameterSpec>> specs_;
  int64_t steps_ = 0;  // the optimizer's count after every job enqueued so far has run
};

class DeviceHandle : public Napi::ObjectWrap<DeviceHandle> {
 public:
  static Napi::Function define(Napi::Env env);
  explicit DeviceHandle(const Napi::CallbackInfo& info);
  static Napi::Value open(const Napi::CallbackInfo& info);
  std::shared_ptr<DeviceCore> core;

 private:
  std::string note_;  // why this is not another device
  void check(const Napi::CallbackInfo& info);
  Napi::Value kind(const Napi::CallbackInfo& info);
  Napi::Value description(const Napi::CallbackInfo& info);
  Napi::Value dtype(const Napi::CallbackInfo& info);
  Napi::Value memory(const Napi::CallbackInfo& info);
  Napi::Value memoryInfo(const Napi::CallbackInfo& info);
  Napi::Value reserve(const Napi::CallbackInfo& info);
  Napi::Value synchronize(const Napi::CallbackInfo& info);
  Napi::Value dispose(const Napi::CallbackInfo& info);
  Napi::Value tensor(const Napi::CallbackInfo& info);
  Napi::Value zeros(const Napi::CallbackInfo& info);
  Napi::Value encoder(const Napi::CallbackInfo& info);
  Napi::Value mlmHead(const Napi::CallbackInfo& info);
  Napi::Value enhancedDecoder(const Napi::CallbackInfo& info);
  Napi::Value adamW(const Napi::CallbackInfo& info);
  Napi::Value contrastive(const Napi::CallbackInfo& info);
  Napi::Value topK(const Napi::CallbackInfo& info);
  Napi::Value op(const Napi::CallbackInfo& info);
};

}  // namespace bge

#include "convert.h"
#include "handles.h"

namespace bge {

void HandleState::check(Napi::Env env, const char* what) const {
  if (disposed) throw makeError(env, "ERR_BGE_CLOSED", std::string(what) + " was used after it was disposed");
  if (core->closed) throw makeError(env, "ERR_BGE_CLOSED", std::string(what) + " was used after its device was disposed");
}

Napi::Function TensorHandle::define(Napi::Env env) {
  return DefineClass(env, "Tensor",
                     {InstanceAccessor<&TensorHandle::shape>("shape"), InstanceMethod<&TensorHandle::toArray>("toArray"),
                      InstanceMethod<&TensorHandle::scatterRows>("scatterRows"), InstanceMethod<&TensorHandle::gatherRows>("gatherRows"),
                      InstanceMethod<&TensorHandle::dispose>("dispose")});
}

TensorHandle::TensorHandle(const Napi::CallbackInfo& info) : Napi::ObjectWrap<TensorHandle>(info) {}

Napi::Object TensorHandle::wrap(Napi::Env env, std::shared_ptr<DeviceCore> core, SlotPtr<DeviceBuffer> slot, int64_t rows, int64_t cols,
                                Priority priority) {
  auto object = env.GetInstanceData<AddonData>()->tensor.New({});
  auto* h = Unwrap(object);
  h->state.core = std::move(core);
  h->slot = std::move(slot);
  h->rows = rows;
  h->cols = cols;
  h->priority = priority;
  return object;
}

TensorHandle& TensorHandle::from(Napi::Value v, const char* name, const std::shared_ptr<DeviceCore>& core, int64_t cols) {
  auto env = v.Env();
  auto* addon = env.GetInstanceData<AddonData>();
  if (!v.IsObject() || !v.As<Napi::Object>().InstanceOf(addon->tensor.Value())) {
    throw makeError(env, "ERR_BGE_ARGUMENT", std::string(name) + " must be a Tensor of this device");
  }
  auto& t = *Unwrap(v.As<Napi::Object>());
  t.state.check(env, name);
  if (t.state.core != core) throw makeError(env, "ERR_BGE_ARGUMENT", std::string(name) + " must be a Tensor of this device, but belongs to another");
  if (cols >= 0 && t.cols != cols) {
    throw makeError(env, "ERR_BGE_SHAPE", std::string(name) + " must have " + std::to_string(cols) + " columns, but has " + std::to_string(t.cols));
  }
  return t;
}

Napi::Value TensorHandle::shape(const Napi::CallbackInfo& info) {
  auto a = Napi::Array::New(info.Env(), 2);
  a.Set(uint32_t{0}, static_cast<double>(rows));
  a.Set(uint32_t{1}, static_cast<double>(cols));
  return a;
}

Napi::Value TensorHandle::toArray(const Napi::CallbackInfo& info) {
  state.check(info.Env(), "the tensor");
  return state.core->run(
      info.Env(),
      [s = slot, n = rows * cols](Backend& b) {
        std::vector<float> out(static_cast<size_t>(n));
        b.download(out.data(), s->get().data, out.size() * sizeof(float));
        return out;
      },
      [](Napi::Env env, std::vector<float>& v) { return toFloat32Array(env, v); }, priority);
}

namespace {

std::vector<int32_t> rowIndices(Napi::Value v, int64_t limit) {
  auto index = ints(v, "rows");
  for (size_t i = 0; i < index.size(); ++i) {
    if (index[i] < 0 || index[i] >= limit) {
      throw makeError(v.Env(), "ERR_BGE_SHAPE", "rows[" + std::to_string(i) + "] must be below " + std::to_string(limit) + ", but was " +
                                                    std::to_string(index[i]));
    }
  }
  return index;
}

const int32_t* uploadInts(Backend& b, const std::vector<int32_t>& v) {
  auto* p = b.workspace().take<int32_t>(static_cast<int64_t>(v.size()));
  b.upload(p, v.data(), v.size() * sizeof(int32_t));
  return p;
}

}  // namespace

Napi::Value TensorHandle::scatterRows(const Napi::CallbackInfo& info) {
  state.check(info.Env(), "the tensor");
  auto index = rowIndices(info[0], rows);
  auto& source = from(info[1], "source", state.core, cols);
  if (source.rows != static_cast<int64_t>(index.size())) {
    throw makeError(info.Env(), "ERR_BGE_SHAPE", "source must have one row per entry of rows (" + std::to_string(index.size()) + "), but has " +
                                                     std::to_string(source.rows));
  }
  std::vector<char> seen(static_cast<size_t>(rows), 0);
  for (auto i : index) {
    if (seen[static_cast<size_t>(i)]++) throw makeError(info.Env(), "ERR_BGE_ARGUMENT", "rows must be distinct, but has " + std::to_string(i) + " twice");
  }
  return state.core->run(
      info.Env(),
      [s = slot, src = source.slot, index = std::move(index), r = rows, c = cols](Backend& b) {
        Arena::Scope scope(b.workspace());
        const auto n = static_cast<int64_t>(index.size());
        b.scatterRows(Matrix(s->get().data, r, c), uploadInts(b, index), n, Matrix(src->get().data, n, c), false);
        b.synchronize();
        return 0;
      },
      [](Napi::Env env, int&) { return env.Undefined(); });
}

Napi::Value TensorHandle::gatherRows(const Napi::CallbackInfo& info) {
  state.check(info.Env(), "the tensor");
  auto index = rowIndices(info[0], rows);
  const auto n = static_cast<int64_t>(index.size());
  auto out = state.core->slot<DeviceBuffer>([n, c = cols](Backend& b) { return std::make_unique<DeviceBuffer>(b, n * c); });
  return state.core->run(
      info.Env(),
      [s = slot, out, index = std::move(index), n, r = rows, c = cols](Backend& b) {
        Arena::Scope scope(b.workspace());
        b.gatherRows(Matrix(out->get().data, n, c), Matrix(s->get().data, r, c), uploadInts(b, index), n);
        b.synchronize();
        return Made{out, n, c};
      },
      [core = state.core](Napi::Env env, Made& m) { return wrap(env, core, m.slot, m.rows, m.cols); });
}

Napi::Value TensorHandle::dispose(const Napi::CallbackInfo& info) {
  if (!state.disposed && slot) {
    state.disposed = true;
    state.core->post([s = slot] { s->close(); });
    slot.reset();
  }
  return info.Env().Undefined();
}

}  // namespace bge

#include "numeric.h"

#include "../core/double_product.h"
#include "../core/tensor.h"
#include "convert.h"

namespace bge {

namespace {

// Runs on a thread of libuv's pool; Node waits for it when the environment ends. It keeps the arrays alive, and works in them.
class DoubleProductWorker final : public Napi::AsyncWorker {
 public:
  DoubleProductWorker(Napi::Env env, const DoubleProduct& product, int threads, std::string isa)
      : Napi::AsyncWorker(env, "bge multiplyFloat64"), deferred(env), product_(product), threads_(threads), isa_(std::move(isa)) {}
  Napi::Promise::Deferred deferred;
  Napi::ObjectReference arrays;

  void Execute() override {
    try {
      doubleProduct(product_, threads_, isa_);
    } catch (const Error& e) {
      code_ = e.code;
      throw;
    }
  }
  void OnOK() override { deferred.Resolve(Env().Undefined()); }
  void OnError(const Napi::Error& e) override {
    // Its panels and its threads are all that it asks the system for.
    const auto error = code_.empty() ? makeError(Env(), "ERR_BGE_OOM", "a product in float64 needs memory or threads, but the system gave none: " + e.Message())
                                     : makeError(Env(), code_, e.Message());
    deferred.Reject(error.Value());
  }

 private:
  DoubleProduct product_;
  int threads_;
  std::string isa_, code_;
};

double* doubles(Napi::Env env, Napi::Value v, const std::string& name, int64_t rows, int64_t cols) {
  if (!v.IsTypedArray() || v.As<Napi::TypedArray>().TypedArrayType() != napi_float64_array) {
    throw makeError(env, "ERR_BGE_ARGUMENT", name + " must be a Float64Array");
  }
  auto array = v.As<Napi::Float64Array>();
  if (static_cast<int64_t>(array.ElementLength()) != rows * cols) {
    throw makeError(env, "ERR_BGE_SHAPE", name + " must have " + std::to_string(rows) + " x " + std::to_string(cols) + " entries, but has " +
                                              std::to_string(array.ElementLength()));
  }
  return array.Data();
}

bool flag(Napi::Object o, const char* name) {
  auto v = o.Get(name);
  if (present(v) && !v.IsBoolean()) throw makeError(o.Env(), "ERR_BGE_ARGUMENT", std::string(name) + " must be true or false");
  return present(v) && v.As<Napi::Boolean>().Value();
}

}  // namespace

Napi::Value multiplyFloat64(const Napi::CallbackInfo& info) {
  auto env = info.Env();
  auto o = object(info[3], "shape");
  const int64_t most = int64_t{1} << 31;
  DoubleProduct p;
  p.m = integer(o.Get("m"), "m", 0, most);
  p.n = integer(o.Get("n"), "n", 0, most);
  p.k = integer(o.Get("k"), "k", 0, most);
  p.transposeA = flag(o, "transposeA");
  p.transposeB = flag(o, "transposeB");
  p.c = doubles(env, info[0], "c", p.m, p.n);
  p.a = p.transposeA ? doubles(env, info[1], "a", p.k, p.m) : doubles(env, info[1], "a", p.m, p.k);
  p.b = p.transposeB ? doubles(env, info[2], "b", p.n, p.k) : doubles(env, info[2], "b", p.k, p.n);
  const auto threads = present(o.Get("threads")) ? static_cast<int>(integer(o.Get("threads"), "threads", 1, 1024)) : 0;
  auto isa = present(o.Get("isa")) ? o.Get("isa").ToString().Utf8Value() : std::string();
  auto* worker = new DoubleProductWorker(env, p, threads, std::move(isa));  // deletes itself on this thread when it has finished
  auto arrays = Napi::Array::New(env);
  for (uint32_t i = 0; i < 3; ++i) arrays.Set(i, info[i]);
  worker->arrays = Napi::Persistent(arrays.As<Napi::Object>());
  auto promise = worker->deferred.Promise();
  worker->Queue();
  return promise;
}

}  // namespace bge

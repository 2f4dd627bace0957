#include "convert.h"

#include <cmath>
#include <cstring>

#include "handles.h"

namespace bge {

Napi::Error makeError(Napi::Env env, const std::string& code, const std::string& message) {
  auto* addon = env.GetInstanceData<AddonData>();
  if (addon != nullptr && !addon->errorClass.IsEmpty()) {
    return Napi::Error(env, addon->errorClass.New({Napi::String::New(env, code), Napi::String::New(env, message)}));
  }
  auto e = Napi::Error::New(env, message);
  e.Set("code", code);
  return e;
}

namespace {

std::string describe(Napi::Value v) {
  if (v.IsTypedArray()) {
    static const char* names[] = {"Int8Array", "Uint8Array", "Uint8ClampedArray", "Int16Array", "Uint16Array", "Int32Array",
                                  "Uint32Array", "Float32Array", "Float64Array", "BigInt64Array", "BigUint64Array"};
    const auto type = static_cast<size_t>(v.As<Napi::TypedArray>().TypedArrayType());
    return std::string("a ") + (type < 11 ? names[type] : "typed array");
  }
  if (v.IsString()) return "\"" + v.As<Napi::String>().Utf8Value().substr(0, 60) + "\"";
  if (v.IsObject()) return v.IsArray() ? "an array" : v.IsFunction() ? "a function" : "an object";
  return v.ToString().Utf8Value();
}

[[noreturn]] void fail(Napi::Value v, const char* name, const std::string& expected) {
  throw makeError(v.Env(), "ERR_BGE_ARGUMENT", std::string(name) + " must be " + expected + ", but was " + describe(v));
}

[[noreturn]] void shapeError(Napi::Env env, const std::string& sentence) { throw makeError(env, "ERR_BGE_SHAPE", sentence); }

template <class T, class Array>
std::vector<T> copyArray(Napi::Value v, const char* name, napi_typedarray_type type, const char* expected) {
  if (!v.IsTypedArray() || v.As<Napi::TypedArray>().TypedArrayType() != type) fail(v, name, expected);
  auto a = v.As<Array>();
  std::vector<T> out(a.ElementLength());
  if (!out.empty()) std::memcpy(out.data(), a.Data(), out.size() * sizeof(T));
  return out;
}

}  // namespace

bool present(Napi::Value v) { return !v.IsUndefined() && !v.IsNull(); }
std::vector<float> floats(Napi::Value v, const char* name) { return copyArray<float, Napi::Float32Array>(v, name, napi_float32_array, "a Float32Array"); }
std::vector<int32_t> ints(Napi::Value v, const char* name) { return copyArray<int32_t, Napi::Int32Array>(v, name, napi_int32_array, "an Int32Array"); }
std::vector<uint32_t> unsignedInts(Napi::Value v, const char* name) {
  return copyArray<uint32_t, Napi::Uint32Array>(v, name, napi_uint32_array, "a Uint32Array");
}
std::vector<uint64_t> words(Napi::Value v, const char* name) {
  return copyArray<uint64_t, Napi::BigUint64Array>(v, name, napi_biguint64_array, "a BigUint64Array");
}

double number(Napi::Value v, const char* name, double min, double max) {
  if (!v.IsNumber()) fail(v, name, "a number");
  const double x = v.As<Napi::Number>().DoubleValue();
  if (!(x >= min && x <= max)) fail(v, name, "between " + std::to_string(min) + " and " + std::to_string(max));
  return x;
}

int64_t integer(Napi::Value v, const char* name, int64_t min, int64_t max) {
  if (!v.IsNumber()) fail(v, name, "an integer");
  const double x = v.As<Napi::Number>().DoubleValue();
  if (x != std::floor(x) || x < static_cast<double>(min) || x > static_cast<double>(max)) {
    fail(v, name, "an integer between " + std::to_string(min) + " and " + std::to_string(max));
  }
  return static_cast<int64_t>(x);
}

Napi::Object object(Napi::Value v, const char* name) {
  if (!v.IsObject() || v.IsArray() || v.IsTypedArray()) fail(v, name, "an object");
  return v.As<Napi::Object>();
}

Napi::Float32Array toFloat32Array(Napi::Env env, const std::vector<float>& values) {
  auto a = Napi::Float32Array::New(env, values.size());
  if (!values.empty()) std::memcpy(a.Data(), values.data(), values.size() * sizeof(float));
  return a;
}

Napi::Int32Array toInt32Array(Napi::Env env, const std::vector<int32_t>& values) {
  auto a = Napi::Int32Array::New(env, values.size());
  if (!values.empty()) std::memcpy(a.Data(), values.data(), values.size() * sizeof(int32_t));
  return a;
}

ModelConfig modelConfig(Napi::Value v) {
  auto o = object(v, "config");
  ModelConfig c;
  const int64_t big = int64_t{1} << 24;
  c.layers = static_cast<int32_t>(integer(o.Get("layers"), "config.layers", 1, 250));
  c.hidden = static_cast<int32_t>(integer(o.Get("hidden"), "config.hidden", 8, 65536));
  c.heads = static_cast<int32_t>(integer(o.Get("heads"), "config.heads", 1, 4096));
  c.intermediate = static_cast<int32_t>(integer(o.Get("intermediate"), "config.intermediate", 1, big));
  c.vocab = static_cast<int32_t>(integer(o.Get("vocab"), "config.vocab", 1, big));
  c.maxPositions = static_cast<int32_t>(integer(o.Get("maxPositions"), "config.maxPositions", 1, 65536));
  c.typeVocab = static_cast<int32_t>(integer(o.Get("typeVocab"), "config.typeVocab", 1, 1024));
  c.layerNormEps = static_cast<float>(number(o.Get("layerNormEps"), "config.layerNormEps", 0, 1));
  c.hiddenDropout = static_cast<float>(number(o.Get("hiddenDropout"), "config.hiddenDropout", 0, 0.99));
  c.attentionDropout = static_cast<float>(number(o.Get("attentionDropout"), "config.attentionDropout", 0, 0.99));
  const auto pooling = o.Get("pooling").ToString().Utf8Value();
  if (pooling != "cls" && pooling != "mean") fail(o.Get("pooling"), "config.pooling", "'cls' or 'mean'");
  c.pooling = pooling == "cls" ? Pooling::cls : Pooling::mean;
  if (!o.Get("normalize").IsBoolean()) fail(o.Get("normalize"), "config.normalize", "true or false");
  c.normalize = o.Get("normalize").As<Napi::Boolean>().Value();
  if (c.hidden % c.heads != 0) {
    shapeError(v.Env(), "config.hidden must be a multiple of config.heads (" + std::to_string(c.heads) + "), but was " + std::to_string(c.hidden));
  }
  return c;
}

TokenBatch tokenBatch(Napi::Value v, const ModelConfig& config) {
  auto o = object(v, "batch");
  auto env = v.Env();
  TokenBatch b;
  b.ids = ints(o.Get("ids"), "batch.ids");
  b.offsets = ints(o.Get("cuSeqlens"), "batch.cuSeqlens");
  if (b.offsets.size() < 2 || b.offsets.front() != 0 || b.offsets.back() != static_cast<int64_t>(b.ids.size())) {
    shapeError(env, "batch.cuSeqlens must begin with 0 and end with the number of ids (" + std::to_string(b.ids.size()) + "), but has " +
                        std::to_string(b.offsets.size()) + " entries" +
                        (b.offsets.empty() ? std::string() : " and ends with " + std::to_string(b.offsets.back())));
  }
  for (size_t n = 0; n + 1 < b.offsets.size(); ++n) {
    const int64_t length = int64_t{b.offsets[n + 1]} - b.offsets[n];
    if (length < 1 || length > config.maxPositions) {
      shapeError(env, "sequence " + std::to_string(n) + " of the batch must have 1 to " + std::to_string(config.maxPositions) +
                          " tokens, but has " + std::to_string(length));
    }
  }
  for (size_t t = 0; t < b.ids.size(); ++t) {
    if (b.ids[t] < 0 || b.ids[t] >= config.vocab) {
      throw makeError(env, "ERR_BGE_ARGUMENT", "batch.ids[" + std::to_string(t) + "] must be a token id below " + std::to_string(config.vocab) +
                                                   ", but was " + std::to_string(b.ids[t]));
    }
  }
  const auto n = static_cast<size_t>(b.sequences());
  if (present(o.Get("stream"))) {
    b.stream = unsignedInts(o.Get("stream"), "batch.stream");
    if (b.stream.size() != n) {
      shapeError(env, "batch.stream must have one entry per sequence (" + std::to_string(n) + "), but has " + std::to_string(b.stream.size()));
    }
  } else {
    b.stream.resize(n);
    for (size_t i = 0; i < n; ++i) b.stream[i] = static_cast<uint32_t>(i);
  }
  if (present(o.Get("rows"))) {
    b.rows = ints(o.Get("rows"), "batch.rows");
    for (size_t r = 0; r < b.rows.size(); ++r) {
      const int64_t low = r == 0 ? 0 : int64_t{b.rows[r - 1]} + 1;
      if (b.rows[r] < low || b.rows[r] >= b.tokens()) {
        shapeError(env, "batch.rows must be ascending token indices below " + std::to_string(b.tokens()) + ", but rows[" + std::to_string(r) +
                            "] is " + std::to_string(b.rows[r]));
      }
    }
  }
  return b;
}

DecoderBatch decoderBatch(Napi::Value v, const ModelConfig& config) {
  auto o = object(v, "batch");
  auto env = v.Env();
  DecoderBatch d;
  d.tokens = tokenBatch(v, config);
  d.tokens.rows.clear();
  const auto tokens = d.tokens.ids.size();
  d.labels = ints(o.Get("labels"), "batch.labels");
  d.maskBits = words(o.Get("maskBits"), "batch.maskBits");
  d.maskChoice = ints(o.Get("maskChoice"), "batch.maskChoice");
  if (d.labels.size() != tokens || d.maskChoice.size() != tokens) {
    shapeError(env, "batch.labels and batch.maskChoice must have one entry per token (" + std::to_string(tokens) + "), but have " +
                        std::to_string(d.labels.size()) + " and " + std::to_string(d.maskChoice.size()));
  }
  int32_t longest = 0;
  for (size_t n = 0; n + 1 < d.tokens.offsets.size(); ++n) longest = std::max(longest, d.tokens.offsets[n + 1] - d.tokens.offsets[n]);
  const size_t perMask = static_cast<size_t>(longest + 63) / 64;
  if (d.maskBits.size() % perMask != 0) {
    shapeError(env, "batch.maskBits must hold whole rows of " + std::to_string(perMask) + " words (longest sequence " + std::to_string(longest) +
                        "), but has " + std::to_string(d.maskBits.size()));
  }
  const auto masks = static_cast<int64_t>(d.maskBits.size() / perMask);
  for (size_t t = 0; t < tokens; ++t) {
    if (d.maskChoice[t] < 0 || d.maskChoice[t] >= masks) {
      shapeError(env, "batch.maskChoice[" + std::to_string(t) + "] must be below the number of masks (" + std::to_string(masks) + "), but was " +
                          std::to_string(d.maskChoice[t]));
    }
    if (d.labels[t] != -100 && (d.labels[t] < 0 || d.labels[t] >= config.vocab)) {
      throw makeError(env, "ERR_BGE_ARGUMENT", "batch.labels[" + std::to_string(t) + "] must be -100 or a token id below " +
                                                   std::to_string(config.vocab) + ", but was " + std::to_string(d.labels[t]));
    }
  }
  return d;
}

std::optional<DropoutKey> dropoutKey(Napi::Value v) {
  if (!present(v)) return std::nullopt;
  auto o = object(v, "dropoutKey");
  if (!o.Get("seed").IsBigInt()) fail(o.Get("seed"), "dropoutKey.seed", "a bigint");
  bool lossless = false;
  DropoutKey key;
  key.seed = o.Get("seed").As<Napi::BigInt>().Uint64Value(&lossless);
  if (!lossless) fail(o.Get("seed"), "dropoutKey.seed", "a bigint of 0 to 2^64 - 1");
  key.step = static_cast<uint32_t>(integer(o.Get("step"), "dropoutKey.step", 0, 4294967295LL));
  return key;
}

}  // namespace bge

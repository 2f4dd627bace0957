// JavaScript values to C++ and back. Every check that can be made before a call is enqueued is made here, with one sentence.
#pragma once
#include <napi.h>

#include <optional>
#include <string>
#include <vector>

#include "../model/batch.h"
#include "../model/config.h"

namespace bge {

Napi::Error makeError(Napi::Env env, const std::string& code, const std::string& message);

// Copies, so that the caller may change its array as soon as the call has returned.
std::vector<float> floats(Napi::Value v, const char* name);
std::vector<int32_t> ints(Napi::Value v, const char* name);
std::vector<uint32_t> unsignedInts(Napi::Value v, const char* name);
std::vector<uint64_t> words(Napi::Value v, const char* name);
double number(Napi::Value v, const char* name, double min, double max);
int64_t integer(Napi::Value v, const char* name, int64_t min, int64_t max);
Napi::Object object(Napi::Value v, const char* name);
bool present(Napi::Value v);  // neither undefined nor null

Napi::Float32Array toFloat32Array(Napi::Env env, const std::vector<float>& values);
Napi::Int32Array toInt32Array(Napi::Env env, const std::vector<int32_t>& values);

ModelConfig modelConfig(Napi::Value v);
TokenBatch tokenBatch(Napi::Value v, const ModelConfig& config);
DecoderBatch decoderBatch(Napi::Value v, const ModelConfig& config);
std::optional<DropoutKey> dropoutKey(Napi::Value v);

}  // namespace bge

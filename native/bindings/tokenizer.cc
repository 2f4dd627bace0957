#include "tokenizer.h"

#include <algorithm>

#include "convert.h"
#include "handles.h"

namespace bge {

namespace {

bool flag(Napi::Object o, const char* name) {
  const auto v = o.Get(name);
  if (!v.IsBoolean()) throw makeError(o.Env(), "ERR_BGE_ARGUMENT", std::string(name) + " must be true or false");
  return v.As<Napi::Boolean>().Value();
}

std::vector<std::u16string> strings(Napi::Value v, const char* name) {
  if (!v.IsArray()) throw makeError(v.Env(), "ERR_BGE_ARGUMENT", std::string(name) + " must be an array of strings");
  const auto array = v.As<Napi::Array>();
  std::vector<std::u16string> result(array.Length());
  for (uint32_t i = 0; i < array.Length(); ++i) {
    Napi::HandleScope scope(v.Env());
    result[i] = array.Get(i).ToString().Utf16Value();
  }
  return result;
}

}  // namespace

Napi::Function WordPieceHandle::define(Napi::Env env) {
  return DefineClass(env, "WordPiece", {InstanceMethod("encode", &WordPieceHandle::encode)});
}

WordPieceHandle::WordPieceHandle(const Napi::CallbackInfo& info) : Napi::ObjectWrap<WordPieceHandle>(info) {
  const auto o = object(info[0], "definition");
  WordPieceDefinition d;
  d.tokens = strings(o.Get("tokens"), "tokens");
  d.ids = ints(o.Get("ids"), "ids");
  if (d.ids.size() != d.tokens.size()) throw makeError(info.Env(), "ERR_BGE_SHAPE", "ids must hold one id for each of tokens");
  d.added = strings(o.Get("added"), "added");
  d.continuation = o.Get("continuation").ToString().Utf16Value();
  d.unknown = static_cast<int32_t>(integer(o.Get("unknown"), "unknown", 0, INT32_MAX));
  d.longestWord = integer(o.Get("longestWord"), "longestWord", 1, INT32_MAX);
  d.normalization = {flag(o, "lowerFirst"), flag(o, "cleanText"), flag(o, "handleChineseChars"), flag(o, "stripAccents"), flag(o, "lowercase")};
  wordPiece_ = std::make_unique<WordPiece>(d);
}

Napi::Value WordPieceHandle::create(const Napi::CallbackInfo& info) {
  return info.Env().GetInstanceData<AddonData>()->wordPiece.New({info[0]});
}

// Of a long text only the beginning is copied, and more where that turns out too short.
WordPiece::End WordPieceHandle::encodeText(Napi::Env env, Napi::Value text, const std::u16string& prefix, size_t wanted) {
  const size_t before = ids_.size();
  for (size_t units = 2 * wanted + 64;; units *= 4) {
    buffer_.resize(std::max(buffer_.size(), prefix.size() + units + 1));
    std::copy(prefix.begin(), prefix.end(), buffer_.begin());
    size_t copied = 0;
    if (napi_get_value_string_utf16(env, text, buffer_.data() + prefix.size(), units + 1, &copied) != napi_ok) {
      throw makeError(env, "ERR_BGE_TOKENIZER", "every text must be a string");
    }
    const bool isWhole = copied < units;  // a text of exactly `units` is read once more
    const auto end = wordPiece_->encode(ids_, buffer_.data(), prefix.size() + copied, isWhole, wanted);
    if (end != WordPiece::End::more) return end;
    ids_.resize(before);
  }
}

// Tokenises texts[first ...] until about `units` UTF-16 units have been read. ends[i]: ids of the texts first .. first + i; elsewhere[i]: 1
// where a text (with no ids here) is for another tokenizer; next: the first text that was not reached. At most `wanted` ids a text.
Napi::Value WordPieceHandle::encode(const Napi::CallbackInfo& info) {
  const auto env = info.Env();
  if (!info[0].IsArray()) throw makeError(env, "ERR_BGE_ARGUMENT", "texts must be an array of strings");
  const auto texts = info[0].As<Napi::Array>();
  const uint32_t count = texts.Length();
  auto next = static_cast<uint32_t>(integer(info[1], "first", 0, count));
  const auto prefix = info[2].ToString().Utf16Value();
  const auto wanted = static_cast<size_t>(integer(info[3], "wanted", 1, INT32_MAX));
  const auto units = static_cast<size_t>(integer(info[4], "units", 1, INT32_MAX));
  ids_.clear();
  std::vector<int32_t> ends;
  std::vector<uint8_t> elsewhere;
  for (size_t read = 0; next < count && read < units; ++next) {
    Napi::HandleScope scope(env);
    const size_t before = ids_.size();
    const auto end = encodeText(env, texts.Get(next), prefix, wanted);
    const bool isElsewhere = end == WordPiece::End::elsewhere;
    ids_.resize(isElsewhere ? before : std::min(ids_.size(), before + wanted));
    read += 16 + 2 * (ids_.size() - before);
    ends.push_back(static_cast<int32_t>(ids_.size()));
    elsewhere.push_back(isElsewhere);
  }
  auto result = Napi::Object::New(env);
  result.Set("ids", toInt32Array(env, ids_));
  result.Set("ends", toInt32Array(env, ends));
  auto marks = Napi::Uint8Array::New(env, elsewhere.size());
  std::copy(elsewhere.begin(), elsewhere.end(), marks.Data());
  result.Set("elsewhere", marks);
  result.Set("next", Napi::Number::New(env, next));
  return result;
}

}  // namespace bge

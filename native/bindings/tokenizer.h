// The native tokenizer. It runs on the thread that calls it: a slice of texts is done in well under a millisecond.
#pragma once
#include <napi.h>

#include <memory>
#include <string>

#include "../text/wordpiece.h"

namespace bge {

class WordPieceHandle : public Napi::ObjectWrap<WordPieceHandle> {
 public:
  static Napi::Function define(Napi::Env env);
  explicit WordPieceHandle(const Napi::CallbackInfo& info);
  // wordPiece({ tokens, ids, continuation, unknown, longestWord, added, lowerFirst, ... })
  static Napi::Value create(const Napi::CallbackInfo& info);

 private:
  // encode(texts, first, prefix, wanted, units) -> { ids, ends, elsewhere, next }
  Napi::Value encode(const Napi::CallbackInfo& info);
  WordPiece::End encodeText(Napi::Env env, Napi::Value text, const std::u16string& prefix, size_t wanted);

  std::unique_ptr<WordPiece> wordPiece_;
  std::u16string buffer_;
  std::vector<int32_t> ids_;
};

}  // namespace bge

// BERT WordPiece on UTF-16 text, id for id as the reference tokenizer (Rust `tokenizers`: BertNormalizer, BertPreTokenizer, WordPiece).
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "unicode.h"

namespace bge {

struct WordPieceDefinition {
  std::vector<std::u16string> tokens;  // with its id
  std::vector<int32_t> ids;
  std::u16string continuation;         // "##"
  int32_t unknown = 0;                 // id of a word that no pieces make
  int64_t longestWord = 100;           // characters; a longer word is unknown
  std::vector<std::u16string> added;   // tokens that are matched in the raw text
  Normalization normalization;
};

class WordPiece {
 public:
  explicit WordPiece(const WordPieceDefinition& definition);

  enum class End {
    whole,     // all of the text has become ids
    enough,    // `ids` has at least `wanted` entries, and more text follows
    more,      // the text was cut short by the caller, and what there is does not suffice
    elsewhere  // an added token or a lone surrogate: not for this tokenizer
  };
  // Appends the ids of a text to `ids`, at least `wanted` of them where it has as many. isWhole: false when only the beginning of the text is
  // given; the word at the cut is left out then.
  End encode(std::vector<int32_t>& ids, const char16_t* text, size_t length, bool isWhole, size_t wanted) const;

 private:
  static constexpr uint32_t kNone = 0xFFFFFFFF;
  struct Edge { uint64_t key; uint32_t node; };

  uint32_t child(uint32_t node, uint32_t codePoint) const;
  void insert(uint32_t root, const std::vector<uint32_t>& token, int32_t id);
  void grow();
  void emit(std::vector<int32_t>& ids, const std::vector<uint32_t>& word) const;
  // Whether an added token begins at text[i]: 1 yes, 0 no, -1 it would go on beyond the text.
  int addedAt(const char16_t* text, size_t i, size_t length) const;

  CharacterTable characters_;
  std::vector<Edge> edges_;         // open addressing; the trie of tokens from node 0, of continuations from node 1
  size_t edgeCount_ = 0;
  std::vector<int32_t> idOf_;       // (nodes) -1: no token ends here
  std::vector<int32_t> single_;     // (65536) id of a word of one character, -1: none
  std::vector<std::u16string> added_;
  std::vector<bool> beginsAdded_;   // (65536)
  size_t continuationLength_ = 0;
  int32_t unknown_;
  int64_t longestWord_;
};

}  // namespace bge

// What BERT's normaliser and pre-tokenizer do to a code point, as the reference tokenizer does it (unicode_tables.inl).
#pragma once
#include <cstdint>
#include <unordered_map>
#include <vector>

namespace bge {

struct Normalization {
  bool lowerFirst = false;        // a Lowercase step before BertNormalizer
  bool cleanText = true;
  bool handleChineseChars = true;
  bool stripAccents = true;
  bool lowercase = true;
};

// What becomes of one code point.
enum class Fate : uint8_t {
  letter,   // part of a word, as it is
  dropped,
  space,    // ends a word
  alone,    // a word of its own, as it is
  ordered,  // a letter that canonical ordering moves among its like: see order()
  replaced  // by the characters of CharacterTable::replacement()
};

struct Character {
  uint32_t codePoint;
  Fate fate;  // letter, space or alone
};

// Both of Normalization and BertPreTokenizer, looked up by code point. Immutable.
class CharacterTable {
 public:
  explicit CharacterTable(const Normalization& normalization);

  // 0 .. 4: a Fate below `replaced`; from 5 on the number of a replacement.
  uint16_t entry(uint32_t codePoint) const { return pages_[pageOf_[codePoint >> 8]][codePoint & 255]; }
  // Canonical combining class of an `ordered` code point: among neighbours of this kind the lower comes first.
  uint32_t order(uint32_t codePoint) const { return orders_.at(codePoint); }
  static bool isReplaced(uint16_t entry) { return entry >= static_cast<uint16_t>(Fate::replaced); }
  const std::vector<Character>& replacement(uint16_t entry) const { return replacements_[entry - static_cast<uint16_t>(Fate::replaced)]; }

 private:
  using Page = std::vector<uint16_t>;  // (256)
  std::vector<uint16_t> pageOf_;       // (0x1100)
  std::vector<Page> pages_;
  std::vector<std::vector<Character>> replacements_;
  std::unordered_map<uint32_t, uint32_t> orders_;
};

}  // namespace bge

#include "unicode.h"

#include <cstddef>
#include <iterator>
#include <map>
#include <utility>

namespace bge {

namespace {

#include "unicode_tables.inl"

constexpr uint32_t kCodePoints = 0x110000;
constexpr uint32_t kHangul = 0xAC00, kHangulEnd = 0xD7A4;

enum Property : uint8_t { removed = 1, made_space = 2, ideograph = 4, mark = 8, mapped = 16, punctuation = 32, white = 64 };

template <std::size_t N> void setRanges(std::vector<uint8_t>& properties, const uint32_t (&ranges)[N], Property property) {
  for (std::size_t i = 0; i < N; i += 2)
    for (uint32_t c = ranges[i]; c <= ranges[i + 1]; ++c) properties[c] |= property;
}

using Map = std::unordered_map<uint32_t, std::vector<uint32_t>>;

template <std::size_t N> Map mapOf(const uint32_t (&entries)[N]) {
  Map map;
  for (std::size_t i = 0; i < N; i += 2 + entries[i + 1]) map[entries[i]] = std::vector<uint32_t>(entries + i + 2, entries + i + 2 + entries[i + 1]);
  return map;
}

// Conjoining jamo of a Hangul syllable (Unicode, chapter 3.12).
std::vector<uint32_t> jamo(uint32_t syllable) {
  const uint32_t s = syllable - kHangul;
  std::vector<uint32_t> parts = {0x1100 + s / 588, 0x1161 + s % 588 / 28};
  if (s % 28) parts.push_back(0x11A7 + s % 28);
  return parts;
}

class Steps {
 public:
  explicit Steps(const Normalization& n) : n_(n), properties_(kCodePoints), lowered_(mapOf(kLowered)), decomposed_(mapOf(kDecomposed)) {
    setRanges(properties_, kRemoved, removed);
    setRanges(properties_, kSpaces, made_space);
    setRanges(properties_, kIdeographs, ideograph);
    setRanges(properties_, kMarks, mark);
    setRanges(properties_, kPunctuation, punctuation);
    setRanges(properties_, kWhite, white);
    for (const Map* map : {&lowered_, &decomposed_})
      for (const auto& [from, to] : *map) properties_[from] |= mapped;
    for (uint32_t c = kHangul; c < kHangulEnd; ++c) properties_[c] |= mapped;
  }

  // The fate of most code points, without the characters; `replaced`: see run().
  Fate simple(uint32_t codePoint) const {
    const uint8_t p = properties_[codePoint];
    if (p == 0) return Fate::letter;
    if (p == removed) return n_.cleanText ? Fate::dropped : Fate::letter;
    if (p == ideograph) return n_.handleChineseChars ? Fate::alone : Fate::letter;
    return Fate::replaced;
  }

  // The characters of a code point after every step, and whether each is in a word, between words, or a word.
  std::vector<Character> run(uint32_t codePoint) const {
    std::vector<uint32_t> points = {codePoint};
    if (n_.lowerFirst) points = lower(points);
    if (n_.cleanText) {
      std::vector<uint32_t> kept;
      for (const uint32_t c : points)
        if (!(properties_[c] & removed)) kept.push_back(properties_[c] & made_space ? ' ' : c);
      points = kept;
    }
    const bool padded = n_.handleChineseChars && points.size() == 1 && properties_[points[0]] & ideograph;
    if (n_.stripAccents) {
      std::vector<uint32_t> bare;
      for (const uint32_t c : points) {
        const auto found = decomposed_.find(c);
        if (c >= kHangul && c < kHangulEnd) append(bare, jamo(c));
        else if (found != decomposed_.end()) append(bare, found->second);
        else if (!(properties_[c] & mark)) bare.push_back(c);
      }
      points = bare;
    }
    if (n_.lowercase) points = lower(points);
    std::vector<Character> characters;
    if (padded && points.size() != 1) characters.push_back({' ', Fate::space});
    for (const uint32_t c : points) {
      const uint8_t p = properties_[c];
      const bool alone = p & punctuation || (padded && points.size() == 1);
      characters.push_back({c, p & white ? Fate::space : alone ? Fate::alone : Fate::letter});
    }
    if (padded && points.size() != 1) characters.push_back({' ', Fate::space});
    return characters;
  }

 private:
  static void append(std::vector<uint32_t>& to, const std::vector<uint32_t>& from) { to.insert(to.end(), from.begin(), from.end()); }

  std::vector<uint32_t> lower(const std::vector<uint32_t>& points) const {
    std::vector<uint32_t> small;
    for (const uint32_t c : points) {
      const auto found = lowered_.find(c);
      if (found == lowered_.end()) small.push_back(c);
      else append(small, found->second);
    }
    return small;
  }

  const Normalization n_;
  std::vector<uint8_t> properties_;
  Map lowered_, decomposed_;
};

}  // namespace

CharacterTable::CharacterTable(const Normalization& normalization) {
  const Steps steps(normalization);
  if (normalization.stripAccents)
    for (std::size_t i = 0; i < std::size(kOrdered); i += 2) orders_[kOrdered[i]] = kOrdered[i + 1];
  std::map<Page, uint16_t> numbers;  // most pages are equal
  for (uint32_t first = 0; first < kCodePoints; first += 256) {
    Page page(256);
    for (uint32_t i = 0; i < 256; ++i) {
      const uint32_t c = first + i;
      Fate fate = steps.simple(c);
      if (fate != Fate::replaced && !orders_.count(c)) {
        page[i] = static_cast<uint16_t>(fate);
        continue;
      }
      const auto characters = steps.run(c);
      fate = Fate::replaced;
      if (characters.empty()) fate = Fate::dropped;
      else if (characters.size() == 1 && characters[0].fate == Fate::space) fate = Fate::space;
      else if (characters.size() == 1 && characters[0].codePoint == c) fate = orders_.count(c) ? Fate::ordered : characters[0].fate;
      page[i] = static_cast<uint16_t>(fate);
      if (fate != Fate::replaced) continue;
      page[i] = static_cast<uint16_t>(page[i] + replacements_.size());
      replacements_.push_back(characters);
    }
    const auto [it, isNew] = numbers.emplace(page, static_cast<uint16_t>(pages_.size()));
    if (isNew) pages_.push_back(std::move(page));
    pageOf_.push_back(it->second);
  }
}

}  // namespace bge

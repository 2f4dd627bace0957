#include "wordpiece.h"

#include <algorithm>

namespace bge {

namespace {

bool isHigh(char16_t c) { return (c & 0xFC00) == 0xD800; }
bool isLow(char16_t c) { return (c & 0xFC00) == 0xDC00; }
uint32_t join(char16_t high, char16_t low) { return 0x10000 + ((static_cast<uint32_t>(high) & 0x3FF) << 10) + (low & 0x3FF); }

std::vector<uint32_t> codePoints(const std::u16string& text) {
  std::vector<uint32_t> points;
  for (size_t i = 0; i < text.size(); ++i) {
    const bool pair = isHigh(text[i]) && i + 1 < text.size() && isLow(text[i + 1]);
    points.push_back(pair ? join(text[i], text[i + 1]) : text[i]);
    i += pair;
  }
  return points;
}

uint64_t keyOf(uint32_t node, uint32_t codePoint) { return (static_cast<uint64_t>(node) << 21 | codePoint) + 1; }  // 0: empty slot
size_t slotOf(uint64_t key, size_t slots) { return static_cast<size_t>((key * 0x9E3779B97F4A7C15u) >> 20) & (slots - 1); }

}  // namespace

WordPiece::WordPiece(const WordPieceDefinition& d)
    : characters_(d.normalization), edges_(1 << 12), idOf_(2, -1), single_(65536, -1), beginsAdded_(65536), unknown_(d.unknown),
      longestWord_(d.longestWord) {
  for (size_t i = 0; i < d.tokens.size(); ++i) {
    insert(0, codePoints(d.tokens[i]), d.ids[i]);
    if (d.tokens[i].compare(0, d.continuation.size(), d.continuation) == 0) insert(1, codePoints(d.tokens[i].substr(d.continuation.size())), d.ids[i]);
  }
  for (uint32_t c = 0; c < 65536; ++c) {
    const uint32_t node = child(0, c);
    if (node != kNone) single_[c] = idOf_[node];
  }
  for (const auto& token : d.added) {
    if (token.empty()) continue;
    added_.push_back(token);
    beginsAdded_[token[0]] = true;
  }
}

uint32_t WordPiece::child(uint32_t node, uint32_t codePoint) const {
  const uint64_t key = keyOf(node, codePoint);
  for (size_t slot = slotOf(key, edges_.size());; slot = (slot + 1) & (edges_.size() - 1)) {
    if (edges_[slot].key == key) return edges_[slot].node;
    if (edges_[slot].key == 0) return kNone;
  }
}

void WordPiece::insert(uint32_t root, const std::vector<uint32_t>& token, int32_t id) {
  if (token.empty()) return;
  uint32_t node = root;
  for (const uint32_t c : token) {
    uint32_t next = child(node, c);
    if (next == kNone) {
      if (2 * edgeCount_ >= edges_.size()) grow();
      next = static_cast<uint32_t>(idOf_.size());
      idOf_.push_back(-1);
      const uint64_t key = keyOf(node, c);
      size_t slot = slotOf(key, edges_.size());
      while (edges_[slot].key != 0) slot = (slot + 1) & (edges_.size() - 1);
      edges_[slot] = {key, next};
      ++edgeCount_;
    }
    node = next;
  }
  idOf_[node] = id;
}

void WordPiece::grow() {
  std::vector<Edge> larger(4 * edges_.size());
  for (const Edge& edge : edges_) {
    if (edge.key == 0) continue;
    size_t slot = slotOf(edge.key, larger.size());
    while (larger[slot].key != 0) slot = (slot + 1) & (larger.size() - 1);
    larger[slot] = edge;
  }
  edges_.swap(larger);
}

// The longest token that the word begins with, then the longest continuation, and so on; nothing fits: the whole word is unknown.
void WordPiece::emit(std::vector<int32_t>& ids, const std::vector<uint32_t>& word) const {
  if (static_cast<int64_t>(word.size()) > longestWord_) {
    ids.push_back(unknown_);
    return;
  }
  const size_t before = ids.size();
  for (size_t first = 0; first < word.size();) {
    uint32_t node = first == 0 ? 0 : 1;
    int32_t id = -1;
    size_t end = first;
    for (size_t i = first; i < word.size(); ++i) {
      node = child(node, word[i]);
      if (node == kNone) break;
      if (idOf_[node] < 0) continue;
      id = idOf_[node];
      end = i + 1;
    }
    if (id < 0) {
      ids.resize(before);
      ids.push_back(unknown_);
      return;
    }
    ids.push_back(id);
    first = end;
  }
}

int WordPiece::addedAt(const char16_t* text, size_t i, size_t length) const {
  int found = 0;
  for (const auto& token : added_) {
    const size_t n = std::min(token.size(), length - i);
    if (!std::equal(token.begin(), token.begin() + static_cast<std::ptrdiff_t>(n), text + i)) continue;
    if (n == token.size()) return 1;
    found = -1;
  }
  return found;
}

WordPiece::End WordPiece::encode(std::vector<int32_t>& ids, const char16_t* text, size_t length, bool isWhole, size_t wanted) const {
  std::vector<uint32_t> word;
  const size_t most = static_cast<size_t>(longestWord_) + 1;  // longer words are all alike
  const size_t enough = ids.size() + wanted;
  size_t ordered = 0;  // letters at the end of the word that canonical ordering moves
  const auto finish = [&] {
    if (!word.empty()) emit(ids, word);
    word.clear();
  };
  const auto alone = [&](uint32_t c) {
    finish();
    if (c < 65536 && longestWord_ > 0) {
      ids.push_back(single_[c] < 0 ? unknown_ : single_[c]);
    } else {
      word.push_back(c);
      finish();
    }
  };
  for (size_t i = 0; i < length; ++i) {
    uint32_t c = text[i];
    if (beginsAdded_[c]) {
      const int found = addedAt(text, i, length);
      if (found == 1) return End::elsewhere;
      if (found == -1 && !isWhole) return ids.size() >= enough ? End::enough : End::more;
    }
    if (isHigh(text[i])) {
      if (i + 1 == length && !isWhole) return ids.size() >= enough ? End::enough : End::more;
      if (i + 1 == length || !isLow(text[i + 1])) return End::elsewhere;
      c = join(text[i], text[i + 1]);
      ++i;
    } else if (isLow(text[i])) {
      return End::elsewhere;
    }
    const uint16_t entry = characters_.entry(c);
    const Fate fate = CharacterTable::isReplaced(entry) ? Fate::replaced : static_cast<Fate>(entry);
    if (fate == Fate::dropped) continue;
    if (fate == Fate::ordered) {
      if (word.size() >= most) continue;
      auto at = word.end();
      for (size_t n = 0; n < ordered && characters_.order(*(at - 1)) > characters_.order(c); ++n) --at;
      word.insert(at, c);
      ++ordered;
      continue;
    }
    ordered = 0;
    if (fate == Fate::letter) {
      if (word.size() < most) word.push_back(c);
      continue;
    }
    if (fate == Fate::space) {
      finish();
    } else if (fate == Fate::alone) {
      alone(c);
    } else {
      for (const Character& character : characters_.replacement(entry)) {
        if (character.fate == Fate::space) finish();
        else if (character.fate == Fate::alone) alone(character.codePoint);
        else if (word.size() < most) word.push_back(character.codePoint);
      }
    }
    if (ids.size() >= enough && i + 1 < length) return End::enough;
  }
  if (!isWhole) return ids.size() >= enough ? End::enough : End::more;
  finish();
  return End::whole;
}

}  // namespace bge

#include "arena.h"

#include <algorithm>

#include "tensor.h"

namespace bge {

namespace {
constexpr size_t kAlign = 64;
constexpr size_t kMinBlock = size_t{8} << 20;
}  // namespace

Arena::Arena(std::function<void*(size_t)> allocate, std::function<void(void*)> release)
    : allocate_(std::move(allocate)), release_(std::move(release)) {}

Arena::~Arena() {
  for (auto& b : blocks_) release_(b.data);
}

void* Arena::bytes(size_t n) {
  n = (std::max<size_t>(n, 1) + kAlign - 1) / kAlign * kAlign;
  while (block_ < blocks_.size() && used_ + n > blocks_[block_].size) {
    // A later block that is too small and unused is replaced rather than skipped, so that capacity follows the largest request.
    if (block_ + 1 < blocks_.size() && blocks_[block_ + 1].size < n) {
      release_(blocks_[block_ + 1].data);
      blocks_.erase(blocks_.begin() + static_cast<std::ptrdiff_t>(block_) + 1);
      continue;
    }
    ++block_;
    used_ = 0;
  }
  if (block_ == blocks_.size()) {
    const size_t grown = std::max(n, kMinBlock);
    blocks_.push_back({static_cast<char*>(allocate_(grown)), grown});
    used_ = 0;
  }
  void* p = blocks_[block_].data + used_;
  used_ += n;
  size_t live = used_;
  for (size_t i = 0; i < block_; ++i) live += blocks_[i].size;
  peak_ = std::max(peak_, live);
  return p;
}

void Arena::reset(Mark m) {
  block_ = m.block;
  used_ = m.used;
  if (block_ == 0 && used_ == 0 && blocks_.size() > 1) {
    // Back at the bottom: join the blocks, so that the next round fits in one.
    const size_t total = capacity();
    for (auto& b : blocks_) release_(b.data);
    blocks_.clear();
    blocks_.push_back({static_cast<char*>(allocate_(total)), total});
  }
}

void Arena::reserve(size_t n) {
  if (block_ != 0 || used_ != 0) throw Error("ERR_BGE_ARGUMENT", "memory can only be reserved while none of it is in use");
  n = (n + kAlign - 1) / kAlign * kAlign;
  if (capacity() == n && blocks_.size() == 1) return;
  for (auto& b : blocks_) release_(b.data);
  blocks_.clear();
  if (n > 0) blocks_.push_back({static_cast<char*>(allocate_(n)), n});
}

size_t Arena::capacity() const {
  size_t total = 0;
  for (const auto& b : blocks_) total += b.size;
  return total;
}

}  // namespace bge

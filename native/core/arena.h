// Bump allocation over device memory. Blocks are taken from the device once and kept; mark()/reset() are stack-like. After warm-up a
// training step allocates nothing.
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

namespace bge {

class Arena {
 public:
  struct Mark { size_t block, used; };
  Arena(std::function<void*(size_t)> allocate, std::function<void(void*)> release);
  ~Arena();
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  void* bytes(size_t n);  // 64-byte aligned, contents undefined
  template <class T> T* take(int64_t n) { return static_cast<T*>(bytes(static_cast<size_t>(n) * sizeof(T))); }
  Mark mark() const { return {block_, used_}; }
  void reset(Mark m);
  // Makes room for `n` live bytes in one block, and gives back what there is above: until more is asked for, nothing is allocated. Alignment
  // is the caller's: each request counts as a multiple of 64. Only while nothing lies in the arena; throws Error otherwise, and where the
  // device has no room.
  void reserve(size_t n);
  size_t capacity() const;  // bytes held from the device
  size_t peak() const { return peak_; }

  struct Scope {  // resets on leaving
    Arena& arena;
    Mark m;
    explicit Scope(Arena& a) : arena(a), m(a.mark()) {}
    ~Scope() { arena.reset(m); }
  };

 private:
  struct Block { char* data; size_t size; };
  std::function<void*(size_t)> allocate_;
  std::function<void(void*)> release_;
  std::vector<Block> blocks_;
  size_t block_ = 0, used_ = 0, peak_ = 0;
};

}  // namespace bge

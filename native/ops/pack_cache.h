// Packed copies of weights. Used by core/cpu.cc (release) and ops/matmul.cc (look-up); nothing else includes it.
#pragma once
#include <map>
#include <tuple>

#include "../core/cpu.h"

namespace bge {

struct CpuBackend::PackCache {
  // Same data, other shape: the query weight is the head of the joined query-key-value weight. `transposed`: W^T (forward), else W (dX).
  struct Key {
    const float* data;
    int64_t out, in;
    bool transposed;
    bool operator<(const Key& o) const {
      return std::tie(data, out, in, transposed) < std::tie(o.data, o.out, o.in, o.transposed);
    }
  };
  struct Entry { uint64_t version; float* panels; size_t bytes; uint64_t lastUse; };
  using Entries = std::map<Key, Entry>;

  Entries entries;
  size_t bytes = 0;
  uint64_t clock = 0;

  void drop(CpuBackend& backend, Entries::iterator it) {
    float* panels = it->second.panels;
    bytes -= it->second.bytes;
    entries.erase(it);  // first: release() looks through the entries
    backend.release(panels);
  }
  // Drops what was packed from weights that begin in [first, first + size).
  void dropInside(CpuBackend& backend, const char* first, size_t size) {
    for (auto it = entries.begin(); it != entries.end();) {
      const char* data = reinterpret_cast<const char*>(it->first.data);
      const auto next = std::next(it);
      if (data >= first && data < first + size) drop(backend, it);
      it = next;
    }
  }
};

}  // namespace bge

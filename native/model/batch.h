// A micro-batch of packed sequences, on the host as it came from JavaScript and on the device for the length of one call.
#pragma once
#include <cstdint>
#include <vector>

#include "../core/backend.h"
#include "config.h"

namespace bge {

struct TokenBatch {                // host
  std::vector<int32_t> ids;        // (T)
  std::vector<int32_t> offsets;    // (N+1) cuSeqlens
  std::vector<uint32_t> stream;    // (N) dropout stream: the sequence's number in the whole batch
  std::vector<int32_t> rows;       // (R) packed indices, ascending, of the tokens whose last hidden state is wanted; may be empty
  int32_t sequences() const { return static_cast<int32_t>(offsets.size()) - 1; }
  int64_t tokens() const { return static_cast<int64_t>(ids.size()); }
};

// The decoder's view of a batch: the clean ids, a label for every token (-100: none), and the per-position masks (recipe.md 2.3).
struct DecoderBatch {
  TokenBatch tokens;                // rows unused
  std::vector<int32_t> labels;      // (T)
  std::vector<uint64_t> maskBits;   // (masks, words), words = ceil(maxLength / 64)
  std::vector<int32_t> maskChoice;  // (T) row of maskBits
};

// Device copies, living in the workspace arena until the caller resets it.
struct DeviceBatch {
  const int32_t* ids = nullptr;  // (T)
  Packed packed;                 // all tokens
  Rows all;                      // (T)
  DeviceBatch(Backend& backend, const TokenBatch& host);  // host must outlive this object (packed.offsetsHost points into it)
  DeviceBatch(Backend& backend, Arena& arena, const TokenBatch& host);  // the same in another arena
};

// Some rows of a packed batch, in their own packing: what a pruned layer is computed for.
struct RowSelection {
  std::vector<int32_t> host;     // (R) packed indices, strictly ascending
  std::vector<int32_t> offsets;  // (N+1) sequence n owns selected rows offsets[n] .. offsets[n+1]
  const int32_t* index = nullptr;  // (R) `host` on the device
  Packed packed;                   // the selected rows
  Rows rows;                       // (R)
  // `batch` and `selected` as in the struct; lives as long as `arena` is not reset.
  RowSelection(Backend& backend, Arena& arena, const TokenBatch& batch, const Rows& all, std::vector<int32_t> selected);
  RowSelection(const RowSelection&) = delete;
  RowSelection& operator=(const RowSelection&) = delete;
  int64_t count() const { return static_cast<int64_t>(host.size()); }
};

// A host vector on the device, for as long as `arena` is not reset.
template <class T> T* uploadTo(Backend& backend, Arena& arena, const std::vector<T>& host) {
  T* device = arena.take<T>(static_cast<int64_t>(host.size()));
  if (!host.empty()) backend.upload(device, host.data(), host.size() * sizeof(T));
  return device;
}

inline void zero(Backend& backend, Matrix m) {
  const size_t row = static_cast<size_t>(m.cols * sizeOf(m.type));
  if (m.stride == m.cols) return backend.zero(m.data, static_cast<size_t>(m.rows) * row);
  for (int64_t r = 0; r < m.rows; ++r) backend.zero(m.slice(r, 1).data, row);
}

// Throws ERR_BGE_SHAPE or ERR_BGE_ARGUMENT for a batch that does not fit the model: no sequence, an empty or too long one, an id outside
// the vocabulary, rows that are not ascending.
void checkBatch(const TokenBatch& batch, const ModelConfig& config);

}  // namespace bge

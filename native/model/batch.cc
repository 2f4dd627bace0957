#include "batch.h"

#include <algorithm>
#include <string>

namespace bge {

DeviceBatch::DeviceBatch(Backend& backend, const TokenBatch& host) : DeviceBatch(backend, backend.workspace(), host) {}

DeviceBatch::DeviceBatch(Backend& backend, Arena& arena, const TokenBatch& host) {
  std::vector<int32_t> sequence(host.ids.size()), position(host.ids.size());
  for (int32_t n = 0; n < host.sequences(); ++n) {
    const int32_t first = host.offsets[n], end = host.offsets[n + 1];
    packed.maxLength = std::max(packed.maxLength, end - first);
    for (int32_t t = first; t < end; ++t) {
      sequence[t] = n;
      position[t] = t - first;
    }
  }
  ids = uploadTo(backend, arena, host.ids);
  packed.count = host.sequences();
  packed.rows = host.tokens();
  packed.offsets = uploadTo(backend, arena, host.offsets);
  packed.offsetsHost = host.offsets.data();
  all.count = host.tokens();
  all.sequence = uploadTo(backend, arena, sequence);
  all.position = uploadTo(backend, arena, position);
  all.stream = uploadTo(backend, arena, host.stream);
}

RowSelection::RowSelection(Backend& backend, Arena& arena, const TokenBatch& batch, const Rows& all, std::vector<int32_t> selected)
    : host(std::move(selected)), offsets(batch.offsets.size(), 0) {
  std::vector<int32_t> sequence(host.size()), position(host.size());
  int32_t n = 0;
  for (size_t r = 0; r < host.size(); ++r) {
    while (host[r] >= batch.offsets[n + 1]) ++n;
    sequence[r] = n;
    position[r] = host[r] - batch.offsets[n];
    ++offsets[n + 1];
  }
  for (size_t i = 1; i < offsets.size(); ++i) {
    packed.maxLength = std::max(packed.maxLength, offsets[i]);
    offsets[i] += offsets[i - 1];
  }
  index = uploadTo(backend, arena, host);
  packed.count = batch.sequences();
  packed.rows = count();
  packed.offsets = uploadTo(backend, arena, offsets);
  packed.offsetsHost = offsets.data();
  rows.count = count();
  rows.sequence = uploadTo(backend, arena, sequence);
  rows.position = uploadTo(backend, arena, position);
  rows.stream = all.stream;
}

void checkBatch(const TokenBatch& batch, const ModelConfig& config) {
  const auto text = [](int64_t x) { return std::to_string(x); };
  if (batch.offsets.size() < 2) throw Error("ERR_BGE_SHAPE", "a batch must hold at least one sequence, but holds none");
  if (batch.offsets.front() != 0 || batch.offsets.back() != batch.tokens())
    throw Error("ERR_BGE_SHAPE", "cuSeqlens must run from 0 to the number of ids (" + text(batch.tokens()) + "), but runs from " +
                                     text(batch.offsets.front()) + " to " + text(batch.offsets.back()));
  if (static_cast<int32_t>(batch.stream.size()) != batch.sequences())
    throw Error("ERR_BGE_SHAPE", "stream must hold one number per sequence (" + text(batch.sequences()) + "), but holds " +
                                     text(static_cast<int64_t>(batch.stream.size())));
  for (int32_t n = 0; n < batch.sequences(); ++n) {
    const int64_t length = int64_t{batch.offsets[n + 1]} - batch.offsets[n];
    if (length < 1)
      throw Error("ERR_BGE_SHAPE", "a sequence must hold at least one token, but sequence " + text(n) + " holds " + text(length));
    if (length > config.maxPositions)
      throw Error("ERR_BGE_SHAPE", "a sequence may hold at most " + text(config.maxPositions) +
                                       " tokens (the model's positions), but sequence " + text(n) + " holds " + text(length));
    for (int32_t t = batch.offsets[n]; t < batch.offsets[n + 1]; ++t)
      if (batch.ids[t] < 0 || batch.ids[t] >= config.vocab)
        throw Error("ERR_BGE_ARGUMENT", "token ids must lie in 0 .. " + text(config.vocab - 1) + " (the model's vocabulary), but token " +
                                            text(t - batch.offsets[n]) + " of sequence " + text(n) + " is " + text(batch.ids[t]));
  }
  for (size_t r = 0; r < batch.rows.size(); ++r)
    if (batch.rows[r] < 0 || batch.rows[r] >= batch.tokens() || (r > 0 && batch.rows[r] <= batch.rows[r - 1]))
      throw Error("ERR_BGE_ARGUMENT", "rows must be ascending token indices in 0 .. " + text(batch.tokens() - 1) + ", but rows[" +
                                          text(static_cast<int64_t>(r)) + "] is " + text(batch.rows[r]));
}

}  // namespace bge

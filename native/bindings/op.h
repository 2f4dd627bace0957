// One op of a device by name, on plain arrays: the side door of op specs and microbenchmarks (test/ops, benchmarks/ops.ts).
// Nothing of a model passes here. No Node-API in this pair.
#pragma once
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "../core/backend.h"

namespace bge {

struct OpTensors {
  std::map<std::string, std::vector<float>> f;
  std::map<std::string, std::vector<int32_t>> i;
  std::map<std::string, std::vector<uint32_t>> u;
  std::map<std::string, std::vector<uint64_t>> w;
};

// Uploads the inputs, fills outputs with NaN, calls the op, downloads the outputs. Checks what a kernel must not do: write outside an
// output (in front, behind, or between rows: `pad` floats separate the rows of every matrix), change an input, keep workspace:
// ERR_BGE_INTERNAL.
// `repeat` (>= 1): runs the op so many times, restoring what it accumulates into, and returns only `seconds`, the median of a run.
// An unknown op, a missing or unknown input or attribute: ERR_BGE_ARGUMENT; a wrong number of entries: ERR_BGE_SHAPE.
OpTensors runOp(Backend& backend, const std::string& name, const OpTensors& in, const std::map<std::string, double>& attributes);

}  // namespace bge

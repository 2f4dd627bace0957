// Softmax and gradient of a block of contrastive scores (similarity.cu), as the op and as the pass over all blocks launch it.
#pragma once
#include "../../core/backend.h"
#include "../../core/cuda/runtime.h"

namespace bge {

// Backend::contrastive. halfScale not 0: the gradient is left as f16 in the first half of each row of scores, times
// halfScale temperature queries / lossScale, so that rounding to f16 costs 2^-11 of a value and nothing above 2^-24 / halfScale of a whole
// weight is lost; rows of scores begin at multiples of 16 bytes then.
void contrastiveRows(cudaStream_t stream, Arena& workspace, ContrastiveResult* result, const Contrastive& tile, float halfScale);

}  // namespace bge

// Soft-max cross-entropy over the vocabulary, loss and gradient in place (recipe.md 2.4).
#include <algorithm>
#include <cmath>

#include "../core/cpu.h"
#include "cpu/kernels.h"
#include "row_tasks.h"

namespace bge {

void CpuBackend::crossEntropy(CrossEntropyResult* result, Matrix logits, const int32_t* labels, float scale) {
  constexpr int32_t kIgnored = -100;
  struct RowResult { double loss; bool correct; };
  const RowKernels& k = kernels.rows;
  const int64_t cols = logits.cols;
  Arena::Scope scope(workspace_);
  RowResult* each = workspace_.take<RowResult>(logits.rows);
  forRows(pool, logits.rows, cols, [&](int64_t first, int64_t last) {
    for (int64_t r = first; r < last; ++r) {
      float* x = logits.row(r);
      const int32_t label = labels[r];
      if (label == kIgnored) {
        std::fill(x, x + cols, 0.0f);
        continue;
      }
      const float high = k.maximum(x, cols), target = x[label];
      each[r].correct = target == high && k.find(x, high, label) == label;
      const double sum = k.expSum(x, high, 1.0f, cols);  // NaN anywhere makes sum and loss NaN
      each[r].loss = std::log(sum) + (static_cast<double>(high) - static_cast<double>(target));
      k.scale(x, static_cast<float>(static_cast<double>(scale) / sum), cols);
      x[label] -= scale;
    }
  });
  for (int64_t r = 0; r < logits.rows; ++r) {
    if (labels[r] == kIgnored) continue;
    result->loss += each[r].loss;
    result->correct += each[r].correct;
    ++result->count;
  }
}

}  // namespace bge

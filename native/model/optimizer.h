// AdamW over the flat buffers of several modules with one global gradient norm (torch.optim.AdamW + clip_grad_norm_).
#pragma once
#include <vector>

#include "parameters.h"

namespace bge {

struct OptimizerOptions { double beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8, weightDecay = 0.01; };

class Optimizer {
 public:
  Optimizer(std::vector<Parameters*> modules, const OptimizerOptions& options);
  ~Optimizer();
  // Clips by the global norm (maxNorm 0: no clipping), updates, zeroes the gradients, returns the norm before clipping.
  // A non-finite norm changes nothing (parameters, moments and the step count stay) and is returned as it is; gradients are zeroed.
  double step(float learningRate, float maxNorm);
  int64_t steps = 0;
  float* moment(size_t module, int which) const;  // which 0: m, 1: v; flat, the module's layout
 private:
  Backend& backend_;
  std::vector<Parameters*> modules_;
  OptimizerOptions options_;
  std::vector<float*> m_, v_;
};

}  // namespace bge

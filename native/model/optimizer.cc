#include "optimizer.h"

#include <algorithm>
#include <cmath>

namespace bge {

namespace {

// Neighbours with the same weight decay are one part. The padding between and behind them is zero and stays zero.
struct Run { int64_t first, end; bool decay; };

std::vector<Run> runs(const Parameters& p) {
  std::vector<const ParameterSpec*> specs;
  for (const auto& s : p.specs) specs.push_back(&s);
  std::sort(specs.begin(), specs.end(), [](const auto* a, const auto* b) { return a->offset < b->offset; });
  std::vector<Run> out;
  for (const auto* s : specs) {
    if (!out.empty() && out.back().decay == s->decay) out.back().end = s->offset + s->size;
    else out.push_back({s->offset, s->offset + s->size, s->decay});
  }
  for (size_t i = 0; i < out.size(); ++i) out[i].end = i + 1 < out.size() ? out[i + 1].first : p.total;  // vectors to the end
  return out;
}

Backend& backendOf(const std::vector<Parameters*>& modules) {
  if (modules.empty()) throw Error("ERR_BGE_ARGUMENT", "an optimizer needs at least one module, but was given none");
  return modules.front()->backend;
}

}  // namespace

Optimizer::Optimizer(std::vector<Parameters*> modules, const OptimizerOptions& options)
    : backend_(backendOf(modules)), modules_(std::move(modules)), options_(options) {
  for (const Parameters* p : modules_) {
    for (auto* moments : {&m_, &v_}) {
      const size_t bytes = static_cast<size_t>(p->total) * sizeof(float);
      moments->push_back(static_cast<float*>(backend_.allocate(bytes)));
      backend_.zero(moments->back(), bytes);
    }
  }
}

Optimizer::~Optimizer() {
  for (const auto* moments : {&m_, &v_})
    for (float* moment : *moments) backend_.release(moment);
}

double Optimizer::step(float learningRate, float maxNorm) {
  std::vector<AdamWPart> parts;
  for (size_t i = 0; i < modules_.size(); ++i) {
    Parameters& p = *modules_[i];
    if (!p.hasGradients()) continue;  // never touched by a backward: left alone, as torch does with grad None
    p.changed();
    for (const Run& run : runs(p)) {
      const int64_t at = run.first;
      parts.push_back({p.values() + at, m_[i] + at, v_[i] + at, p.gradients() + at, run.end - at, run.decay ? options_.weightDecay : 0,
                       p.version()});
    }
  }
  if (parts.empty()) {
    ++steps;
    return 0;
  }
  Arena::Scope scope(backend_.workspace());
  auto* squared = backend_.workspace().take<double>(1);
  const AdamW options{learningRate, options_.beta1, options_.beta2, options_.epsilon, steps + 1, maxNorm};
  backend_.adamw(squared, parts.data(), static_cast<int32_t>(parts.size()), options);
  double norm = 0;
  backend_.download(&norm, squared, sizeof(double));
  norm = std::sqrt(norm);
  if (std::isfinite(norm)) ++steps;
  return norm;
}

float* Optimizer::moment(size_t module, int which) const { return (which == 0 ? m_ : v_).at(module); }

}  // namespace bge

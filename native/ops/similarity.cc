// Contrastive objectives on a block of score rows, loss and gradient in place (C-Pack eq. 2; FlagEmbedding's kl_div and m3_kd_loss,
// recipe.md 3.2).
//
// With z = score / temperature, t the target column, g = 0 .. G-1 the query's own group (g = 0 the target) and removed columns left out:
//   InfoNCE  log sum_j exp z_j - z_t
//   kl_div   sum_g teacher_g (log sum_{own group} exp z - z_g)
//   m3       sum_g teacher_g (log sum_{j not in own group 0 .. g-1} exp z_j - z_g)
// Removal applies to all three: a removed own-group column (any rule but that of equal queries and that of sources, which never reach it)
// drops out of every sum, its teacher term is skipped, the other teacher weights stay as they are, and its gradient is 0.
// The columns outside the own group share one exponential e_j = exp(z_j - zOut), taken relative to their own maximum, so that m3, which
// takes the best columns away one by one, never divides by an underflowed sum. The G own columns are done in double.
#include <algorithm>
#include <cmath>
#include <limits>

#include "../core/cpu.h"
#include "cpu/kernels.h"
#include "row_tasks.h"

namespace bge {

namespace {

constexpr float kRemoved = -std::numeric_limits<float>::infinity();

struct RowResult { double loss; int64_t masked, falseNegatives; bool correct; };

// log(exp a + exp b), either may be -infinity
double logAdd(double a, double b) {
  const double high = a > b ? a : b;
  return high == kRemoved ? a + b : high + std::log1p(std::exp((a > b ? b : a) - high));
}

class ContrastiveRow {
 public:
  // z, dz: (G) scratch
  ContrastiveRow(const RowKernels& k, const Contrastive& c, int64_t r, double* zs, double* dzs)
      : k_(k), c_(c), query_(c.firstRow + r), target_(query_ * c.groupSize), x_(c.scores.row(r)), z_(zs), dz_(dzs) {
    left_ = {x_, c.ownGroupOnly ? 0 : target_, 0};
    right_ = {x_ + target_ + c.groupSize, c.ownGroupOnly ? 0 : c.scores.cols - target_ - c.groupSize, target_ + c.groupSize};
  }

  RowResult run() {
    removeColumns();
    const int32_t G = c_.groupSize;
    for (int32_t g = 0; g < G; ++g) {
      z_[g] = static_cast<double>(x_[target_ + g]) / c_.temperature;
      dz_[g] = 0;
    }
    const bool outside = left_.n + right_.n > 0 && (c_.infoNceWeight != 0 || c_.m3Weight != 0);
    if (outside) sumOutside();
    if (c_.infoNceWeight != 0) infoNce();
    if (c_.klWeight != 0) klDivergence();
    if (c_.m3Weight != 0) m3();

    const double scale = static_cast<double>(c_.lossScale) / static_cast<double>(c_.queries);
    const double gradientScale = scale / c_.temperature;
    if (outside) {
      k_.scale(left_.x, static_cast<float>(outsideFactor_ * gradientScale), left_.n);
      k_.scale(right_.x, static_cast<float>(outsideFactor_ * gradientScale), right_.n);
    } else {
      std::fill(x_, x_ + target_, 0.0f);
      std::fill(x_ + target_ + G, x_ + c_.scores.cols, 0.0f);
    }
    for (int32_t g = 0; g < G; ++g) x_[target_ + g] = static_cast<float>(dz_[g] * gradientScale);
    return {loss_ * scale, masked_, falseNegatives_, correct_};
  }

 private:
  struct Range { float* x; int64_t n, column; };

  // A column that is removed already is not counted again.
  void remove(int64_t column) {
    masked_ += x_[column] != kRemoved;
    x_[column] = kRemoved;
  }

  // The passages of other sources; before any rule counts them.
  void keepSource() {
    for (int64_t other = 0; other < c_.queries; ++other) {
      if (c_.sourceIds[other] != c_.sourceIds[query_]) std::fill_n(x_ + other * c_.groupSize, c_.groupSize, kRemoved);
    }
  }

  void removeColumns() {
    const float score = x_[target_];
    if (c_.sourceIds && !c_.ownGroupOnly) keepSource();
    const int32_t* ids = c_.passageIds;
    const int32_t* positives = nullptr;
    int64_t positiveCount = 0;
    if (ids && c_.positiveOffsets) {
      positives = c_.positiveIds + c_.positiveOffsets[query_];
      positiveCount = c_.positiveOffsets[query_ + 1] - c_.positiveOffsets[query_];
    }
    if (c_.queryIds && !c_.ownGroupOnly) {
      const int32_t id = c_.queryIds[query_];
      for (int64_t other = 0;; ++other) {
        other += k_.findId(c_.queryIds + other, id, c_.queries - other);
        if (other >= c_.queries) break;
        if (other != query_) remove(other * c_.groupSize);
      }
    }
    if (c_.removedColumns) {
      for (int32_t i = c_.removedBegin[query_]; i < c_.removedEnd[query_]; ++i)
        if (c_.removedColumns[i] != target_) remove(c_.removedColumns[i]);
    }
    const float most = score + c_.falseNegativeMargin;
    const auto remaining = [&](const Range& range, bool guided) {
      MaskRange m{range.x, ids ? ids + range.column : nullptr, range.n, ids ? ids[target_] : 0, positives, positiveCount, 0};
      const float high = k_.maskedMaximum(&m);
      masked_ += m.removed;
      if (!guided || !(high > most)) return high;
      for (int64_t j = 0; j < range.n; ++j) {
        if (!(range.x[j] > most)) continue;
        range.x[j] = kRemoved;
        ++falseNegatives_;
      }
      return k_.maximum(range.x, range.n);
    };
    const float left = remaining(left_, true), right = remaining(right_, true);
    const float own = remaining({x_ + target_ + 1, c_.groupSize - 1, target_ + 1}, c_.falseNegativesInGroup);
    outsideMaximum_ = std::max(left, right);
    correct_ = score == score && !(left >= score) && !(right > score) && !(own > score);
  }

  void sumOutside() {
    const float reference = outsideMaximum_ == kRemoved ? 0 : outsideMaximum_;  // all removed: the sum is 0, unless a NaN is there
    const float factor = 1.0f / c_.temperature;
    const double sum = k_.expSum(left_.x, reference, factor, left_.n) + k_.expSum(right_.x, reference, factor, right_.n);
    zOut_ = static_cast<double>(reference) / c_.temperature;
    outsideLse_ = zOut_ + std::log(sum);
  }

  // d outside / d z_j = e_j * outsideFactor_ for a term with log-sum-exp `lse`
  double outsideShare(double lse) const { return outsideLse_ == kRemoved ? 0 : std::exp(zOut_ - lse); }

  void infoNce() {
    const int32_t G = c_.groupSize;
    const double w = c_.infoNceWeight;
    double others = outsideLse_;  // log-sum-exp of everything but the target
    for (int32_t g = 1; g < G; ++g) others = logAdd(others, z_[g]);
    // Both from `others`, so that neither the loss nor p_t - 1 is a difference of nearly equal numbers when the target wins.
    const double behind = others - z_[0];
    const double loss = behind < 0 ? std::log1p(std::exp(behind)) : behind + std::log1p(std::exp(-behind));
    const double lse = z_[0] + loss;
    loss_ += w * loss;
    dz_[0] -= w / (1 + std::exp(-behind));
    for (int32_t g = 1; g < G; ++g) dz_[g] += w * std::exp(z_[g] - lse);
    outsideFactor_ += w * outsideShare(lse);
  }

  void klDivergence() {
    const float* teacher = c_.teacher + query_ * c_.groupSize;
    const double w = c_.klWeight;
    double lse = z_[0], weight = 0;
    for (int32_t g = 1; g < c_.groupSize; ++g) lse = logAdd(lse, z_[g]);
    for (int32_t g = 0; g < c_.groupSize; ++g) {
      if (z_[g] == kRemoved) continue;
      weight += teacher[g];
      loss_ += w * teacher[g] * (lse - z_[g]);
      dz_[g] -= w * teacher[g];
    }
    for (int32_t g = 0; g < c_.groupSize; ++g) dz_[g] += w * weight * std::exp(z_[g] - lse);
  }

  void m3() {
    const float* teacher = c_.teacher + query_ * c_.groupSize;
    const int32_t G = c_.groupSize;
    double lse = outsideLse_;  // of the columns outside and own columns g .. G-1
    for (int32_t g = G - 1; g >= 0; --g) {
      if (z_[g] == kRemoved) continue;
      lse = logAdd(lse, z_[g]);
      const double w = c_.m3Weight * static_cast<double>(teacher[g]);
      loss_ += w * (lse - z_[g]);
      outsideFactor_ += w * outsideShare(lse);
      for (int32_t h = g; h < G; ++h) dz_[h] += w * std::exp(z_[h] - lse);
      dz_[g] -= w;
    }
  }

  const RowKernels& k_;
  const Contrastive& c_;
  const int64_t query_, target_;
  float* x_;
  double* z_;
  double* dz_;
  Range left_, right_;                                   // the columns outside the own group that take part
  float outsideMaximum_ = kRemoved;
  double zOut_ = 0, outsideLse_ = kRemoved, outsideFactor_ = 0, loss_ = 0;
  int64_t masked_ = 0, falseNegatives_ = 0;
  bool correct_ = false;
};

}  // namespace

void CpuBackend::contrastive(ContrastiveResult* result, const Contrastive& tile) {
  Arena::Scope scope(workspace_);
  const int64_t rows = tile.scores.rows, G = tile.groupSize;
  RowResult* each = workspace_.take<RowResult>(rows);
  double* own = workspace_.take<double>(rows * 2 * G);
  forRows(pool, rows, tile.scores.cols, [&](int64_t first, int64_t last) {
    for (int64_t r = first; r < last; ++r) each[r] = ContrastiveRow(kernels.rows, tile, r, own + r * 2 * G, own + r * 2 * G + G).run();
  });
  for (int64_t r = 0; r < rows; ++r) {
    result->loss += each[r].loss;
    result->correct += each[r].correct;
    result->masked += each[r].masked;
    result->falseNegatives += each[r].falseNegatives;
  }
}

}  // namespace bge

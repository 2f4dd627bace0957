// One direction of a contrastive objective on the CPU: blocks of queries against all passages. Three products a block, cut so that every
// operand is read from memory once a block, and packed where it is used:
//   scores  a task is 256 passages: it packs them and multiplies all queries of the block with them
//   softmax similarity.cc, row by row
//   dP, dQ  a task is a part of the passages. For one run of passages after the other it packs its columns of the scores' gradient for dP, and
//           the passages for its share of dQ. Shares are added in the order of the parts, of which the number of passages alone decides.
// Blocks are as high as the scores' memory allows, because each reads P twice and reads and writes dP once.
// On a bf16 device operands are rounded to bf16 where they are packed, two to a word; sums, scores and the softmax are fp32 all the same.
#include <algorithm>

#include "../core/cpu.h"
#include "cpu/kernels_low.h"
#include "products.h"

namespace bge {

namespace {

// lib/train/plan_ops.ts repeats these, and what workspace they lead to.
constexpr int64_t kScoreBytes = int64_t{20} << 20;
constexpr int64_t kLeastRows = 48, kMostRows = 512;  // queries of a block
constexpr int64_t kColumns = 256;                    // passages of a task of the first product; a multiple of every panel's width
constexpr int64_t kScoreDepth = 1024;                     // of the first product, at most, in a packed block
constexpr int64_t kRun = 512;                        // passages that are packed together for dQ
constexpr int64_t kParts = 16, kLeastPart = 256;     // parts of the passages: at most, and passages of one

class Pass {
 public:
  Pass(CpuBackend& backend, Matrix dQ, Matrix dP, Matrix q, Matrix p, bool accumulate)
      : k_(backend.kernels),
        low_(backend.low && backend.low->packTransposedRows ? backend.low : nullptr),
        panel_(low_ ? low_->panel : k_.panel),
        tileRows_(low_ ? low_->tileRows : k_.tileRows),
        group_(low_ ? low_->group : 1),
        pool_(backend.pool),
        dQ_(dQ),
        dP_(dP),
        q_(q),
        p_(p),
        accumulate_(accumulate) {
    const int64_t fit = kScoreBytes / static_cast<int64_t>(sizeof(float)) / p.rows;
    const int64_t most = std::min(q.rows, std::clamp(fit, kLeastRows, kMostRows)), blocks = divideUp(q.rows, most);
    rows = std::min(q.rows, roundUp(divideUp(q.rows, blocks), tileRows_));
    parts_ = std::clamp<int64_t>(p.rows / kLeastPart, 1, kParts);
    part_ = divideUp(p.rows, parts_);
    run_ = divideUp(part_, divideUp(part_, kRun));
    width_ = roundUp(q.cols, panel_);
    passages_ = rowsInCache(words(rows));
    const int64_t tiles = passages_ / tileRows_ * (words(rows) * tileRows_ + kTileGap), left = rowsInCache(words(run_)) * leftStride(run_);
    each_ = std::max(kColumns * words(std::min(q.cols, kScoreDepth)), words(run_) * width_ + std::max(tiles, left));
    Arena& arena = backend.workspace();
    scores_ = arena.take<float>(rows * p.rows);
    scratch_ = arena.take<float>(each_ * pool_.threads());
    left_ = arena.take<float>(rows * leftStride(q.cols));
    queries_ = arena.take<float>(width_ * words(rows));
    shares_ = arena.take<float>(parts_ * rows * q.cols);
  }

  int64_t rows;  // of a block
  Matrix scores(int64_t first) const { return {scores_, std::min(rows, q_.rows - first), p_.rows}; }

  void multiply(int64_t first) {
    const Matrix c = scores(first), a = q_.slice(first, c.rows);
    if (low_) {
      pool_.parallelFor(divideUp(a.rows, tileRows_), [&](int64_t i) {
        const int64_t row = i * tileRows_, n = std::min<int64_t>(tileRows_, a.rows - row);
        low_->packRows(left_ + row * leftStride(a.cols), leftStride(a.cols), nullptr, a.row(row), a.stride, n, a.cols);
      });
    }
    pool_.parallelFor(divideUp(p_.rows, kColumns), [&](int64_t task) {
      const int64_t column = task * kColumns, n = std::min(kColumns, p_.rows - column);
      for (int64_t d = 0; d < q_.cols; d += kScoreDepth) {
        const int64_t depth = std::min(kScoreDepth, q_.cols - d);
        float* panels = scratch();
        packPanels(panels, p_.row(column) + d, p_.stride, true, depth, n);
        const float* left = low_ ? left_ + d / group_ : a.row(0) + d;
        rowsTimes(c.columns(column, n), left, low_ ? leftStride(a.cols) : a.stride, words(depth), panels, d == 0 ? 0 : 1);
      }
    });
  }

  void gradients(int64_t first) {
    const Matrix s = scores(first);
    if (dP_.data) {
      const Matrix q = q_.slice(first, s.rows);
      pool_.parallelFor(width_ / panel_, [&](int64_t i) {
        const int64_t column = i * panel_;
        packPanels(queries_ + column * words(s.rows), q.row(0) + column, q.stride, false, s.rows, std::min(panel_, q.cols - column));
      });
    }
    pool_.parallelFor(parts_, [&](int64_t part) {
      const int64_t begin = part * part_, end = std::min(begin + part_, p_.rows);
      for (int64_t at = begin; at < end; at += run_) {
        const int64_t n = std::min(run_, end - at);
        if (dP_.data) passageGradient(dP_.slice(at, n), s.columns(at, n), first == 0 && !accumulate_ ? 0 : 1);
        if (dQ_.data) queryShare(share(part, s.rows), s.columns(at, n), p_.slice(at, n), at == begin ? 0 : 1);
      }
    });
    if (dQ_.data) addShares(dQ_.slice(first, s.rows));
  }

 private:
  // Depth is counted in words of 4 bytes, as kernels_low.h has it; a word of fp32 is one value.
  int64_t words(int64_t depth) const { return divideUp(depth, group_); }
  // Of converted rows, in words. Rows a power of two apart would fall on the same lines of the first-level cache.
  int64_t leftStride(int64_t depth) const { return low_ ? roundUp(words(depth), 16) + 16 : 0; }
  int64_t rowsInCache(int64_t depth) const {
    return std::max<int64_t>((low_ ? low_->aBytes : k_.aBytes) / (static_cast<int64_t>(sizeof(float)) * depth) / tileRows_, 1) * tileRows_;
  }
  float* scratch() const { return scratch_ + each_ * ThreadPool::thread(); }
  Matrix share(int64_t part, int64_t n) const { return {shares_ + part * rows * q_.cols, n, q_.cols}; }

  void packPanels(float* out, const float* b, int64_t stride, bool transposed, int64_t depth, int64_t cols) const {
    if (low_) low_->packPanels(out, b, stride, transposed, depth, cols, nullptr, nullptr);
    else k_.packPanels(out, b, stride, transposed, depth, cols);
  }
  void multiply(const GemmBlock& g) const {
    if (low_) low_->gemm(g, {});
    else k_.gemm(g);
  }

  // c = A B + beta c in this thread, some rows of A after the other
  void rowsTimes(Matrix c, const float* a, int64_t stride, int64_t depth, const float* panels, float beta) const {
    const int64_t step = rowsInCache(depth);
    GemmBlock whole = product(c, Matrix(const_cast<float*>(a), c.rows, depth, stride), false, 1, beta);
    whole.b = panels;
    whole.panelStride = depth * panel_;
    for (int64_t row = 0; row < c.rows; row += step) multiply(part(whole, row, 0, step, c.cols));
  }

  // dP (n, D) = s^T Q + beta dP
  void passageGradient(Matrix dP, Matrix s, float beta) const {
    float* tiles = scratch() + words(run_) * width_;
    GemmBlock whole = product(dP, s, true, 1, beta);
    whole.depth = words(s.rows);
    whole.b = queries_;
    whole.panelStride = whole.depth * panel_;
    whole.a = tiles;
    whole.aStride = tileRows_;
    whole.aTile = whole.depth * tileRows_ + kTileGap;
    for (int64_t row = 0; row < dP.rows; row += passages_) {
      const GemmBlock g = part(whole, row, 0, passages_, dP.cols);
      (low_ ? low_->packTransposedRows : k_.packTransposedRows)(tiles, g.aTile, nullptr, s.row(0) + row, s.stride, g.rows, s.rows);
      multiply(g);
    }
  }

  // dQ (R, D) = s P + beta dQ
  void queryShare(Matrix dQ, Matrix s, Matrix p, float beta) const {
    float *panels = scratch(), *left = panels + words(run_) * width_;
    packPanels(panels, p.row(0), p.stride, false, p.rows, p.cols);
    if (!low_) return rowsTimes(dQ, s.row(0), s.stride, p.rows, panels, beta);
    const int64_t depth = words(p.rows), step = rowsInCache(words(run_)), stride = leftStride(run_);
    for (int64_t row = 0; row < dQ.rows; row += step) {
      const int64_t n = std::min(step, dQ.rows - row);
      low_->packRows(left, stride, nullptr, s.row(row), s.stride, n, p.rows);
      rowsTimes(dQ.slice(row, n), left, stride, depth, panels, beta);
    }
  }

  void addShares(Matrix dQ) const {
    pool_.parallelFor(dQ.rows, [&](int64_t r) {
      if (!accumulate_) std::fill_n(dQ.row(r), dQ.cols, 0.0f);
      for (int64_t part = 0; part < parts_; ++part) k_.rows.add(dQ.row(r), share(part, dQ.rows).row(r), 1, dQ.cols);
    });
  }

  const Kernels& k_;
  const LowKernels* const low_;  // null: fp32
  const int64_t panel_, tileRows_, group_;
  ThreadPool& pool_;
  const Matrix dQ_, dP_, q_, p_;
  const bool accumulate_;
  int64_t parts_, part_, run_, width_, passages_, each_;
  float *scores_, *scratch_, *left_, *queries_, *shares_;
};

}  // namespace

void CpuBackend::contrastivePass(ContrastiveResult* result, Matrix dQ, Matrix dP, Matrix q, Matrix p, const Contrastive& whole,
                                 bool accumulate) {
  Arena::Scope scope(workspace_);
  Pass pass(*this, dQ, dP, q, p, accumulate);
  for (int64_t first = 0; first < q.rows; first += pass.rows) {
    Contrastive tile = whole;
    tile.scores = pass.scores(first);
    tile.firstRow = first;
    pass.multiply(first);
    contrastive(result, tile);
    if (dQ.data || dP.data) pass.gradients(first);
  }
}

}  // namespace bge

// One direction of a contrastive objective on the CPU: blocks of queries against all passages. Three products a block, cut so that every
// operand is read from memory once a block, and packed where it is used:
//   scores  a task is 256 passages: it packs them and multiplies all queries of the block with them
//   softmax similarity.cc, row by row
//   dP, dQ  a task is a part of the passages. For one run of passages after the other it packs its columns of the scores' gradient for dP, and
//           the passages for its share of dQ. Shares are added in the order of the parts, of which the number of passages alone decides.
// Blocks are as high as the scores' memory allows, because each reads P twice and reads and writes dP once.
#include <algorithm>

#include "../core/cpu.h"
#include "products.h"

namespace bge {

namespace {

// lib/train/plan_ops.ts repeats these, and what workspace they lead to.
constexpr int64_t kScoreBytes = int64_t{12} << 20;
constexpr int64_t kLeastRows = 48, kMostRows = 512;  // queries of a block
constexpr int64_t kColumns = 256;                    // passages of a task of the first product; a multiple of every panel's width
constexpr int64_t kDepth = 1024;                     // of the first product, at most, in a packed block
constexpr int64_t kRun = 512;                        // passages that are packed together for dQ
constexpr int64_t kParts = 16, kLeastPart = 256;     // parts of the passages: at most, and passages of one

class Pass {
 public:
  Pass(CpuBackend& backend, Matrix dQ, Matrix dP, Matrix q, Matrix p, bool accumulate)
      : k_(backend.kernels), pool_(backend.pool), dQ_(dQ), dP_(dP), q_(q), p_(p), accumulate_(accumulate) {
    const int64_t fit = kScoreBytes / static_cast<int64_t>(sizeof(float)) / p.rows;
    const int64_t most = std::min(q.rows, std::clamp(fit, kLeastRows, kMostRows)), blocks = divideUp(q.rows, most);
    rows = std::min(q.rows, roundUp(divideUp(q.rows, blocks), k_.tileRows));
    parts_ = std::clamp<int64_t>(p.rows / kLeastPart, 1, kParts);
    part_ = divideUp(p.rows, parts_);
    run_ = divideUp(part_, divideUp(part_, kRun));
    width_ = roundUp(q.cols, k_.panel);
    tileRows_ = rowsInCache(rows);
    each_ = std::max(kColumns * std::min(q.cols, kDepth), run_ * width_ + divideUp(tileRows_, k_.tileRows) * tile());
    Arena& arena = backend.workspace();
    scores_ = arena.take<float>(rows * p.rows);
    scratch_ = arena.take<float>(each_ * pool_.threads());
    queries_ = arena.take<float>(width_ * rows);
    shares_ = arena.take<float>(parts_ * rows * q.cols);
  }

  int64_t rows;  // of a block
  Matrix scores(int64_t first) const { return {scores_, std::min(rows, q_.rows - first), p_.rows}; }

  void multiply(int64_t first) {
    const Matrix c = scores(first), a = q_.slice(first, c.rows);
    pool_.parallelFor(divideUp(p_.rows, kColumns), [&](int64_t task) {
      const int64_t column = task * kColumns, n = std::min(kColumns, p_.rows - column);
      for (int64_t d = 0; d < q_.cols; d += kDepth) {
        const int64_t depth = std::min(kDepth, q_.cols - d);
        float* panels = scratch();
        k_.packPanels(panels, p_.row(column) + d, p_.stride, true, depth, n);
        gemm(c.columns(column, n), a.columns(d, depth), panels, d == 0 ? 0 : 1);
      }
    });
  }

  void gradients(int64_t first) {
    const Matrix s = scores(first);
    if (dP_.data) {
      const Matrix q = q_.slice(first, s.rows);
      pool_.parallelFor(width_ / k_.panel, [&](int64_t i) {
        const int64_t column = i * k_.panel;
        k_.packPanels(queries_ + column * s.rows, q.row(0) + column, q.stride, false, s.rows, std::min<int64_t>(k_.panel, q.cols - column));
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
  int64_t rowsInCache(int64_t depth) const {
    return std::max<int64_t>(k_.aBytes / (static_cast<int64_t>(sizeof(float)) * depth) / k_.tileRows, 1) * k_.tileRows;
  }
  int64_t tile() const { return rows * k_.tileRows + kTileGap; }  // of transposed scores, in values
  float* scratch() const { return scratch_ + each_ * ThreadPool::thread(); }
  Matrix share(int64_t part, int64_t n) const { return {shares_ + part * rows * q_.cols, n, q_.cols}; }

  // c = a B + beta c in this thread, a run of a's rows after the other
  void gemm(Matrix c, Matrix a, const float* panels, float beta) const {
    GemmBlock whole = product(c, a, false, 1, beta);
    whole.b = panels;
    whole.panelStride = whole.depth * k_.panel;
    const int64_t step = rowsInCache(whole.depth);
    for (int64_t row = 0; row < c.rows; row += step) k_.gemm(part(whole, row, 0, step, c.cols));
  }

  // dP (n, D) = s^T Q + beta dP
  void passageGradient(Matrix dP, Matrix s, float beta) const {
    float* tiles = scratch() + run_ * width_;
    GemmBlock whole = product(dP, s, true, 1, beta);
    whole.b = queries_;
    whole.panelStride = whole.depth * k_.panel;
    whole.a = tiles;
    whole.aStride = k_.tileRows;
    whole.aTile = whole.depth * k_.tileRows + kTileGap;
    for (int64_t row = 0; row < dP.rows; row += tileRows_) {
      const GemmBlock g = part(whole, row, 0, tileRows_, dP.cols);
      k_.packTransposedRows(tiles, g.aTile, nullptr, s.row(0) + row, s.stride, g.rows, g.depth);
      k_.gemm(g);
    }
  }

  // dQ (R, D) = s P + beta dQ
  void queryShare(Matrix dQ, Matrix s, Matrix p, float beta) const {
    float* panels = scratch();
    k_.packPanels(panels, p.row(0), p.stride, false, p.rows, p.cols);
    gemm(dQ, s, panels, beta);
  }

  void addShares(Matrix dQ) const {
    pool_.parallelFor(dQ.rows, [&](int64_t r) {
      if (!accumulate_) std::fill_n(dQ.row(r), dQ.cols, 0.0f);
      for (int64_t part = 0; part < parts_; ++part) k_.rows.add(dQ.row(r), share(part, dQ.rows).row(r), 1, dQ.cols);
    });
  }

  const Kernels& k_;
  ThreadPool& pool_;
  const Matrix dQ_, dP_, q_, p_;
  const bool accumulate_;
  int64_t parts_, part_, run_, width_, tileRows_, each_;
  float *scores_, *scratch_, *queries_, *shares_;
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

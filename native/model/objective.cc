#include "objective.h"

#include <algorithm>
#include <string>

#include "batch.h"

namespace bge {

namespace {

constexpr int64_t kBlockBytes = int64_t{16} << 20;  // of scores

std::string text(int64_t n) { return std::to_string(n); }

void check(Matrix q, Matrix p, const ObjectiveOptions& o) {
  const int64_t B = q.rows, M = p.rows, G = o.groupSize;
  if (G < 1 || B < 1 || q.cols != p.cols || M != B * G)
    throw Error("ERR_BGE_SHAPE", "q (B, D) and p (B * groupSize, D) must fit together, but were (" + text(B) + ", " + text(q.cols) + ") and (" +
                                     text(M) + ", " + text(p.cols) + ") with groupSize " + text(G));
  if (!(o.temperature > 0)) throw Error("ERR_BGE_ARGUMENT", "temperature must be above 0, but was " + std::to_string(o.temperature));
  if ((o.ownGroupOnly ? G : M) == 1) throw Error("ERR_BGE_NOTHING_TO_LEARN", "1 candidate per query: nothing to learn");
  if ((o.klWeight != 0 || o.m3Weight != 0) && o.teacher.empty())
    throw Error("ERR_BGE_ARGUMENT", "distillation needs teacher scores (B * groupSize = " + text(M) + "), but there are none");
  const auto size = [](const char* name, size_t have, int64_t expected) {
    if (have != 0 && static_cast<int64_t>(have) != expected)
      throw Error("ERR_BGE_SHAPE", std::string(name) + " must hold " + text(expected) + " values, but holds " + text(static_cast<int64_t>(have)));
  };
  size("teacher", o.teacher.size(), M);
  size("passageIds", o.passageIds.size(), M);
  size("queryIds", o.queryIds.size(), B);
  size("positiveOffsets", o.positiveOffsets.size(), B + 1);
  if (!o.positiveOffsets.empty()) {
    if (o.passageIds.empty()) throw Error("ERR_BGE_ARGUMENT", "positiveIds are passage ids and need passageIds, but there are none");
    if (o.positiveOffsets.front() != 0 || !std::is_sorted(o.positiveOffsets.begin(), o.positiveOffsets.end()))
      throw Error("ERR_BGE_SHAPE", "positiveOffsets must ascend from 0");
    if (o.positiveOffsets.back() != static_cast<int64_t>(o.positiveIds.size()))
      throw Error("ERR_BGE_SHAPE", "positiveIds must hold " + text(o.positiveOffsets.back()) + " values, but holds " +
                                       text(static_cast<int64_t>(o.positiveIds.size())));
  }
  for (const int32_t w : o.matryoshka)
    if (w < 1 || w > q.cols)
      throw Error("ERR_BGE_ARGUMENT", "matryoshka widths must lie in 1 .. " + text(q.cols) + " (the embedding width), but one is " + text(w));
}

// The side inputs of a Contrastive tile on the device.
Contrastive prepare(Backend& b, Arena& arena, const ObjectiveOptions& o, int64_t queries, float lossScale) {
  Contrastive tile;
  tile.queries = queries;
  tile.groupSize = o.groupSize;
  tile.temperature = o.temperature;
  tile.ownGroupOnly = o.ownGroupOnly;
  tile.infoNceWeight = o.infoNceWeight;
  tile.klWeight = o.klWeight;
  tile.m3Weight = o.m3Weight;
  tile.lossScale = lossScale;
  if (!o.teacher.empty()) tile.teacher = uploadTo(b, arena, o.teacher);
  if (!o.passageIds.empty()) tile.passageIds = uploadTo(b, arena, o.passageIds);
  if (!o.queryIds.empty()) tile.queryIds = uploadTo(b, arena, o.queryIds);
  if (!o.positiveOffsets.empty()) {
    tile.positiveOffsets = uploadTo(b, arena, o.positiveOffsets);
    tile.positiveIds = uploadTo(b, arena, o.positiveIds);
  }
  return tile;
}

// One width. dQ (B, D), dP (M, D) overwritten (data null: not wanted).
void pass(Backend& b, ContrastiveResult* result, Matrix dQ, Matrix dP, Matrix q, Matrix p, const Contrastive& whole) {
  const int64_t B = q.rows, M = p.rows, G = whole.groupSize;
  Arena::Scope scope(b.workspace());
  const int64_t fit = kBlockBytes / (M * static_cast<int64_t>(sizeof(float)));
  const int64_t rows = std::min(B, std::max<int64_t>(16, std::min<int64_t>(fit, 4096) / 8 * 8));
  float* memory = b.workspace().take<float>(rows * M);
  for (int64_t first = 0; first < B; first += rows) {
    const int64_t n = std::min(rows, B - first);
    const Matrix qBlock = q.slice(first, n), g(memory, n, M);
    b.matmul(g, qBlock, false, p, true, 1, 0);
    Contrastive tile = whole;
    tile.scores = g;
    tile.firstRow = first;
    b.contrastive(result, tile);
    if (dQ.data) b.matmul(dQ.slice(first, n), g, false, p, false, 1, 0);
    if (dP.data) b.matmul(dP, g, true, qBlock, false, 1, first == 0 ? 0 : 1);
  }
  (void)G;
}

}  // namespace

#include "objective.h"

#include <algorithm>
#include <string>
#include <utility>

#include "batch.h"

namespace bge {

namespace {

constexpr int64_t kOwnGroupRows = 64;

std::string text(int64_t n) { return std::to_string(n); }

void check(Matrix q, Matrix p, const ObjectiveOptions& o) {
  const int64_t B = q.rows, M = p.rows, G = o.groupSize;
  if (G < 1 || B < 1 || q.cols != p.cols || M != B * G)
    throw Error("ERR_BGE_SHAPE", "q (B, D) and p (B * groupSize, D) must fit together, but were (" + text(B) + ", " + text(q.cols) +
                                     ") and (" + text(M) + ", " + text(p.cols) + ") with groupSize " + text(G));
  if (!(o.temperature > 0)) throw Error("ERR_BGE_ARGUMENT", "temperature must be above 0, but was " + std::to_string(o.temperature));
  if ((o.ownGroupOnly ? G : M) == 1) throw Error("ERR_BGE_NOTHING_TO_LEARN", "1 candidate per query: nothing to learn");
  if ((o.klWeight != 0 || o.m3Weight != 0) && o.teacher.empty())
    throw Error("ERR_BGE_ARGUMENT", "distillation needs teacher scores (B * groupSize = " + text(M) + "), but there are none");
  const auto size = [](const char* name, size_t have, int64_t expected) {
    if (have != 0 && static_cast<int64_t>(have) != expected)
      throw Error("ERR_BGE_SHAPE",
                  std::string(name) + " must hold " + text(expected) + " values, but holds " + text(static_cast<int64_t>(have)));
  };
  size("teacher", o.teacher.size(), M);
  size("passageIds", o.passageIds.size(), M);
  size("queryIds", o.queryIds.size(), B);
  size("sourceIds", o.sourceIds.size(), B);
  if (o.symmetric && o.ownGroupOnly)
    throw Error("ERR_BGE_ARGUMENT", "the symmetric loss needs in-batch candidates: a passage's own group has no other queries");
  if (o.symmetric && o.infoNceWeight == 0)
    throw Error("ERR_BGE_ARGUMENT", "the symmetric loss is two directions of the InfoNCE term, but that term's weight is 0");
  size("positiveOffsets", o.positiveOffsets.size(), B + 1);
  if (!o.positiveOffsets.empty()) {
    if (o.passageIds.empty())
      throw Error("ERR_BGE_ARGUMENT", "positiveIds are passage ids and need passageIds, but there are none");
    if (o.positiveOffsets.front() != 0 || !std::is_sorted(o.positiveOffsets.begin(), o.positiveOffsets.end()))
      throw Error("ERR_BGE_SHAPE", "positiveOffsets must ascend from 0");
    if (o.positiveOffsets.back() != static_cast<int64_t>(o.positiveIds.size()))
      throw Error("ERR_BGE_SHAPE", "positiveIds must hold " + text(o.positiveOffsets.back()) + " values, but holds " +
                                       text(static_cast<int64_t>(o.positiveIds.size())));
  }
  for (const int32_t w : o.matryoshka)
    if (w < 1 || w > q.cols)
      throw Error("ERR_BGE_ARGUMENT",
                  "matryoshka widths must lie in 1 .. " + text(q.cols) + " (the embedding width), but one is " + text(w));
}

// The side inputs of a Contrastive tile on the device, from query to passage.
Contrastive prepare(Backend& b, Arena& arena, const ObjectiveOptions& o, int64_t queries, float lossScale) {
  Contrastive tile;
  tile.queries = queries;
  tile.groupSize = o.groupSize;
  tile.temperature = o.temperature;
  tile.ownGroupOnly = o.ownGroupOnly;
  tile.infoNceWeight = o.symmetric ? o.infoNceWeight / 2 : o.infoNceWeight;
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
  if (!o.sourceIds.empty()) tile.sourceIds = uploadTo(b, arena, o.sourceIds);
  tile.falseNegativeMargin = o.falseNegativeMargin;
  tile.falseNegativesInGroup = o.falseNegativesInGroup;
  return tile;
}

// From passage to query: rows are the B positives, columns the B queries. Which pairs of a query and a positive are removed by identity is
// the same in both directions; that query j lists positive i is here a fact about row i, found by the passage's id.
Contrastive prepareBackward(Backend& b, Arena& arena, const ObjectiveOptions& o, const Contrastive& forward) {
  Contrastive tile;
  tile.queries = forward.queries;
  tile.temperature = forward.temperature;
  tile.infoNceWeight = forward.infoNceWeight;
  tile.lossScale = forward.lossScale;
  tile.queryIds = forward.queryIds;
  tile.sourceIds = forward.sourceIds;
  tile.falseNegativeMargin = forward.falseNegativeMargin;
  if (o.passageIds.empty()) return tile;
  const auto B = static_cast<size_t>(forward.queries);
  std::vector<int32_t> ids(B);
  for (size_t i = 0; i < B; ++i) ids[i] = o.passageIds[i * static_cast<size_t>(o.groupSize)];
  tile.passageIds = uploadTo(b, arena, ids);
  if (o.positiveIds.empty()) return tile;
  std::vector<std::pair<int32_t, int32_t>> listed;  // (passage id, query), ascending; rows of the same passage share their queries
  for (size_t j = 0; j < B; ++j)
    for (int32_t k = o.positiveOffsets[j]; k < o.positiveOffsets[j + 1]; ++k)
      listed.emplace_back(o.positiveIds[static_cast<size_t>(k)], static_cast<int32_t>(j));
  std::sort(listed.begin(), listed.end());
  std::vector<int32_t> begin(B), end(B), queries;
  for (const auto& [id, query] : listed) queries.push_back(query);
  for (size_t i = 0; i < B; ++i) {
    const auto at = [&](int64_t id) {
      return std::partition_point(listed.begin(), listed.end(), [&](const auto& pair) { return pair.first < id; }) - listed.begin();
    };
    begin[i] = static_cast<int32_t>(at(ids[i]));
    end[i] = static_cast<int32_t>(at(int64_t{ids[i]} + 1));
  }
  tile.removedBegin = uploadTo(b, arena, begin);
  tile.removedEnd = uploadTo(b, arena, end);
  tile.removedColumns = uploadTo(b, arena, queries);
  return tile;
}

// One width, queries against the passages of their own groups: small problems of n queries with their n G passages. dQ (B, D), dP (M, D)
// overwritten (data null: not wanted).
void ownGroups(Backend& b, ContrastiveResult* result, Matrix dQ, Matrix dP, Matrix q, Matrix p, const Contrastive& whole) {
  const int64_t B = q.rows, G = whole.groupSize, rows = std::min(B, kOwnGroupRows);
  Arena::Scope scope(b.workspace());
  float* memory = b.workspace().take<float>(rows * rows * G);
  for (int64_t first = 0; first < B; first += rows) {
    const int64_t n = std::min(rows, B - first);
    const Matrix qBlock = q.slice(first, n), pBlock = p.slice(first * G, n * G);
    Contrastive tile = whole;
    tile.scores = Matrix(memory, n, pBlock.rows);
    if (tile.teacher) tile.teacher += first * G;
    if (tile.passageIds) tile.passageIds += first * G;
    if (tile.positiveOffsets) tile.positiveOffsets += first;
    tile.queryIds = nullptr;  // they never remove a column of the own group
    b.matmul(tile.scores, qBlock, false, pBlock, true, 1, 0);
    b.contrastive(result, tile);
    if (dQ.data) b.matmul(dQ.slice(first, n), tile.scores, false, pBlock, false, 1, 0);
    if (dP.data) b.matmul(dP.slice(first * G, n * G), tile.scores, true, qBlock, false, 1, 0);
  }
}

}  // namespace

ContrastiveResult contrastiveObjective(Backend& backend, Matrix dQ, Matrix dP, Matrix q, Matrix p, const ObjectiveOptions& options) {
  check(q, p, options);
  Arena& arena = backend.workspace();
  Arena::Scope scope(arena);
  const auto matrix = [&](int64_t rows, int64_t cols) { return Matrix(arena.take<float>(rows * cols), rows, cols); };
  const size_t passes = std::max<size_t>(1, options.matryoshka.size());
  auto* results = arena.take<ContrastiveResult>(static_cast<int64_t>(2 * passes));  // one per width, from query to passage, then back
  backend.zero(results, 2 * passes * sizeof(ContrastiveResult));

  const Contrastive forward = prepare(backend, arena, options, q.rows, 1 / static_cast<float>(passes));
  const Contrastive backward = options.symmetric ? prepareBackward(backend, arena, options, forward) : Contrastive();
  const auto positives = [&](Matrix m) { return Matrix(m.as<float>(), q.rows, m.cols, m.stride * options.groupSize); };
  const auto bothWays = [&](size_t i, Matrix dQs, Matrix dPs, Matrix qs, Matrix ps) {
    if (options.ownGroupOnly) return ownGroups(backend, results + i, dQs, dPs, qs, ps, forward);
    backend.contrastivePass(results + i, dQs, dPs, qs, ps, forward, false);
    if (options.symmetric) backend.contrastivePass(results + passes + i, positives(dPs), dQs, positives(ps), qs, backward, true);
  };
  if (options.matryoshka.empty()) {
    bothWays(0, dQ, dP, q, p);
  } else {
    for (const Matrix& d : {dQ, dP})
      if (d.data) zero(backend, d);
    for (size_t i = 0; i < passes; ++i) {
      const int32_t w = options.matryoshka[i];
      Arena::Scope width(arena);
      const Matrix qw = matrix(q.rows, w), pw = matrix(p.rows, w);
      float *qNorm = arena.take<float>(q.rows), *pNorm = arena.take<float>(p.rows);
      backend.normalize(qw, qNorm, q.columns(0, w));
      backend.normalize(pw, pNorm, p.columns(0, w));
      const Matrix dQw = dQ.data ? matrix(q.rows, w) : Matrix(), dPw = dP.data ? matrix(p.rows, w) : Matrix();
      bothWays(i, dQw, dPw, qw, pw);
      if (dQ.data) {
        backend.normalizeBackward(dQw, dQw, qw, qNorm);
        backend.add(dQ.columns(0, w), dQw, 1);
      }
      if (dP.data) {
        backend.normalizeBackward(dPw, dPw, pw, pNorm);
        backend.add(dP.columns(0, w), dPw, 1);
      }
    }
  }
  std::vector<ContrastiveResult> host(2 * passes);
  backend.download(host.data(), results, host.size() * sizeof(ContrastiveResult));
  ContrastiveResult total;
  for (const auto& r : host) total.loss += r.loss;
  const auto widest = std::max_element(options.matryoshka.begin(), options.matryoshka.end()) - options.matryoshka.begin();
  total.correct = host[static_cast<size_t>(widest)].correct;  // accuracy and masks are those of the widest vectors, from query to passage
  total.masked = host[static_cast<size_t>(widest)].masked;
  total.falseNegatives = host[static_cast<size_t>(widest)].falseNegatives;
  return total;
}

}  // namespace bge

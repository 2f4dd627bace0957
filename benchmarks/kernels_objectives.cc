// Cross-entropy over the vocabulary, InfoNCE and top-k.
#include "kernels.h"

namespace bge::bench {

namespace {

// Row r of scores / temperature: fills p with the softmax minus 1 at the target and returns the loss.
template <class Real>
Real softmaxRow(const float* x, int64_t n, int64_t target, float temperature, vector<Real>& p) {
  const Real high = *std::max_element(x, x + n) / static_cast<Real>(temperature);
  Real sum = 0;
  for (int64_t j = 0; j < n; ++j) sum += p[j] = std::exp(x[j] / static_cast<Real>(temperature) - high);
  for (int64_t j = 0; j < n; ++j) p[j] /= sum;
  p[target] -= 1;
  return std::log(sum) + high - x[target] / static_cast<Real>(temperature);
}

// Compares the gradient in place of `scores` (R, M) and the summed loss; rows with target -1 take no part.
void checkSoftmax(Checks& checks, const Floats& scores, int64_t M, const vector<int64_t>& targets, float temperature, float gradientScale,
                  double lossScale, double loss) {
  const auto got = scores.download();
  vector<double> exact(M);
  vector<float> plain(M);
  double exactLoss = 0;
  float plainLoss = 0;
  for (size_t r = 0; r < targets.size(); ++r) {
    const float* row = got.data() + r * M;
    if (targets[r] < 0) {
      checks.equal("non-zero entries of a row without a label", std::count_if(row, row + M, [](float g) { return g != 0; }), 0);
      continue;
    }
    exactLoss += softmaxRow(&scores.host[r * M], M, targets[r], temperature, exact);
    plainLoss += softmaxRow(&scores.host[r * M], M, targets[r], temperature, plain);
    for (int64_t j = 0; j < M; ++j) checks.add("gradient", row[j], exact[j] * gradientScale, plain[j] * gradientScale);
  }
  checks.add("loss", loss, exactLoss * lossScale, plainLoss * static_cast<float>(lossScale));
}

}  // namespace

// R masked positions, V words
void crossEntropy(Bench& bench, int64_t R, int64_t V) {
  const string name = "crossEntropy " + to_string(R) + " x " + to_string(V);
  if (!bench.wants(name)) return;
  Floats logits(bench, R * V, 4);
  vector<int64_t> targets(R);
  vector<int32_t> values(R);
  int64_t correct = 0, count = 0;
  for (int64_t r = 0; r < R; ++r) {  // every third the word that wins, every seventh no label
    const float* row = &logits.host[r * V];
    const int64_t best = std::max_element(row, row + V) - row;
    targets[r] = r % 7 == 0 ? -1 : r % 3 == 0 ? best : bench.below(V);
    values[r] = targets[r] < 0 ? -100 : static_cast<int32_t>(targets[r]);
    correct += targets[r] == best;
    count += targets[r] >= 0;
  }
  Array<int32_t> labels(bench, values);
  Array<CrossEntropyResult> result(bench, vector<CrossEntropyResult>(1));
  const float scale = 0.5f;
  const auto reset = [&] { logits.upload(), result.upload(); };
  const auto run = [&] { bench.device.crossEntropy(result.data, {logits.data, R, V}, labels.data, scale); };
  bench.measure(name, kGradient, 0, 2.0 * 4 * R * V, reset, run, [&](Checks& checks) {
    const CrossEntropyResult got = result.download()[0];
    checks.equal("correct", got.correct, correct);
    checks.equal("count", got.count, count);
    checkSoftmax(checks, logits, V, targets, 1, scale, 1, got.loss);
  });
}

// InfoNCE of rows of a batch of B queries with G passages each, with the identity masks of training that find nothing to remove.
void contrastive(Bench& bench, int64_t rows, int64_t B, int32_t G) {
  const int64_t M = B * G, firstRow = B / 2;
  const string name = "contrastive " + to_string(rows) + " of " + to_string(B) + " x " + to_string(M);
  if (!bench.wants(name)) return;
  Floats scores(bench, rows * M, 0.2f);
  vector<int32_t> p(M), q(B);
  for (int64_t j = 0; j < M; ++j) p[j] = static_cast<int32_t>(j);
  for (int64_t i = 0; i < B; ++i) q[i] = static_cast<int32_t>(i);
  Array<int32_t> passageIds(bench, p), queryIds(bench, q);
  vector<int64_t> targets(rows);
  int64_t correct = 0;
  for (int64_t r = 0; r < rows; ++r) {
    float* row = &scores.host[r * M];
    targets[r] = (firstRow + r) * G;
    if (r % 2 == 0) row[targets[r]] = 0.25f;  // a positive that wins
    correct += std::max_element(row, row + M) - row == targets[r];
  }
  Array<ContrastiveResult> result(bench, vector<ContrastiveResult>(1));
  Contrastive tile;
  tile.scores = {scores.data, rows, M};
  tile.firstRow = firstRow;
  tile.queries = B;
  tile.groupSize = G;
  tile.temperature = 0.02f;
  tile.passageIds = passageIds.data;
  tile.queryIds = queryIds.data;
  const auto reset = [&] { scores.upload(), result.upload(); };
  const auto run = [&] { bench.device.contrastive(result.data, tile); };
  bench.measure(name, kGradient, 0, 2.0 * 4 * rows * M, reset, run, [&](Checks& checks) {
    const ContrastiveResult got = result.download()[0];
    checks.equal("correct", got.correct, correct);
    checks.equal("masked", got.masked, 0);
    checkSoftmax(checks, scores, M, targets, tile.temperature, 1 / (B * tile.temperature), 1.0 / B, got.loss);
  });
}

void topK(Bench& bench, const string& model, int64_t B, int64_t M, int64_t D, int32_t k) {
  const string name = model + " topK " + to_string(k) + " of " + to_string(B) + " x " + to_string(M) + " x " + to_string(D);
  if (!bench.wants(name)) return;
  Floats q(bench, B * D), p(bench, M * D), scores(bench, B * k);
  Array<int32_t> indices(bench, vector<int32_t>(B * k));
  const auto run = [&] { bench.device.topK(indices.data, scores.data, k, {q.data, B, D}, {p.data, M, D}, 0, false); };
  bench.measure(name, kValue, 2.0 * B * M * D, 0, nothing, run, [&](Checks& checks) {
    const auto gotScores = scores.download();
    const auto gotIndices = indices.download();
    for (const int64_t r : {int64_t{0}, B - 1}) {
      vector<double> exact(M);
      vector<float> plain(M);
      for (int64_t j = 0; j < M; ++j) {
        exact[j] = dot<double>(&q.host[r * D], 1, &p.host[j * D], 1, D);
        plain[j] = dot<float>(&q.host[r * D], 1, &p.host[j * D], 1, D);
      }
      vector<int32_t> chosen(gotIndices.begin() + r * k, gotIndices.begin() + (r + 1) * k);
      for (int32_t i = 0; i < k; ++i) {
        if (chosen[i] < 0 || chosen[i] >= M) throw std::runtime_error("indices must be 0 .. " + to_string(M - 1));
        checks.add("scores", gotScores[r * k + i], exact[chosen[i]], plain[chosen[i]]);
      }
      std::sort(chosen.begin(), chosen.end());
      checks.equal("different indices", std::unique(chosen.begin(), chosen.end()) - chosen.begin(), k);
      // Rounding may swap neighbours, but the i-th largest computed score is as near the i-th largest true one as any score to its own.
      std::sort(exact.rbegin(), exact.rend());
      std::sort(plain.rbegin(), plain.rend());
      for (int32_t i = 0; i < k; ++i) checks.add("scores", gotScores[r * k + i], exact[i], plain[i]);
    }
  });
}

}  // namespace bge::bench

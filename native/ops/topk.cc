// Exact top-k of dot products: score tiles by matmul, then a bounded heap per query that only sees scores at least as large as its worst.
#include <algorithm>
#include <cmath>
#include <limits>

#include "../core/cpu.h"
#include "cpu/kernels.h"

namespace bge {

namespace {

constexpr int64_t kQueryTile = 1024, kPassageTile = 2048;
constexpr int32_t kEmpty = std::numeric_limits<int32_t>::max();  // an empty slot while sorting: loses every tie

struct Hit { float score; int32_t index; };
bool better(const Hit& a, const Hit& b) { return a.score > b.score || (a.score == b.score && a.index < b.index); }

// heap: the k best so far, the worst at the front.
void replaceWorst(Hit* heap, int32_t k, Hit hit) {
  std::pop_heap(heap, heap + k, better);
  heap[k - 1] = hit;
  std::push_heap(heap, heap + k, better);
}

}  // namespace

void CpuBackend::topK(int32_t* indices, float* scores, int32_t k, Matrix q, Matrix p, int32_t firstIndex, bool merge) {
  if (k <= 0) return;
  const float none = -std::numeric_limits<float>::infinity();
  Arena::Scope scope(workspace_);
  const int64_t queryTile = std::min(kQueryTile, q.rows), passageTile = std::min(kPassageTile, p.rows);
  float* tile = workspace_.take<float>(queryTile * passageTile);                            // (queries, passages) scores
  int32_t* columns = workspace_.take<int32_t>(static_cast<int64_t>(pool.threads()) * passageTile);  // per thread: columns worth a look
  Hit* hits = workspace_.take<Hit>(queryTile * k);                                          // (queries, k)
  for (int64_t q0 = 0; q0 < q.rows; q0 += queryTile) {
    const int64_t queries = std::min(queryTile, q.rows - q0);
    for (int64_t r = 0; r < queries; ++r) {
      Hit* heap = hits + r * k;
      for (int32_t i = 0; i < k; ++i) {
        const int64_t at = (q0 + r) * k + i;
        heap[i] = merge && indices[at] >= 0 ? Hit{scores[at] == scores[at] ? scores[at] : none, indices[at]} : Hit{none, kEmpty};
      }
      std::make_heap(heap, heap + k, better);
    }
    for (int64_t p0 = 0; p0 < p.rows; p0 += passageTile) {
      const int64_t passages = std::min(passageTile, p.rows - p0);
      matmul(Matrix(tile, queries, passages), q.slice(q0, queries), false, p.slice(p0, passages), true, 1.0f, 0.0f);
      pool.parallelFor(queries, [&](int64_t r) {
        Hit* heap = hits + r * k;
        float* row = tile + r * passages;
        int32_t* found = columns + ThreadPool::thread() * passageTile;
        const int64_t count = kernels.rows.atLeast(found, row, heap[0].score, passages);
        for (int64_t i = 0; i < count; ++i) {
          const Hit hit{row[found[i]], static_cast<int32_t>(firstIndex + p0 + found[i])};
          if (better(hit, heap[0])) replaceWorst(heap, k, hit);
        }
      });
    }
    pool.parallelFor(queries, [&](int64_t r) {
      Hit* heap = hits + r * k;
      std::sort(heap, heap + k, better);
      for (int32_t i = 0; i < k; ++i) {
        const int64_t at = (q0 + r) * k + i;
        indices[at] = heap[i].index == kEmpty ? -1 : heap[i].index;
        scores[at] = heap[i].score;
      }
    });
  }
}

}  // namespace bge

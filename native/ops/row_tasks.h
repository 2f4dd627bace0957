// Rows split into tasks by shape alone, so that results do not depend on the number of threads.
#pragma once
#include <algorithm>
#include <cstdint>
#include <initializer_list>

#include "../core/backend.h"
#include "../core/thread_pool.h"
#include "cpu/kernels_rows.h"

namespace bge {

// Calls body(first, last) over consecutive runs of rows, each of about 16 K values. For results that are independent row by row.
template <class Body>
void forRows(ThreadPool& pool, int64_t rows, int64_t cols, const Body& body) {
  const int64_t each = std::max<int64_t>(1, 16384 / std::max<int64_t>(cols, 1));
  pool.parallelFor((rows + each - 1) / each, [&](int64_t task) { body(task * each, std::min(rows, (task + 1) * each)); });
}

// The runs of rows over which column sums are taken; each gives one partial, and partials are added in order.
struct ColumnSumChunks {
  int64_t rows, each, count;
  explicit ColumnSumChunks(int64_t r) : rows(r), each(std::max<int64_t>(32, (r + 255) / 256)), count((r + each - 1) / each) {}
  int64_t first(int64_t chunk) const { return chunk * each; }
  int64_t last(int64_t chunk) const { return std::min(rows, (chunk + 1) * each); }
};

// each sums[s] (cols) accumulates its partials (count, sums, cols), in order.
inline void addColumnSums(ThreadPool& pool, const RowKernels& k, std::initializer_list<float*> sums, const float* partials, int64_t count,
                          int64_t cols) {
  const int64_t kinds = static_cast<int64_t>(sums.size()), width = 128, blocks = (cols + width - 1) / width;
  pool.parallelFor(kinds * blocks, [&](int64_t task) {
    const int64_t kind = task / blocks, first = task % blocks * width, n = std::min(width, cols - first);
    float total[width] = {};
    for (int64_t c = 0; c < count; ++c) k.add(total, partials + (c * kinds + kind) * cols + first, 1.0f, n);
    k.add(sums.begin()[kind] + first, total, 1.0f, n);
  });
}

// The dropout mask of each hidden row (core/backend.h). p == 0: none, and `rows` is not read.
struct RowDropout {
  const Rows& rows;
  DropoutSite site;
  bool on;
  RowDropout(const Rows& r, const Dropout& d) : rows(r), site(dropoutSite(d)), on(d.p > 0) {}
  // out = residual + dropout(x), see RowKernels::dropout
  void apply(const RowKernels& k, float* out, const float* x, const float* residual, int64_t row, int64_t cols) const {
    if (!on) return k.dropout(out, x, residual, cols, 0, 0, nullptr);
    const uint64_t element = static_cast<uint64_t>(rows.position[row]) * static_cast<uint64_t>(cols);
    k.dropout(out, x, residual, cols, element, rows.stream[rows.sequence[row]], &site);
  }
};

}  // namespace bge

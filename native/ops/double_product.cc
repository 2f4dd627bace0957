#include "../core/double_product.h"

#include <algorithm>
#include <vector>

#include "../core/thread_pool.h"
#include "cpu/kernels.h"

namespace bge {

namespace {

// Of a task: rows share the packing of b's panels; columns are cut so that a product of few rows has tasks for several threads.
constexpr int64_t kTaskRows = 96, kTaskColumns = 64;
// Multiply-adds below which starting threads costs more than it gains: about a fifth of a millisecond.
constexpr int64_t kSmall = 1 << 20;

}  // namespace

void doubleProduct(const DoubleProduct& p, int threads, const std::string& isa) {
  const Kernels& kernels = chooseKernels(isa.c_str());
  const int64_t rowTasks = (p.m + kTaskRows - 1) / kTaskRows, columnTasks = (p.n + kTaskColumns - 1) / kTaskColumns;
  const int64_t tasks = rowTasks * columnTasks;
  if (p.k == 0) std::fill(p.c, p.c + p.m * p.n, 0.0);
  if (p.k == 0 || tasks == 0) return;
  if (threads <= 0) threads = ThreadPool::availableThreads();
  threads = static_cast<int>(p.m * p.n * p.k < kSmall ? 1 : std::min<int64_t>(threads, tasks));
  const int64_t panel = kDoubleDepth * kernels.doublePanel;
  std::vector<double> panels(static_cast<size_t>(panel * threads));
  ThreadPool pool(threads);
  pool.parallelFor(tasks, [&](int64_t task) {
    const int64_t row = task / columnTasks * kTaskRows, column = task % columnTasks * kTaskColumns;
    DoubleBlock g;
    g.rows = std::min(kTaskRows, p.m - row);
    g.cols = std::min(kTaskColumns, p.n - column);
    g.depth = p.k;
    g.aRow = p.transposeA ? 1 : p.k;
    g.aDepth = p.transposeA ? p.m : 1;
    g.a = p.a + row * g.aRow;
    g.bDepth = p.transposeB ? 1 : p.n;
    g.bCol = p.transposeB ? p.k : 1;
    g.b = p.b + column * g.bCol;
    g.c = p.c + row * p.n + column;
    g.cStride = p.n;
    g.panel = panels.data() + panel * ThreadPool::thread();
    kernels.doubleProduct(g);
  });
}

}  // namespace bge

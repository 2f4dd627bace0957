// A fixed pool. parallelFor splits work by index, never by thread, so results do not depend on the number of threads.
#pragma once
#include <atomic>
#include <cstdint>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

#include "condition_variable.h"

namespace bge {

class ThreadPool {
 public:
  explicit ThreadPool(int threads);  // <= 0: availableThreads()
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;
  int threads() const { return static_cast<int>(workers_.size()) + 1; }
  // Calls task(i) for i in 0 .. count-1, each once, in any order, on the workers and the calling thread; returns when all are done.
  // An exception of a task is rethrown here (the first one; the other tasks still run). Not re-entrant.
  void parallelFor(int64_t count, const std::function<void(int64_t)>& task);
  // Inside a task: the number of the running thread, 0 .. threads()-1. For scratch memory only; results must not depend on it.
  static int thread();

  // min(sched_getaffinity, cgroup cpu quota rounded up), at least 1.
  static int availableThreads();

 private:
  void work(int number);
  void drain();
  // Round number in the high half, tasks not yet taken in the low half: a worker that wakes up late cannot take a task of a later
  // round under the impression that it belongs to an earlier one.
  std::atomic<uint64_t> state_{0};
  std::atomic<int64_t> unfinished_{0};
  std::atomic<int> sleepers_{0};
  std::atomic<bool> callerSleeps_{false}, stop_{false};
  int64_t count_ = 0;  // count_ and task_ are stable while unfinished_ > 0
  const std::function<void(int64_t)>* task_ = nullptr;
  std::mutex mutex_;
  std::condition_variable wake_, done_;
  std::exception_ptr error_;
  std::vector<std::thread> workers_;
};

}  // namespace bge

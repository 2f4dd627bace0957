#include "thread_pool.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <fstream>
#include <sstream>
#include <string>

#if defined(__linux__)
#include <sched.h>
#endif
#if defined(__x86_64__) || defined(__i386__)
#include <immintrin.h>
#endif

namespace bge {

namespace {

thread_local int threadNumber = 0;

// Between two operations of a model pass only microseconds; going to sleep and being woken costs tens of them.
constexpr auto kSpin = std::chrono::microseconds(50);

void pause() {
#if defined(__x86_64__) || defined(__i386__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

template <class Condition>
bool spinUntil(Condition condition) {
  const auto end = std::chrono::steady_clock::now() + kSpin;
  do {
    for (int i = 0; i < 64; ++i) {
      if (condition()) return true;
      pause();
    }
  } while (std::chrono::steady_clock::now() < end);
  return condition();
}

#if defined(__linux__)
std::string firstLine(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

// Processors' worth of time that the control groups allow, or infinity. A group's limit binds every group below it.
double cgroupQuota() {
  double quota = INFINITY;
  std::ifstream groups("/proc/self/cgroup");
  for (std::string line; std::getline(groups, line);) {
    const size_t first = line.find(':'), second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    const bool v2 = controllers.empty();
    if (!v2 && ("," + controllers + ",").find(",cpu,") == std::string::npos) continue;
    const std::string root = v2 ? "/sys/fs/cgroup" : "/sys/fs/cgroup/cpu";
    // Inside a container the path may name a group of the host that is not visible here: the root is then our own group.
    for (std::string group = line.substr(second + 1);; group = group.substr(0, group.rfind('/'))) {
      if (group == "/") group.clear();
      double time = -1, period = 0;
      if (v2) {
        std::istringstream words(firstLine(root + group + "/cpu.max"));
        if (!(words >> time >> period)) time = -1;  // "max 100000"
      } else {
        std::istringstream(firstLine(root + group + "/cpu.cfs_quota_us")) >> time;
        std::istringstream(firstLine(root + group + "/cpu.cfs_period_us")) >> period;
      }
      if (time > 0 && period > 0) quota = std::min(quota, time / period);
      if (group.empty()) break;
    }
  }
  return quota;
}
#endif

}  // namespace

int ThreadPool::availableThreads() {
  int threads = static_cast<int>(std::thread::hardware_concurrency());
#if defined(__linux__)
  // A set of fixed size is too small for machines with more than 1024 processors; the call then fails and the line above stands.
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) threads = CPU_COUNT(&set);
  const double quota = cgroupQuota();
  if (quota < threads) threads = static_cast<int>(std::ceil(quota));
#endif
  return std::max(threads, 1);
}

int ThreadPool::thread() { return threadNumber; }

ThreadPool::ThreadPool(int threads) {
  if (threads <= 0) threads = availableThreads();
  for (int i = 1; i < threads; ++i) workers_.emplace_back([this, i] { work(i); });
}

ThreadPool::~ThreadPool() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stop_ = true;
  }
  wake_.notify_all();
  for (auto& w : workers_) w.join();
}

void ThreadPool::work(int number) {
  threadNumber = number;
  const auto ready = [this] { return static_cast<uint32_t>(state_.load()) != 0 || stop_.load(); };
  for (;;) {
    if (!spinUntil(ready)) {
      std::unique_lock<std::mutex> lock(mutex_);
      ++sleepers_;
      wake_.wait(lock, ready);
      --sleepers_;
    }
    if (stop_) return;
    drain();
  }
}

// Takes tasks until none is left.
void ThreadPool::drain() {
  uint64_t state = state_.load();
  while (static_cast<uint32_t>(state) != 0) {
    if (!state_.compare_exchange_weak(state, state - 1)) continue;
    try {
      (*task_)(count_ - static_cast<uint32_t>(state));
    } catch (...) {
      std::lock_guard<std::mutex> lock(mutex_);
      if (!error_) error_ = std::current_exception();
    }
    // Sequentially consistent with the caller's "callerSleeps_ = true; check unfinished_": one of the two sees the other.
    if (unfinished_.fetch_sub(1) == 1 && callerSleeps_.load()) {
      std::lock_guard<std::mutex> lock(mutex_);
      done_.notify_one();
    }
    state = state_.load();
  }
}

void ThreadPool::parallelFor(int64_t count, const std::function<void(int64_t)>& task) {
  if (workers_.empty() || count <= 1) {
    for (int64_t i = 0; i < count; ++i) task(i);
    return;
  }
  constexpr int64_t kMost = UINT32_MAX;
  if (count > kMost) {
    for (int64_t first = 0; first < count; first += kMost) {
      parallelFor(std::min(kMost, count - first), [&task, first](int64_t i) { task(first + i); });
    }
    return;
  }
  count_ = count;
  task_ = &task;
  unfinished_ = count;
  state_ = ((state_.load() >> 32) + 1) << 32 | static_cast<uint64_t>(count);
  if (sleepers_.load() > 0) {
    std::lock_guard<std::mutex> lock(mutex_);
    if (count > static_cast<int64_t>(workers_.size())) {
      wake_.notify_all();
    } else {
      for (int64_t i = 1; i < count; ++i) wake_.notify_one();
    }
  }
  drain();
  const auto finished = [this] { return unfinished_.load() == 0; };
  if (!spinUntil(finished)) {
    callerSleeps_ = true;
    std::unique_lock<std::mutex> lock(mutex_);
    done_.wait(lock, finished);
    callerSleeps_ = false;
  }
  if (error_) {
    std::exception_ptr error = nullptr;
    std::swap(error, error_);
    std::rethrow_exception(error);
  }
}

}  // namespace bge

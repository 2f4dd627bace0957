// One ordered worker thread per device. JavaScript enqueues, the worker computes, results return through one thread-safe function.
// Lifetime rules (each one was a crash somewhere): nothing static; a job keeps its device alive; native objects are destroyed on the worker
// (or inline once it has ended); at environment teardown the worker is joined before the thread-safe function is aborted.
#pragma once
#include <napi.h>

#include <atomic>
#include <deque>
#include <exception>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>

#include "../core/backend.h"
#include "../core/condition_variable.h"

namespace bge {

struct SlotBase {
  uint64_t number = 0;  // in Queue::slots
  std::atomic<bool> made{false};  // its construction has run
  virtual ~SlotBase() = default;
  virtual void close() = 0;
};

// A native object that lives and dies on the device thread. A failure of its construction is rethrown at first use.
template <class T>
struct Slot final : SlotBase {
  std::unique_ptr<T> value;
  std::exception_ptr failure;
  void close() override { value.reset(); }
  T& get() {
    if (failure) std::rethrow_exception(failure);
    if (!value) throw Error("ERR_BGE_CLOSED", "the object was used after it or its device was disposed");
    return *value;
  }
};
template <class T>
using SlotPtr = std::shared_ptr<Slot<T>>;

// Urgent jobs go before every normal one that has not begun; equals keep their order.
enum class Priority { normal, urgent };

class DeviceCore : public std::enable_shared_from_this<DeviceCore> {
 public:
  static std::shared_ptr<DeviceCore> create(Napi::Env env, std::unique_ptr<Backend> backend);
  ~DeviceCore();

  const std::string kind, description;
  std::string dtype;    // what it computes in: "fp32", "bf16", "int8"; set where the device is opened
  bool closed = false;  // JavaScript thread only

  // Runs on the worker, in order among its equals; inline when the worker has ended. Never throws into the worker.
  void post(std::function<void()> job, Priority priority = Priority::normal);

  // work(Backend&) -> R on the worker, then finish(env, R&) -> Napi::Value on the JavaScript thread.
  template <class Work, class Finish>
  Napi::Promise run(Napi::Env env, Work work, Finish finish, Priority priority = Priority::normal) {
    using R = decltype(work(std::declval<Backend&>()));
    auto result = std::make_shared<std::optional<R>>();
    return enqueue(
        env, [result, work = std::move(work)](Backend& b) mutable { result->emplace(work(b)); },
        [result, finish = std::move(finish)](Napi::Env e) mutable -> Napi::Value { return finish(e, **result); }, priority);
  }

  // make(Backend&) -> std::unique_ptr<T>, called on the worker before any job of its priority or a lower one that is enqueued later. The slot of an
  // urgent job is urgent; an urgent job uses that of a normal one only when it is `made`.
  template <class T, class Make>
  SlotPtr<T> slot(Make make, Priority priority = Priority::normal) {
    // The deleter keeps the device; the job keeps only the queue.
    SlotPtr<T> s(new Slot<T>, [self = shared_from_this()](Slot<T>* p) {
      self->post([queue = self->queue_, p] {
        {
          std::lock_guard<std::mutex> lock(queue->mutex);
          queue->slots.erase(p->number);
        }
        delete p;
      });
    });
    auto raw = s.get();  // alive: the deleter is a normal job and enqueued later, so it runs behind this one
    {
      std::lock_guard<std::mutex> lock(queue_->mutex);
      raw->number = queue_->nextSlot++;
      queue_->slots[raw->number] = raw;
    }
    post([raw, queue = queue_, make = std::move(make)] {
      try {
        bool closed;
        {
          std::lock_guard<std::mutex> lock(queue->mutex);
          closed = queue->teardown || !queue->backend;
        }
        if (closed) throw Error("ERR_BGE_CLOSED", "the device was used after it was disposed");
        raw->value = make(*queue->backend);
      } catch (...) {
        raw->failure = std::current_exception();
      }
      raw->made = true;
    }, priority);
    return s;
  }

  void dispose();        // finish what is queued, destroy every slot and the backend, end the worker; does not wait
  void teardown();       // environment is going away: skip the computations that are queued, end the worker, wait
  size_t bytesAllocated, workspace = 0, workspacePeak = 0;  // refreshed after every job, read on the JavaScript thread

 private:
  struct Job {
    Napi::Promise::Deferred deferred;
    std::function<void(Backend&)> work;
    std::function<Napi::Value(Napi::Env)> finish;
    std::exception_ptr error;
    std::shared_ptr<DeviceCore> core;
    size_t bytes = 0, workspace = 0, peak = 0;
  };
  struct Queue {
    // Every slot that is not deleted yet, in order of creation. Not weak pointers: a slot whose last owner has gone and whose deletion is
    // still queued must be closed before the backend ends as well (a crash of terminated worker threads).
    std::map<uint64_t, SlotBase*> slots;
    uint64_t nextSlot = 0;
    std::mutex mutex;
    std::condition_variable wake;
    std::deque<std::function<void()>> jobs, urgent;
    bool stop = false, ended = false, teardown = false, released = false;
    std::unique_ptr<Backend> backend;
  };

  DeviceCore(std::unique_ptr<Backend> backend);
  Napi::Promise enqueue(Napi::Env env, std::function<void(Backend&)> work, std::function<Napi::Value(Napi::Env)> finish, Priority priority);
  static void complete(Napi::Env env, Job* job);
  static void closeSlots(Queue& queue);
  void stop();

  std::shared_ptr<Queue> queue_;
  std::thread worker_;
  Napi::ThreadSafeFunction results_;
  int64_t pending_ = 0;  // JavaScript thread only
};

}  // namespace bge

#include "queue.h"

#include <iterator>

#include "convert.h"

namespace bge {

DeviceCore::DeviceCore(std::unique_ptr<Backend> backend)
    : kind(backend->kind()), description(backend->description()), bytesAllocated(backend->bytesAllocated()), queue_(std::make_shared<Queue>()) {
  queue_->backend = std::move(backend);
}

std::shared_ptr<DeviceCore> DeviceCore::create(Napi::Env env, std::unique_ptr<Backend> backend) {
  std::shared_ptr<DeviceCore> core(new DeviceCore(std::move(backend)));
  core->results_ = Napi::ThreadSafeFunction::New(env, Napi::Function::New(env, [](const Napi::CallbackInfo&) {}), "bge device", 0, 1);
  core->results_.Unref(env);
  // The thread owns the queue, not the core: the core ends the thread when its last owner goes.
  core->worker_ = std::thread([queue = core->queue_, results = core->results_]() mutable {
    for (;;) {
      std::function<void()> job;
      {
        std::unique_lock<std::mutex> lock(queue->mutex);
        queue->wake.wait(lock, [&] { return queue->stop || !queue->jobs.empty() || !queue->urgent.empty(); });
        auto& next = queue->urgent.empty() ? queue->jobs : queue->urgent;
        if (next.empty()) break;
        job = std::move(next.front());
        next.pop_front();
      }
      job();
    }
    closeSlots(*queue);
    queue->backend.reset();
    bool teardown;
    std::deque<std::function<void()>> late;
    {
      std::lock_guard<std::mutex> lock(queue->mutex);
      queue->ended = true;
      late.swap(queue->urgent);
      late.insert(late.end(), std::make_move_iterator(queue->jobs.begin()), std::make_move_iterator(queue->jobs.end()));
      queue->jobs.clear();
      teardown = queue->teardown;
      queue->released = !teardown;
    }
    for (auto& job : late) job();
    if (!teardown) results.Release();
  });
  return core;
}

DeviceCore::~DeviceCore() {
  stop();
  if (!worker_.joinable()) return;
  if (worker_.get_id() == std::this_thread::get_id()) worker_.detach();
  else worker_.join();
}

void DeviceCore::stop() {
  {
    std::lock_guard<std::mutex> lock(queue_->mutex);
    queue_->stop = true;
  }
  queue_->wake.notify_all();
}

void DeviceCore::post(std::function<void()> job, Priority priority) {
  {
    std::lock_guard<std::mutex> lock(queue_->mutex);
    if (!queue_->ended) {
      (priority == Priority::urgent ? queue_->urgent : queue_->jobs).push_back(std::move(job));
      queue_->wake.notify_one();
      return;
    }
  }
  job();
}

// On the worker. Deletions run on the worker too, so no pointer goes stale here.
void DeviceCore::closeSlots(Queue& queue) {
  std::map<uint64_t, SlotBase*> live;
  {
    std::lock_guard<std::mutex> lock(queue.mutex);
    live = queue.slots;
  }
  for (auto it = live.rbegin(); it != live.rend(); ++it) it->second->close();  // heads before their encoder
}

void DeviceCore::dispose() {
  if (closed) return;
  closed = true;
  stop();
}

void DeviceCore::teardown() {
  closed = true;
  {
    std::lock_guard<std::mutex> lock(queue_->mutex);
    queue_->teardown = true;  // what is queued still runs, but computes and constructs nothing: only deletions have an effect
  }
  stop();
  if (worker_.joinable()) worker_.join();
  if (!queue_->released) results_.Abort();
}

Napi::Promise DeviceCore::enqueue(Napi::Env env, std::function<void(Backend&)> work, std::function<Napi::Value(Napi::Env)> finish,
                                  Priority priority) {
  if (closed) throw makeError(env, "ERR_BGE_CLOSED", "the device was used after it was disposed");
  auto* job = new Job{Napi::Promise::Deferred::New(env), std::move(work), std::move(finish), nullptr, shared_from_this()};
  if (pending_++ == 0) results_.Ref(env);
  post([job, queue = queue_] {
    bool teardown;
    {
      std::lock_guard<std::mutex> lock(queue->mutex);
      teardown = queue->teardown;
    }
    if (teardown) {
      job->work = nullptr;  // not under the lock: it releases slots, whose deletion is posted here
      return;               // the environment is gone: nobody waits. The few bytes of the job go with the process.
    }
    Backend& backend = *queue->backend;
    try {
      job->work(backend);
    } catch (...) {
      job->error = std::current_exception();
    }
    job->work = nullptr;  // releases captured slots here, on the worker
    job->bytes = backend.bytesAllocated();
    job->workspace = backend.workspace().capacity();
    job->peak = backend.workspace().peak();
    auto results = job->core->results_;
    if (results.BlockingCall(job, [](Napi::Env e, Napi::Function, Job* j) { complete(e, j); }) != napi_ok) {
      // Closing: the promise can no longer be settled.
    }
  }, priority);
  return job->deferred.Promise();
}

void DeviceCore::complete(Napi::Env env, Job* raw) {
  std::unique_ptr<Job> job(raw);
  if (static_cast<napi_env>(env) == nullptr) return;
  auto core = job->core;
  core->bytesAllocated = job->bytes;
  core->workspace = job->workspace;
  core->workspacePeak = job->peak;
  if (--core->pending_ == 0) core->results_.Unref(env);
  Napi::HandleScope scope(env);
  try {
    if (job->error) std::rethrow_exception(job->error);
    job->deferred.Resolve(job->finish(env));
  } catch (const Napi::Error& e) {
    job->deferred.Reject(e.Value());
  } catch (const Error& e) {
    job->deferred.Reject(makeError(env, e.code, e.what()).Value());
  } catch (const std::bad_alloc&) {
    job->deferred.Reject(makeError(env, "ERR_BGE_OOM", "out of memory").Value());
  } catch (const std::exception& e) {
    job->deferred.Reject(makeError(env, "ERR_BGE_INTERNAL", e.what()).Value());
  }
}

}  // namespace bge

// CUDA graphs: a sequence of launches recorded once and replayed as one. For small batches, whose launches cost more than their work.
#include "cuda.h"

namespace bge {

namespace {
constexpr size_t kGraphs = 64;
}

void CudaBackend::notWhileCapturing(const char* what) const {
  if (capturing_) throw Error("ERR_BGE_INTERNAL", std::string(what) + " inside of a sequence that is recorded as a CUDA graph");
}

void CudaBackend::dropGraphs() {
  for (auto& [key, graph] : graphs_) {
    if (graph.exec) cudaGraphExecDestroy(graph.exec);
  }
  graphs_.clear();
}

void CudaBackend::repeat(uint64_t key, const std::function<void()>& issue) {
  if (key == 0 || capturing_) return issue();
  attach();
  const auto seen = graphs_.find(key);
  if (seen == graphs_.end()) {
    // Warm-up: the workspace grows, weights are cast, algorithms are timed. Noted only behind it: issue() may drop all graphs.
    issue();
    if (graphs_.size() == kGraphs) {
      auto oldest = graphs_.begin();
      for (auto it = graphs_.begin(); it != graphs_.end(); ++it) {
        if (it->second.lastUse < oldest->second.lastUse) oldest = it;
      }
      if (oldest->second.exec) cudaGraphExecDestroy(oldest->second.exec);
      graphs_.erase(oldest);
    }
    graphs_[key].lastUse = ++graphClock_;
    return;
  }
  Graph& graph = seen->second;
  graph.lastUse = ++graphClock_;
  if (!graph.exec) {
    check(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal), "recording a CUDA graph");
    capturing_ = true;
    cudaGraph_t recorded = nullptr;
    try {
      issue();
    } catch (...) {
      capturing_ = false;
      cudaStreamEndCapture(stream_, &recorded);
      if (recorded) cudaGraphDestroy(recorded);
      cudaGetLastError();
      throw;
    }
    capturing_ = false;
    check(cudaStreamEndCapture(stream_, &recorded), "recording a CUDA graph");
    const cudaError_t made = cudaGraphInstantiate(&graph.exec, recorded, 0);
    cudaGraphDestroy(recorded);
    check(made, "making a CUDA graph");
  }
  check(cudaGraphLaunch(graph.exec, stream_), "replaying a CUDA graph");
}

}  // namespace bge

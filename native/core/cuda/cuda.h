// The CUDA device. Member functions live in ops/<op>.cu, one file per op; this header only declares them. Hidden states are bf16.
#pragma once
#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "../backend.h"
#include "kernel.h"

namespace bge {

class Blas;
struct GemmCall;  // ops/cuda/gemm.h

class CudaBackend final : public Backend {
 public:
  // Throws Error ERR_BGE_DEVICE_UNAVAILABLE with a sentence for each thing that can be missing. Cheap: the context is made at first use.
  explicit CudaBackend(int index);
  ~CudaBackend() override;

  std::string kind() const override { return "cuda"; }
  std::string description() const override;
  void* allocate(size_t bytes) override;
  void release(void* p) override;
  size_t bytesAllocated() const override;
  MemoryInfo memoryInfo() override;  // blocks that are kept for the next allocate() count as free
  void upload(void* device, const void* host, size_t bytes) override;
  void download(void* host, const void* device, size_t bytes) override;
  void copy(void* to, const void* from, size_t bytes) override;
  void zero(void* p, size_t bytes) override;
  void synchronize() override;
  void repeat(uint64_t key, const std::function<void()>& issue) override;  // graphs.cu: the 64 sequences used last are kept
  DType activation() const override { return DType::bf16; }
  int64_t chainRows() const override { return std::numeric_limits<int64_t>::max(); }
  Arena& workspace() override { return workspace_; }
  void forget(const float* weight) override;

  void convert(Matrix out, Matrix x) override;
  void linear(Matrix out, Matrix x, Weight w, const float* bias, Activation act, Matrix* preActivation) override;
  void linearBackwardInput(Matrix dX, Matrix dOut, Weight w, bool accumulate, const Matrix* gelu) override;
  void linearBackwardWeight(float* dW, float* dBias, Matrix dOut, Matrix x) override;
  void geluBackward(Matrix dX, Matrix dOut, Matrix preActivation) override;
  void matmul(Matrix c, Matrix a, bool transposeA, Matrix b, bool transposeB, float alpha, float beta) override;
  void attention(Matrix out, float* lse, const Attention& a) override;
  void attentionBackward(Matrix dQ, Matrix dK, Matrix dV, Matrix dOut, Matrix out, const float* lse, const Attention& a) override;
  void embedding(Matrix out, float* mean, float* rstd, const float* table, const int32_t* index, const float* position, const float* type,
                 const float* gamma, const float* beta, float epsilon, const Rows& rows, const Dropout& dropout) override;
  void embeddingBackward(float* dTable, float* dPosition, float* dType, float* dGamma, float* dBeta, Matrix dOut, const float* mean,
                         const float* rstd, const float* table, int64_t tableRows, const int32_t* index, const float* position,
                         const float* type, const float* gamma, int32_t paddingIndex, const Rows& rows, const Dropout& dropout) override;
  void addLayerNorm(Matrix out, Matrix sum, float* mean, float* rstd, Matrix x, Matrix residual, const float* gamma, const float* beta,
                    float epsilon, const Rows& rows, const Dropout& dropout) override;
  void addLayerNormBackward(Matrix dSum, Matrix dX, float* dGamma, float* dBeta, Matrix dOut, Matrix sum, const float* mean,
                            const float* rstd, const float* gamma, const Rows& rows, const Dropout& dropout) override;
  void gatherRows(Matrix out, Matrix x, const int32_t* index, int64_t count) override;
  void scatterRows(Matrix out, const int32_t* index, int64_t count, Matrix x, bool accumulate) override;
  void add(Matrix out, Matrix x, float alpha) override;
  void crossEntropy(CrossEntropyResult* result, Matrix logits, const int32_t* labels, float scale) override;
  void meanPool(Matrix out, Matrix x, const Packed& batch) override;
  void meanPoolBackward(Matrix dX, Matrix dOut, const Packed& batch) override;
  void normalize(Matrix out, float* norm, Matrix x) override;
  void normalizeBackward(Matrix dX, Matrix dOut, Matrix out, const float* norm) override;
  void contrastive(ContrastiveResult* result, const Contrastive& tile) override;
  void contrastivePass(ContrastiveResult* result, Matrix dQ, Matrix dP, Matrix q, Matrix p, const Contrastive& whole,
                       bool accumulate) override;
  void topK(int32_t* indices, float* scores, int32_t k, Matrix q, Matrix p, int32_t firstIndex, bool merge) override;
  void adamw(double* squaredNorm, const AdamWPart* partsHost, int32_t count, const AdamW& options) override;

 private:
  // -- for the ops ------------------------------------------------------------------------------------------------------------------------
  int index_;
  cudaDeviceProp properties_{};
  cudaStream_t stream_ = nullptr;  // every kernel, copy and graph of this device
  int multiprocessors() const { return properties_.multiProcessorCount; }
  // A bf16 copy of n floats of a parameter set of that version (Weight::version): made once per (data, version). version 0: made anew, in
  // the workspace.
  const bf16* cast(const float* data, int64_t n, uint64_t version);
  Matrix stored(const Weight& w);  // the same as a bf16 matrix (out, in)
  // One product: cuBLASLt, or our own kernel where cuBLASLt is not (BGE_CUDA_GEMM=own, the emulator) or has not the epilogue (exact GELU).
  void product(const GemmCall& call);
  std::unique_ptr<Blas> blas_;
  bool wgmmaAttention_ = false;  // BGE_CUDA_ATTENTION=wgmma: see ops/attention.cu
  bool exactSimilarity_ = false;  // BGE_CUDA_SIMILARITY=f32: see ops/similarity_pass.cu

  // -- graphs.cu -------------------------------------------------------------------------------------------------------------------------
  struct Graph {
    cudaGraphExec_t exec = nullptr;
    uint64_t lastUse = 0;
  };
  std::unordered_map<uint64_t, Graph> graphs_;
  uint64_t graphClock_ = 0;
  bool capturing_ = false;
  void dropGraphs();
  void notWhileCapturing(const char* what) const;

  // -- cuda.cu ---------------------------------------------------------------------------------------------------------------------------
  // On the calling thread from now on: a device is made on one thread and used on another, and CUDA's current device belongs to the thread.
  void attach();
  void* take(size_t bytes);                  // from the device, or a block that was released
  void giveBack();                           // released blocks, to the device
  std::unordered_map<void*, size_t> sizes_;  // live blocks
  std::atomic<size_t> allocated_{0};         // live bytes; read by bindings/ while a call is running
  // Blocks kept for the next allocate() of the same size, because cudaFree waits for the device: kept_ bytes, at most 256 MiB.
  std::multimap<size_t, void*> released_;
  size_t kept_ = 0;
  // Pinned memory in two halves: one is copied to while the device reads the other.
  static constexpr size_t kHalf = size_t{4} << 20;
  struct Half {
    char* data = nullptr;
    cudaEvent_t done = nullptr;
    size_t used = 0;
  };
  Half halves_[2];
  int half_ = 0;
  Half& nextHalf();

  struct Cast {
    uint64_t version;
    int64_t n;
    bf16* data;
  };
  std::map<const float*, Cast> casts_;  // adamw() writes those of its parts
  void dropCasts(const float* first, const float* last);

  friend class Blas;
  Arena workspace_;
};

}  // namespace bge

// The CPU device. Member functions live in ops/<op>.cc, one file per op; this header only declares them.
#pragma once
#include <atomic>
#include <string>
#include <unordered_map>

#include "backend.h"
#include "thread_pool.h"

namespace bge {

struct GemmBlock;
struct Kernels;     // ops/cpu/kernels.h: function pointers of one instruction set
struct LowKernels;  // ops/cpu/kernels_low.h: those of products in bf16 or int8

class CpuBackend final : public Backend {
 public:
  explicit CpuBackend(const DeviceOptions& options);
  ~CpuBackend() override;

  ThreadPool pool;
  const Kernels& kernels;
  const LowKernels* const low;           // what linear layers multiply in; null: fp32
  const LowKernels* const lowAttention;  // whose attention without mask and dropout; null: fp32

  std::string kind() const override { return "cpu"; }
  std::string description() const override;
  void* allocate(size_t bytes) override;
  void release(void* p) override;
  size_t bytesAllocated() const override;
  MemoryInfo memoryInfo() override { return {}; }
  void upload(void* device, const void* host, size_t bytes) override;
  void download(void* host, const void* device, size_t bytes) override;
  void copy(void* to, const void* from, size_t bytes) override;
  void zero(void* p, size_t bytes) override;
  void synchronize() override {}
  void repeat(uint64_t, const std::function<void()>& issue) override { issue(); }
  DType activation() const override { return DType::f32; }
  int64_t chainRows() const override { return 512; }  // x F floats: a few megabytes
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
  float* packing(Weight w, bool transposed, int64_t size, bool& current);  // ops/matmul.cc
  const float* packed(Weight w, bool transposed);
  void refuseTraining() const;                                             // ops/matmul_low.cc
  void multiplyLow(const GemmBlock& g, Weight w, bool transposed);
  void weightGradientLow(float* dW, float* dBias, Matrix dOut, Matrix x);
  std::unordered_map<void*, size_t> sizes_;
  std::atomic<size_t> allocated_{0};  // read by bindings/ while a call is running
  struct PackCache;                   // ops/matmul.cc: packed weights by (data, shape, form), checked against Weight::version
  std::unique_ptr<PackCache> packs_;
  Arena workspace_;
};

}  // namespace bge

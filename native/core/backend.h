// THE CONTRACT OF A DEVICE. Everything the model code may ask of a device is on this page; CPU and CUDA implement all of it.
//
// Rules. Outputs come first. Every pointer is device memory unless its name ends in `Host`. Accumulation, statistics and reductions are
// fp32 or wider. Hidden states and their gradients are stored as activation() says (cpu: f32, cuda: bf16); parameters, their gradients,
// statistics, embedding tables, embeddings, scores, logits and everything JavaScript sees are f32. Where an op takes a matrix of either
// type, it says so. Results are deterministic: fixed reduction order, independent of the number of threads and, per output row, of how
// many other rows are in the call (so an embedding does not depend on its micro-batch). No operation allocates device memory except
// through workspace(). "Accumulates" means `+=`. Calls are issued from one thread, in order; a device may run them asynchronously,
// download() and synchronize() wait. Shapes have been checked by bindings/ before a call arrives here.
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <string>

#include "arena.h"
#include "tensor.h"

namespace bge {

// An uninitialised (rows, cols) matrix in `arena`.
inline Matrix takeMatrix(Arena& arena, DType type, int64_t rows, int64_t cols) {
  return {arena.bytes(static_cast<size_t>(rows * cols * sizeOf(type))), type, rows, cols, cols};
}

// A weight of a linear layer, (out, in) row-major as Hugging Face stores it: y = x W^T + b.
// `version` changes whenever the values change; a device may cache a packed copy per (data, version). 0: never cache.
struct Weight {
  const float* data = nullptr;
  int64_t out = 0, in = 0;
  uint64_t version = 0;
};

enum class Activation : int32_t { none, gelu };  // gelu is exact: 0.5 x (1 + erf(x / sqrt 2))

// N sequences packed without padding: sequence n owns rows offsets[n] .. offsets[n+1].
struct Packed {
  int32_t count = 0;                     // N
  int64_t rows = 0;                      // offsets[N]
  int32_t maxLength = 0;                 // longest sequence
  const int32_t* offsets = nullptr;      // (N+1)
  const int32_t* offsetsHost = nullptr;  // (N+1), the same on the host
};

// Where each row of a (R, C) matrix comes from: needed for position embeddings and for dropout.
struct Rows {
  int64_t count = 0;                   // R
  const int32_t* sequence = nullptr;   // (R) index of the sequence inside this micro-batch, 0 .. N-1
  const int32_t* position = nullptr;   // (R) token position inside its sequence
  const uint32_t* stream = nullptr;    // (N) the sequence's number in the whole batch: the dropout stream
};

// Dropout masks are a pure function of (seed, step, stream, layer, site, element): see random.h. p == 0: off (inference).
// For a hidden site element = position * C + column. For attention element = (head * L + i) * roundUp(L, 4) + j,
// L the length of the key sequence, i the query's position, j the key's. Kept values are scaled by 1/(1-p).
struct Dropout {
  float p = 0;
  uint64_t seed = 0;
  uint32_t step = 0;
  uint32_t layer = 0;  // 0 .. L-1; embeddings use layer 255, the RetroMAE decoder 256 (its streams: see model/)
  uint32_t site = 0;   // 0 embedding, 1 attention probabilities, 2 attention output, 3 feed-forward output
};

// RetroMAE's per-position masks in the compact form: a few sampled bit rows, and for every query row which one it uses.
// Bit j of a mask row set: key position j is hidden. The query's own position is always hidden too (recipe.md 2.3).
struct PositionMask {
  const uint64_t* bits = nullptr;  // (masks, words)
  int32_t words = 0;               // ceil(maxLength / 64)
  const int32_t* choice = nullptr; // (query rows) index into bits
};

// Multi-head attention over packed sequences, scores scaled by 1/sqrt(headSize). Query rows may be fewer than key rows (last layer
// pruned to the rows that are needed). A row whose keys are all hidden gives 0. head h uses columns h*headSize .. (h+1)*headSize.
struct Attention {
  Matrix q;                                // (Rq, C) row-strided
  Matrix k, v;                             // (T, C) row-strided
  Packed queries, keys;                    // same count N
  const int32_t* queryPosition = nullptr;  // (Rq) position of each query row in its key sequence
  const uint32_t* stream = nullptr;        // (N)
  int32_t heads = 0, headSize = 0;
  const PositionMask* mask = nullptr;      // null: every key is visible
  Dropout dropout;                         // on the probabilities
};

// One row block of a contrastive objective over `scores` = Q_block P^T (rows, M), raw dot products.
// Query row i (global index firstRow + r) has its positive in column i * groupSize (recipe.md 3.2).
struct Contrastive {
  Matrix scores;                   // (rows, M) in: dot products; out: d loss / d (dot product), complete (1/temperature included)
  int64_t firstRow = 0;            // global index of scores' first row
  int64_t queries = 0;             // B, for the mean
  int32_t groupSize = 1;           // G
  float temperature = 1;           // > 0
  bool ownGroupOnly = false;       // true: candidates are the query's own group (no in-batch negatives)
  float infoNceWeight = 1;         // weight of the InfoNCE term
  float klWeight = 0;              // weight of -sum_g t_g log softmax(own group)_g  (FlagEmbedding kl_div)
  float m3Weight = 0;              // weight of FlagEmbedding's m3_kd_loss
  float lossScale = 1;             // multiplies loss and gradient (e.g. 1 / number of Matryoshka dims)
  const float* teacher = nullptr;  // (B, G) softmaxed teacher scores, or null
  // Masking by identity; any may be null. A column other than the target is removed from row i's candidates when
  //   passageIds[j] == passageIds[target(i)], or passageIds[j] is listed in row i's positives (CSR),
  //   or j is the positive column of another row with the same query id.
  // Columns of row i's own group are never removed by the third rule.
  const int32_t* passageIds = nullptr;        // (M)
  const int32_t* queryIds = nullptr;          // (B)
  const int32_t* positiveOffsets = nullptr;   // (B+1)
  const int32_t* positiveIds = nullptr;       // passage ids, ascending inside a row
  // Columns that are removed by number: removedColumns[removedBegin[i] .. removedEnd[i]) of row i, ascending; its target stays. All three
  // or none null.
  const int32_t* removedBegin = nullptr;      // (B)
  const int32_t* removedEnd = nullptr;        // (B)
  const int32_t* removedColumns = nullptr;
  // Passages of queries with another source id are no candidates, and no rule counts them. A query's whole group is of its source.
  const int32_t* sourceIds = nullptr;         // (B), or null
  // Self-guided removal: of the columns that are left outside of the own group, those with score > (target's score + this), in fp32. The
  // comparison has no gradient. Infinity: none.
  float falseNegativeMargin = std::numeric_limits<float>::infinity();
  bool falseNegativesInGroup = false;         // true: negatives of the own group too
};

struct ContrastiveResult {  // device memory, accumulated over row blocks
  double loss = 0;          // already divided by B and multiplied by the weights
  int64_t correct = 0;      // rows whose target has the (strictly or equally) largest score among unmasked columns, ties by smaller index
  int64_t masked = 0;       // number of (row, column) candidates removed by identity or by number
  int64_t falseNegatives = 0;  // number removed by their score, of those that were left
};

struct CrossEntropyResult {  // device memory, accumulated over row chunks
  double loss = 0;           // sum over labelled rows, not scaled
  int64_t correct = 0;       // argmax (smallest index on ties) equals the label
  int64_t count = 0;         // labelled rows
};

struct AdamW {  // torch.optim.AdamW
  double learningRate = 0, beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8;
  int64_t step = 1;   // 1-based, for bias correction
  float maxNorm = 0;  // 0: no clipping; otherwise gradients are scaled by min(1, maxNorm / (norm + 1e-6)), norm that of all parts
};

// A stretch of a module's flat buffers. No two parts overlap.
struct AdamWPart {
  float *parameter = nullptr, *m = nullptr, *v = nullptr, *gradient = nullptr;  // (n) each
  int64_t n = 0;
  double weightDecay = 0;  // decoupled
  uint64_t version = 0;    // Weight::version of the parameters from now on: a device may bring its copies of weights up to date in passing
};

struct MemoryInfo {
  size_t free = 0, total = 0;  // bytes of the device's own memory, whoever holds it; total 0: it is the process' memory, which the system knows
};

class Backend {
 public:
  virtual ~Backend() = default;

  // -- device -----------------------------------------------------------------------------------------------------------------
  virtual std::string kind() const = 0;         // "cpu", "cuda"
  virtual std::string description() const = 0;  // e.g. "cpu avx512, 2 threads"
  virtual void* allocate(size_t bytes) = 0;     // 64-byte aligned, contents undefined; throws Error ERR_BGE_OOM
  virtual void release(void* p) = 0;
  virtual size_t bytesAllocated() const = 0;
  virtual MemoryInfo memoryInfo() = 0;
  virtual void upload(void* device, const void* host, size_t bytes) = 0;
  virtual void download(void* host, const void* device, size_t bytes) = 0;
  virtual void copy(void* to, const void* from, size_t bytes) = 0;
  virtual void zero(void* p, size_t bytes) = 0;
  virtual void synchronize() = 0;
  // Issues a sequence of calls that comes again and again. A device may record it under `key` and replay it without calling issue(), as CUDA
  // does with graphs from the third time on; key 0: always issue(). Whenever the key is equal, every pointer, shape, number, Packed::maxLength
  // and Weight::version that issue() passes on must be equal, the workspace's mark included; the contents of device memory may differ.
  // issue() allocates nothing outside of the workspace and neither uploads, downloads nor waits.
  virtual void repeat(uint64_t key, const std::function<void()>& issue) = 0;
  virtual DType activation() const = 0;         // storage type of hidden states and their gradients: f32 or bf16
  // Rows of a chain of products after which the device would rather begin with the next rows, so that what lies between stays in its cache. Large
  // where it does not care.
  virtual int64_t chainRows() const = 0;
  virtual Arena& workspace() = 0;               // bump allocator over device memory; ops and model code mark()/reset() it
  virtual void forget(const float* weight) = 0; // drop cached packings of a weight about to be released

  // -- linear algebra -----------------------------------------------------------------------------------------------------------
  // out (R, C) = x, from f32 or activation() to f32 or activation(), rounded to nearest even.
  virtual void convert(Matrix out, Matrix x) = 0;
  // In linear*, x, dX, dOut and out may each be f32 or activation(), whatever the others are; preActivation and gelu are activation().
  // out (R, O) = act(x (R, I) W^T + bias). bias may be null. preActivation, if not null: (R, O), the value before the activation.
  virtual void linear(Matrix out, Matrix x, Weight w, const float* bias, Activation act, Matrix* preActivation) = 0;
  // dX (R, I) = dOut (R, O) W, or += when accumulate. gelu, if not null: (R, I), the pre-activation of the layer below:
  // the result is multiplied by gelu'(gelu) before it is stored (never together with accumulate).
  virtual void linearBackwardInput(Matrix dX, Matrix dOut, Weight w, bool accumulate, const Matrix* gelu) = 0;
  // dW (O, I) accumulates dOut^T x; dBias (O), may be null, accumulates the column sums of dOut.
  virtual void linearBackwardWeight(float* dW, float* dBias, Matrix dOut, Matrix x) = 0;
  // dX = dOut * gelu'(preActivation), (R, F); dX may be dOut.
  virtual void geluBackward(Matrix dX, Matrix dOut, Matrix preActivation) = 0;
  // c = alpha * op(a) op(b) + beta * c; plain product without packing caches. beta == 0 does not read c.
  virtual void matmul(Matrix c, Matrix a, bool transposeA, Matrix b, bool transposeB, float alpha, float beta) = 0;

  // -- attention ------------------------------------------------------------------------------------------------------------------
  // out (Rq, C). lse (H, Rq): natural-log sum-exp of the scaled scores of the visible keys, kept for the backward pass (null: inference).
  virtual void attention(Matrix out, float* lse, const Attention& a) = 0;
  // dQ (Rq, C), dK, dV (T, C), all overwritten. `out`, `lse` from the forward pass, `dOut` (Rq, C).
  virtual void attentionBackward(Matrix dQ, Matrix dK, Matrix dV, Matrix dOut, Matrix out, const float* lse, const Attention& a) = 0;

  // -- rows -------------------------------------------------------------------------------------------------------------------------
  // out (R, C) = dropout(LayerNorm(table[index[r]] + position[rows.position[r]] + type)). table is the word embedding (index = ids) or,
  // for the RetroMAE query stream, the CLS vectors (index = sequence). type is row 0 of the type table. mean, rstd (R), null in inference.
  virtual void embedding(Matrix out, float* mean, float* rstd, const float* table, const int32_t* index, const float* position,
                         const float* type, const float* gamma, const float* beta, float epsilon, const Rows& rows,
                         const Dropout& dropout) = 0;
  // Accumulates dTable[index[r]], dPosition, dType (row 0), dGamma, dBeta. Rows whose index equals paddingIndex give nothing to dTable
  // (torch's padding_idx; -1: none). tableRows: number of rows of the table.
  virtual void embeddingBackward(float* dTable, float* dPosition, float* dType, float* dGamma, float* dBeta, Matrix dOut,
                                 const float* mean, const float* rstd, const float* table, int64_t tableRows, const int32_t* index,
                                 const float* position, const float* type, const float* gamma, int32_t paddingIndex, const Rows& rows,
                                 const Dropout& dropout) = 0;
  // sum (R, C) = residual + dropout(x); out = LayerNorm(sum). sum may be the same memory as x, or as residual. mean, rstd null in inference.
  // residual may have data == null: LayerNorm of x alone (the MLM head).
  virtual void addLayerNorm(Matrix out, Matrix sum, float* mean, float* rstd, Matrix x, Matrix residual, const float* gamma,
                            const float* beta, float epsilon, const Rows& rows, const Dropout& dropout) = 0;
  // dSum (R, C): gradient of the sum (that is also the residual's gradient); dX = dSum through the dropout mask (may be the same memory as
  // dSum when dropout.p == 0; dX.data null: not wanted). dGamma, dBeta accumulate. dOut may be the same memory as dSum or as dX.
  virtual void addLayerNormBackward(Matrix dSum, Matrix dX, float* dGamma, float* dBeta, Matrix dOut, Matrix sum, const float* mean,
                                    const float* rstd, const float* gamma, const Rows& rows, const Dropout& dropout) = 0;
  // gatherRows, scatterRows, add: each matrix is f32 or activation(), whatever the other is.
  virtual void gatherRows(Matrix out, Matrix x, const int32_t* index, int64_t count) = 0;                     // out[r] = x[index[r]]
  virtual void scatterRows(Matrix out, const int32_t* index, int64_t count, Matrix x, bool accumulate) = 0;   // out[index[r]] (+)= x[r], unique index
  virtual void add(Matrix out, Matrix x, float alpha) = 0;                                                    // out += alpha x
  // MLM softmax cross-entropy. logits (R, V) in; out: (softmax - onehot) * scale, rows with label -100 become 0.
  virtual void crossEntropy(CrossEntropyResult* result, Matrix logits, const int32_t* labels, float scale) = 0;

  // -- embeddings and objectives ----------------------------------------------------------------------------------------------------
  virtual void meanPool(Matrix out, Matrix x, const Packed& batch) = 0;                   // out (N, C) f32 = mean of a sequence's rows
  virtual void meanPoolBackward(Matrix dX, Matrix dOut, const Packed& batch) = 0;         // overwrites dX (T, C); dOut (N, C) f32
  // out = x / max(|x|, 1e-12) per row; norm (R) = |x|.
  virtual void normalize(Matrix out, float* norm, Matrix x) = 0;
  virtual void normalizeBackward(Matrix dX, Matrix dOut, Matrix out, const float* norm) = 0;  // overwrites; dX may be dOut
  virtual void contrastive(ContrastiveResult* result, const Contrastive& tile) = 0;
  // contrastive() on all scores q (B, D) p (M, D)^T, block by block, the gradients with it: dQ (B, D), dP (M, D) overwritten, or added to
  // when accumulate; data null: not wanted. `whole` describes all B rows (its scores and firstRow are not read, ownGroupOnly is false). Rows
  // of q and p have length 1: a device may round them to f16 (times 16) for its products, whose sums, and everything after them up to the
  // gradients of the scores, are f32. All candidates of a row and its target come from the same product.
  virtual void contrastivePass(ContrastiveResult* result, Matrix dQ, Matrix dP, Matrix q, Matrix p, const Contrastive& whole,
                               bool accumulate) = 0;
  // Exact top-k of q (B, D) against p (M, D): indices (B, k) are p's row numbers plus firstIndex, scores (B, k) descending, ties by
  // smaller index. merge: the arrays already hold a sorted result of earlier rows of p (index -1 = empty slot, score -inf) and are merged.
  // Fewer than k candidates: remaining slots -1 / -inf.
  virtual void topK(int32_t* indices, float* scores, int32_t k, Matrix q, Matrix p, int32_t firstIndex, bool merge) = 0;

  // -- optimizer ----------------------------------------------------------------------------------------------------------------------
  // *squaredNorm = sum of the squares of all gradients, which clips the step; where it is not finite, parameters and moments stay as they
  // are. Gradients are zero afterwards in any case. The host waits for nothing.
  virtual void adamw(double* squaredNorm, const AdamWPart* partsHost, int32_t count, const AdamW& options) = 0;
};

struct DeviceOptions {
  int32_t threads = 0;  // 0: as many as affinity and cgroup limits allow
  std::string isa;      // "", "base", "avx2", "avx512", "avx512vnni", "avx512bf16": empty chooses the best; BGE_ISA overrides in bindings/
  std::string dtype = "fp32";  // what linear layers multiply in: "fp32", "bf16", or "int8", which is for inference only
};
std::unique_ptr<Backend> makeCpuBackend(const DeviceOptions& options);  // core/cpu.cc

}  // namespace bge

import { BgeError, invalidArgument } from './errors.js'
import { cudaLibraries, loadAddon as loadBinary } from './loader.js'

/** Sequences packed without padding. `cuSeqlens[n] .. cuSeqlens[n+1]` are the tokens of sequence n. */
export interface TokenBatch {
  /** (T) token ids, [CLS] and [SEP] included */
  ids: Int32Array
  /** (N+1) first token of each sequence, then T */
  cuSeqlens: Int32Array
  /** (N) number of each sequence in the whole batch: names its dropout masks, so that micro-batching does not change them. Default 0..N-1 */
  stream?: Uint32Array
  /** (R) packed token indices, ascending, whose last hidden state `forward` returns as `hidden`. Default none */
  rows?: Int32Array
}

/** The clean text and the masks for RetroMAE's decoder. */
export interface DecoderBatch extends TokenBatch {
  /** (T) label of each token, -100 for none */
  labels: Int32Array
  /** (masks * words) bit rows, words = ceil(longest sequence / 64), bit j: key position j is hidden; little-endian 64-bit words */
  maskBits: BigUint64Array
  /** (T) which bit row each position uses; its own position is always hidden as well */
  maskChoice: Int32Array
}

/** Names the dropout masks of one optimizer step. The same key draws the same masks, on every device. */
export interface DropoutKey {
  seed: bigint
  step: number
}

/** An interactive job overtakes bulk jobs that have not begun; equals keep their order. */
export type Priority = 'query' | 'bulk'

export interface EncoderConfig {
  layers: number
  hidden: number
  heads: number
  intermediate: number
  vocab: number
  maxPositions: number
  typeVocab: number
  layerNormEps: number
  hiddenDropout: number
  attentionDropout: number
  pooling: 'cls' | 'mean'
  normalize: boolean
}

/** float32 matrix on a device. Vectors are one row. */
export interface Tensor {
  readonly shape: readonly [rows: number, cols: number]
  /** A copy in row-major order. */
  toArray(): Promise<Float32Array>
  /** this[rows[r]] = source[r] for every row of source. */
  scatterRows(rows: Int32Array, source: Tensor): Promise<void>
  /** out[r] = this[rows[r]], a new tensor. */
  gatherRows(rows: Int32Array): Promise<Tensor>
  dispose(): void
}

export interface Parameter {
  readonly name: string
  readonly shape: readonly number[]
  readonly decay: boolean
}

/** The parameters of a module by Hugging Face name (without a `bert.` prefix). */
export interface Parameters {
  readonly list: readonly Parameter[]
  read(name: string): Promise<Float32Array>
  write(name: string, values: Float32Array): Promise<void>
  /** Gradient accumulated so far (zeros where there was none). */
  gradient(name: string): Promise<Float32Array>
  zeroGradients(): Promise<void>
}

export interface Encoder {
  readonly config: EncoderConfig
  readonly parameters: Parameters
  /**
   * (N, D) pooled vectors. Without a key: inference. With a key: bitwise what `forward` gives under that key. 'query' goes, and so does `toArray` of
   * what it returns, before everything on this device that has not begun: also before writes of parameters nobody has awaited. Default 'bulk'
   */
  embed(batch: TokenBatch, dropoutKey?: DropoutKey, priority?: Priority): Promise<Tensor>
  /**
   * Keeps activations until `backward`. hidden (R, C) of `batch.rows`, cls (N, C), embeddings (N, D).
   * @param others 'none' (default): throws ERR_BGE_ARGUMENT while another forward is outstanding. 'allowed': keeps these activations on top
   */
  forward(
    batch: TokenBatch,
    dropoutKey?: DropoutKey,
    others?: 'none' | 'allowed',
  ): Promise<{ hidden: Tensor; cls: Tensor; embeddings: Tensor }>
  /** Accumulates gradients of the newest outstanding forward, and drops its activations. */
  backward(gradients: { dHidden?: Tensor; dCls?: Tensor; dEmbeddings?: Tensor }): Promise<void>
  /** Drops the activations of every outstanding forward. */
  discard(): Promise<void>
  /** Makes room for so many bytes of activations, and gives back what is there above; throws ERR_BGE_OOM, or while a forward is outstanding. */
  reserve(bytes: number): Promise<void>
  dispose(): void
}

/** loss: SUM over labelled tokens (divide by count for the mean); correct: argmax hits; count: labelled tokens. */
export interface HeadResult {
  loss: number
  correct: number
  count: number
}

export interface MlmHead {
  readonly parameters: Parameters
  /** hidden (R, C), labels (R). `scale` multiplies gradients: 1 / labelled tokens in the whole batch for the mean loss. */
  step(hidden: Tensor, labels: Int32Array, scale: number): Promise<HeadResult & { dHidden: Tensor }>
  dispose(): void
}

export interface EnhancedDecoder {
  readonly parameters: Parameters
  step(cls: Tensor, batch: DecoderBatch, dropoutKey: DropoutKey | undefined, scale: number): Promise<HeadResult & { dCls: Tensor }>
  dispose(): void
}

export interface ContrastiveOptions {
  /** > 0; BGE v1 0.01, v1.5 0.02 */
  temperature: number
  /** G: passages per query, the positive first. Default 1 */
  groupSize?: number
  /**
   * 'batch': every passage of the batch is a candidate (default); 'source': those of queries with the same `sourceIds`; 'group': only the
   * query's own group
   */
  candidates?: 'batch' | 'source' | 'group'
  /** (B) of 'source': where each query and its group come from */
  sourceIds?: Int32Array
  /**
   * 'symmetric': the InfoNCE term is the mean of query to passage and of passage to query, in which each of the B positives looks for its
   * query among the B queries; hard negatives take part in the first alone. Not with 'group'. Default 'query-to-passage'
   */
  direction?: 'query-to-passage' | 'symmetric'
  /**
   * Self-guided removal: negatives whose inner product with the query is above the positive's by more than `falseNegativeMargin` (needed,
   * -2..2) are no candidates; without gradient. 'in-batch': other queries' passages; 'all': the own group's negatives too. Default: none
   */
  falseNegatives?: 'in-batch' | 'all'
  falseNegativeMargin?: number
  /** Weight of the InfoNCE term. Default 1 */
  infoNce?: number
  /** Distillation towards `teacher` (recipe.md 3.2); weights 1:1 with InfoNCE for kl_div, alone for m3_kd_loss */
  distillation?: 'kl_div' | 'm3_kd_loss'
  /** (B*G) softmaxed teacher scores, row by row */
  teacher?: Float32Array
  /** Widths; each is truncated, normalised and scored; the losses are averaged */
  matryoshka?: readonly number[]
  /** (M) equal ids are the same text: such columns are masked. Omit to keep duplicates */
  passageIds?: Int32Array
  /** (B) equal ids are the same query: the other row's positive is masked */
  queryIds?: Int32Array
  /** CSR of further known positives of each query: offsets (B+1), passage ids ascending inside a row */
  positiveOffsets?: Int32Array
  positiveIds?: Int32Array
}

export interface ContrastiveResult {
  /** mean over queries, weights included */
  loss: number
  /** share of queries whose positive scores highest among the unmasked candidates, 0..1 */
  accuracy: number
  /** candidates removed by identity; query to passage, as accuracy is */
  masked: number
  /** candidates removed by their score (`falseNegatives`), identity aside; query to passage */
  falseNegatives: number
  dQ: Tensor
  dP: Tensor
}

export interface AdamW {
  /** Number of updates made. Settable for resume. */
  steps: number
  /** Clips to maxNorm (0: no clipping), updates, zeroes gradients; returns the gradient norm before clipping. Non-finite: nothing changes. */
  step(learningRate: number, maxNorm: number): Promise<number>
  /** First (0) or second (1) moment of a parameter of the i-th module. */
  readMoment(module: number, which: 0 | 1, name: string): Promise<Float32Array>
  writeMoment(module: number, which: 0 | 1, name: string, values: Float32Array): Promise<void>
  dispose(): void
}

/** What a device holds, in bytes. */
export interface DeviceMemory {
  /** bytes held by this device's tensors, parameters, gradients and workspace */
  allocated: number
  /** bytes of workspace held, and its high-water mark */
  workspace: number
  workspacePeak: number
}

/** What linear layers and the contrastive loss multiply in; all else, weights and optimizer state too, is fp32 (hidden states on CUDA: bf16). */
export type Dtype = 'fp32' | 'bf16' | 'int8'
export const dtypes: readonly Dtype[] = ['fp32', 'bf16', 'int8']

/** An opened device: it makes modules and tensors, and runs them on a thread of its own in call order. The low-level boundary under `BgeModel`. */
export interface Device {
  readonly kind: 'cpu' | 'cuda'
  readonly dtype: Dtype
  /** e.g. "cpu avx512, 2 threads"; a dtype other than fp32 is named on the CPU: "cpu avx512bf16 bf16, 2 threads" */
  readonly description: string
  memory(): DeviceMemory
  /** Bytes of the device's own memory, whoever holds it. CPU: undefined, its memory is the process' */
  memoryInfo(): Promise<{ free: number; total: number } | undefined>
  /** Makes room for so many bytes of workspace, and gives back what is there above. Throws ERR_BGE_OOM. */
  reserve(bytes: number): Promise<void>
  synchronize(): Promise<void>
  /** Frees everything made on this device. Work that is queued is finished first; later calls throw ERR_BGE_CLOSED. */
  dispose(): void
  tensor(values: Float32Array, rows: number, cols: number): Tensor
  zeros(rows: number, cols: number): Tensor
  encoder(config: EncoderConfig): Encoder
  mlmHead(encoder: Encoder): MlmHead
  enhancedDecoder(encoder: Encoder, head: MlmHead): EnhancedDecoder
  adamW(modules: readonly (Encoder | MlmHead | EnhancedDecoder)[], options?: AdamWOptions): AdamW
  /** q (B, D), p (B*G, D), rows L2-normalised. `gradients: false` gives the loss alone. */
  contrastive(q: Tensor, p: Tensor, options: ContrastiveOptions): Promise<ContrastiveResult>
  /** Exact inner-product top-k; indices into p plus firstIndex; ties by smaller index; `into` merges with an earlier result. Empty slots: -1. */
  topK(q: Tensor, p: Tensor, k: number, options?: { firstIndex?: number; into?: TopK }): Promise<TopK>
  /** Side door for op specs and microbenchmarks only. */
  op(
    name: string,
    inputs: Record<string, Float32Array | Int32Array | Uint32Array | BigUint64Array>,
    attributes: Record<string, number>,
  ): Promise<Record<string, Float32Array | Int32Array>>
}

export interface AdamWOptions {
  beta1?: number
  beta2?: number
  epsilon?: number
  weightDecay?: number
}

export interface TopK {
  /** (B*k) */
  indices: Int32Array
  /** (B*k) descending */
  scores: Float32Array
}

/** Of `openDevice`. */
export interface DeviceOptions {
  /** 'auto' may choose cpu; an explicit 'cuda' never falls back; 'cpu' never looks for CUDA. Default 'auto' */
  device?: string
  /** CPU worker threads. Default: what affinity and cgroup limits allow */
  threads?: number
  /**
   * 'fp32' (default on the CPU); 'bf16': operands of linear layers and of the contrastive loss are rounded to bf16, sums are fp32 (CUDA's only
   * type, which stores hidden states in it too, and takes f16 for the loss); 'int8', CPU only and for inference only: weights are quantised per output channel, rows of activations when they come.
   * On the CPU bf16 needs AVX-512-BF16 and int8 AVX-512-VNNI. What the device does not have is refused, never replaced
   */
  dtype?: Dtype
}

/** Of `multiplyFloat64`: c (M, N) = op(a) op(b). */
export interface Float64Product {
  m: number
  n: number
  k: number
  /** which operand is stored transposed: 'a' as (K, M), 'b' as (N, K). Default: neither, a (M, K) and b (K, N) */
  transposed?: 'a' | 'b'
  /** Default: what affinity and cgroup limits allow */
  threads?: number
}

/** What decides the ids of a BERT WordPiece tokenizer: the fields of tokenizer.json under names of our own. */
export interface WordPieceDefinition {
  /** tokens[i] has the id ids[i] */
  tokens: readonly string[]
  ids: Int32Array
  /** prefix of a piece inside a word, "##" */
  continuation: string
  /** id of a word that no pieces make */
  unknown: number
  /** characters; a longer word is unknown */
  longestWord: number
  /** matched in the raw text: such texts are left to the caller */
  added: readonly string[]
  /** a Lowercase step before BertNormalizer */
  lowerFirst: boolean
  cleanText: boolean
  handleChineseChars: boolean
  stripAccents: boolean
  lowercase: boolean
}

/** Runs on the calling thread. */
export interface NativeWordPiece {
  /**
   * Tokenises texts[first], texts[first + 1], ... until about `units` characters have been read; at most `wanted` ids a text, no special tokens.
   * Every entry must be a string.
   */
  encode(texts: readonly string[], first: number, prefix: string, wanted: number, units: number): WordPieceSlice
}

export interface WordPieceSlice {
  /** of all texts, one after the other */
  ids: Int32Array
  /** (texts) where each text's ids end */
  ends: Int32Array
  /** (texts) 1: not for this tokenizer (an added token in it, a lone surrogate), no ids here */
  elsewhere: Uint8Array
  /** the first text that was not reached */
  next: number
}

interface Addon {
  wordPiece(definition: WordPieceDefinition): NativeWordPiece
  multiplyFloat64(
    c: Float64Array,
    a: Float64Array,
    b: Float64Array,
    shape: { m: number; n: number; k: number; transposeA: boolean; transposeB: boolean; threads?: number; isa?: string },
  ): Promise<void>
  openDevice(
    options: { threads?: number; isa?: string; dtype?: Dtype; note?: string } | { cuda: number; libraries: readonly string[] },
  ): Device
}

let addon: Addon | undefined

/** Loads the native addon once. */
function loadAddon(): Addon {
  addon ??= loadBinary() as Addon
  return addon
}

async function openCuda(index: number): Promise<Device> {
  const device = loadAddon().openDevice({ cuda: index, libraries: cudaLibraries() })
  try {
    await device.synchronize() // makes the CUDA context, on the device's own thread
  } catch (error) {
    device.dispose()
    throw error
  }
  return device
}

/**
 * Opens a device. Its kernels run on its own thread(s), never on the event loop; calls are executed in the order they were made.
 * CUDA needs the CUDA library: `BGE_CUDA_LIBRARY`, else `build-cuda/bge_cuda.so` of this checkout, else that of the package bge-forge-cuda.
 * 'auto' takes cuda:0 where it can be opened and computes in `dtype`; where not, the CPU, and `description` says why.
 * `BGE_ISA=base|avx2|avx512|avx512vnni|avx512bf16` forces an instruction set (tests).
 * @throws ERR_BGE_DEVICE_UNAVAILABLE for a device that is not there (an explicit 'cuda' never falls back) or does not compute in `dtype`,
 *   ERR_BGE_NO_BINARY
 */
export async function openDevice(options: DeviceOptions = {}): Promise<Device> {
  const kind = options.device ?? 'auto'
  const cuda = /^cuda(?::(\d{1,3}))?$/.exec(kind)
  if (kind !== 'auto' && kind !== 'cpu' && !cuda) {
    throw new BgeError('ERR_BGE_ARGUMENT', `device must be 'auto', 'cpu', 'cuda' or 'cuda:N', but was "${kind}"`)
  }
  const { dtype } = options
  if (dtype !== undefined && !dtypes.includes(dtype)) throw invalidArgument('dtype', "'fp32', 'bf16' or 'int8'", dtype)
  if (cuda && dtype !== undefined && dtype !== 'bf16') {
    throw new BgeError(
      'ERR_BGE_DEVICE_UNAVAILABLE',
      `dtype ${dtype} was asked for on "${kind}", but CUDA computes in bf16 with fp32 sums; leave dtype out, or use device cpu`,
    )
  }
  if (cuda) return await openCuda(Number(cuda[1] ?? 0))
  let note: string | undefined
  if (kind === 'auto' && (dtype === 'fp32' || dtype === 'int8')) note = `not cuda: dtype ${dtype} was asked for`
  else if (kind === 'auto') {
    try {
      return await openCuda(0)
    } catch (error) {
      if (!(error instanceof BgeError && error.code === 'ERR_BGE_DEVICE_UNAVAILABLE')) throw error
      note = `not cuda: ${error.message.replace(/[:;] .*/, '')}`
    }
  }
  return loadAddon().openDevice({
    ...(options.threads === undefined ? {} : { threads: options.threads }),
    ...(process.env['BGE_ISA'] ? { isa: process.env['BGE_ISA'] } : {}),
    ...(dtype === undefined ? {} : { dtype }),
    ...(note === undefined ? {} : { note }),
  })
}

/**
 * c = op(a) op(b) in float64, row-major, on threads of this machine, whatever device a model is on. Every element is summed over k in ascending order:
 * the result does not depend on `threads`. The arrays are not copied, so they may be neither changed nor transferred before the promise settles.
 * @throws ERR_BGE_ARGUMENT, ERR_BGE_SHAPE for an array of the wrong size, ERR_BGE_NO_BINARY; rejects with ERR_BGE_OOM
 */
export async function multiplyFloat64(c: Float64Array, a: Float64Array, b: Float64Array, product: Float64Product): Promise<void> {
  const { transposed, ...shape } = product
  const isa = process.env['BGE_ISA']
  await loadAddon().multiplyFloat64(c, a, b, {
    ...shape,
    transposeA: transposed === 'a',
    transposeB: transposed === 'b',
    ...(isa ? { isa } : {}),
  })
}

/** A native WordPiece tokenizer. @throws ERR_BGE_NO_BINARY */
export function nativeWordPiece(definition: WordPieceDefinition): NativeWordPiece {
  return loadAddon().wordPiece(definition)
}

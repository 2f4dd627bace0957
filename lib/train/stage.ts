import type { Source } from '../data/plan.js'
import { BgeError } from '../errors.js'
import type { BgeModel } from '../model/model.js'
import type { DropoutKey, Encoder, EnhancedDecoder, MlmHead } from '../native.js'
import type { StageName, TrainConfig } from './config.js'
import type { TextCard } from './summary.js'

/** What distinguishes a stage from the others; everything else is the loop's. */
export interface Stage<Batch = unknown> {
  readonly name: StageName
  /** every key but learningRate, which depends on the width of the model */
  readonly defaults: Omit<TrainConfig, 'learningRate'>
  /** peak rate recommended for an encoder of this hidden width */
  learningRate(hidden: number): number
  /** Reads and checks the data, makes what is trained besides the encoder. */
  open(context: StageContext): Promise<StageRun<Batch>>
}

export interface StageContext {
  readonly model: BgeModel
  readonly files: readonly string[]
  readonly config: TrainConfig
}

export interface StageRun<Batch = unknown> {
  /** what is trained; the names are file names in a checkpoint, the order is the optimizer's */
  readonly modules: Readonly<Record<string, Encoder | MlmHead | EnhancedDecoder>>
  /** rows that batches are made of, for the plan */
  readonly sources: readonly Source[]
  /** the most positives that are listed for one query, for the memory plan; absent: none */
  readonly positives?: number
  /** texts tokenized so far, and how many of them were cut */
  readonly truncation: () => { texts: number; truncated: number }
  /** the same by kind of text, with their lengths */
  readonly texts: () => Readonly<Record<string, TextCard>>
  /** Tokenizes and collates a batch; a pure function of (rows, epoch) and the seed. */
  prepare(rows: Int32Array, epoch: number, signal?: AbortSignal): Promise<Batch>
  /** Accumulates the gradients of one batch. `keepBytes`: of activations that GradCache may hold at a time; no bit depends on it */
  step(batch: Batch, key: DropoutKey, signal?: AbortSignal, keepBytes?: number): Promise<StepMetrics>
  /** Measures the model on a batch that it has not been trained on yet in this epoch. Changes nothing: the run goes on as if it had not been called. */
  probe?(batch: Batch, signal?: AbortSignal): Promise<Readonly<Record<string, number>>>
  /** Writes the trained model as a model folder. */
  save(directory: string): Promise<void>
}

/** `loss` (mean over the batch), `tokens` (in the batch, [CLS] and [SEP] included), and what the stage measures besides. */
export interface StepMetrics {
  loss: number
  tokens: number
  [name: string]: number
}

/** Sums of a token-level loss over micro-batches. */
export interface TokenSums {
  loss: number
  correct: number
  count: number
}

/** sums += part */
export function addTo(sums: TokenSums, part: TokenSums): void {
  sums.loss += part.loss
  sums.correct += part.correct
  sums.count += part.count
}

/** Rates by hidden width: up to 512 (small), up to 768 (base), above (large). */
export function byWidth(small: number, base: number, large: number): (hidden: number) => number {
  return (hidden) => (hidden <= 512 ? small : hidden <= 768 ? base : large)
}

/** Throws ERR_BGE_CONFIG when `key` exceeds the positions of the model. */
export function checkLength(model: BgeModel, key: 'maxLength' | 'queryMaxLength' | 'passageMaxLength', value: number): void {
  const most = model.encoder.config.maxPositions
  if (value > most) {
    throw new BgeError('ERR_BGE_CONFIG', `${key} must be at most ${most}, the model's max_position_embeddings, but was ${value}`, {
      details: { key },
    })
  }
}

/**
 * Defaults that all stages share, with their source: sections of docs/recipe.md, or Hugging Face's TrainingArguments where nothing is
 * recorded for BGE.
 */
export const COMMON: Omit<TrainConfig, 'learningRate' | 'epochs' | 'batchSize' | 'weightDecay'> = {
  steps: 0, // 0: epochs decide
  microBatchTokens: 4096, // ours: 430 MiB of activations for small, 2.1 GiB for base (`bge contrastive --plan`, CPU)
  warmupRatio: 0.1, // RetroMAE's example and FlagEmbedding's base.sh
  maxGradNorm: 1, // TrainingArguments
  dropout: null, // the model's own: 0.1 and 0.1 (1.1)
  seed: 42, // TrainingArguments
  device: 'auto',
  dtype: 'fp32',
  saveEvery: 500, // TrainingArguments
  logEvery: 1,
  patience: 0,
  threads: 0,
  groupSize: 1,
  temperature: 0.02, // BGE v1.5; v1 0.01 (3.1)
  queryMaxLength: 128,
  passageMaxLength: 128,
  maxLength: 512,
  encoderMaskRatio: 0.3, // 2.1
  decoderMaskRatio: 0.5, // 2.1
  instruction: '',
  duplicates: 'mask', // ours; 'keep' is FlagEmbedding's (3.2)
  candidates: 'batch', // in-batch negatives (3.1)
  direction: 'query-to-passage', // 3.1
  falseNegatives: 'keep', // 3.1
  falseNegativeMargin: 0.1, // Qwen3 Embedding (arXiv 2506.05176); used where falseNegatives is not 'keep'
  distillation: 'none', // 3.5
  matryoshka: [], // 3.5
  sameSource: false, // 3.5
}

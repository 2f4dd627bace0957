import { invalidArgument } from '../errors.js'
import type { Embedder } from '../model/embedder.js'
import { resolveInstruction } from '../model/instruction.js'
import type { SearchDevice } from '../model/search.js'
import type { Dtype } from '../native.js'

/** A model whose vectors may be kept: a BgeModel is one. */
export interface KeptModel extends Embedder {
  /** equal fingerprints, equal vectors */
  fingerprint(): Promise<string>
  /** put before queries */
  readonly instruction?: string | undefined
  /** tokens at which texts are cut */
  readonly maxLength?: number
  readonly device?: { readonly kind?: string; readonly dtype?: Dtype }
}

/** A model to mine with; a BgeModel is one. */
export type MiningModel = KeptModel & { readonly device: SearchDevice & { readonly kind?: string; readonly dtype?: Dtype } }

/**
 * What a candidate's score may be; `null` switches a rule off. Scores are cosines of the model, or of the teacher where there is one; `positive` is
 * the lowest score of the row's positives, as in sentence-transformers' mine_hard_negatives.
 */
export interface ScoreRules {
  /** at most positive - (1 - maxRelative) |positive|. Default 0.95 (NV-Retriever, arXiv 2407.15831, TopK-PercPos) */
  maxRelative?: number | null
  /** at most positive - margin. Default null (NV-Retriever's TopK-MarginPos) */
  margin?: number | null
  /** default null */
  maxScore?: number | null
  /** default null */
  minScore?: number | null
}

export interface Storage {
  /** folder of vectors that later runs use again; null: none is left behind. Default: `mine-cache` beside `out` */
  cache?: string | null
  /** rows searched at a time: a pass over the pool's vectors each; memory and time, never the result. Default 16384, on CUDA 131072 */
  block?: number
}

/** Of `mine`. What decides the result is hashed: the same options continue a killed run. */
export interface MineOptions {
  /** JSONL of rows {"query","pos":[...],"neg"?:[...]}: a file, a folder or several */
  data: string | readonly string[]
  /** one file: the same rows with new `neg`; may be the data file itself */
  out: string
  /** the passages to mine from: JSONL of {"text", "id"?}, .txt with a passage a line, folders. Default: every positive and negative of the data */
  pool?: string | readonly string[]
  /** ranks [low, high), 0-based, that negatives are taken from. Default [10, 210] */
  range?: readonly [low: number, high: number]
  /** negatives per row. Default 15 */
  negatives?: number
  /**
   * which of the range's candidates: 'random' (default, FlagEmbedding), 'top' the best-ranked; 'pool': any passage of the pool, without a search
   * (C-Pack's random negatives)
   */
  sampling?: 'random' | 'top' | 'pool'
  /**
   * where the range leaves too few: 'random' passages of the pool (default, FlagEmbedding) that pass the rules, in a row that would else have no
   * negative also such as maxRelative and margin reject; or 'none'
   */
  fill?: 'random' | 'none'
  rules?: ScoreRules
  /** another model that scores candidates and positives; the search stays the model's. `instruction` default: its own */
  teacher?: { readonly model: KeptModel; readonly instruction?: string }
  /** writes pos_scores and neg_scores: cosines divided by this temperature, ready for training's softmax. Default: not written */
  scoreTemperature?: number
  /** default 42 */
  seed?: number
  /** put before queries ('zh' and 'en' name BGE's); a row's own `prompt` goes first. Default: the model's own, else none */
  instruction?: string
  storage?: Storage
  onProgress?: (progress: MineProgress) => void
  signal?: AbortSignal
}

/** Where a run is. 'read' and 'encode' count texts of the pool, 'search' pairs of query and passage of a block, 'choose' rows. */
export interface MineProgress {
  readonly stage: 'read' | 'encode' | 'search' | 'choose'
  readonly done: number
  /** null while nobody knows */
  readonly total: number | null
}

/** Options with their defaults. */
export interface Settings {
  readonly range: readonly [low: number, high: number]
  readonly negatives: number
  readonly sampling: 'random' | 'top' | 'pool'
  readonly fill: 'random' | 'none'
  readonly rules: { readonly [K in keyof ScoreRules]-?: number | null }
  readonly scoreTemperature: number | null
  readonly seed: number
  readonly instruction: string
}

/** Throws ERR_BGE_ARGUMENT. */
export function settingsOf(model: KeptModel, options: MineOptions): Settings {
  const { range = [10, 210], negatives = 15, sampling = 'random', fill = 'random', seed = 42 } = options
  const { maxRelative = 0.95, margin = null, maxScore = null, minScore = null } = options.rules ?? {}
  const scoreTemperature = options.scoreTemperature ?? null
  const [low, high] = range
  if (!Number.isSafeInteger(low) || !Number.isSafeInteger(high) || low < 0 || high <= low || high > MAX_RANK) {
    throw invalidArgument('range', `two ranks [low, high) with 0 <= low < high <= ${MAX_RANK}`, `${low}-${high}`)
  }
  if (!Number.isSafeInteger(negatives) || negatives < 1) throw invalidArgument('negatives', 'an integer of at least 1', negatives)
  if (!Number.isSafeInteger(seed) || seed < 0) throw invalidArgument('seed', 'an integer from 0 to 2^53 - 1', seed)
  if (!['random', 'top', 'pool'].includes(sampling)) throw invalidArgument('sampling', "'random', 'top' or 'pool'", sampling)
  if (!['random', 'none'].includes(fill)) throw invalidArgument('fill', "'random' or 'none'", fill)
  if (maxRelative !== null && !(maxRelative > 0 && maxRelative <= 1))
    throw invalidArgument('rules.maxRelative', 'a number above 0 and at most 1, or null', maxRelative)
  if (margin !== null && !(margin >= 0 && margin <= 2)) throw invalidArgument('rules.margin', 'a number from 0 to 2, or null', margin)
  for (const [name, value] of Object.entries({ maxScore, minScore })) {
    if (value !== null && !(value >= -1 && value <= 1)) throw invalidArgument(`rules.${name}`, 'a cosine from -1 to 1, or null', value)
  }
  if (scoreTemperature !== null && !(scoreTemperature > 0 && Number.isFinite(scoreTemperature)))
    throw invalidArgument('scoreTemperature', 'a number above 0', scoreTemperature)
  const { block } = options.storage ?? {}
  if (block !== undefined && (!Number.isSafeInteger(block) || block < 1))
    throw invalidArgument('storage.block', 'an integer of at least 1', block)
  const instruction = options.instruction === undefined ? (model.instruction ?? '') : resolveInstruction(options.instruction)
  const settings = {
    range,
    negatives,
    sampling,
    fill,
    rules: { maxRelative, margin, maxScore, minScore },
    scoreTemperature,
    seed,
    instruction,
  }
  if (options.teacher && !needsScores(settings))
    throw invalidArgument('teacher', 'given with a score rule or a scoreTemperature', 'without')
  return settings
}

/** What device.topK takes. */
const MAX_RANK = 1 << 20

/** Whether anything but ranks matters. */
export function needsScores({ rules, scoreTemperature }: Settings): boolean {
  return scoreTemperature !== null || Object.values(rules).some((value) => value !== null)
}

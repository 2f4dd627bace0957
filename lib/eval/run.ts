import { BgeError, type BgeErrorCode, invalidArgument } from '../errors.js'
import type { Embedder } from '../model/embedder.js'
import { resolveInstruction } from '../model/instruction.js'
import type { SearchDevice } from '../model/search.js'
import type { Dtype } from '../native.js'
import type { CmtebData } from './cmteb/load.js'
import type { CmtebSet, Dialect } from './cmteb/tasks.js'
import type { TaskFailure, TaskOutcome } from './evaluation.js'
import type { EvaluationContext, Rules } from './evaluators.js'
import { type Limit, limitData } from './limit.js'
import type { SklearnGeneration } from './numeric/logistic_regression.js'
import type { ModelMeta } from './results.js'
import type { EncodingProgress, RunEmbedder } from './run_embedder.js'
import type { RunProgress } from './run_meter.js'
import type { EvalTask } from './sources.js'

/** Of every evaluation. */
export interface RunOptions {
  /** folder for NAME.json per task and summary.json, and for C-MTEB tasks results/ in mteb's layout; without it nothing is written */
  out?: string
  /** put before the queries of retrieval and reranking ('zh' and 'en' name BGE's); default: the model's own, else none */
  instruction?: string
  /** tokens, [CLS] and [SEP] included; default: the model's */
  maxLength?: number
  rules?: ScoringRules
  reuse?: Reuse
  benchmark?: BenchmarkNames
  /** called as each task starts and ends; a task may start while the one before it is being scored, and one whose data is bad may end first of all */
  onTask?: (task: EvalTask, outcome?: TaskOutcome) => void
  /** called as texts are encoded. Asking for it reads the data of all tasks once before the first is encoded, to know how much there is */
  onProgress?: (task: EvalTask, progress: TaskProgress) => void
  /** called with the nDCG@10 of each query of a retrieval task; not for a result that was kept from before */
  onQuery?: (task: EvalTask, query: string, score: number) => void
  /** threads of logistic regression and k-means, which run beside the device; default: as many as the process may use. No score depends on it */
  threads?: number
  signal?: AbortSignal
}

/** How far the list of texts that is being encoded is, and the whole run. */
export type TaskProgress = EncodingProgress & { readonly run: RunProgress }

/** What the scores depend on besides model and data. */
export interface ScoringRules {
  /** decides main scores and splits. Default: cmteb2023 (reranking by map, pairs by AP); the command line asks for mteb2 where it runs C-MTEB */
  dialect?: Dialect
  /** whose k-means and logistic regression. Default: 1.9 for mteb2, 1.8 for cmteb2023 */
  sklearn?: SklearnGeneration
  /** queries, pairs or texts of a task, or 'mini', for a quick look (limitData). Default: all */
  limit?: Limit
}

/** What earlier runs may save this one: vectors and finished results. */
export interface Reuse {
  /** folder of vectors kept between runs; needs a model with a fingerprint */
  cache?: string
  /** 'finished' (the default) keeps a result in `out` of the same model, data and rules; 'never' computes every task */
  results?: 'finished' | 'never'
}

/** Under which names results of a benchmark are written. */
export interface BenchmarkNames {
  /** the set that averages are over; default: none, each type has its own mean */
  set?: CmtebSet
  /** the model's name and revision in result files */
  meta?: Partial<ModelMeta>
}

/** An embedder with what a BgeModel knows besides; all of it is optional. */
export type EvaluatedModel = Embedder & {
  readonly device?: SearchDevice & { readonly kind?: string; readonly dtype?: Dtype }
  readonly instruction?: string | undefined
  readonly directory?: string | undefined
  readonly maxLength?: number | undefined
  fingerprint?(): Promise<string>
}

/** A run of an evaluation: the options with what they came to. */
export interface Run {
  readonly model: EvaluatedModel
  readonly embedder: RunEmbedder
  readonly device: SearchDevice
  readonly fingerprint: string | null
  readonly settings: Settings
  readonly options: RunOptions
}

/** The options with their defaults. */
export interface Settings {
  readonly dialect: Dialect
  readonly sklearn: SklearnGeneration
  readonly limit: Limit | null
  readonly instruction: string
  readonly maxLength: number | null
}

export function settingsOf(model: EvaluatedModel, { instruction, maxLength, rules = {} }: RunOptions): Settings {
  const { dialect = 'cmteb2023', limit } = rules
  if (limit !== undefined && limit !== 'mini' && !(Number.isSafeInteger(limit) && limit >= 1))
    throw invalidArgument('limit', "an integer of at least 1 or 'mini'", limit)
  return {
    dialect,
    sklearn: rules.sklearn ?? (dialect === 'mteb2' ? '1.9' : '1.8'),
    limit: limit ?? null,
    instruction: instruction === undefined ? (model.instruction ?? '') : resolveInstruction(instruction),
    maxLength: maxLength ?? null,
  }
}

/** 'bf16' or 'int8' where the model multiplies in it on the CPU: scores of it are not those of fp32. */
export function lowType({ device }: EvaluatedModel): Dtype | undefined {
  return device?.kind === 'cpu' && device.dtype !== 'fp32' ? device.dtype : undefined
}

/** What a task is evaluated with. */
export function contextOf(
  { device, settings: { dialect, sklearn, instruction, maxLength }, options }: Run,
  task: EvalTask,
  onEncoded?: () => void,
): EvaluationContext {
  const { benchmark } = task
  const { onQuery } = options
  const rules: Rules = {
    dialect,
    sklearn,
    // Ids of one's own data are not a benchmark's: a query and a document may well be numbered alike.
    identicalIds: benchmark === undefined ? 'keep' : dialect === 'cmteb2023' ? 'during' : benchmark.ignoreIdenticalIds ? 'after' : 'keep',
    experiments: benchmark?.experiments ?? 10,
    samplesPerLabel: benchmark?.samplesPerLabel ?? 32,
  }
  const encode = { ...(maxLength !== null && { maxLength }), ...(options.signal && { signal: options.signal }) }
  const numeric = options.threads === undefined ? {} : { threads: options.threads }
  const perQuery = onQuery && ((query: string, score: number): void => onQuery(task, query, score))
  return { instruction, device, encode, rules, numeric, ...(onEncoded && { onEncoded }), ...(perQuery && { onQuery: perQuery }) }
}

/** The part of the data that is used. */
export function limited({ settings: { limit } }: Run, data: CmtebData): CmtebData {
  return limit === null ? data : limitData(data, limit)
}

/** Errors of one task or of what a model makes of it: the other tasks go on. */
const OF_ONE_TASK: readonly BgeErrorCode[] = [
  'ERR_BGE_DATA',
  'ERR_BGE_FILE',
  'ERR_BGE_HUB',
  'ERR_BGE_ENDPOINT',
  'ERR_BGE_NON_FINITE',
  'ERR_BGE_OOM',
]

/** What `work` gives, or for an error of this task alone what `failed` makes of it. */
export async function orFailure<T>(task: EvalTask, work: () => Promise<T>, failed: (failure: TaskFailure) => T): Promise<T> {
  try {
    return await work()
  } catch (error) {
    if (!(error instanceof BgeError) || !OF_ONE_TASK.includes(error.code)) throw error
    return failed({ task_name: task.name, type: task.type, error: { code: error.code, message: error.message } })
  }
}

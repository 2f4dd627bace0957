import { createHash } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { writeFileAtomic } from '../data/atomic.js'
import { BgeError, type BgeErrorCode, invalidArgument } from '../errors.js'
import type { Embedder } from '../model/embedder.js'
import { resolveInstruction } from '../model/instruction.js'
import type { SearchDevice } from '../model/search.js'
import { openDevice } from '../native.js'
import { evaluateClassification } from './classification.js'
import { evaluateClustering } from './clustering.js'
import { aggregate, meanOfSplits } from './cmteb/aggregate.js'
import type { CmtebData } from './cmteb/load.js'
import { type CmtebSet, CMTEB_TYPES, type Dialect } from './cmteb/tasks.js'
import { evaluateReranking, evaluateRetrieval, evaluateSts, type EvaluationContext, type Rules, type TaskScores } from './evaluators.js'
import { type Evaluation, summaryJson, type TaskOutcome, type TaskResult } from './evaluation.js'
import { limitData } from './limit.js'
import type { SklearnGeneration } from './numeric/logistic_regression.js'
import { type ModelMeta, mtebFolder, type SplitResult, writeModelMeta, writeMtebResult } from './results.js'
import { type EncodingProgress, runEmbedder, type RunEmbedder } from './run_embedder.js'
import { evaluatePairClassification } from './pair_classification.js'
import { type EvalTask, localTask } from './sources.js'
import { listTasks, resultFiles, selectTasks, type TaskType } from './tasks.js'

export interface EvaluateOptions extends RunOptions {
  /** folder with sts/*.jsonl, retrieval/NAME/, reranking/*.jsonl, classification/*.test.jsonl, clustering/*.jsonl, pairclass/*.jsonl */
  data: string
  /** words for selectTasks; default ['all'] */
  tasks?: readonly string[]
}

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
  /** called as each task starts and ends; a task may start while the one before it is being scored */
  onTask?: (task: EvalTask, outcome?: TaskOutcome) => void
  onProgress?: (task: EvalTask, progress: EncodingProgress) => void
  signal?: AbortSignal
}

/** What the scores depend on besides model and data. */
export interface ScoringRules {
  /** decides main scores and splits. Default: cmteb2023 (reranking by map, pairs by AP); the command line asks for mteb2 where it runs C-MTEB */
  dialect?: Dialect
  /** whose k-means and logistic regression. Default: 1.9 for mteb2, 1.8 for cmteb2023 */
  sklearn?: SklearnGeneration
  /** queries, pairs or texts of a task, for a quick look (limitData). Default: all */
  limit?: number
}

export interface Reuse {
  /** folder of vectors kept between runs; needs a model with a fingerprint */
  cache?: string
  /** 'finished' (the default) keeps a result in `out` of the same model, data and rules; 'never' computes every task */
  results?: 'finished' | 'never'
}

export interface BenchmarkNames {
  /** the set that averages are over; default cmn-31 */
  set?: CmtebSet
  /** the model's name and revision in result files */
  meta?: Partial<ModelMeta>
}

/** An embedder with what a BgeModel knows besides; all of it is optional. */
export type EvaluatedModel = Embedder & {
  readonly device?: SearchDevice & { readonly kind?: string }
  readonly instruction?: string | undefined
  readonly directory?: string | undefined
  readonly maxLength?: number | undefined
  fingerprint?(): Promise<string>
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

/** `evaluateTasks` of a data folder's tasks. Throws ERR_BGE_ARGUMENT for an unknown task, ERR_BGE_FILE for a folder without tasks. */
export async function evaluate(model: EvaluatedModel, options: EvaluateOptions): Promise<Evaluation> {
  const tasks = selectTasks(await listTasks(options.data), options.tasks ?? ['all'])
  return evaluateTasks(model, tasks.map(localTask), options)
}

/**
 * Evaluates a model. A task whose data is bad or whose vectors are not finite becomes a TaskFailure and the others go on. While a task is scored
 * the next one is encoded. Throws ERR_BGE_ARGUMENT, ERR_BGE_FILE for results that cannot be written, and the signal's reason.
 */
export async function evaluateTasks(model: EvaluatedModel, tasks: readonly EvalTask[], options: RunOptions = {}): Promise<Evaluation> {
  const { out, onTask, onProgress, reuse = {} } = options
  const files = resultFiles(tasks)
  const own = model.device ? undefined : await openDevice({ device: 'cpu' })
  const device = model.device ?? own!
  const fingerprint = out !== undefined || reuse.cache !== undefined ? ((await model.fingerprint?.()) ?? null) : null
  if (reuse.cache !== undefined && fingerprint === null)
    throw invalidArgument('cache', 'left out for a model without a fingerprint', reuse.cache)
  let encoding: EvalTask | undefined
  const embedder = runEmbedder(model, {
    ...(reuse.cache !== undefined && {
      directory: reuse.cache,
      space: { fingerprint: fingerprint!, device: model.device?.kind ?? 'other' },
    }),
    ...(onProgress && { onProgress: (progress: EncodingProgress) => encoding && onProgress(encoding, progress) }),
  })
  const run: Run = { model, embedder, device, fingerprint, settings: settings(model, options), options }
  const outcomes: (TaskOutcome & { file: string | null })[] = []
  const record = async (task: EvalTask, finished: Promise<Finished>): Promise<void> => {
    const { outcome: result, write } = await finished
    await write?.()
    outcomes.push({ ...result, file: 'error' in result || out === undefined ? null : files[outcomes.length]! })
    onTask?.(task, result)
  }
  let scoring: Promise<void> = Promise.resolve()
  let latest: Promise<unknown> = Promise.resolve()
  try {
    for (const [i, task] of tasks.entries()) {
      encoding = task
      onTask?.(task)
      let outcome!: Promise<Finished>
      await new Promise<void>((encoded) => {
        outcome = evaluateTask(run, task, files[i]!, encoded).finally(encoded)
        latest = outcome.catch(() => {})
      })
      await scoring
      scoring = record(task, outcome)
      scoring.catch(() => {}) // seen by the next await
    }
    await scoring
    const evaluation = summary(run, outcomes)
    if (out !== undefined) await writeFileAtomic(join(out, 'summary.json'), summaryJson(evaluation))
    return evaluation
  } finally {
    await latest // nothing of this run is left on the device
    embedder.close()
    own?.dispose()
  }
}

interface Run {
  readonly model: EvaluatedModel
  readonly embedder: RunEmbedder
  readonly device: SearchDevice
  readonly fingerprint: string | null
  readonly settings: Settings
  readonly options: RunOptions
}

/** The options with their defaults. */
interface Settings {
  readonly dialect: Dialect
  readonly sklearn: SklearnGeneration
  readonly limit: number | null
  readonly instruction: string
  readonly maxLength: number | null
}

function settings(model: EvaluatedModel, { instruction, maxLength, rules = {} }: RunOptions): Settings {
  const { dialect = 'cmteb2023', limit } = rules
  if (limit !== undefined && !(Number.isSafeInteger(limit) && limit >= 1)) throw invalidArgument('limit', 'an integer of at least 1', limit)
  return {
    dialect,
    sklearn: rules.sklearn ?? (dialect === 'mteb2' ? '1.9' : '1.8'),
    limit: limit ?? null,
    instruction: instruction === undefined ? (model.instruction ?? '') : resolveInstruction(instruction),
    maxLength: maxLength ?? null,
  }
}

interface Finished {
  readonly outcome: TaskOutcome
  /** files that are still to be written: one task at a time does that, and what goes wrong there ends the run */
  readonly write?: () => Promise<void>
}

async function evaluateTask(run: Run, task: EvalTask, file: string, onEncoded: () => void): Promise<Finished> {
  const { out, reuse } = run.options
  try {
    const key = run.fingerprint === null || out === undefined ? null : await resultKey(run, task)
    const finished = key === null || reuse?.results === 'never' ? undefined : await finishedResult(join(out!, file), key)
    if (finished !== undefined) return { outcome: finished }
    const start = performance.now()
    const data = await task.load()
    const splits = new Map<string, TaskScores>()
    for (const [i, [split, whole]] of [...data.splits].entries()) {
      const part = run.settings.limit === null ? whole : limitData(whole, run.settings.limit)
      splits.set(split, await score(run.embedder, part, context(run, task, i === data.splits.size - 1 ? onEncoded : undefined)))
    }
    const result = taskResult(run, task, splits, { key, notes: data.notes, seconds: (performance.now() - start) / 1000 })
    if (out === undefined) return { outcome: result }
    const write = async (): Promise<void> => {
      if (task.benchmark && data.revision !== null && run.settings.limit === null) await writeMteb(run, task, data.revision, splits, result)
      await writeFileAtomic(join(out, file), `${JSON.stringify(result, null, 2)}\n`)
    }
    return { outcome: result, write }
  } catch (error) {
    if (!(error instanceof BgeError) || !OF_ONE_TASK.includes(error.code)) throw error
    return { outcome: { task_name: task.name, type: task.type, error: { code: error.code, message: error.message } } }
  }
}

function context(
  { device, settings: { dialect, sklearn, instruction, maxLength }, options }: Run,
  { benchmark }: EvalTask,
  onEncoded?: () => void,
): EvaluationContext {
  const rules: Rules = {
    dialect,
    sklearn,
    // Ids of one's own data are not a benchmark's: a query and a document may well be numbered alike.
    identicalIds: benchmark === undefined ? 'keep' : dialect === 'cmteb2023' ? 'during' : benchmark.ignoreIdenticalIds ? 'after' : 'keep',
    experiments: benchmark?.experiments ?? 10,
    samplesPerLabel: benchmark?.samplesPerLabel ?? 32,
  }
  const encode = { ...(maxLength !== null && { maxLength }), ...(options.signal && { signal: options.signal }) }
  return { instruction, device, encode, rules, ...(onEncoded && { onEncoded }) }
}

function score(embedder: Embedder, data: CmtebData, context: EvaluationContext): Promise<TaskScores> {
  switch (data.type) {
    case 'sts':
      return evaluateSts(embedder, data, context)
    case 'retrieval':
      return evaluateRetrieval(embedder, data, context)
    case 'reranking':
      return evaluateReranking(embedder, data, context)
    case 'pairClassification':
      return evaluatePairClassification(embedder, data, context)
    case 'classification':
      return evaluateClassification(embedder, data, context)
    case 'clustering':
      return evaluateClustering(embedder, data, context)
  }
}

function taskResult(
  { model, settings }: Run,
  task: EvalTask,
  splits: ReadonlyMap<string, TaskScores>,
  { key, notes, seconds }: { key: string | null; notes: readonly string[]; seconds: number },
): TaskResult {
  const { dialect, sklearn, limit } = settings
  const metric = mainMetric(task.type, dialect)
  const all = [...splits.values()]
  const over = (
    pick: (part: TaskScores) => Readonly<Record<string, number>>,
    combine: (values: number[]) => number,
  ): Record<string, number> =>
    Object.fromEntries(Object.keys(pick(all[0]!)).map((name) => [name, combine(all.map((part) => pick(part)[name]!))]))
  const scores = over((part) => part.scores, meanOfSplits)
  return {
    task_name: task.name,
    type: task.type,
    main_score: scores[metric]!,
    main_metric: metric,
    scores,
    n: over(
      (part) => part.n,
      (values) => values.reduce((a, b) => a + b, 0),
    ),
    model: model.directory ?? null,
    instruction: CMTEB_TYPES[task.type].instruction === 'query' ? settings.instruction : '',
    max_length: settings.maxLength,
    seconds,
    dialect,
    sklearn,
    limit,
    notes,
    examples: all.flatMap((part) => part.examples),
    key,
  }
}

/** The metric that is a task's score. */
export function mainMetric(type: TaskType, dialect: Dialect): string {
  return CMTEB_TYPES[type].mainMetric[dialect]
}

async function writeMteb(
  run: Run,
  task: EvalTask,
  revision: string,
  splits: ReadonlyMap<string, TaskScores>,
  { main_metric, seconds }: TaskResult,
): Promise<void> {
  const folder = mtebFolder(run.options.out!, meta(run))
  const entries = [...splits].map(([split, { scores, parts = {} }]): [string, SplitResult] => [
    split,
    { scores, parts, main_score: scores[main_metric]! },
  ])
  await writeModelMeta(folder, meta(run))
  await writeMtebResult(folder, task.benchmark!, { dialect: run.settings.dialect, revision, seconds, splits: new Map(entries) })
}

function meta({ model, fingerprint, settings, options }: Run): ModelMeta {
  const folder = model.directory?.split(/[\\/]/).findLast((part) => part !== '' && part !== '.')
  return {
    name: `local/${folder ?? 'model'}`,
    revision: fingerprint?.slice(0, 12) ?? 'no_revision_available',
    dims: model.dims,
    maxTokens: settings.maxLength ?? model.maxLength ?? null,
    parameters: null,
    usesInstructions: settings.instruction !== '',
    framework: 'PyTorch',
    ...options.benchmark?.meta,
  }
}

async function resultKey({ fingerprint, settings }: Run, task: EvalTask): Promise<string> {
  const parts = [RESULT_FORMAT, fingerprint, settings, task.type, task.name, await task.identity()]
  return createHash('sha256').update(JSON.stringify(parts)).digest('hex')
}

/** Counted up when an evaluator changes its numbers, so that no older result is taken for finished. */
const RESULT_FORMAT = 1

/** A result file that is whole and has the key; anything else there is written anew. */
async function finishedResult(file: string, key: string): Promise<TaskResult | undefined> {
  try {
    const result = JSON.parse(await readFile(file, 'utf8')) as TaskResult
    return result.key === key ? result : undefined
  } catch {
    return undefined
  }
}

function summary({ model, settings: { dialect, sklearn, limit }, options }: Run, outcomes: Evaluation['tasks']): Evaluation {
  const averages: Partial<Record<TaskType, number | null>> = {}
  for (const type of new Set(outcomes.map((outcome) => outcome.type))) {
    const ofType = outcomes.filter((outcome) => outcome.type === type)
    const scores = ofType.flatMap((outcome) => ('error' in outcome ? [] : [outcome.main_score]))
    averages[type] = scores.length < ofType.length ? null : meanOfSplits(scores)
  }
  const set = options.benchmark?.set
  const scores = new Map(outcomes.flatMap((outcome) => ('error' in outcome ? [] : [[outcome.task_name, outcome.main_score] as const])))
  const benchmark = set === undefined ? null : { ...aggregate(set, scores), dialect, sklearn, limit }
  return { model: model.directory ?? null, tasks: outcomes, averages, benchmark }
}

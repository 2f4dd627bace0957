import { join } from 'node:path'
import { writeFileAtomic } from '../data/atomic.js'
import { BgeError, type BgeErrorCode } from '../errors.js'
import type { Embedder } from '../model/embedder.js'
import { resolveInstruction } from '../model/instruction.js'
import type { SearchDevice } from '../model/search.js'
import { openDevice } from '../native.js'
import { loadReranking, loadRetrieval, loadSts } from './data.js'
import { evaluateReranking, evaluateRetrieval, evaluateSts, type EvaluationContext, type TaskScores } from './evaluators.js'
import { listTasks, resultFiles, selectTasks, type Task, type TaskType } from './tasks.js'

export interface EvaluateOptions {
  /** folder with sts/*.jsonl, retrieval/NAME/, reranking/*.jsonl */
  data: string
  /** words for selectTasks; default ['all'] */
  tasks?: readonly string[]
  /** folder for NAME.json per task and summary.json; without it nothing is written */
  out?: string
  /** put before the queries of retrieval and reranking ('zh' and 'en' name BGE's); default: the model's own, else none */
  instruction?: string
  /** tokens, [CLS] and [SEP] included; default: the model's */
  maxLength?: number
  /** called as each task starts and ends */
  onTask?: (task: Task, outcome?: TaskOutcome) => void
  signal?: AbortSignal
}

/** One task's result: the contents of NAME.json. */
export interface TaskResult {
  readonly task_name: string
  readonly type: TaskType
  /** scores[main_metric], 0..1 (STS: -1..1) */
  readonly main_score: number
  readonly main_metric: string
  readonly scores: Readonly<Record<string, number>>
  readonly n: Readonly<Record<string, number>>
  /** the model folder; null for an embedder that has none */
  readonly model: string | null
  /** what was put before queries; STS: '' */
  readonly instruction: string
  readonly max_length: number | null
  readonly seconds: number
}

/** A task that has no score, and why. */
export interface TaskFailure {
  readonly task_name: string
  readonly type: TaskType
  readonly error: { readonly code: BgeErrorCode; readonly message: string }
}

export type TaskOutcome = TaskResult | TaskFailure

/** The contents of summary.json. */
export interface Evaluation {
  readonly model: string | null
  readonly tasks: readonly (TaskOutcome & { readonly file: string | null })[]
  /** mean of main_score over the tasks of a type, null where a task of it failed: averages have no holes */
  readonly averages: Readonly<Partial<Record<TaskType, number | null>>>
}

/** An embedder with what a BgeModel knows besides; all of it is optional. */
export type EvaluatedModel = Embedder & {
  readonly device?: SearchDevice
  readonly instruction?: string | undefined
  readonly directory?: string | undefined
}

const TYPES: Readonly<
  Record<TaskType, { main: string; run: (embedder: Embedder, path: string, context: EvaluationContext) => Promise<TaskScores> }>
> = {
  sts: { main: 'cosine_spearman', run: async (embedder, path, context) => evaluateSts(embedder, await loadSts(path), context) },
  retrieval: {
    main: 'ndcg_at_10',
    run: async (embedder, path, context) => evaluateRetrieval(embedder, await loadRetrieval(path), context),
  },
  reranking: { main: 'map', run: async (embedder, path, context) => evaluateReranking(embedder, await loadReranking(path), context) },
}

/** Errors of one task or of what a model makes of it: the other tasks go on. */
const OF_ONE_TASK: readonly BgeErrorCode[] = ['ERR_BGE_DATA', 'ERR_BGE_FILE', 'ERR_BGE_NON_FINITE']

/**
 * Evaluates a model on local tasks. A task whose data is bad or whose vectors are not finite becomes a TaskFailure and the others go on.
 * Throws ERR_BGE_ARGUMENT for an unknown task, ERR_BGE_FILE for a data folder without tasks or results that cannot be written, and the
 * signal's reason.
 */
export async function evaluate(model: EvaluatedModel, options: EvaluateOptions): Promise<Evaluation> {
  const { out, signal, maxLength } = options
  const tasks = selectTasks(await listTasks(options.data), options.tasks ?? ['all'])
  const files = resultFiles(tasks)
  const own = model.device ? undefined : await openDevice({ device: 'cpu' })
  const context: EvaluationContext = {
    instruction: options.instruction === undefined ? (model.instruction ?? '') : resolveInstruction(options.instruction),
    device: model.device ?? own!,
    encode: { ...(maxLength !== undefined && { maxLength }), ...(signal && { signal }) },
  }
  try {
    const outcomes: (TaskOutcome & { file: string | null })[] = []
    for (const [i, task] of tasks.entries()) {
      options.onTask?.(task)
      const outcome = await evaluateTask(model, task, context)
      const file = 'error' in outcome || out === undefined ? null : files[i]!
      if (file !== null) await writeFileAtomic(join(out!, file), JSON.stringify(outcome, null, 2) + '\n')
      outcomes.push({ ...outcome, file })
      options.onTask?.(task, outcome)
    }
    const evaluation = { model: model.directory ?? null, tasks: outcomes, averages: averages(outcomes) }
    if (out !== undefined) await writeFileAtomic(join(out, 'summary.json'), JSON.stringify(evaluation, null, 2) + '\n')
    return evaluation
  } finally {
    own?.dispose()
  }
}

async function evaluateTask(model: EvaluatedModel, task: Task, context: EvaluationContext): Promise<TaskOutcome> {
  const start = performance.now()
  const { main, run } = TYPES[task.type]
  try {
    const { scores, n } = await run(model, task.path, context)
    return {
      task_name: task.name,
      type: task.type,
      main_score: scores[main]!,
      main_metric: main,
      scores,
      n,
      model: model.directory ?? null,
      instruction: task.type === 'sts' ? '' : context.instruction,
      max_length: context.encode.maxLength ?? null,
      seconds: (performance.now() - start) / 1000,
    }
  } catch (error) {
    if (!(error instanceof BgeError) || !OF_ONE_TASK.includes(error.code)) throw error
    return { task_name: task.name, type: task.type, error: { code: error.code, message: error.message } }
  }
}

function averages(outcomes: readonly TaskOutcome[]): Partial<Record<TaskType, number | null>> {
  const result: Partial<Record<TaskType, number | null>> = {}
  for (const type of new Set(outcomes.map((outcome) => outcome.type))) {
    const ofType = outcomes.filter((outcome) => outcome.type === type)
    const scores = ofType.flatMap((outcome) => ('error' in outcome ? [] : [outcome.main_score]))
    result[type] = scores.length < ofType.length ? null : scores.reduce((a, b) => a + b, 0) / scores.length
  }
  return result
}

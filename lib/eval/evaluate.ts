import { join } from 'node:path'
import { writeFileAtomic } from '../data/atomic.js'
import { invalidArgument } from '../errors.js'
import type { Embedder } from '../model/embedder.js'
import { arithmeticOf } from '../model/vector_cache.js'
import { openDevice } from '../native.js'
import { evaluateClassification } from './classification.js'
import { evaluateClustering } from './clustering.js'
import { aggregate, meanOfSplits } from './cmteb/aggregate.js'
import type { CmtebData } from './cmteb/load.js'
import { CMTEB_TYPES, type Dialect } from './cmteb/tasks.js'
import { evaluateReranking, evaluateRetrieval, evaluateSts, type EvaluationContext, type TaskScores } from './evaluators.js'
import { type Evaluation, summaryJson, type TaskOutcome, type TaskResult } from './evaluation.js'
import { evaluatePairClassification } from './pair_classification.js'
import { type Plan, planTask, planTasks } from './plan.js'
import { type ModelMeta, mtebFolder, type SplitResult, writeModelMeta, writeMtebResult } from './results.js'
import { contextOf, type EvaluatedModel, limited, lowType, orFailure, type Run, type RunOptions, settingsOf } from './run.js'
import { type EncodingProgress, runEmbedder } from './run_embedder.js'
import { type RunMeter, runMeter } from './run_meter.js'
import { packageVersions, writeRunSettings } from './run_settings.js'
import { type EvalTask, localTask } from './sources.js'
import { listTasks, resultFiles, selectTasks, type TaskType } from './tasks.js'

export type { BenchmarkNames, EvaluatedModel, Reuse, RunOptions, ScoringRules, TaskProgress } from './run.js'

/** Of `evaluate`: a folder of tasks of your own. */
export interface EvaluateOptions extends RunOptions {
  /** folder with sts/*.jsonl, retrieval/NAME/, reranking/*.jsonl, classification/*.test.jsonl, clustering/*.jsonl, pairclass/*.jsonl */
  data: string
  /** words for selectTasks; default ['all'] */
  tasks?: readonly string[]
}

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
  let encoding: { task: EvalTask; meter: RunMeter } | undefined
  const report = ({ task, meter }: NonNullable<typeof encoding>, progress: EncodingProgress): void =>
    onProgress?.(task, { ...progress, run: meter.progress() })
  const embedder = runEmbedder(model, {
    ...(reuse.cache !== undefined && {
      directory: reuse.cache,
      space: { fingerprint: fingerprint!, device: arithmeticOf(model.device) },
    }),
    ...(model.maxLength !== undefined && { longest: model.maxLength }),
    onProgress: (progress) => encoding && report(encoding, progress),
  })
  const run: Run = { model, embedder, device, fingerprint, settings: settingsOf(model, options), options }
  const outcomes: (TaskOutcome & { file: string | null })[] = []
  const record = async (task: EvalTask, finished: Promise<Finished>): Promise<void> => {
    const { outcome: result, write, told } = await finished
    await write?.()
    outcomes.push({ ...result, file: 'error' in result || out === undefined ? null : files[outcomes.length]! })
    if (told !== true) onTask?.(task, result)
  }
  let scoring: Promise<void> = Promise.resolve()
  let latest: Promise<unknown> = Promise.resolve()
  try {
    const plans = onProgress && (await planTasks(run, tasks, files))
    const meter =
      plans &&
      runMeter(
        plans.map(({ tokens }) => tokens),
        embedder.work,
      )
    for (const [i, task] of tasks.entries()) {
      meter?.begin(i)
      encoding = meter && { task, meter }
      if (plans?.[i]?.outcome === undefined) onTask?.(task)
      let outcome!: Promise<Finished>
      await new Promise<void>((encoded) => {
        outcome = evaluateTask(run, task, { file: files[i]!, plan: plans?.[i] }, encoded).finally(encoded)
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

interface Finished {
  readonly outcome: TaskOutcome
  /** files that are still to be written: one task at a time does that, and what goes wrong there ends the run */
  readonly write?: () => Promise<void>
  /** onTask has had the outcome already */
  readonly told?: boolean
}

async function evaluateTask(
  run: Run,
  task: EvalTask,
  { file, plan }: { file: string; plan: Plan | undefined },
  onEncoded: () => void,
): Promise<Finished> {
  const { out } = run.options
  const { key, outcome } = plan ?? (await planTask(run, task, file, 'nothing'))
  if (outcome !== undefined) return { outcome, told: plan !== undefined && 'error' in outcome }
  const work = async (): Promise<Finished> => {
    const start = performance.now()
    const data = await task.load()
    const splits = new Map<string, TaskScores>()
    for (const [i, [split, whole]] of [...data.splits].entries()) {
      const last = i === data.splits.size - 1
      splits.set(split, await score(run.embedder, limited(run, whole), contextOf(run, task, last ? onEncoded : undefined)))
    }
    const result = taskResult(run, task, splits, { key, notes: data.notes, seconds: (performance.now() - start) / 1000 })
    if (out === undefined) return { outcome: result }
    const write = async (): Promise<void> => {
      if (task.benchmark && data.revision !== null && run.settings.limit === null) await writeMteb(run, task, data.revision, splits, result)
      await writeFileAtomic(join(out, file), `${JSON.stringify(result, null, 2)}\n`)
    }
    return { outcome: result, write }
  }
  return orFailure(task, work, (failure) => ({ outcome: failure }))
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
  { main_metric, seconds, instruction }: TaskResult,
): Promise<void> {
  const folder = mtebFolder(run.options.out!, meta(run))
  const entries = [...splits].map(([split, { scores, parts = {} }]): [string, SplitResult] => [
    split,
    { scores, parts, main_score: scores[main_metric]! },
  ])
  await writeModelMeta(folder, meta(run))
  await writeMtebResult(folder, task.benchmark!, { dialect: run.settings.dialect, revision, seconds, splits: new Map(entries) })
  const { maxLength, dialect, sklearn } = run.settings
  const low = lowType(run.model)
  await writeRunSettings(folder, {
    task: task.name,
    splits: [...splits.keys()],
    subsets: [task.benchmark!.subset],
    version: await packageVersions(sklearn),
    encode_kwargs: { instruction, max_length: maxLength ?? run.model.maxLength ?? null, dialect, ...(low && { dtype: low }) },
  })
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

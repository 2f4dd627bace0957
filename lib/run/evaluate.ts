import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { writeFileAtomic } from '../data/atomic.js'
import { keyOf } from '../data/once.js'
import { BgeError } from '../errors.js'
import { evaluateBenchmark } from '../eval/benchmark.js'
import type { CmtebSet } from '../eval/cmteb/tasks.js'
import { evaluate, evaluateTasks } from '../eval/evaluate.js'
import type { Evaluation, TaskResult } from '../eval/evaluation.js'
import type { RunOptions } from '../eval/run.js'
import type { EvalTask } from '../eval/sources.js'
import type { BgeModel } from '../model/model.js'
import { type Comparison, comparePaired } from './compare.js'
import { ownTask } from './own_task.js'

/** The score of a task, 0..1. */
export interface TaskScore {
  readonly task: string
  readonly type: string
  readonly metric: string
  readonly score: number
  /** the step compared with; absent: none, or it has no such task */
  readonly before?: number
}

/** A query of one's own data, and how well its passages were ranked. */
export interface QueryScore {
  readonly text: string
  readonly group: number
  /** nDCG@10 */
  readonly score: number
}

/** What an evaluate step writes to result.json. */
export interface EvaluationResult {
  readonly scores: readonly TaskScore[]
  /** one's own data: all ranking measures, and each query */
  readonly own?: {
    /** of texts and judgments */
    readonly data: string
    readonly passages: number
    /** what stood before the queries: of those tried the one with the best score */
    readonly instruction: string
    readonly tried: readonly { readonly instruction: string; readonly score: number }[]
    readonly measures: Readonly<Record<string, number>>
    readonly queries: readonly QueryScore[]
  }
  /** with `against` and data of one's own */
  readonly comparison?: Comparison
}

export interface EvaluateStepOptions {
  readonly place: string
  readonly data: readonly string[]
  readonly corpus: readonly string[]
  readonly tasks?: string
  readonly cmteb?: CmtebSet
  readonly cmtebData?: string
  /** result.json of the step to compare with, and its name */
  readonly against?: { readonly file: string; readonly step: string }
  readonly seed: number
  /** put before queries; of several the one that does best on one's own data, so that a model is never made to look bad by the wrong one */
  readonly instructions: readonly string[]
  readonly run: Pick<RunOptions, 'maxLength' | 'threads' | 'signal' | 'onTask' | 'onProgress'>
}

/** Scores a model, compares it with an earlier result, and writes result.json. A task that fails ends the step; those that are done are kept. */
export async function evaluateStep(model: BgeModel, options: EvaluateStepOptions): Promise<EvaluationResult> {
  const { place, data, tasks, cmteb, cmtebData, against, seed, instructions } = options
  const before = against && (JSON.parse(await readFile(against.file, 'utf8')) as EvaluationResult)
  const own = data.length === 0 ? undefined : await scoreOwn(model, options)
  const run = { ...options.run, instruction: own?.own.instruction ?? instructions[0]! }
  const results: TaskResult[] = []
  if (tasks !== undefined) results.push(...finished(await evaluate(model, { ...run, data: tasks, out: join(place, 'tasks') })))
  if (cmteb !== undefined) {
    const source = cmtebData === undefined ? {} : { data: cmtebData }
    results.push(...finished(await evaluateBenchmark(model, { set: cmteb, source }, { ...run, out: join(place, 'cmteb') })))
  }
  if (own) results.push(own.result)
  const scores = results.map(({ task_name: task, type, main_metric: metric, main_score: score }): TaskScore => {
    const known = before?.scores.find((one) => one.task === task && one.type === type && one.metric === metric)
    return { task, type, metric, score, ...(known && { before: known.score }) }
  })
  const comparison = own && before?.own && (await compareOwn(before.own, own.own, seed, against!.step))
  const result = { scores, ...(own && { own: own.own }), ...(comparison && { comparison }) }
  await writeFileAtomic(join(place, 'result.json'), `${JSON.stringify(result, null, 2)}\n`)
  return result
}

/** nDCG@10 of rows alone, for checkpoints. */
export async function devScore(
  model: BgeModel,
  data: readonly string[],
  run: Pick<RunOptions, 'instruction' | 'threads' | 'signal'>,
): Promise<number> {
  const { task } = await ownTask(data, [])
  return finished(await evaluateTasks(model, [task], run))[0]!.main_score
}

type Own = NonNullable<EvaluationResult['own']>

async function scoreOwn(
  model: BgeModel,
  { data, corpus, instructions, run }: EvaluateStepOptions,
): Promise<{ result: TaskResult; own: Own }> {
  const { task, queries, groups, passages } = await ownTask(data, corpus)
  const tries: { result: TaskResult; scored: QueryScore[]; instruction: string }[] = []
  for (const instruction of instructions) {
    const scored: QueryScore[] = []
    const onQuery = (_: unknown, id: string, score: number): void => {
      scored.push({ text: queries.get(id)!, group: groups.get(id)!, score })
    }
    const [result] = finished(await evaluateTasks(model, [task], { ...run, instruction, onQuery }))
    tries.push({ result: result!, scored, instruction })
  }
  const best = tries.reduce((a, b) => (b.result.main_score > a.result.main_score ? b : a))
  const own = {
    data: keyOf(await contentOf(task)),
    passages,
    instruction: best.instruction,
    tried: tries.map(({ instruction, result }) => ({ instruction, score: result.main_score })),
    measures: best.result.scores,
    queries: best.scored,
  }
  return { result: best.result, own }
}

/** Texts and judgments, for a hash. */
async function contentOf(task: EvalTask): Promise<unknown> {
  const split = (await task.load()).splits.get('test')!
  if (split.type !== 'retrieval') throw new BgeError('ERR_BGE_INTERNAL', `${task.name} must be retrieval, but is ${split.type}`)
  return [[...split.corpus], [...split.queries], [...split.qrels].map(([id, judged]) => [id, [...judged]])]
}

async function compareOwn(before: Own, after: Own, seed: number, step: string): Promise<Comparison> {
  if (before.data !== after.data) {
    throw new BgeError(
      'ERR_BGE_RECIPE',
      `an evaluation against ${step} must have its data and corpus, but has others: a difference would mean nothing`,
      { details: { step } },
    )
  }
  return comparePaired(
    after.queries.map(({ score, group }, i) => ({ before: before.queries[i]!.score, after: score, group })),
    seed,
  )
}

function finished({ tasks }: Evaluation): TaskResult[] {
  return tasks.map((task) => {
    if ('error' in task) throw new BgeError(task.error.code, `${task.type}/${task.task_name}: ${task.error.message}`)
    return task
  })
}

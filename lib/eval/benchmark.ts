import { invalidArgument } from '../errors.js'
import type { TaskSource } from './cmteb/repos.js'
import { CMTEB_SETS, type CmtebSet, cmtebTasks, type Dialect } from './cmteb/tasks.js'
import { evaluateTasks } from './evaluate.js'
import type { Evaluation } from './evaluation.js'
import type { EvaluatedModel, RunOptions } from './run.js'
import { benchmarkTask, type EvalTask } from './sources.js'

/** Of `evaluateBenchmark`: which tasks of C-MTEB, and where their data is. */
export interface BenchmarkChoice {
  /** 'cmn-31' (default): mteb's `MTEB(cmn, v1)`; 'paper-35': the table of C-Pack; 'mini': a part of twelve tasks (MINI_TASKS). Averages are over it */
  set?: CmtebSet
  /** names or types inside the set; default ['all'] */
  tasks?: readonly string[]
  /** where the data is: a folder (`data`), else the hub's cache, else the hub */
  source?: TaskSource
}

/**
 * Scores a model on C-MTEB, as `bge eval --benchmark` does. Dialect mteb2 unless `options.rules` says otherwise; with `options.out`, result files
 * that mteb reads. Tasks that fail are in the result, and no average covers them up. Throws as evaluateTasks, and ERR_BGE_ARGUMENT for a task
 * outside the set.
 * @example
 * const model = await BgeModel.load('model')
 * const evaluation = await evaluateBenchmark(model, { tasks: ['sts'], source: { data: 'bundle' } }, { out: 'results' })
 */
export async function evaluateBenchmark(
  model: EvaluatedModel,
  choice: BenchmarkChoice = {},
  options: RunOptions = {},
): Promise<Evaluation> {
  const { set = 'cmn-31' } = choice
  const dialect = options.rules?.dialect ?? 'mteb2'
  return evaluateTasks(model, benchmarkTasks({ ...choice, set }, dialect), {
    ...options,
    rules: { ...(set === 'mini' && { limit: 'mini' }), ...options.rules, dialect },
    benchmark: { ...options.benchmark, set },
  })
}

/** The chosen tasks, ready to be evaluated. Throws ERR_BGE_ARGUMENT for a task outside the set. */
export function benchmarkTasks({ set, tasks = ['all'], source = {} }: BenchmarkChoice & { set: CmtebSet }, dialect: Dialect): EvalTask[] {
  const wanted = tasks.includes('all') ? CMTEB_SETS[set] : cmtebTasks(tasks)
  const outside = wanted.find((task) => !CMTEB_SETS[set].includes(task))
  if (outside !== undefined) throw invalidArgument('tasks', `tasks of ${set}`, outside.name)
  return wanted.map((task) => benchmarkTask(task, dialect, source))
}

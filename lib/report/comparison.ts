import { aggregate, type CmtebAverages } from '../eval/cmteb/aggregate.js'
import { PUBLISHED, publishedScores } from '../eval/cmteb/published.js'
import { CMTEB_SETS, CMTEB_TYPES, type Dialect } from '../eval/cmteb/tasks.js'
import type { Evaluation } from '../eval/evaluation.js'
import type { Baseline } from '../eval/results.js'
import type { TaskType } from '../eval/tasks.js'
import { invalidArgument } from '../errors.js'

/** Another model beside the evaluated one. */
export interface Other extends Baseline {
  /** a sentence about where the numbers are from */
  readonly source: string
}

/** One task of the table: scores x100. */
export interface Row {
  readonly type: TaskType
  readonly name: string
  readonly metric: string
  /** null: failed */
  readonly score: number | null
  /** of each Other, null where it has none */
  readonly others: readonly (number | null)[]
}

/** A mean of the table, and over what. */
export interface MeanRow {
  readonly label: string
  readonly score: number | null
  readonly others: readonly (number | null)[]
  /** where score is null: why */
  readonly missing: readonly string[]
}

export interface Comparison {
  readonly rows: readonly Row[]
  readonly means: readonly MeanRow[]
  readonly others: readonly Other[]
}

/** Published scores of a model in a dialect (cmteb.md 4). Throws ERR_BGE_ARGUMENT naming the models there are. */
export function published(model: string, dialect: Dialect): Other {
  const found = publishedScores(model)
  if (found === undefined) throw invalidArgument('--compare', `one of ${PUBLISHED.map((scores) => scores.model).join(', ')}`, model)
  const tasks = dialect === 'mteb2' ? found.tasks : { ...found.tasks, ...found.cosineAp }
  return { name: found.model, scores: new Map(Object.entries(tasks).map(([name, score]) => [name, score / 100])), source: found.source }
}

/** Puts an evaluation beside other models, x100. A mean is there only where every task of it has a score. */
export function compare(evaluation: Evaluation, others: readonly Other[]): Comparison {
  const { tasks, averages, benchmark } = evaluation
  const rows = tasks.map((task): Row => {
    const score = 'error' in task ? null : 100 * task.main_score
    const of = ({ scores }: Other): number | undefined => scores.get(`${task.type}/${task.task_name}`) ?? scores.get(task.task_name)
    const metric = 'error' in task ? task.error.code : task.main_metric
    return { type: task.type, name: task.task_name, metric, score, others: others.map((other) => percent(of(other))) }
  })
  if (benchmark === null) {
    const means = Object.entries(averages).flatMap(([type, mean]): MeanRow[] => {
      const ofType = rows.filter((row) => row.type === type)
      if (ofType.length < 2) return []
      const missing = ofType.filter((row) => row.score === null).map((row) => row.name)
      return [
        {
          label: `mean of ${ofType.length} ${type}`,
          score: percent(mean),
          others: others.map((_, i) => meanOrNull(ofType.map((row) => row.others[i]!))),
          missing,
        },
      ]
    })
    return { rows, means, others }
  }
  const all = [benchmark, ...others.map((other) => aggregate(benchmark.set, other.scores))]
  const mean = (label: string, pick: (averages: CmtebAverages) => number | null, missing: readonly string[]): MeanRow => {
    const [score, ...rest] = all.map((averages) => percent(pick(averages)))
    return { label, score: score!, others: rest, missing }
  }
  const types = Object.keys(benchmark.types) as TaskType[]
  const missingOf = (type: TaskType): string[] =>
    CMTEB_SETS[benchmark.set].filter((task) => task.type === type && benchmark.missing.includes(task.name)).map((task) => task.name)
  const means = [
    ...types.map((type) => mean(CMTEB_TYPES[type].displayName, (averages) => averages.types[type], missingOf(type))),
    mean(`Mean(Task) of ${benchmark.set}, ${benchmark.tasks} tasks`, (averages) => averages.meanTask, benchmark.missing),
    mean(`Mean(TaskType) of ${benchmark.set}`, (averages) => averages.meanTaskType, benchmark.missing),
  ]
  return { rows, means, others }
}

function meanOrNull(values: readonly (number | null)[]): number | null {
  return values.some((value) => value === null) ? null : values.reduce<number>((sum, value) => sum + value!, 0) / values.length
}

function percent(score: number | null | undefined): number | null {
  return score === null || score === undefined ? null : 100 * score
}

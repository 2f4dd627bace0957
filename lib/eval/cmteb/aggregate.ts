import { CMTEB_SETS, type CmtebSet, type CmtebTaskType } from './tasks.js'

/** Averages over a named set. A mean is null where a task of it has no score: an average has no holes. */
export interface CmtebAverages {
  readonly set: CmtebSet
  /** tasks in the set, and the names of those without a score */
  readonly tasks: number
  readonly missing: readonly string[]
  /** Mean(Task): over all tasks of the set */
  readonly meanTask: number | null
  /** Mean(TaskType): over the means of the six types */
  readonly meanTaskType: number | null
  readonly types: Readonly<Record<CmtebTaskType, number | null>>
}

/** The score of a task from those of its splits: their mean. */
export function meanOfSplits(scores: readonly number[]): number {
  return scores.reduce((a, b) => a + b, 0) / scores.length
}

/** `scores`: task name -> main score of one dialect, in any unit; names outside the set are ignored. */
export function aggregate(set: CmtebSet, scores: ReadonlyMap<string, number>): CmtebAverages {
  const tasks = CMTEB_SETS[set]
  const mean = (names: readonly string[]): number | null => {
    const values = names.map((name) => scores.get(name))
    return values.every((value) => value !== undefined) ? meanOfSplits(values) : null
  }
  const types = {} as Record<CmtebTaskType, number | null>
  for (const type of new Set(tasks.map((task) => task.type)))
    types[type] = mean(tasks.filter((task) => task.type === type).map((task) => task.name))
  const means = Object.values(types)
  return {
    set,
    tasks: tasks.length,
    missing: tasks.map((task) => task.name).filter((name) => !scores.has(name)),
    meanTask: mean(tasks.map((task) => task.name)),
    meanTaskType: means.every((value) => value !== null) ? meanOfSplits(means) : null,
    types,
  }
}

import type { BgeErrorCode } from '../errors.js'
import type { CmtebAverages } from './cmteb/aggregate.js'
import type { Dialect } from './cmteb/tasks.js'
import type { Example } from './examples.js'
import type { Limit } from './limit.js'
import type { SklearnGeneration } from './numeric/logistic_regression.js'
import type { TaskType } from './tasks.js'

/** One task's result: the contents of NAME.json. */
export interface TaskResult {
  readonly task_name: string
  readonly type: TaskType
  /** scores[main_metric], 0..1 (STS: -1..1); the mean over the splits */
  readonly main_score: number
  readonly main_metric: string
  readonly scores: Readonly<Record<string, number>>
  readonly n: Readonly<Record<string, number>>
  /** the model folder; null for an embedder that has none */
  readonly model: string | null
  /** what was put before queries; '' for other types */
  readonly instruction: string
  readonly max_length: number | null
  readonly seconds: number
  readonly dialect: Dialect
  readonly sklearn: SklearnGeneration
  /** null: the whole task */
  readonly limit: Limit | null
  readonly notes: readonly string[]
  readonly examples: readonly Example[]
  /** changes when the model, the data or a rule does; null for a model without a fingerprint */
  readonly key: string | null
}

/** A task that has no score, and why. */
export interface TaskFailure {
  readonly task_name: string
  readonly type: TaskType
  readonly error: { readonly code: BgeErrorCode; readonly message: string }
}

/** A task's scores, or why it has none: one task that fails does not end the others. */
export type TaskOutcome = TaskResult | TaskFailure

/** The contents of summary.json. */
export interface Evaluation {
  readonly model: string | null
  readonly tasks: readonly (TaskOutcome & { readonly file: string | null })[]
  /** mean of main_score over the tasks of a type, null where a task of it failed: averages have no holes */
  readonly averages: Readonly<Partial<Record<TaskType, number | null>>>
  /** where tasks of C-MTEB were run: averages over the named set, null where one of its tasks has no score */
  readonly benchmark:
    | (CmtebAverages & { readonly dialect: Dialect; readonly sklearn: SklearnGeneration; readonly limit: Limit | null })
    | null
}

/** The text of summary.json: everything but the examples, which stay in NAME.json. */
export function summaryJson(evaluation: Evaluation): string {
  return `${JSON.stringify(evaluation, (name, value: unknown) => (name === 'examples' ? undefined : value), 2)}\n`
}

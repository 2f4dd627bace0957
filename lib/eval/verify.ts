import { readFile } from 'node:fs/promises'
import { BgeError } from '../errors.js'
import type { Evaluation } from './evaluation.js'

/** Known-good scores of a model folder. */
export interface KnownScores {
  /** the largest difference that is no failure, on the scale 0..1. Default 0.001, that of mteb's results repository */
  readonly tolerance: number
  /** task (`NAME` or `TYPE/NAME`) -> metric -> score 0..1 */
  readonly tasks: Readonly<Record<string, Readonly<Record<string, number>>>>
}

/** One number that was checked. */
export interface Verified {
  readonly task: string
  readonly metric: string
  readonly expected: number
  /** null where the task has no score, or none of this name */
  readonly actual: number | null
  readonly ok: boolean
}

const TOLERANCE = 0.001

/**
 * Reads `{"tolerance": 0.001, "tasks": {"sts/ATEC": {"cosine_spearman": 0.43}}}`, or the summary.json of an earlier run (its main scores).
 * Throws ERR_BGE_FILE and ERR_BGE_DATA.
 */
export async function readKnownScores(file: string): Promise<KnownScores> {
  const text = await readFile(file, 'utf8').catch((cause: unknown) => {
    throw new BgeError('ERR_BGE_FILE', `${file} cannot be read: ${(cause as Error).message}`, { cause })
  })
  let content: { tolerance?: unknown; tasks?: unknown } | undefined
  try {
    content = JSON.parse(text) as typeof content
  } catch {
    // said below
  }
  const tolerance = content?.tolerance ?? TOLERANCE
  const tasks = Array.isArray(content?.tasks) ? ofSummary(content.tasks as Evaluation['tasks']) : content?.tasks
  const isScores = (scores: unknown): boolean =>
    scores !== null &&
    typeof scores === 'object' &&
    Object.values(scores).every((score) => typeof score === 'number' && Number.isFinite(score)) &&
    Object.keys(scores).length > 0
  const fits = tasks !== null && typeof tasks === 'object' && Object.keys(tasks).length > 0 && Object.values(tasks).every(isScores)
  if (!fits || typeof tolerance !== 'number' || !(tolerance >= 0)) {
    throw new BgeError(
      'ERR_BGE_DATA',
      `${file} must be {"tolerance": number, "tasks": {"NAME": {"METRIC": score, ...}, ...}} or the summary.json of a run with scores`,
    )
  }
  return { tolerance, tasks: tasks as KnownScores['tasks'] }
}

function ofSummary(tasks: Evaluation['tasks']): KnownScores['tasks'] {
  return Object.fromEntries(
    tasks.flatMap((task) => ('error' in task ? [] : [[`${task.type}/${task.task_name}`, { [task.main_metric]: task.main_score }]])),
  )
}

/** Compares every known number. A task that did not run or failed is a difference, not a gap. */
export function verify({ tolerance, tasks }: KnownScores, evaluation: Evaluation): Verified[] {
  return Object.entries(tasks).flatMap(([name, scores]) => {
    const result = evaluation.tasks.find((task) => name === task.task_name || name === `${task.type}/${task.task_name}`)
    const actuals: Readonly<Record<string, number>> =
      result === undefined || 'error' in result ? {} : { main_score: result.main_score, ...result.scores }
    return Object.entries(scores).map(([metric, expected]) => {
      const actual = actuals[metric] ?? null
      return { task: name, metric, expected, actual, ok: actual !== null && Math.abs(actual - expected) <= tolerance }
    })
  })
}

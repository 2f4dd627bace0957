import { rm } from 'node:fs/promises'
import { join } from 'node:path'
import { writeFileAtomic } from '../data/atomic.js'
import { BgeError, invalidArgument } from '../errors.js'
import { evaluateTasks } from '../eval/evaluate.js'
import type { EvalTask } from '../eval/sources.js'
import { mergeModels } from '../model/merge.js'
import { BgeModel, type LoadOptions } from '../model/model.js'
import { sweepPage } from './page.js'

/** Of `sweepMerge`. */
export interface SweepOptions {
  /** two model folders of one shape and tokenizer */
  readonly models: readonly [a: string, b: string]
  /** weights of the first model, 0 to 1; the second has the rest */
  readonly alphas: readonly number[]
  /** two tasks, such as a general one and one of the own domain: what one gains the other may lose */
  readonly tasks: readonly [EvalTask, EvalTask]
  /** folder for sweep.json, sweep.html, the scores of each alpha, and model/, the best by the mean of both scores */
  readonly out: string
  /** how models are loaded to be scored */
  readonly load?: LoadOptions
  readonly onPoint?: (point: SweepPoint) => void
  readonly signal?: AbortSignal
}

/** The scores of one merged model. */
export interface SweepPoint {
  readonly alpha: number
  /** main scores of the two tasks, 0..1 (STS: -1..1) */
  readonly scores: readonly [number, number]
}

/** All points of a sweep, and the best. */
export interface SweepResult {
  readonly models: readonly [string, string]
  readonly tasks: readonly [{ readonly name: string; readonly metric: string }, { readonly name: string; readonly metric: string }]
  readonly points: readonly SweepPoint[]
  /** with the highest mean of the two scores, the first of equals; in model/ */
  readonly best: SweepPoint
}

/**
 * Scores alpha A + (1 - alpha) B for several alphas on two tasks and draws what one gains against what the other loses (LM-Cocktail, arXiv 2311.13534).
 * The choice is made on these very tasks, so its score is a little flattered: keep a third set to report.
 * Errors: ERR_BGE_ARGUMENT, ERR_BGE_MODEL_FORMAT for models that differ, those of a task's data, ERR_BGE_FILE, the signal's reason.
 */
export async function sweepMerge(options: SweepOptions): Promise<SweepResult> {
  const { models, alphas, tasks, out, load = {}, onPoint, signal } = options
  if (alphas.length === 0 || alphas.some((alpha) => !(alpha >= 0 && alpha <= 1))) {
    throw invalidArgument(
      'alphas',
      'one or more numbers from 0 to 1',
      alphas.length === 0 ? alphas : alphas.find((a) => !(a >= 0 && a <= 1)),
    )
  }
  const points: SweepPoint[] = []
  const metrics: string[] = []
  const scratch = join(out, 'merged')
  for (const alpha of [...new Set(alphas)].sort((a, b) => a - b)) {
    signal?.throwIfAborted()
    await merge(models, alpha, scratch)
    const model = await BgeModel.load(scratch, load)
    try {
      const { tasks: outcomes } = await evaluateTasks(model, tasks, { out: join(out, `alpha-${alpha}`), ...(signal && { signal }) })
      const scores = outcomes.map((outcome, i) => {
        if ('error' in outcome) throw new BgeError(outcome.error.code, outcome.error.message)
        metrics[i] = outcome.main_metric
        return outcome.main_score
      })
      points.push({ alpha, scores: scores as [number, number] })
    } finally {
      model.dispose()
    }
    onPoint?.(points.at(-1)!)
  }
  await rm(scratch, { recursive: true, force: true })
  const mean = ({ scores: [a, b] }: SweepPoint): number => (a + b) / 2
  const best = points.reduce((first, point) => (mean(point) > mean(first) ? point : first))
  const named = tasks.map(({ name }, i) => ({ name, metric: metrics[i]! })) as unknown as SweepResult['tasks']
  const result: SweepResult = { models, tasks: named, points, best }
  await merge(models, best.alpha, join(out, 'model'))
  await writeFileAtomic(join(out, 'sweep.json'), `${JSON.stringify(result, null, 2)}\n`)
  await writeFileAtomic(join(out, 'sweep.html'), sweepPage(result))
  return result
}

function merge([a, b]: readonly [string, string], alpha: number, out: string): Promise<void> {
  return mergeModels(
    [
      { model: a, weight: alpha },
      { model: b, weight: 1 - alpha },
    ],
    { out },
  )
}

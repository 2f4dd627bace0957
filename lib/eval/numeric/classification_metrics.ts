import { invalidArgument } from '../../errors.js'
import { averagePrecision } from '../metrics.js'

/** Scores of one set of predictions, 0..1. `ap` is there where the true labels have two classes. */
export interface ClassificationScores {
  readonly accuracy: number
  /** mean over the classes */
  readonly f1: number
  /** mean over the classes, weighted by their number of true labels */
  readonly f1_weighted: number
  readonly precision: number
  readonly precision_weighted: number
  readonly recall: number
  readonly recall_weighted: number
  readonly ap?: number
  readonly ap_weighted?: number
}

/**
 * What mteb computes with sklearn.metrics: accuracy, and F1, precision and recall (macro and weighted) over the classes that occur in either
 * list, 0 where a quotient is 0 / 0. With two true classes also the average precision of the predicted classes (not of a score: mteb passes hard
 * predictions), the larger class being the positive one; `ap_weighted` equals `ap` there, as in scikit-learn.
 * @param truth (N) class numbers @param predicted (N)
 */
export function classificationScores(truth: Int32Array, predicted: Int32Array): ClassificationScores {
  const n = truth.length
  if (predicted.length !== n || n === 0)
    throw invalidArgument('predicted', `${n} class numbers, one for each true one, and at least one`, predicted)
  const classes = [...new Set([...truth, ...predicted])].sort((a, b) => a - b)
  const numbers = new Map(classes.map((label, i) => [label, i]))
  const hits = new Float64Array(classes.length)
  const support = new Float64Array(classes.length)
  const chosen = new Float64Array(classes.length)
  for (let i = 0; i < n; i++) {
    const t = numbers.get(truth[i]!)!
    const p = numbers.get(predicted[i]!)!
    support[t]! += 1
    chosen[p]! += 1
    if (t === p) hits[t]! += 1
  }
  const precision = hits.map((hit, c) => ratio(hit, chosen[c]!))
  const recall = hits.map((hit, c) => ratio(hit, support[c]!))
  const f1 = hits.map((hit, c) => ratio(2 * hit, chosen[c]! + support[c]!))
  const macro = (values: Float64Array): number => values.reduce((sum, value) => sum + value, 0) / values.length
  const weighted = (values: Float64Array): number => values.reduce((sum, value, c) => sum + value * support[c]!, 0) / n
  const scores = {
    accuracy: hits.reduce((sum, hit) => sum + hit, 0) / n,
    f1: macro(f1),
    f1_weighted: weighted(f1),
    precision: macro(precision),
    precision_weighted: weighted(precision),
    recall: macro(recall),
    recall_weighted: weighted(recall),
  }
  const trueClasses = [...new Set(truth)]
  if (trueClasses.length !== 2) return scores
  const positive = Math.max(...trueClasses)
  const ap = averagePrecision(
    Array.from(truth, (label) => label === positive),
    predicted,
  )
  return { ...scores, ap, ap_weighted: ap }
}

function ratio(a: number, b: number): number {
  return b === 0 ? 0 : a / b
}

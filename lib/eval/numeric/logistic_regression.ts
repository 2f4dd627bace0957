import { BgeError, invalidArgument } from '../../errors.js'
import { multiplyFloat64 } from '../../native.js'
import { dot } from './dot.js'
import { sumFloat32 } from './float32.js'
import { minimize, type Objective } from './lbfgs.js'

/**
 * Generations of scikit-learn whose results differ. '1.8' stands for 1.3 to 1.8: LogisticRegression in float64, MiniBatchKMeans draws its batches
 * with randint (checked against 1.6.1; 1.8.0 itself already adds the distances of k-means++ in float32). '1.9': LogisticRegression in the type of
 * its input (float32), MiniBatchKMeans draws its batches with choice (checked against 1.9.1).
 */
export type SklearnGeneration = '1.8' | '1.9'

/** A fitted classifier. */
export interface LogisticRegression {
  /** distinct labels, ascending */
  readonly classes: Int32Array
  /** (K, D + 1) weights and, last in each row, the intercept; K is 1 for two classes */
  readonly weights: Float64Array
  /** scikit-learn's n_iter_ */
  readonly iterations: number
  /** (N) labels of x (N, D): the class of the largest score (the first of equals); of two classes the second where its score is above 0 */
  predict(x: Float32Array): Promise<Int32Array>
}

/** LogisticRegression(C=1, tol=1e-4, max_iter=100, solver='lbfgs') */
const C = 1
const RULES = { gradient: 1e-4, decrease: 64 * 2 ** -52, iterations: 100 }
/** Rows of one product, which bounds the memory of its float64 copies. */
const ROWS = 16_384

/** The limit of threads of the products; the results do not depend on it. */
export interface NumericOptions {
  /** default: what affinity and cgroup limits allow */
  threads?: number
}

/** The training data as the objectives read them. */
interface Problem {
  /** (N, D) */
  readonly x: Float64Array
  /** (N) 0..classes-1 */
  readonly y: Int32Array
  readonly n: number
  readonly d: number
  /** rows of the weights: 1 for two classes */
  readonly k: number
  /** every intermediate result rounded to float32, or left as it is */
  readonly round: (value: number) => number
  /** numpy's sum of the values */
  readonly sum: (values: Float64Array) => number
  readonly options: NumericOptions
}

/**
 * sklearn.linear_model.LogisticRegression(max_iter=100).fit(x, y): the mean log-loss (of the logistic function for two classes, of the softmax
 * for more) plus |w|^2 / (2 n), without penalty on the intercept, minimised from 0 by L-BFGS with scikit-learn's stopping rules. The products
 * are native, in float64, off the event loop; what lies between two of them takes milliseconds.
 * Throws ERR_BGE_DATA for fewer than two classes.
 * @param x (N, D) row-major @param y (N) labels
 */
export async function fitLogisticRegression(
  x: Float32Array,
  y: Int32Array,
  generation: SklearnGeneration,
  options: NumericOptions = {},
): Promise<LogisticRegression> {
  const n = y.length
  const classes = new Int32Array([...new Set(y)].sort((a, b) => a - b))
  if (classes.length < 2)
    throw new BgeError('ERR_BGE_DATA', `a classifier needs training texts of at least two labels, but ${n} texts have ${classes.length}`)
  const d = x.length / n
  if (!Number.isInteger(d)) throw invalidArgument('x', `${n} rows of equal width`, x)
  const k = classes.length === 2 ? 1 : classes.length
  const numbers = new Map([...classes].map((label, number) => [label, number]))
  const float32 = generation === '1.9'
  const problem: Problem = {
    x: new Float64Array(x),
    y: y.map((label) => numbers.get(label)!),
    n,
    d,
    k,
    round: float32 ? Math.fround : (value) => value,
    sum: float32 ? (values) => sumFloat32(new Float32Array(values)) : (values) => values.reduce((sum, value) => sum + value, 0),
    options,
  }
  const { x: solution, iterations } = await minimize(objectiveOf(problem), new Float64Array(k * (d + 1)), RULES)
  const weights = solution.map(problem.round)
  return { classes, weights, iterations, predict: (rows) => predict(rows, classes, weights, d, problem) }
}

/** Loss and gradient at weights (K, D + 1); in float32 the weights are rounded first, as scipy does for a float32 start. */
function objectiveOf({ x, y, n, d, k, round, sum, options }: Problem): Objective {
  const w = new Float64Array(k * d)
  const scores = new Float64Array(n * k)
  const products = new Float64Array(k * d)
  const losses = new Float64Array(n)
  const strength = 1 / (C * n)
  return async (weights, gradient) => {
    for (let c = 0; c < k; c++) for (let j = 0; j < d; j++) w[c * d + j] = round(weights[c * (d + 1) + j]!)
    await multiplyFloat64(scores, x, w, { m: n, n: k, k: d, transposed: 'b', ...options })
    for (let i = 0; i < n; i++)
      for (let c = 0; c < k; c++) scores[i * k + c] = round(round(scores[i * k + c]!) + round(weights[c * (d + 1) + d]!))
    if (k === 1) binomialLoss(scores, y, losses, round)
    else multinomialLoss(scores, y, losses, k, round)
    for (let i = 0; i < scores.length; i++) scores[i] = round(scores[i]! / n)
    await multiplyFloat64(products, scores, x, { m: k, n: d, k: n, transposed: 'a', ...options })
    for (let c = 0; c < k; c++) {
      const row = c * (d + 1)
      for (let j = 0; j < d; j++) gradient[row + j] = round(round(products[c * d + j]!) + round(round(strength) * w[c * d + j]!))
      // numpy adds the rows of a matrix one after the other, but the entries of a vector pairwise.
      let total = 0
      for (let i = c; i < scores.length; i += k) total = round(total + scores[i]!)
      gradient[row + d] = k === 1 ? sum(scores) : total
    }
    const penalty = round(round(0.5 * strength) * round(dot(w, w)))
    return round(sum(losses) / n) + penalty
  }
}

/** Half-binomial loss of each score; the scores become the derivatives of the loss. */
function binomialLoss(scores: Float64Array, y: Int32Array, losses: Float64Array, round: (value: number) => number): void {
  for (let i = 0; i < y.length; i++) {
    const z = scores[i]!
    const target = y[i]!
    const e = Math.exp(z <= -2 ? z : -z)
    if (z <= -37) {
      losses[i] = round(e - target * z)
      scores[i] = round(e - target)
    } else if (z <= -2) {
      losses[i] = round(Math.log1p(e) - target * z)
      scores[i] = round(((1 - target) * e - target) / (1 + e))
    } else {
      losses[i] = round((z <= 18 ? Math.log1p(e) : e) + (1 - target) * z)
      scores[i] = round((1 - target - target * e) / (1 + e))
    }
  }
}

/** Negative log-likelihood of the softmax of each row of scores (N, K); the scores become the derivatives of the loss. */
function multinomialLoss(scores: Float64Array, y: Int32Array, losses: Float64Array, k: number, round: (value: number) => number): void {
  for (let i = 0; i < y.length; i++) {
    const row = i * k
    let max = scores[row]!
    for (let c = 1; c < k; c++) if (scores[row + c]! > max) max = scores[row + c]!
    const own = scores[row + y[i]!]!
    let sum = 0
    for (let c = 0; c < k; c++) {
      const e = round(Math.exp(scores[row + c]! - max))
      scores[row + c] = e
      sum += e
    }
    sum = round(sum)
    losses[i] = round(round(Math.log(sum) + max) - own)
    for (let c = 0; c < k; c++) scores[row + c] = round(scores[row + c]! / sum)
    scores[row + y[i]!] = round(scores[row + y[i]!]! - 1)
  }
}

async function predict(
  x: Float32Array,
  classes: Int32Array,
  weights: Float64Array,
  d: number,
  { round, options }: Pick<Problem, 'round' | 'options'>,
): Promise<Int32Array> {
  if (x.length % d !== 0) throw invalidArgument('x', `rows of ${d} numbers`, x)
  const k = weights.length / (d + 1)
  const w = new Float64Array(k * d)
  for (let c = 0; c < k; c++) w.set(weights.subarray(c * (d + 1), c * (d + 1) + d), c * d)
  const labels = new Int32Array(x.length / d)
  for (let start = 0; start < labels.length; start += ROWS) {
    const rows = new Float64Array(x.subarray(start * d, (start + ROWS) * d))
    const scores = new Float64Array((rows.length / d) * k)
    await multiplyFloat64(scores, rows, w, { m: rows.length / d, n: k, k: d, transposed: 'b', ...options })
    const score = (i: number, c: number): number => round(round(scores[i * k + c]!) + weights[c * (d + 1) + d]!)
    for (let i = 0; i < scores.length / k; i++) {
      let best = 0
      if (k === 1) best = score(i, 0) > 0 ? 1 : 0
      else for (let c = 1; c < k; c++) if (score(i, c) > score(i, best)) best = c
      labels[start + i] = classes[best]!
    }
  }
  return labels
}

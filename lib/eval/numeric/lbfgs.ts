import { dot } from './dot.js'
import { LineSearch } from './line_search.js'

/** Corrections that are remembered. */
const MEMORY = 10
const EPSILON = 2 ** -52
/** Evaluations of one line search before it is given up. */
const MAX_EVALUATIONS = 50

/** The value at x; writes the gradient there into `gradient` (same length as x). */
export type Objective = (x: Float64Array, gradient: Float64Array) => number | Promise<number>

export interface Minimum {
  readonly x: Float64Array
  readonly f: number
  /** scipy's nit */
  readonly iterations: number
  /** scipy's nfev */
  readonly evaluations: number
  readonly stop: 'gradient' | 'decrease' | 'iterations' | 'line search'
}

interface Correction {
  readonly s: Float64Array
  readonly y: Float64Array
  readonly sy: number
}

/**
 * L-BFGS as scipy.optimize.minimize(method='L-BFGS-B') runs it without bounds: ten corrections, the line search of Moré and Thuente, first step
 * min(1, 1 / |d|), and scipy's stopping rules. Where it stops is part of scikit-learn's result, so nothing here iterates further than scipy does.
 * @param start (n) is not changed
 * @param rules stop when max |gradient| <= gradient, when one iteration lowers f by at most decrease * max(|f before|, |f|, 1), or after `iterations`
 */
export async function minimize(
  objective: Objective,
  start: Float64Array,
  rules: { gradient: number; decrease: number; iterations: number },
): Promise<Minimum> {
  const n = start.length
  let x = Float64Array.from(start)
  let gradient = new Float64Array(n)
  let f = await objective(x, gradient)
  let evaluations = 1
  let iterations = 0
  let corrections: Correction[] = []
  const end = (stop: Minimum['stop']): Minimum => ({ x, f, iterations, evaluations, stop })
  if (largest(gradient) <= rules.gradient) return end('gradient')
  for (;;) {
    const direction = searchDirection(x, gradient, corrections)
    const slope0 = dot(gradient, direction)
    const xBefore = x
    const gradientBefore = gradient
    const fBefore = f
    let slope = slope0
    let found = false
    let step = iterations === 0 ? Math.min(1 / Math.sqrt(dot(direction, direction)), 1e10) : 1
    if (slope0 < 0) {
      const search = new LineSearch(f, slope0, step)
      gradient = new Float64Array(n)
      for (let tried = 0; tried < MAX_EVALUATIONS && !found; tried++) {
        step = search.step
        x = xBefore.map((value, i) => step * direction[i]! + value)
        f = await objective(x, gradient)
        evaluations++
        slope = dot(gradient, direction)
        found = search.advance(f, slope)
      }
    }
    if (!found) {
      x = xBefore
      gradient = gradientBefore
      f = fBefore
      if (corrections.length === 0) return end('line search')
      corrections = []
      continue
    }
    iterations++
    if (iterations >= rules.iterations) return end('iterations')
    if (largest(gradient) <= rules.gradient) return end('gradient')
    if (fBefore - f <= rules.decrease * Math.max(Math.abs(fBefore), Math.abs(f), 1)) return end('decrease')
    const sy = (slope - slope0) * step
    if (sy > EPSILON * -slope0 * step) {
      const s = direction.map((value) => value * step)
      const y = gradient.map((value, i) => value - gradientBefore[i]!)
      corrections = [...corrections.slice(1 - MEMORY), { s, y, sy }]
    }
  }
}

/** -H gradient by the two loops of Nocedal (1980), with H0 = s^T y / y^T y of the last correction. */
function searchDirection(x: Float64Array, gradient: Float64Array, corrections: readonly Correction[]): Float64Array {
  const q = gradient.map((value) => -value)
  const alphas: number[] = []
  for (const { s, y, sy } of [...corrections].reverse()) {
    const alpha = dot(s, q) / sy
    alphas.push(alpha)
    for (let i = 0; i < q.length; i++) q[i]! -= alpha * y[i]!
  }
  const last = corrections.at(-1)
  if (last !== undefined) {
    const scale = last.sy / dot(last.y, last.y)
    for (let i = 0; i < q.length; i++) q[i]! *= scale
  }
  for (const { s, y, sy } of corrections) {
    const gain = alphas.pop()! - dot(y, q) / sy
    for (let i = 0; i < q.length; i++) q[i]! += gain * s[i]!
  }
  // scipy goes to the point x + d and takes the difference to x as its direction.
  return q.map((value, i) => x[i]! + value - x[i]!)
}

function largest(values: Float64Array): number {
  let max = 0
  for (const value of values) max = Math.max(max, Math.abs(value))
  return max
}

/**
 * Does a model know when it is wrong? The normalised area under the abstention curve of arXiv 2402.12997 (nAUC), as mteb 2 reports it for retrieval
 * and reranking: leave out the queries with the lowest confidence and see how the mean of a metric grows. 1: in the best possible order; 0: as good
 * as leaving out any. Sums in numpy's order: where all queries have one value, rounding decides between 1 and NaN, in Python and so here.
 */

/** How sure a model is of its answer to one query; each of the three is used by itself. */
export interface Confidence {
  /** the highest score */
  readonly max: number
  /** population standard deviation of the scores */
  readonly std: number
  /** how far the highest score is above the second; 0 with one document */
  readonly diff1: number
}

/** @param scores of the retrieved documents, best first */
export function confidenceOf(scores: ArrayLike<number>): Confidence {
  if (scores.length === 0) return { max: 0, std: 0, diff1: 0 }
  const values = Float64Array.from(scores)
  const mean = sumFloat64(values) / values.length
  const squares = values.map((value) => (value - mean) * (value - mean))
  const diff1 = values.length > 1 ? values[0]! - values[1]! : 0
  return { max: values[0]!, std: Math.sqrt(sumFloat64(squares) / values.length), diff1 }
}

/** numpy.linspace(0, 1, 11)[:-1]: shares of the queries that are left out. */
const RATES = Float64Array.from({ length: 10 }, (_, i) => i * 0.1)

/** Indexes in ascending order of their values; equal values keep their order. */
export function ascending(values: Float64Array): Uint32Array {
  return Uint32Array.from({ length: values.length }, (_, i) => i).sort((a, b) => values[a]! - values[b]! || a - b)
}

/**
 * nAUC of one metric by each order. NaN where the metric is the same for every query, unless rounding says otherwise.
 * @param orders (N) queries by a confidence, the least sure first @param metric (N) of each query, N >= 1
 */
export function nauc(orders: readonly Uint32Array[], metric: Float64Array): number[] {
  const oracle = abstentionCurve(ascending(metric), metric)
  const best = area(oracle)
  const flat = oracle[0]! * (RATES[9]! - RATES[0]!)
  return orders.map((order) => (best === flat ? Number.NaN : (area(abstentionCurve(order, metric)) - flat) / (best - flat)))
}

/** (10) Mean of the metric over what each rate leaves; at least one query stays. */
function abstentionCurve(order: Uint32Array, metric: Float64Array): Float64Array {
  const n = order.length
  const sorted = Float64Array.from(order, (query) => metric[query]!)
  return RATES.map((rate) => {
    const kept = sorted.subarray(Math.min(roundHalfEven(rate * n), n - 1))
    return sumFloat64(kept) / kept.length
  })
}

/** numpy.trapezoid over RATES. */
function area(curve: Float64Array): number {
  return sumFloat64(Float64Array.from({ length: 9 }, (_, i) => ((RATES[i + 1]! - RATES[i]!) * (curve[i + 1]! + curve[i]!)) / 2))
}

/** Python's round(x) for x >= 0. */
function roundHalfEven(x: number): number {
  const below = Math.floor(x)
  const rest = x - below
  return rest < 0.5 || (rest === 0.5 && below % 2 === 0) ? below : below + 1
}

/** numpy's sum of a contiguous float64 array: pairwise, in blocks of at most 128 with eight running sums. */
export function sumFloat64(values: Float64Array): number {
  const n = values.length
  if (n < 8) return values.reduce((sum, value) => sum + value, 0)
  if (n > 128) {
    const half = Math.floor(n / 2)
    const split = half - (half % 8)
    return sumFloat64(values.subarray(0, split)) + sumFloat64(values.subarray(split))
  }
  const r = values.slice(0, 8)
  let i = 8
  for (; i < n - (n % 8); i += 8) for (let j = 0; j < 8; j++) r[j]! += values[i + j]!
  let sum = r[0]! + r[1]! + (r[2]! + r[3]!) + (r[4]! + r[5]! + (r[6]! + r[7]!))
  for (; i < n; i++) sum += values[i]!
  return sum
}

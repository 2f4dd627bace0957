import { invalidArgument } from '../../errors.js'
import { multiplyFloat64 } from '../../native.js'
import { dot } from './dot.js'
import { gemmFloat32, squaredNormFloat32 } from './float32.js'
import type { NumericOptions, SklearnGeneration } from './logistic_regression.js'
import { cumulativeDistribution, firstAtLeast, RandomState } from './mt19937.js'

export interface KMeans {
  /** (N) 0..clusters-1 */
  readonly labels: Int32Array
  /** (clusters, D) */
  readonly centers: Float32Array
  /** scikit-learn's n_steps_ */
  readonly steps: number
}

/** MiniBatchKMeans(batch_size=500, max_iter=100, max_no_improvement=10, reassignment_ratio=0.01, tol=0, n_init=1): what mteb asks for */
const BATCH = 500
const MAX_EPOCHS = 100
const MAX_NO_IMPROVEMENT = 10
const REASSIGNMENT_RATIO = 0.01
/** Rows of one product of the last assignment. */
const ROWS = 16_384

/** Rows of vectors, in float32 as given and in float64 for products. */
interface Rows {
  readonly single: Float32Array
  readonly double: Float64Array
  readonly n: number
  readonly d: number
  readonly options: NumericOptions
}

/**
 * sklearn.cluster.MiniBatchKMeans(clusters, batch_size=500, random_state=seed, n_init=1).fit(x) on float32 vectors: the same draws in the same
 * order, the same float32 arithmetic where its order is defined, and inner products in float64 (native, off the event loop) where scikit-learn leaves
 * the order to BLAS.
 * Throws ERR_BGE_ARGUMENT where there are fewer rows than clusters.
 * @param x (N, D) row-major
 */
export async function miniBatchKMeans(
  x: Float32Array,
  d: number,
  clusters: number,
  generation: SklearnGeneration,
  { seed = 42, ...options }: NumericOptions & { seed?: number } = {},
): Promise<KMeans> {
  const n = x.length / d
  if (!Number.isInteger(n)) throw invalidArgument('x', `rows of ${d} numbers`, x)
  if (!Number.isInteger(clusters) || clusters < 1 || clusters > n)
    throw invalidArgument('clusters', `an integer from 1 to the number of rows, ${n}`, clusters)
  const all: Rows = { single: x, double: new Float64Array(x), n, d, options }
  const random = new RandomState(seed)
  const batch = Math.min(BATCH, n)
  const initSize = Math.min(n, 3 * batch < clusters ? 3 * clusters : 3 * batch)
  random.randint(n, initSize) // scikit-learn ranks several starts on these rows; of a single start nothing remains but the draws
  let centers = await kmeansPlusPlus(initSize < n ? take(all, random.randint(n, initSize)) : all, clusters, random, generation)

  const counts = new Float32Array(clusters)
  const cdf = cumulativeDistribution(new Float32Array(n).fill(1 / n))
  const alpha = Math.min(1, (batch * 2) / (n + 1))
  let sinceReassignment = 0
  let average = Number.NaN
  let best = Number.POSITIVE_INFINITY
  let withoutImprovement = 0
  let steps = 0
  for (const maxSteps = Math.floor((MAX_EPOCHS * n) / batch); steps < maxSteps && withoutImprovement < MAX_NO_IMPROVEMENT; steps++) {
    const rows = take(all, generation === '1.9' ? random.choice(cdf, batch) : random.randint(n, batch))
    sinceReassignment += batch
    const reassign = counts.includes(0) || sinceReassignment >= 10 * clusters
    if (reassign) sinceReassignment = 0
    const labels = await nearest(rows, centers, clusters)
    const inertia = inertiaOf(rows, centers, labels) / batch
    centers = update(rows, centers, counts, labels)
    if (reassign) reassignRare(rows, centers, counts, random)
    // The first step measures the start, not an improvement.
    if (steps === 0) continue
    average = Number.isNaN(average) ? inertia : average * (1 - alpha) + inertia * alpha
    if (average < best) {
      best = average
      withoutImprovement = 0
    } else withoutImprovement++
  }
  return { labels: await nearest(all, centers, clusters), centers, steps }
}

function take({ single, double, d, options }: Rows, rows: Uint32Array): Rows {
  const taken = { single: new Float32Array(rows.length * d), double: new Float64Array(rows.length * d), n: rows.length, d, options }
  for (const [i, row] of rows.entries()) {
    taken.single.set(single.subarray(row * d, (row + 1) * d), i * d)
    taken.double.set(double.subarray(row * d, (row + 1) * d), i * d)
  }
  return taken
}

/** Greedy k-means++ (Arthur and Vassilvitskii 2007): of 2 + floor(ln k) candidates per centre the one that leaves the smallest potential. */
async function kmeansPlusPlus(rows: Rows, clusters: number, random: RandomState, generation: SklearnGeneration): Promise<Float32Array> {
  const { single, double, n, d } = rows
  const centers = new Float32Array(clusters * d)
  const norms = Float64Array.from({ length: n }, (_, i) => squaredNorm(double, i, d))
  const trials = 2 + Math.floor(Math.log(clusters))
  const setCenter = (c: number, row: number): void => centers.set(single.subarray(row * d, (row + 1) * d), c * d)

  const first = random.choice(cumulativeDistribution(new Float32Array(n).fill(1 / n)), 1)
  setCenter(0, first[0]!)
  let closest = await squaredDistances(rows, norms, first)
  let potential = sum(closest)
  for (let c = 1; c < clusters; c++) {
    const cumulative = cumulativeSum(closest, generation)
    const candidates = Uint32Array.from(random.uniform(trials), (u) => Math.min(n - 1, firstAtLeast(cumulative, u * potential)))
    const distances = await squaredDistances(rows, norms, candidates)
    let chosen = 0
    let lowest = Number.POSITIVE_INFINITY
    for (let t = 0; t < trials; t++) {
      const remaining = distances.subarray(t * n, (t + 1) * n)
      for (let i = 0; i < n; i++) remaining[i] = Math.min(remaining[i]!, closest[i]!)
      const left = sum(remaining)
      if (left < lowest) {
        lowest = left
        chosen = t
      }
    }
    closest = distances.slice(chosen * n, (chosen + 1) * n)
    potential = lowest
    setCenter(c, candidates[chosen]!)
  }
  return centers
}

/** Summed in order: in float32 by the newer scikit-learn, in float64 by the older. */
function cumulativeSum(values: Float32Array, generation: SklearnGeneration): Float64Array {
  const round = generation === '1.9' ? Math.fround : (value: number): number => value
  let total = 0
  return Float64Array.from(values, (value) => (total = round(total + value)))
}

/** (rows of `from`, N) squared distances of some rows to all rows, in float64, then rounded to float32. */
async function squaredDistances(rows: Rows, norms: Float64Array, from: Uint32Array): Promise<Float32Array> {
  const { double, n, d, options } = rows
  const products = new Float64Array(from.length * n)
  await multiplyFloat64(products, take(rows, from).double, double, { m: from.length, n, k: d, transposed: 'b', ...options })
  return Float32Array.from(products, (product, i) =>
    Math.max(0, Math.fround(-2 * product + norms[from[Math.floor(i / n)]!]! + norms[i % n]!)),
  )
}

/**
 * (N) the nearest centre by |c|^2 - 2 x.c in float32; of equals the first. The float64 distances leave out the centres that rounding cannot make
 * the nearest; between the others the float32 distances decide.
 */
async function nearest({ single, double, n, d, options }: Rows, centers: Float32Array, clusters: number): Promise<Int32Array> {
  const centers64 = new Float64Array(centers)
  const norms = Float64Array.from({ length: clusters }, (_, c) => squaredNormFloat32(centers, c * d, d))
  const longest = Math.sqrt(norms.reduce((max, norm) => Math.max(max, norm), 0))
  const labels = new Int32Array(n)
  for (let start = 0; start < n; start += ROWS) {
    const rows = double.subarray(start * d, (start + ROWS) * d)
    const products = new Float64Array((rows.length / d) * clusters)
    await multiplyFloat64(products, rows, centers64, { m: rows.length / d, n: clusters, k: d, transposed: 'b', ...options })
    for (let i = 0; i < rows.length / d; i++) {
      const distance = (c: number): number => norms[c]! - 2 * products[i * clusters + c]!
      let lowest = Number.POSITIVE_INFINITY
      for (let c = 0; c < clusters; c++) lowest = Math.min(lowest, distance(c))
      // A float32 sum of d products is off by at most d 2^-24 |x| |c|; each of the two distances holds twice that and the rounding of |c|^2.
      const margin = (d + 4) * 2 ** -22 * longest * (Math.sqrt(squaredNorm(rows, i, d)) + longest)
      let best = Number.POSITIVE_INFINITY
      for (let c = 0; c < clusters; c++) {
        if (distance(c) > lowest + margin) continue
        const exact = gemmFloat32(norms[c]!, single, (start + i) * d, centers, c * d, d)
        if (exact < best) {
          best = exact
          labels[start + i] = c
        }
      }
    }
  }
  return labels
}

/** The sum of squared distances to the centres, in the float32 order of scikit-learn's loop on one thread. */
function inertiaOf({ single, n, d }: Rows, centers: Float32Array, labels: Int32Array): number {
  const { fround } = Math
  const whole = d - (d % 4)
  let inertia = 0
  for (let i = 0; i < n; i++) {
    const x = i * d
    const c = labels[i]! * d
    const square = (j: number): number => {
      const difference = fround(single[x + j]! - centers[c + j]!)
      return fround(difference * difference)
    }
    let distance = 0
    for (let j = 0; j < whole; j += 4) {
      distance = fround(distance + fround(fround(fround(square(j) + square(j + 1)) + square(j + 2)) + square(j + 3)))
    }
    for (let j = whole; j < d; j++) distance = fround(distance + square(j))
    inertia = fround(inertia + distance)
  }
  return inertia
}

/** The new centres: the mean of all rows a cluster has ever got, in float32; `counts` grows by the rows of this batch. */
function update({ single, d }: Rows, centers: Float32Array, counts: Float32Array, labels: Int32Array): Float32Array {
  const updated = centers.slice()
  const gained = new Float32Array(counts.length)
  for (const label of labels) gained[label]! += 1
  for (let c = 0; c < counts.length; c++) if (gained[c]! > 0) for (let j = c * d; j < (c + 1) * d; j++) updated[j]! *= counts[c]!
  for (const [i, label] of labels.entries()) for (let j = 0; j < d; j++) updated[label * d + j]! += single[i * d + j]!
  for (let c = 0; c < counts.length; c++) {
    if (gained[c] === 0) continue
    counts[c]! += gained[c]!
    const scale = Math.fround(1 / counts[c]!)
    for (let j = c * d; j < (c + 1) * d; j++) updated[j]! *= scale
  }
  return updated
}

/** Clusters with fewer rows than 1 % of the largest start again at random rows of the batch, with the smallest count of the others. */
function reassignRare({ single, n, d }: Rows, centers: Float32Array, counts: Float32Array, random: RandomState): void {
  const limit = Math.fround(Math.fround(REASSIGNMENT_RATIO) * counts.reduce((max, count) => Math.max(max, count), 0))
  let rare = [...counts.keys()].filter((c) => counts[c]! < limit)
  if (rare.length > 0.5 * n) {
    // At most half a batch, the smallest first. numpy's order among equal counts is not defined; here it is that of the clusters.
    const smallest = [...counts.keys()].sort((a, b) => counts[a]! - counts[b]!).slice(0, Math.floor(0.5 * n))
    rare = smallest.filter((c) => counts[c]! < limit).sort((a, b) => a - b)
  }
  if (rare.length === 0) return
  for (const [i, row] of random.choiceDistinct(n, rare.length).entries()) centers.set(single.subarray(row * d, (row + 1) * d), rare[i]! * d)
  const others = counts.filter((_, c) => !rare.includes(c))
  for (const c of rare) counts[c] = others.reduce((min, count) => Math.min(min, count), Number.POSITIVE_INFINITY)
}

/** |row|^2 in float64 */
function squaredNorm(x: Float64Array, row: number, d: number): number {
  const vector = x.subarray(row * d, (row + 1) * d)
  return dot(vector, vector)
}

/** The float32 nearest to the sum: scikit-learn's is a BLAS product whose order is not defined. */
function sum(values: Float32Array): number {
  let total = 0
  for (const value of values) total += value
  return Math.fround(total)
}

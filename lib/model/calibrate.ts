import { join } from 'node:path'
import { readIfThere } from '../data/optional_file.js'
import { BgeError, invalidArgument, show } from '../errors.js'
import { isotonicRegression, type MonotoneMap, mapValue } from './isotonic.js'
import { int8Ranges } from './precision.js'

/** In the model folder, beside config.json; sentence-transformers does not look at it. */
export const calibrationFile = 'bge_calibration.json'

/** Pairs of texts and whether each belongs together (1) or not (0): as your application will meet them, in their usual proportion. */
export interface LabelledPairs {
  readonly a: readonly string[]
  readonly b: readonly string[]
  readonly labels: ArrayLike<number>
}

/** What cosines of one model mean, measured on labelled pairs; what a threshold promises holds for pairs like those. */
export interface Calibration {
  readonly version: 1
  /** of the model it was measured on: a model with other weights does not keep it */
  readonly fingerprint: string
  /** put before the first text of a pair, '' for none */
  readonly instruction: string
  /** of the vectors; fewer than the model's where they were cut */
  readonly dimensions: number
  readonly pairs: number
  readonly positives: number
  readonly threshold: Threshold
  /** cosine (x) to the probability that a pair belongs together (y): above 0 and below 1 */
  readonly probability: MonotoneMap
  /** of the vectors' components, (d) each: for int8 */
  readonly ranges: { readonly min: readonly number[]; readonly max: readonly number[] }
}

/** Pairs whose cosine is at least `cosine` are taken to belong together. */
export interface Threshold {
  readonly cosine: number
  /** share of right ones among those taken: what was wanted, what was measured, and its 95 % interval (Wilson's) */
  readonly wanted: number
  readonly precision: number
  readonly interval: readonly [low: number, high: number]
  /** share of the positives that are taken */
  readonly recall: number
}

/** Everything of a calibration that follows from the pairs. `vectors`: (2n, d), those of `a`, then those of `b`. */
export function fitCalibration(
  vectors: Float32Array,
  dimensions: number,
  labels: ArrayLike<number>,
  wanted: number,
): Pick<Calibration, 'dimensions' | 'pairs' | 'positives' | 'threshold' | 'probability' | 'ranges'> {
  const cosines = pairCosines(vectors, dimensions)
  const { min, max } = int8Ranges(vectors, dimensions)
  return {
    dimensions,
    pairs: labels.length,
    positives: countOnes(labels),
    threshold: findThreshold(cosines, labels, wanted),
    probability: neverCertain(isotonicRegression(cosines, labels), cosines),
    ranges: { min: [...min], max: [...max] },
  }
}

/** (n) cosine of row i and row n + i of (2n, d); 0 where one of them is zero. */
export function pairCosines(vectors: Float32Array, dimensions: number): Float64Array {
  const half = vectors.length / 2
  return Float64Array.from({ length: half / dimensions }, (_, i) => {
    let [dot, aa, bb] = [0, 0, 0]
    for (let c = i * dimensions; c < (i + 1) * dimensions; c++) {
      const [a, b] = [vectors[c]!, vectors[half + c]!]
      dot += a * b
      aa += a * a
      bb += b * b
    }
    return aa === 0 || bb === 0 ? 0 : dot / Math.sqrt(aa * bb)
  })
}

/**
 * The map with its ends moved off 0 and 1: w pairs that all belong together are no proof that the next one does. Such an end becomes (w + 1) / (w + 2),
 * Laplace's rule of succession, and 1 / (w + 2) at the other end, but never falls behind its neighbour.
 */
function neverCertain({ x, y }: MonotoneMap, cosines: Float64Array): MonotoneMap {
  const [firstOne, firstAboveZero] = [y.indexOf(1), y.findIndex((value) => value > 0)]
  const count = (inside: (cosine: number) => boolean): number => cosines.filter(inside).length
  const above = firstOne < 0 ? 0 : count((cosine) => cosine >= x[firstOne]!)
  const below = y[0] !== 0 ? 0 : count((cosine) => cosine <= x[firstAboveZero - 1]!)
  const one = Math.max((above + 1) / (above + 2), y[firstOne - 1] ?? 0)
  const zero = Math.min(1 / (below + 2), y[firstAboveZero] ?? 1)
  return { x, y: y.map((value) => (value === 1 ? one : value === 0 ? zero : value)) }
}

/** (n) probability of each cosine. */
export function probabilities(calibration: Calibration, cosines: Float64Array): Float64Array {
  return cosines.map((cosine) => mapValue(calibration.probability, cosine))
}

/** Errors: ERR_BGE_ARGUMENT unless there are as many `a` as `b` and labels, 0 and 1 both among them. */
export function checkPairs({ a, b, labels }: LabelledPairs): void {
  if (a.length !== b.length) throw invalidArgument('b', `as many texts as a, ${a.length}`, `${b.length} texts`)
  if (a.length !== labels.length)
    throw invalidArgument('labels', `as many numbers as there are pairs, ${a.length}`, `${labels.length} numbers`)
  for (let i = 0; i < labels.length; i++) if (labels[i] !== 0 && labels[i] !== 1) throw invalidArgument(`labels[${i}]`, '0 or 1', labels[i])
  const positives = countOnes(labels)
  if (positives === 0 || positives === labels.length)
    throw invalidArgument('labels', 'some 0 and some 1', `${positives} ones of ${labels.length}`)
}

/**
 * The lowest cosine from which on the share of right pairs is at least `wanted`: of all such thresholds the one that finds most.
 * Errors: ERR_BGE_ARGUMENT where no threshold reaches it.
 */
export function findThreshold(cosines: ArrayLike<number>, labels: ArrayLike<number>, wanted: number): Threshold {
  if (!(wanted > 0 && wanted <= 1)) throw invalidArgument('precision', 'a number above 0, at most 1', wanted)
  const order = Array.from(cosines, (_, i) => i).sort((a, b) => cosines[b]! - cosines[a]!)
  const positives = countOnes(labels)
  let [right, best, bestPrecision] = [0, undefined as Threshold | undefined, 0]
  for (const [k, i] of order.entries()) {
    right += labels[i]!
    const cosine = cosines[i]!
    if (k + 1 < order.length && cosines[order[k + 1]!] === cosine) continue // equal cosines are taken together
    const precision = right / (k + 1)
    bestPrecision = Math.max(bestPrecision, precision)
    if (precision >= wanted && right > 0) best = { cosine, wanted, precision, interval: wilson(right, k + 1), recall: right / positives }
  }
  if (best === undefined) {
    throw new BgeError(
      'ERR_BGE_ARGUMENT',
      `precision must be one that these pairs allow, at most ${bestPrecision.toFixed(4)}, but was ${wanted}`,
      { details: { name: 'precision', reachable: bestPrecision } },
    )
  }
  return best
}

/** Wilson's 95 % interval of a share. */
function wilson(right: number, count: number): [number, number] {
  const z = 1.959963984540054
  const share = right / count
  const middle = share + (z * z) / (2 * count)
  const spread = z * Math.sqrt((share * (1 - share)) / count + (z * z) / (4 * count * count))
  const scale = 1 + (z * z) / count
  return [Math.max(0, (middle - spread) / scale), Math.min(1, (middle + spread) / scale)]
}

function countOnes(labels: ArrayLike<number>): number {
  let count = 0
  for (let i = 0; i < labels.length; i++) count += labels[i]!
  return count
}

/** The calibration of a model folder, undefined where there is none. Errors: ERR_BGE_FILE, ERR_BGE_MODEL_FORMAT. */
export async function readCalibration(folder: string): Promise<Calibration | undefined> {
  const file = join(folder, calibrationFile)
  const text = await readIfThere(file)
  if (text === undefined) return undefined
  let value: Partial<Calibration> | null
  try {
    value = JSON.parse(text) as Partial<Calibration> | null
  } catch (cause) {
    throw new BgeError('ERR_BGE_MODEL_FORMAT', `${file} is not valid JSON: ${(cause as Error).message}`, { cause })
  }
  const wrong = wrongField(value ?? {})
  if (wrong !== undefined) {
    const [name, expected, actual] = wrong
    throw new BgeError('ERR_BGE_MODEL_FORMAT', `${file}: ${name} must be ${expected}, but was ${show(actual)}`)
  }
  return value as Calibration
}

function wrongField(value: Partial<Calibration>): [name: string, expected: string, actual: unknown] | undefined {
  const { version, fingerprint, instruction, dimensions, threshold, probability, ranges } = value
  if (version !== 1) return ['version', '1', version]
  if (typeof fingerprint !== 'string') return ['fingerprint', 'a string', fingerprint]
  if (typeof instruction !== 'string') return ['instruction', 'a string', instruction]
  if (!Number.isSafeInteger(dimensions) || dimensions! < 1) return ['dimensions', 'an integer from 1', dimensions]
  if (!Number.isFinite(threshold?.cosine)) return ['threshold.cosine', 'a number', threshold?.cosine]
  const { x, y } = probability ?? {}
  if (!isAscending(x) || x.length === 0) return ['probability.x', 'ascending numbers', x]
  if (!isAscending(y) || y.length !== x.length) return ['probability.y', `${x.length} numbers that do not fall`, y]
  for (const end of ['min', 'max'] as const) {
    const numbers = ranges?.[end]
    if (!Array.isArray(numbers) || numbers.length !== dimensions || !numbers.every(Number.isFinite))
      return [`ranges.${end}`, `${dimensions} numbers`, numbers]
  }
  return undefined
}

function isAscending(values: unknown): values is number[] {
  return Array.isArray(values) && values.every((v, i) => Number.isFinite(v) && (i === 0 || v >= values[i - 1]))
}

import { averagePrecision } from '../metrics.js'
import { dot } from './dot.js'
import { squaredNormFloat32, sumFloat32 } from './float32.js'
import { torchCosine } from './torch.js'

/** What one similarity makes of labelled pairs, 0..1 except for the thresholds. */
export interface PairScores {
  /** the best over all thresholds */
  readonly accuracy: number
  readonly accuracyThreshold: number
  /** the best over all thresholds; precision and recall are those at that threshold */
  readonly f1: number
  readonly f1Threshold: number
  readonly precision: number
  readonly recall: number
  readonly ap: number
}

/** Which values mean "similar". */
export type Direction = 'high' | 'low'

/**
 * mteb's threshold searches and scikit-learn's average precision. The pairs are walked from the most similar to the least, equal values in the
 * order given (as Python's sorted keeps them, ascending or descending), and the last pair is never a threshold. Ties are not grouped except in ap.
 * @param similarities (N) @param labels (N) 1 for a pair, else 0
 */
export function pairScores(similarities: Float32Array, labels: ArrayLike<number>, direction: Direction): PairScores {
  const n = similarities.length
  const sign = direction === 'high' ? 1 : -1
  const order = Array.from({ length: n }, (_, i) => i).sort((a, b) => sign * (similarities[b]! - similarities[a]!))
  let positives = 0
  for (let i = 0; i < n; i++) if (labels[i] === 1) positives++
  const best = { accuracy: 0, accuracyThreshold: -1, f1: 0, f1Threshold: 0, precision: 0, recall: 0 }
  let found = 0
  for (let i = 0; i + 1 < n; i++) {
    if (labels[order[i]!] === 1) found++
    const threshold = Math.fround(Math.fround(similarities[order[i]!]! + similarities[order[i + 1]!]!) / 2)
    const accuracy = (found + (n - positives) - (i + 1 - found)) / n
    if (accuracy > best.accuracy) Object.assign(best, { accuracy, accuracyThreshold: threshold })
    if (found === 0) continue
    const precision = found / (i + 1)
    const recall = found / positives
    const f1 = (2 * precision * recall) / (precision + recall)
    if (f1 > best.f1) Object.assign(best, { f1, f1Threshold: threshold, precision, recall })
  }
  return {
    ...best,
    ap: averagePrecision(
      Array.from({ length: n }, (_, i) => labels[i] === 1),
      similarities.map((value) => sign * value),
    ),
  }
}

/** The similarities that mteb takes between two vectors, in float32. */
export const SIMILARITIES: Readonly<
  Record<
    'similarity' | 'cosine' | 'manhattan' | 'euclidean' | 'dot',
    { direction: Direction; of: (x: Float32Array, y: Float32Array) => number }
  >
> = {
  similarity: { direction: 'high', of: torchCosine },
  cosine: { direction: 'high', of: pairedCosine },
  manhattan: { direction: 'low', of: (x, y) => sumFloat32(difference(x, y).map(Math.abs)) },
  euclidean: { direction: 'low', of: euclideanDistance },
  dot: { direction: 'high', of: (x, y) => Math.fround(dot(x, y)) },
}

/** 1 - sklearn.metrics.pairwise.paired_cosine_distances: 1 - |x - y|^2 / 2 of the L2-normalised vectors. */
function pairedCosine(x: Float32Array, y: Float32Array): number {
  const distance = difference(normalized(x), normalized(y))
  return Math.fround(1 - Math.fround(0.5 * squaredNormFloat32(distance, 0, x.length)))
}

function euclideanDistance(x: Float32Array, y: Float32Array): number {
  return Math.fround(Math.sqrt(squaredNormFloat32(difference(x, y), 0, x.length)))
}

/** sklearn.preprocessing.normalize: a zero vector stays zero. */
function normalized(x: Float32Array): Float32Array {
  const norm = Math.fround(Math.sqrt(squaredNormFloat32(x, 0, x.length))) || 1
  return x.map((value) => value / norm)
}

function difference(x: Float32Array, y: Float32Array): Float32Array {
  return x.map((value, i) => value - y[i]!)
}

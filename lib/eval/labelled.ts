import { setImmediate as nextTurn } from 'node:timers/promises'
import { encodeDistinct, type Embedder } from '../model/embedder.js'
import type { ClassificationData, ClusteringData, PairClassificationData } from './cmteb/load.js'
import { gather, type EvaluationContext, type TaskScores } from './evaluators.js'
import { worstPairs, wrongLabels } from './examples.js'
import { type ClassificationScores, classificationScores } from './numeric/classification_metrics.js'
import { miniBatchKMeans } from './numeric/kmeans.js'
import { fitLogisticRegression } from './numeric/logistic_regression.js'
import { RandomState } from './numeric/mt19937.js'
import { type PairScores, pairScores, SIMILARITIES } from './numeric/pair_metrics.js'
import { vMeasure } from './numeric/v_measure.js'

/** mteb's seed, everywhere and in every experiment (cmteb.md 2.6). */
const SEED = 42

/**
 * Pair classification (cmteb.md 2.5): the best accuracy and F1 over all thresholds, and average precision, for five similarities; `max_X` is the
 * largest of the five. No instruction.
 */
export async function evaluatePairClassification(
  embedder: Embedder,
  data: PairClassificationData,
  { encode, onEncoded }: EvaluationContext,
): Promise<TaskScores> {
  const n = data.labels.length
  const { rows, vector } = await encodeDistinct(embedder, [...data.text1, ...data.text2], encode, 'raw')
  onEncoded?.()
  const scores: Record<string, number> = {}
  let cosines: ArrayLike<number> = []
  for (const [name, { direction, of }] of Object.entries(SIMILARITIES)) {
    const similarities = Float32Array.from(data.labels, (_, i) => of(vector(rows[i]!), vector(rows[n + i]!)))
    if (name === 'cosine') cosines = similarities
    const result: PairScores = pairScores(similarities, data.labels, direction)
    for (const metric of PAIR_METRICS) {
      scores[`${name}_${metric}`] = result[metric]
      scores[`max_${metric}`] = Math.max(scores[`max_${metric}`] ?? 0, result[metric])
    }
    await nextTurn()
  }
  return { scores, n: { pairs: n }, examples: worstPairs(data, cosines) }
}

const PAIR_METRICS = ['accuracy', 'f1', 'precision', 'recall', 'ap'] as const

/**
 * Classification (cmteb.md 2.6): logistic regression on a few texts of each label, drawn anew for each experiment; means over the experiments. No
 * instruction, and the vectors as the model gives them.
 */
export async function evaluateClassification(
  embedder: Embedder,
  data: ClassificationData,
  context: EvaluationContext,
): Promise<TaskScores> {
  const { encode, rules } = context
  const { train, test, classes } = data
  const draws = drawTrainingSets(train.labels, rules.experiments, rules.samplesPerLabel)
  const used = [...new Set(draws.flatMap((draw) => [...draw]))]
  const number = new Map(used.map((row, i) => [row, i]))
  const trainVectors = await encodeDistinct(
    embedder,
    used.map((row) => train.texts[row]!),
    encode,
    'raw',
  )
  const testVectors = await encodeDistinct(embedder, test.texts, encode, 'raw')
  context.onEncoded?.()
  const x = gather(testVectors, testVectors.rows)
  const truth = Int32Array.from(test.labels)
  const experiments: ClassificationScores[] = []
  let predicted = new Int32Array()
  for (const draw of draws) {
    // Another task's texts are handed to the device between two experiments.
    await nextTurn()
    encode.signal?.throwIfAborted()
    const rows = Int32Array.from(draw, (row) => trainVectors.rows[number.get(row)!]!)
    const model = fitLogisticRegression(
      gather(trainVectors, rows),
      Int32Array.from(draw, (row) => train.labels[row]!),
      rules.sklearn,
    )
    predicted = Int32Array.from(model.predict(x))
    experiments.push(classificationScores(truth, predicted))
  }
  const names = (labels: ArrayLike<number>): string[] => Array.from(labels, (label) => String(classes[label]!))
  return {
    scores: means(experiments),
    n: { train: train.texts.length, test: test.texts.length, classes: classes.length, experiments: experiments.length },
    parts: { scores_per_experiment: experiments },
    examples: wrongLabels(test.texts, names(truth), names(predicted)),
  }
}

/**
 * The rows of each experiment: all rows shuffled (the order of one experiment is the start of the next; the seed is the same), then the first
 * `samplesPerLabel` of each label in that order.
 */
export function drawTrainingSets(labels: readonly number[], experiments: number, samplesPerLabel: number): Uint32Array[] {
  const order = Uint32Array.from(labels, (_, i) => i)
  return Array.from({ length: experiments }, () => {
    new RandomState(SEED).shuffle(order)
    const taken = new Map<number, number>()
    return order.filter((row) => {
      const count = (taken.get(labels[row]!) ?? 0) + 1
      taken.set(labels[row]!, count)
      return count <= samplesPerLabel
    })
  })
}

function means(experiments: readonly ClassificationScores[]): Record<string, number> {
  const names = Object.keys(experiments[0]!) as (keyof ClassificationScores)[]
  return Object.fromEntries(names.map((name) => [name, experiments.reduce((sum, scores) => sum + scores[name]!, 0) / experiments.length]))
}

/** Clustering (cmteb.md 2.7): mini-batch k-means with as many clusters as labels, then the V-measure; means over the sets. No instruction. */
export async function evaluateClustering(embedder: Embedder, data: ClusteringData, context: EvaluationContext): Promise<TaskScores> {
  const { encode, rules } = context
  const { rows, ...vectors } = await encodeDistinct(
    embedder,
    data.sets.flatMap((set) => set.texts),
    encode,
    'raw',
  )
  context.onEncoded?.()
  const measures: number[] = []
  let next = 0
  for (const { texts, labels } of data.sets) {
    await nextTurn()
    encode.signal?.throwIfAborted()
    const numbers = new Map([...new Set(labels)].map((label, i) => [label, i]))
    const x = gather(vectors, rows.subarray(next, next + texts.length))
    next += texts.length
    const clusters = miniBatchKMeans(x, vectors.dims, numbers.size, rules.sklearn, SEED).labels
    measures.push(
      vMeasure(
        labels.map((label) => numbers.get(label)!),
        clusters,
      ),
    )
  }
  const mean = measures.reduce((a, b) => a + b, 0) / measures.length
  const deviation = Math.sqrt(measures.reduce((sum, value) => sum + (value - mean) ** 2, 0) / measures.length)
  return {
    scores: { v_measure: mean, v_measure_std: deviation },
    n: { sets: measures.length, texts: next },
    parts: { v_measures: measures },
    examples: [],
  }
}

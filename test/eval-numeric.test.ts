import { readFileSync } from 'node:fs'
import { describe, expect, test } from 'vitest'
import { evaluateClassification, trainingSets } from '../lib/eval/classification.js'
import { evaluateClustering } from '../lib/eval/clustering.js'
import type { EvaluationContext, Rules } from '../lib/eval/evaluators.js'
import { classificationScores } from '../lib/eval/numeric/classification_metrics.js'
import { miniBatchKMeans } from '../lib/eval/numeric/kmeans.js'
import { sumFloat32 } from '../lib/eval/numeric/float32.js'
import { minimize } from '../lib/eval/numeric/lbfgs.js'
import { fitLogisticRegression } from '../lib/eval/numeric/logistic_regression.js'
import { cumulativeDistribution, RandomState } from '../lib/eval/numeric/mt19937.js'
import { type PairScores, pairScores, SIMILARITIES } from '../lib/eval/numeric/pair_metrics.js'
import { vMeasure } from '../lib/eval/numeric/v_measure.js'
import { evaluatePairClassification } from '../lib/eval/pair_classification.js'
import type { Embedder } from '../lib/model/embedder.js'

interface KMeansCase {
  seed: number
  n: number
  d: number
  k: number
  centers: number
  spread: number
  steps: number
  labels: number[]
}
interface LogisticCase {
  seed: number
  n: number
  d: number
  k: number
  spread: number
  scale: number
  test: number
  iterations: number
  weights: number[]
  intercept: number
  predictions: number[]
}
interface StreamCase {
  seed: number
  doubles: number[]
  randint: number[]
  large: number[]
  power: number[]
  permutation: number[]
  distinct: number[]
  weighted: number[]
  mixed: { shuffled: number[]; one: number[]; uniform: number[]; distinct: number[]; double: number }
}
type PairSimilarity = 'cosine' | 'manhattan' | 'euclidean' | 'dot'
interface Generation {
  experiments: {
    seed: number
    train: number
    test: number
    d: number
    k: number
    spread: number
    scale: number
    perLabel: number
    chosen: number[][]
    results: Record<string, number>[]
  }[]
  sets: { seeds: number[]; n: number; d: number; k: number; spread: number; results: number[]; mean: number; std: number }
  kmeans: KMeansCase[]
  logistic: LogisticCase[]
}
interface Newest extends Generation {
  streams: StreamCase[]
  pairs: {
    seed: number
    n: number
    d: number
    levels: number
    values: Record<PairSimilarity, number[]>
    scores: Record<PairSimilarity, PairScores>
  }[]
  classification: { truth: number[]; predicted: number[]; scores: Record<string, number> }[]
  v_measure: { truth: number[]; clusters: number[]; v: number }[]
}

const read = (file: string): unknown => JSON.parse(readFileSync(new URL(`./fixtures/sklearn/${file}`, import.meta.url), 'utf8'))
const old = read('sklearn-1.8.json') as Generation
const newest = read('sklearn-1.9.json') as Newest

/** make.py's `clustered`: the same bits. */
function clustered(seed: number, n: number, d: number, k: number, spread: number, scale: number): { x: Float32Array; labels: Int32Array } {
  const random = new RandomState(seed)
  const centers = random.uniform(k * d).map((u) => u - 0.5)
  const labels = Int32Array.from(random.randint(k, n))
  const noise = random.uniform(n * d).map((u) => u - 0.5)
  return { x: Float32Array.from(noise, (e, i) => (centers[labels[Math.floor(i / d)]! * d + (i % d)]! + spread * e) * scale), labels }
}

describe('numpy.random.RandomState', () => {
  test.each(newest.streams)('seed $seed', (expected) => {
    const fresh = (): RandomState => new RandomState(expected.seed)
    expect([...fresh().uniform(700)].slice(-5)).toEqual(expected.doubles)
    expect([...fresh().randint(1000, 900)].slice(-8)).toEqual(expected.randint)
    expect([...fresh().randint(2 ** 32 - 1, 8)]).toEqual(expected.large)
    expect([...fresh().randint(256, 8)]).toEqual(expected.power)
    expect([...fresh().permutation(33)]).toEqual(expected.permutation)
    expect([...fresh().choiceDistinct(500, 6)]).toEqual(expected.distinct)
    const p = Float32Array.from({ length: 40 }, (_, i) => (i + 1) / 820)
    expect([...fresh().choice(cumulativeDistribution(p), 12)]).toEqual(expected.weighted)

    const mixed = fresh()
    const items = Uint32Array.from({ length: 50 }, (_, i) => i)
    mixed.shuffle(items)
    expect([...items]).toEqual(expected.mixed.shuffled)
    expect([...mixed.randint(1, 3)]).toEqual(expected.mixed.one)
    expect([...mixed.uniform(3)]).toEqual(expected.mixed.uniform)
    expect([...mixed.choiceDistinct(7, 7)]).toEqual(expected.mixed.distinct)
    expect(mixed.double()).toBe(expected.mixed.double)
  })

  test('refuses a seed that numpy refuses', () => {
    for (const seed of [-1, 2 ** 32, 0.5]) expect(() => new RandomState(seed)).toThrow('seed must be an integer 0 <= seed < 2^32')
  })
})

const generations = [
  { generation: '1.8', cases: old },
  { generation: '1.9', cases: newest },
] as const

describe.each(generations)('scikit-learn $generation', ({ generation, cases }) => {
  test.each(cases.kmeans)(
    'MiniBatchKMeans $n x $d, $k clusters: equal label for label',
    async ({ seed, n, d, k, centers, spread, steps, labels }) => {
      const fitted = await miniBatchKMeans(clustered(seed, n, d, centers, spread, 1).x, d, k, generation)
      expect(fitted.steps).toBe(steps)
      expect([...fitted.labels]).toEqual(labels)
    },
  )

  test.each(cases.logistic)('LogisticRegression $n x $d, $k classes, scale $scale: same iterations and predictions', async (expected) => {
    const { seed, n, d, k, spread, scale } = expected
    const { x, labels } = clustered(seed, n + expected.test, d, k, spread, scale)
    const fitted = await fitLogisticRegression(x.subarray(0, n * d), labels.subarray(0, n), generation)
    expect(fitted.iterations).toBe(expected.iterations)
    const flips = (await fitted.predict(x.subarray(n * d))).filter((label, i) => label !== expected.predictions[i]).length
    expect(flips).toBe(0)
    if (generation === '1.8') {
      // float64 on both sides: the iterations amplify what rounding differs, and it stays far below the tolerance of the solver (1e-4).
      for (const [j, weight] of [...expected.weights, expected.intercept].entries()) {
        expect(fitted.weights[j < expected.weights.length ? j : d]! / weight, `weight ${j}`).toBeCloseTo(1, 5)
      }
    }
  })
})

describe('pair metrics', () => {
  for (const { seed, n, d, levels, values, scores } of newest.pairs) {
    const random = new RandomState(seed)
    const half = Math.floor(levels / 2)
    const x = Float32Array.from(random.randint(levels, n * d), (v) => v - half)
    const y = Float32Array.from(random.randint(levels, n * d), (v) => v - half)
    const labels = random.randint(2, n)
    for (let i = 0; i < n; i++) {
      if (labels[i] === 1) y.set(x.subarray(i * d, i * d + Math.floor(d / 2)), i * d)
      for (const rows of [x, y]) rows[i * d + d - 1] = Math.abs(rows[i * d + d - 1]!) + 1
    }
    test.each(Object.keys(values) as PairSimilarity[])(`%s of ${n} x ${d}`, (name) => {
      const { direction, of } = SIMILARITIES[name]
      const own = Float32Array.from({ length: n }, (_, i) => of(x.subarray(i * d, (i + 1) * d), y.subarray(i * d, (i + 1) * d)))
      expect([...own]).toEqual(values[name])
      const actual = pairScores(Float32Array.from(values[name]), labels, direction)
      for (const [key, value] of Object.entries(scores[name])) expect(actual[key as keyof PairScores], key).toBeCloseTo(value, 12)
    })
  }

  test('ties are split in the order given and the last pair is never a threshold', () => {
    const tied = new Float32Array([1, 1, 1])
    expect(pairScores(tied, [1, 0, 0], 'high')).toMatchObject({ accuracy: 1, f1: 1, ap: 1 / 3 })
    expect(pairScores(tied, [0, 0, 1], 'high')).toMatchObject({ accuracy: 1 / 3, f1: 0 })
    expect(pairScores(tied, [1, 0, 0], 'low')).toMatchObject({ accuracy: 1, f1: 1 })
  })
})

describe('metrics', () => {
  test.each(newest.classification)('classification %#', ({ truth, predicted, scores }) => {
    const actual = classificationScores(Int32Array.from(truth), Int32Array.from(predicted))
    expect(Object.keys(actual).sort()).toEqual(Object.keys(scores).sort())
    for (const [name, value] of Object.entries(actual)) expect(value, name).toBeCloseTo(scores[name]!, 12)
  })

  test.each(newest.v_measure)('v-measure %#', ({ truth, clusters, v }) => expect(vMeasure(truth, clusters)).toBeCloseTo(v, 12))
})

/** Texts are the numbers of rows. */
function rowEmbedder(x: Float32Array, dims: number): Embedder {
  return {
    dims,
    encode: async (texts) => ({
      data: Float32Array.from(texts.flatMap((text) => [...x.subarray(Number(text) * dims, (Number(text) + 1) * dims)])),
    }),
  }
}

const range = (start: number, end: number): string[] => Array.from({ length: end - start }, (_, i) => String(start + i))

function contextOf(rules: Partial<Rules>): EvaluationContext {
  const defaults: Rules = { dialect: 'mteb2', sklearn: '1.9', identicalIds: 'keep', experiments: 10, samplesPerLabel: 32 }
  const device: EvaluationContext['device'] = { type: 'none' } as never
  return { instruction: '', device, encode: {}, rules: { ...defaults, ...rules } }
}

describe.each(generations)('tasks as mteb scores them with scikit-learn $generation', ({ generation, cases }) => {
  test.each(cases.experiments)(
    'classification of $k labels',
    async ({ seed, train, test: tests, d, k, spread, scale, perLabel, chosen, results }) => {
      const { x, labels } = clustered(seed, train + tests, d, k, spread, scale)
      const trainLabels = [...labels.subarray(0, train)]
      expect(trainingSets(trainLabels, results.length, perLabel).map((rows) => [...rows])).toEqual(chosen)

      const data = {
        train: { texts: range(0, train), labels: trainLabels },
        test: { texts: range(train, train + tests), labels: [...labels.subarray(train)] },
        classes: Array.from({ length: k }, (_, c) => c),
      }
      const context = contextOf({ sklearn: generation, experiments: results.length, samplesPerLabel: perLabel })
      const { scores, parts } = await evaluateClassification(rowEmbedder(x, d), data, context)
      for (const [e, experiment] of (parts!.scores_per_experiment as Record<string, number>[]).entries()) {
        expect(Object.keys(experiment).sort()).toEqual(Object.keys(results[e]!).sort())
        for (const [name, value] of Object.entries(experiment))
          expect(value, `${name} of experiment ${e}`).toBeCloseTo(results[e]![name]!, 12)
      }
      const mean = results.reduce((sum, { accuracy }) => sum + accuracy!, 0) / results.length
      expect(scores.accuracy).toBeCloseTo(mean, 12)

      const legacy = await evaluateClassification(rowEmbedder(x, d), data, {
        ...context,
        rules: { ...context.rules, dialect: 'cmteb2023' },
      })
      expect(Object.keys(legacy.scores).sort()).toEqual(
        ['accuracy', 'f1', ...(k === 2 ? ['ap'] : [])].flatMap((name) => [name, `${name}_stderr`]).sort(),
      )
      expect(legacy.scores.accuracy).toBe(scores.accuracy)
    },
  )

  test('clustering', async () => {
    const { seeds, n, d, k, spread, results, mean, std } = cases.sets
    const parts = seeds.map((seed) => clustered(seed, n, d, k, spread, 1))
    const x = Float32Array.from(parts.flatMap((part) => [...part.x]))
    const sets = parts.map(({ labels }, i) => ({ texts: range(i * n, (i + 1) * n), labels: Array.from(labels, String) }))
    const actual = await evaluateClustering(rowEmbedder(x, d), { sets }, contextOf({ sklearn: generation }))
    for (const [i, value] of (actual.parts!.v_measures as number[]).entries()) expect(value).toBeCloseTo(results[i]!, 12)
    expect(actual.scores.v_measure).toBeCloseTo(mean, 12)
    expect(actual.scores.v_measure_std).toBeCloseTo(std, 12)
  })
})

test('pair classification in both dialects', async () => {
  const x = Float32Array.from([1, 0, 0.9, 0.1, 0, 1, 0, 2, -1, 0, 1, 0.2])
  const data = { text1: ['0', '2', '0', '4'], text2: ['1', '3', '2', '5'], labels: [1, 1, 0, 0] }
  const current = await evaluatePairClassification(rowEmbedder(x, 2), data, contextOf({}))
  expect(current.scores).toMatchObject({
    cosine_accuracy: 1,
    cosine_f1: 1,
    cosine_ap: 1,
    max_accuracy: 1,
    similarity_ap: 1,
    euclidean_accuracy: 1,
  })
  expect(Object.keys(current.scores)).toHaveLength(5 * 5 + 5)
  const legacy = await evaluatePairClassification(rowEmbedder(x, 2), data, contextOf({ dialect: 'cmteb2023' }))
  expect(Object.keys(legacy.scores)).toHaveLength(4 * 7 + 5)
  expect(legacy.scores.cosine_ap).toBe(1)
  expect(legacy.scores.cosine_accuracy_threshold).toBeCloseTo(0.9 / Math.hypot(0.9, 0.1) / 2, 6)
})

describe('by definition', () => {
  test('minimize finds the minimum of the function of Rosenbrock', async () => {
    const { x, stop } = await minimize(
      ([a, b], gradient) => {
        gradient[0] = -2 * (1 - a!) - 400 * a! * (b! - a! ** 2)
        gradient[1] = 200 * (b! - a! ** 2)
        return (1 - a!) ** 2 + 100 * (b! - a! ** 2) ** 2
      },
      new Float64Array([-1.2, 1]),
      { gradient: 1e-8, decrease: 0, iterations: 200 },
    )
    expect(stop).toBe('gradient')
    expect(x[0]).toBeCloseTo(1, 8)
    expect(x[1]).toBeCloseTo(1, 8)
  })

  test('bad input is named', async () => {
    const x = new Float32Array(8)
    await expect(miniBatchKMeans(x, 2, 5, '1.9')).rejects.toThrow('clusters must be an integer from 1 to the number of rows, 4, but was 5')
    await expect(fitLogisticRegression(x, new Int32Array(4), '1.9')).rejects.toThrow('at least two labels, but 4 texts have 1')
    expect(sumFloat32(new Float32Array(0))).toBe(0)
  })
})

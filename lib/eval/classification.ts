import { type Embedder, encodeDistinct } from '../model/embedder.js'
import type { ClassificationData } from './cmteb/load.js'
import { type EvaluationContext, gather, type TaskScores } from './evaluators.js'
import { wrongLabels } from './examples.js'
import { type ClassificationScores, classificationScores } from './numeric/classification_metrics.js'
import { fitLogisticRegression } from './numeric/logistic_regression.js'
import { RandomState } from './numeric/mt19937.js'

const SEED = 42

/**
 * Classification (cmteb.md 2.6): for each experiment a logistic regression on a few training texts of each label, scored on the test texts;
 * accuracy is the main score. The vectors are those of the model, not normalised further. No instruction. The scores are means over the
 * experiments: mteb2 has precision and recall besides, cmteb2023 the standard deviations as `NAME_stderr`; average precision is there for two
 * labels. `parts.scores_per_experiment` has each. Throws ERR_BGE_DATA for training texts of one label.
 */
export async function evaluateClassification(
  embedder: Embedder,
  data: ClassificationData,
  context: EvaluationContext,
): Promise<TaskScores> {
  const { encode, rules } = context
  const { train, test, classes } = data
  const samples = trainingSets(train.labels, rules.experiments, rules.samplesPerLabel)
  const chosen = [...new Set(samples.flatMap((rows) => [...rows]))]
  const texts = [...test.texts, ...chosen.map((row) => train.texts[row]!)]
  const vectors = await encodeDistinct(embedder, texts, encode, 'raw')
  context.onEncoded?.()
  const rowOf = new Map(chosen.map((row, i) => [row, vectors.rows[test.texts.length + i]!]))
  const x = gather(vectors, vectors.rows.subarray(0, test.texts.length))
  const truth = Int32Array.from(test.labels)
  let firstPredictions: Int32Array | undefined
  const experiments: Record<string, number>[] = []
  for (const rows of samples) {
    encode.signal?.throwIfAborted()
    const inputs = gather(
      vectors,
      Int32Array.from(rows, (row) => rowOf.get(row)!),
    )
    const fitted = await fitLogisticRegression(
      inputs,
      Int32Array.from(rows, (row) => train.labels[row]!),
      rules.sklearn,
      context.numeric,
    )
    const predicted = await fitted.predict(x)
    firstPredictions ??= predicted
    experiments.push(inDialect(classificationScores(truth, predicted), rules.dialect))
  }
  const names = Object.keys(experiments[0]!)
  const scores: Record<string, number> = {}
  for (const name of names) {
    const { mean, deviation } = moments(experiments.map((experiment) => experiment[name]!))
    scores[name] = mean
    if (rules.dialect === 'cmteb2023') scores[`${name}_stderr`] = deviation
  }
  const wordOf = (label: number): string => String(classes[label])
  return {
    scores,
    n: { texts: test.texts.length, training: samples[0]!.length, experiments: experiments.length },
    parts: { scores_per_experiment: experiments },
    examples: wrongLabels(test.texts, test.labels.map(wordOf), Array.from(firstPredictions!, wordOf)),
  }
}

/**
 * (experiments) rows of the training texts: the first `perLabel` of each label in a random order. Each experiment shuffles the order of the one
 * before with the same seed, as mteb does.
 */
export function trainingSets(labels: readonly number[], experiments: number, perLabel: number): Uint32Array[] {
  const order = Uint32Array.from(labels, (_, i) => i)
  return Array.from({ length: experiments }, () => {
    new RandomState(SEED).shuffle(order)
    const taken = new Map<number, number>()
    return order.filter((row) => {
      const count = taken.get(labels[row]!) ?? 0
      taken.set(labels[row]!, count + 1)
      return count < perLabel
    })
  })
}

function inDialect(scores: ClassificationScores, dialect: EvaluationContext['rules']['dialect']): Record<string, number> {
  if (dialect === 'mteb2') return { ...scores }
  const { accuracy, f1, ap } = scores
  return ap === undefined ? { accuracy, f1 } : { accuracy, f1, ap }
}

/** Mean and population standard deviation. */
export function moments(values: readonly number[]): { mean: number; deviation: number } {
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length
  return { mean, deviation: Math.sqrt(values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / values.length) }
}

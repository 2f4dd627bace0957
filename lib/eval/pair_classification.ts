import { type Embedder, encodeDistinct } from '../model/embedder.js'
import type { PairClassificationData } from './cmteb/load.js'
import type { EvaluationContext, TaskScores } from './evaluators.js'
import { worstPairs } from './examples.js'
import { pairScores, SIMILARITIES } from './numeric/pair_metrics.js'

type Similarity = keyof typeof SIMILARITIES

/**
 * Pair classification (cmteb.md 2.5): how well five similarities tell pairs from others, each with its best threshold: `NAME_accuracy`, `NAME_f1`,
 * `NAME_precision`, `NAME_recall`, `NAME_ap`, and the best of the five as `max_...`. Main score: max_accuracy in mteb2, cosine_ap in cmteb2023,
 * which has no `similarity` and has `NAME_accuracy_threshold` and `NAME_f1_threshold` besides. No instruction.
 */
export async function evaluatePairClassification(
  embedder: Embedder,
  data: PairClassificationData,
  context: EvaluationContext,
): Promise<TaskScores> {
  const { encode, rules } = context
  const n = data.labels.length
  const { rows, vector } = await encodeDistinct(embedder, [...data.text1, ...data.text2], encode, 'raw')
  context.onEncoded?.()
  const valuesOf = (name: Similarity): Float32Array =>
    Float32Array.from({ length: n }, (_, i) => SIMILARITIES[name].of(vector(rows[i]!), vector(rows[n + i]!)))
  const cosines = valuesOf('cosine')
  const names = (Object.keys(SIMILARITIES) as Similarity[]).filter((name) => name !== 'similarity' || rules.dialect === 'mteb2')
  const scores: Record<string, number> = {}
  const best: Record<string, number> = {}
  for (const name of names) {
    const values = name === 'cosine' ? cosines : valuesOf(name)
    const { accuracyThreshold, f1Threshold, ...measures } = pairScores(values, data.labels, SIMILARITIES[name].direction)
    for (const [measure, value] of Object.entries(measures)) {
      scores[`${name}_${measure}`] = value
      best[`max_${measure}`] = Math.max(best[`max_${measure}`] ?? 0, value)
    }
    if (rules.dialect === 'cmteb2023')
      Object.assign(scores, { [`${name}_accuracy_threshold`]: accuracyThreshold, [`${name}_f1_threshold`]: f1Threshold })
  }
  return { scores: { ...scores, ...best }, n: { pairs: n }, examples: worstPairs(data, cosines) }
}

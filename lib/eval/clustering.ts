import { type Embedder, encodeDistinct, type Vectors } from '../model/embedder.js'
import { moments } from './classification.js'
import type { ClusteringData } from './cmteb/load.js'
import { type EvaluationContext, gather, type TaskScores } from './evaluators.js'
import { miniBatchKMeans } from './numeric/kmeans.js'
import { vMeasure } from './numeric/v_measure.js'

/**
 * Clustering (cmteb.md 2.7): mini-batch k-means on the vectors of each set, as many clusters as labels, and the V-measure of labels and clusters.
 * `v_measure` (main) is the mean over the sets, `v_measure_std` their standard deviation; `parts.v_measures` has each. The vectors are those of
 * the model, not normalised further. No instruction. The same in both dialects; the generation of scikit-learn decides which rows are drawn.
 */
export async function evaluateClustering(embedder: Embedder, data: ClusteringData, context: EvaluationContext): Promise<TaskScores> {
  const { encode, rules } = context
  const sets: Vectors[] = []
  for (const { texts } of data.sets) sets.push(await encodeDistinct(embedder, texts, encode, 'raw'))
  context.onEncoded?.()
  const measures: number[] = []
  for (const [i, { labels }] of data.sets.entries()) {
    encode.signal?.throwIfAborted()
    const vectors = sets[i]!
    const numbers = new Map<string, number>()
    for (const label of labels) if (!numbers.has(label)) numbers.set(label, numbers.size)
    const { labels: clusters } = await miniBatchKMeans(
      gather(vectors, vectors.rows),
      vectors.dims,
      numbers.size,
      rules.sklearn,
      context.numeric,
    )
    measures.push(
      vMeasure(
        labels.map((label) => numbers.get(label)!),
        clusters,
      ),
    )
  }
  const { mean, deviation } = moments(measures)
  return {
    scores: { v_measure: mean, v_measure_std: deviation },
    n: { texts: data.sets.reduce((sum, { texts }) => sum + texts.length, 0), sets: data.sets.length },
    parts: { v_measures: measures },
    examples: [],
  }
}

import { invalidArgument } from '../../errors.js'

/**
 * sklearn.metrics.v_measure_score: the harmonic mean of homogeneity and completeness, from entropies with the natural logarithm
 * (Rosenberg and Hirschberg 2007). 0..1; a side with one single class counts as 1.
 * @param truth (N) class numbers @param clusters (N) cluster numbers
 */
export function vMeasure(truth: ArrayLike<number>, clusters: ArrayLike<number>): number {
  const n = truth.length
  if (clusters.length !== n) throw invalidArgument('clusters', `${n} numbers, one for each class`, clusters)
  if (n === 0) return 1
  const classCounts = new Map<number, number>()
  const clusterCounts = new Map<number, number>()
  const joint = new Map<number, Map<number, number>>()
  for (let i = 0; i < n; i++) {
    const row = joint.get(truth[i]!) ?? new Map<number, number>()
    joint.set(truth[i]!, row)
    for (const [counts, key] of [
      [classCounts, truth[i]!],
      [clusterCounts, clusters[i]!],
      [row, clusters[i]!],
    ] as const)
      counts.set(key, (counts.get(key) ?? 0) + 1)
  }
  let information = 0
  for (const [label, row] of joint) {
    for (const [cluster, count] of row) {
      information += (count / n) * (Math.log(count / n) - Math.log(classCounts.get(label)! / n) - Math.log(clusterCounts.get(cluster)! / n))
    }
  }
  // scikit-learn takes a result within rounding of 0 for 0.
  information = Math.abs(information) < 2 ** -52 ? 0 : Math.max(0, information)
  const classEntropy = entropy(classCounts, n)
  const clusterEntropy = entropy(clusterCounts, n)
  const homogeneity = classEntropy === 0 ? 1 : information / classEntropy
  const completeness = clusterEntropy === 0 ? 1 : information / clusterEntropy
  return homogeneity + completeness === 0 ? 0 : (2 * homogeneity * completeness) / (homogeneity + completeness)
}

/** -sum p ln p */
function entropy(counts: ReadonlyMap<number, number>, n: number): number {
  if (counts.size === 1) return 0
  let sum = 0
  for (const count of counts.values()) sum -= (count / n) * Math.log(count / n)
  return sum
}

import type { Judgments } from './metrics.js'
import { ascending, type Confidence, confidenceOf, nauc } from './numeric/abstention.js'

/** mteb's cut-offs; the last is also how many documents are retrieved. */
export const CUTOFFS = [1, 3, 5, 10, 20, 100, 1000] as const
export const DEPTH: number = CUTOFFS.at(-1)!

/** trec_eval's measures come out of mteb with five decimals; mrr is mteb's own. */
const ROUNDED = 5

/** The ranking measures over queries: `{ndcg,map,recall,precision,mrr,hit_rate}_at_k`, and `nauc_..._{max,std,diff1}` of all but the last. */
export class RankingScores {
  /** measure -> value of each query */
  readonly #values = new Map<string, number[]>()
  readonly #confidence: Confidence[] = []

  /**
   * Adds one query. The numbers are those of metrics.ts, from one pass over the ranking.
   * @param ranked ids, best first, at most DEPTH @param scores of these @returns its ndcg_at_10
   */
  add(ranked: readonly string[], scores: ArrayLike<number>, judgments: Judgments): number {
    this.#confidence.push(confidenceOf(scores))
    const ideal = [...judgments.values()].filter((grade) => grade >= 1).sort((a, b) => b - a)
    const hits: { rank: number; grade: number }[] = []
    for (const [i, id] of ranked.entries()) {
      const grade = judgments.get(id) ?? 0
      if (grade >= 1) hits.push({ rank: i + 1, grade })
    }
    let result = 0
    for (const k of CUTOFFS) {
      let [found, dcg, precisions, best] = [0, 0, 0, 0]
      for (const { rank, grade } of hits) {
        if (rank > k) break
        dcg += grade / Math.log2(rank + 1)
        precisions += ++found / rank
      }
      for (const [i, grade] of ideal.slice(0, k).entries()) best += grade / Math.log2(i + 2)
      const share = (value: number, of: number): number => (of === 0 ? 0 : value / of)
      const ndcg = share(dcg, best)
      if (k === 10) result = ndcg
      this.#add(`ndcg_at_${k}`, ndcg)
      this.#add(`map_at_${k}`, share(precisions, ideal.length))
      this.#add(`recall_at_${k}`, share(found, ideal.length))
      this.#add(`precision_at_${k}`, found / k)
      this.#add(`mrr_at_${k}`, found === 0 ? 0 : 1 / hits[0]!.rank)
      this.#add(`hit_rate_at_${k}`, found === 0 ? 0 : 1)
    }
    return result
  }

  /** Means over the queries, rounded as mteb rounds them, with `accuracy`, its name for recall_at_1 (cmteb.md 2.1). */
  means(): Record<string, number> {
    const means = Object.fromEntries(
      [...this.#values].map(([name, values]) => {
        const mean = values.reduce((sum, value) => sum + value, 0) / values.length
        return [name, name.startsWith('mrr') ? mean : pythonRound(mean, ROUNDED)]
      }),
    )
    return { ...means, accuracy: means.recall_at_1! }
  }

  /** `nauc_MEASURE_at_K_{max,std,diff1}`: nAUC by each confidence; NaN where a measure is the same for every query. */
  nauc(): Record<string, number> {
    const kinds = ['max', 'std', 'diff1'] as const
    const orders = kinds.map((kind) => ascending(Float64Array.from(this.#confidence, (one) => one[kind])))
    const scores: Record<string, number> = {}
    for (const [name, values] of this.#values) {
      if (name.startsWith('hit_rate')) continue
      for (const [i, value] of nauc(orders, Float64Array.from(values)).entries()) scores[`nauc_${name}_${kinds[i]!}`] = value
    }
    return scores
  }

  #add(name: string, value: number): void {
    const values = this.#values.get(name)
    if (values === undefined) this.#values.set(name, [value])
    else values.push(value)
  }
}

/** Python's round(x, digits): to the nearest decimal of the exact binary value, a tie to the even digit. */
export function pythonRound(x: number, digits: number): number {
  const up = Number(Math.abs(x).toFixed(digits)) // ties go up
  const exact = Math.abs(x).toFixed(Math.min(100, digits + 60))
  const tail = exact.slice(exact.indexOf('.') + 1 + digits)
  const tie =
    /^50*$/.test(tail) && Number(exact.at(-tail.length - 1) === '.' ? exact.at(-tail.length - 2) : exact.at(-tail.length - 1)) % 2 === 0
  const result = tie ? Number(exact.slice(0, exact.length - tail.length)) : up
  return x < 0 ? -result : result
}

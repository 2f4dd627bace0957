import { isRelevant, type Judgments, mapAt, mrrAt, ndcgAt, precisionAt, recallAt } from './metrics.js'

/** mteb's cut-offs; the last is also how many documents are retrieved. */
export const CUTOFFS = [1, 3, 5, 10, 20, 100, 1000] as const
export const DEPTH: number = CUTOFFS.at(-1)!

const MEASURES = { ndcg: ndcgAt, map: mapAt, recall: recallAt, precision: precisionAt, mrr: mrrAt } as const
/** trec_eval's measures come out of mteb with five decimals; mrr is mteb's own. */
const ROUNDED = 5

/** Sums of the ranking measures over queries: `{ndcg,map,recall,precision,mrr,hit_rate}_at_k`. */
export class RankingScores {
  readonly #sums = new Map<string, number>()
  #queries = 0

  /** Adds one query. @param ranked ids, best first, at most DEPTH @returns its ndcg_at_10 */
  add(ranked: readonly string[], judgments: Judgments): number {
    this.#queries++
    // No measure changes after the last relevant document but precision, which divides by k.
    const end = ranked.findLastIndex((id) => isRelevant(judgments, id)) + 1
    const head = ranked.slice(0, end)
    for (const [name, measure] of Object.entries(MEASURES))
      for (const k of CUTOFFS) this.#add(`${name}_at_${k}`, measure(k, head, judgments))
    const first = head.findIndex((id) => isRelevant(judgments, id))
    for (const k of CUTOFFS) this.#add(`hit_rate_at_${k}`, first >= 0 && first < k ? 1 : 0)
    return ndcgAt(10, head, judgments)
  }

  /** Means over the queries, rounded as mteb rounds them, with `accuracy`, its name for recall_at_1 (cmteb.md 2.1). */
  means(): Record<string, number> {
    const means = Object.fromEntries(
      [...this.#sums].map(([name, sum]) => {
        const mean = sum / this.#queries
        return [name, name.startsWith('mrr') ? mean : pythonRound(mean, ROUNDED)]
      }),
    )
    return { ...means, accuracy: means.recall_at_1! }
  }

  #add(name: string, value: number): void {
    this.#sums.set(name, (this.#sums.get(name) ?? 0) + value)
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

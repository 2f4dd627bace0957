/**
 * The scores of C-MTEB as pure functions (facts: cmteb.md section 2). Ranking metrics follow trec_eval (usnistgov/trec_eval, the program behind
 * mteb's pytrec_eval), correlations follow scipy.stats, average precision and paired cosines follow scikit-learn. All results are 0..1
 * (correlations -1..1); every mean is taken by the caller.
 */

/** One retrieved document. */
export interface Hit {
  readonly id: string
  readonly score: number
}

/** Relevance of the judged documents of one query: document id -> grade. A grade of at least 1 is relevant; unjudged documents are not. */
export type Judgments = ReadonlyMap<string, number>

/** Order of UTF-8 bytes, which is the order of code points (`<` on strings orders UTF-16 units and differs above U+FFFF). */
export function compareUtf8(a: string, b: string): number {
  const n = Math.min(a.length, b.length)
  for (let i = 0; i < n; i++) {
    const x = a.charCodeAt(i)
    const y = b.charCodeAt(i)
    if (x !== y) return afterSurrogates(x) - afterSurrogates(y)
  }
  return a.length - b.length
}

/** Surrogates stand for code points above every other unit: 0xE000..0xFFFF moves below them. */
function afterSurrogates(unit: number): number {
  return unit < 0xd800 ? unit : unit < 0xe000 ? unit + 0x2000 : unit - 0x800
}

/** trec_eval's order: score descending, equal scores by document id descending (strcmp on UTF-8 bytes), whatever order the run came in. */
export function rankHits(hits: readonly Hit[]): string[] {
  return [...hits].sort((a, b) => b.score - a.score || compareUtf8(b.id, a.id)).map((hit) => hit.id)
}

/**
 * ndcg_cut_k: sum of grade / log2(rank + 1) over the first k, divided by the same sum of the best order of ALL positive judgments.
 * The gain is the grade itself, not 2^grade - 1. 0 for a query without a relevant document.
 */
export function ndcgAt(k: number, ranked: readonly string[], judgments: Judgments): number {
  const gains = ranked.slice(0, k).map((id) => Math.max(0, judgments.get(id) ?? 0))
  const ideal = [...judgments.values()].filter((grade) => grade > 0).sort((a, b) => b - a)
  const best = discounted(ideal.slice(0, k))
  return best === 0 ? 0 : discounted(gains) / best
}

function discounted(gains: readonly number[]): number {
  return gains.reduce((sum, gain, i) => sum + gain / Math.log2(i + 2), 0)
}

/** map_cut_k: the sum of precision at each relevant document of the first k, divided by the number of ALL relevant documents. */
export function mapAt(k: number, ranked: readonly string[], judgments: Judgments): number {
  let found = 0
  let sum = 0
  for (const [i, id] of ranked.slice(0, k).entries()) if (isRelevant(judgments, id)) sum += ++found / (i + 1)
  return ratio(sum, relevantCount(judgments))
}

/** 1 / rank of the first relevant document among the first k, or 0. */
export function mrrAt(k: number, ranked: readonly string[], judgments: Judgments): number {
  const first = ranked.slice(0, k).findIndex((id) => isRelevant(judgments, id))
  return first < 0 ? 0 : 1 / (first + 1)
}

/** Relevant documents among the first k / all relevant documents. */
export function recallAt(k: number, ranked: readonly string[], judgments: Judgments): number {
  return ratio(hitsAt(k, ranked, judgments), relevantCount(judgments))
}

/** Relevant documents among the first k / k, even where fewer than k were retrieved. */
export function precisionAt(k: number, ranked: readonly string[], judgments: Judgments): number {
  return hitsAt(k, ranked, judgments) / k
}

function hitsAt(k: number, ranked: readonly string[], judgments: Judgments): number {
  return ranked.slice(0, k).filter((id) => isRelevant(judgments, id)).length
}

/** Whether a document is judged 1 or more. */
export function isRelevant(judgments: Judgments, id: string): boolean {
  return (judgments.get(id) ?? 0) >= 1
}

function relevantCount(judgments: Judgments): number {
  let count = 0
  for (const grade of judgments.values()) if (grade >= 1) count++
  return count
}

function ratio(a: number, b: number): number {
  return b === 0 ? 0 : a / b
}

/**
 * sklearn.metrics.average_precision_score: sum of (recall step) x precision over the distinct scores, descending. Equal scores form one
 * group, whose precision is taken at its end. 0 without a relevant entry.
 * @param relevant (n) true or 1 for a relevant entry @param scores (n)
 */
export function averagePrecision(relevant: ArrayLike<boolean | number>, scores: ArrayLike<number>): number {
  const order = Array.from({ length: scores.length }, (_, i) => i).sort((a, b) => scores[b]! - scores[a]!)
  let total = 0
  for (let i = 0; i < relevant.length; i++) if (relevant[i]) total++
  let found = 0
  let sum = 0
  for (let start = 0, end = 0; start < order.length; start = end) {
    let inGroup = 0
    for (end = start; end < order.length && scores[order[end]!] === scores[order[start]!]; end++) if (relevant[order[end]!]) inGroup++
    found += inGroup
    sum += inGroup * (found / end)
  }
  return ratio(sum, total)
}

/** Ranks 1..n; equal values share the mean of their ranks (scipy.stats.rankdata, method 'average'). */
export function averageRanks(values: ArrayLike<number>): Float64Array {
  const order = Array.from({ length: values.length }, (_, i) => i).sort((a, b) => values[a]! - values[b]!)
  const ranks = new Float64Array(values.length)
  for (let start = 0, end = 0; start < order.length; start = end) {
    while (end < order.length && values[order[end]!] === values[order[start]!]) end++
    for (let i = start; i < end; i++) ranks[order[i]!] = (start + 1 + end) / 2
  }
  return ranks
}

/** Pearson's correlation (scipy.stats.pearsonr). NaN where one side is constant or there are fewer than two values. */
export function pearson(x: ArrayLike<number>, y: ArrayLike<number>): number {
  const n = x.length
  const mx = mean(x)
  const my = mean(y)
  let xx = 0
  let yy = 0
  let xy = 0
  for (let i = 0; i < n; i++) {
    const dx = x[i]! - mx
    const dy = y[i]! - my
    xx += dx * dx
    yy += dy * dy
    xy += dx * dy
  }
  if (n < 2 || xx === 0 || yy === 0) return Number.NaN
  return Math.max(-1, Math.min(1, xy / (Math.sqrt(xx) * Math.sqrt(yy))))
}

/** Spearman's correlation: Pearson's of the average ranks (scipy.stats.spearmanr). NaN where one side is constant. */
export function spearman(x: ArrayLike<number>, y: ArrayLike<number>): number {
  return pearson(averageRanks(x), averageRanks(y))
}

function mean(values: ArrayLike<number>): number {
  let sum = 0
  for (let i = 0; i < values.length; i++) sum += values[i]!
  return sum / values.length
}

import { setImmediate as nextTurn } from 'node:timers/promises'
import { random } from '../data/random.js'

/** A query's score under two models. */
export interface Pair {
  readonly before: number
  readonly after: number
  /** queries of one group stand or fall together (they share a passage): groups are drawn, not queries */
  readonly group: number
}

export type Verdict = 'better' | 'worse' | 'no difference shown'

/** A difference of means, how sure it is, and what may be said of it. */
export interface Comparison {
  readonly verdict: Verdict
  readonly queries: number
  /** groups of queries that share a passage */
  readonly groups: number
  readonly before: number
  readonly after: number
  readonly difference: number
  /** the middle 95 % of the resampled differences; null for a single group, which says nothing of others */
  readonly interval: readonly [low: number, high: number] | null
  readonly resamples: number
  readonly seed: number
  /** queries that the second model ranks better, worse, the same */
  readonly counts: { readonly better: number; readonly worse: number; readonly equal: number }
}

const RESAMPLES = 10_000
const CONFIDENCE = 0.95

/**
 * Paired bootstrap (Efron and Tibshirani 1993, percentile interval): queries are drawn with replacement, in groups, 10,000 times, and each time the difference of
 * the two means is taken over the same queries. The verdict is 'better' or 'worse' only where the interval of 95 % leaves zero out. The interval says what other
 * queries of the same kind would do, not what another training seed would.
 */
export async function comparePaired(pairs: readonly Pair[], seed: number): Promise<Comparison> {
  const sums = new Map<number, { count: number; difference: number }>()
  for (const { before, after, group } of pairs) {
    const sum = sums.get(group) ?? { count: 0, difference: 0 }
    sums.set(group, { count: sum.count + 1, difference: sum.difference + after - before })
  }
  const groups = [...sums.values()]
  const mean = (of: (pair: Pair) => number): number => pairs.reduce((sum, pair) => sum + of(pair), 0) / pairs.length
  const interval = groups.length < 2 ? null : await resample(groups, seed)
  return {
    verdict: interval === null || (interval[0] <= 0 && interval[1] >= 0) ? 'no difference shown' : interval[0] > 0 ? 'better' : 'worse',
    queries: pairs.length,
    groups: groups.length,
    before: mean(({ before }) => before),
    after: mean(({ after }) => after),
    difference: mean(({ before, after }) => after - before),
    interval,
    resamples: RESAMPLES,
    seed,
    counts: {
      better: pairs.filter(({ before, after }) => after > before).length,
      worse: pairs.filter(({ before, after }) => after < before).length,
      equal: pairs.filter(({ before, after }) => after === before).length,
    },
  }
}

async function resample(groups: readonly { count: number; difference: number }[], seed: number): Promise<[low: number, high: number]> {
  const draw = random(seed, 'bootstrap')
  const differences = new Float64Array(RESAMPLES)
  for (let i = 0; i < RESAMPLES; i++) {
    let [count, difference] = [0, 0]
    for (let n = 0; n < groups.length; n++) {
      const group = groups[draw.int(groups.length)]!
      count += group.count
      difference += group.difference
    }
    differences[i] = difference / count
    if (i % 64 === 63) await nextTurn()
  }
  differences.sort()
  const tail = (1 - CONFIDENCE) / 2
  return [quantile(differences, tail), quantile(differences, 1 - tail)]
}

/** Linear between order statistics, as numpy's default. */
function quantile(sorted: Float64Array, share: number): number {
  const at = share * (sorted.length - 1)
  const low = Math.floor(at)
  return sorted[low]! + (at - low) * (sorted[Math.min(low + 1, sorted.length - 1)]! - sorted[low]!)
}

/** `nDCG@10 61.20 -> 63.45, +2.25 (95 % interval +0.91 to +3.64, 187 queries)` */
export function describeComparison({ before, after, difference, interval, queries }: Comparison): string {
  const sure = interval === null ? 'no interval' : `95 % interval ${signed(interval[0])} to ${signed(interval[1])}`
  return `nDCG@10 ${percent(before)} -> ${percent(after)}, ${signed(difference)} (${sure}, ${queries} ${queries === 1 ? 'query' : 'queries'})`
}

/** What may be said of a comparison, in a sentence. */
export function verdictSentence({ verdict, interval, groups }: Comparison): string {
  if (verdict === 'better') return 'better on these queries: the interval leaves zero out'
  if (verdict === 'worse') return 'WORSE on these queries: the interval lies below zero; keep the model it started from'
  const why = interval === null ? 'a single group of queries says nothing of others' : 'the interval covers zero'
  return `no difference shown: ${why}${groups < 100 ? `, and ${groups} independent queries are few: more dev rows make it narrower` : ''}`
}

export function percent(score: number): string {
  return (100 * score).toFixed(2)
}

export function signed(difference: number): string {
  const text = percent(difference)
  return Number(text) > 0 ? `+${text}` : text.replace(/^-(0\.00)$/, '$1')
}

import { readFileSync } from 'node:fs'
import { describe, expect, test } from 'vitest'
import { ascending, confidenceOf, nauc, sumFloat64 } from '../lib/eval/numeric/abstention.js'
import { RandomState } from '../lib/eval/numeric/mt19937.js'
import { mapAt, mrrAt, ndcgAt, precisionAt, recallAt } from '../lib/eval/metrics.js'
import { CUTOFFS, pythonRound, RankingScores } from '../lib/eval/ranking.js'

interface Case {
  seed: number
  queries: number
  documents: number
  levels: number
  relevant: 'random' | 'first' | 'none'
  expected: Record<string, number | null>
}

const cases = JSON.parse(readFileSync(new URL('./fixtures/abstention/abstention.json', import.meta.url), 'utf8')) as Case[]

/** make.py's `rankings`: the same bits. */
function rankings({ seed, queries, documents, levels, relevant }: Case): { scores: number[]; grades: number[] }[] {
  const random = new RandomState(seed)
  const scores = Array.from(random.randint(levels, queries * documents), (x) => Math.fround(x / levels))
  const drawn = Array.from(random.randint(6, queries * documents), (x) => Math.max(0, x - 3))
  const grades = relevant === 'random' ? drawn : drawn.map((_, i) => (relevant === 'first' && i % documents === 0 ? 1 : 0))
  return Array.from({ length: queries }, (_, q) => ({
    scores: scores.slice(q * documents, (q + 1) * documents).sort((a, b) => b - a),
    grades: grades.slice(q * documents, (q + 1) * documents),
  }))
}

describe('the ranking measures of a task', () => {
  const measures = { ndcg: ndcgAt, map: mapAt, recall: recallAt, precision: precisionAt, mrr: mrrAt }
  test.each(cases.slice(0, 3))('are the pure functions, query by query: $queries queries x $documents documents', (one) => {
    for (const { scores, grades } of rankings(one)) {
      const ranked = grades.map((_, i) => `d${i}`)
      // A document that is judged 0, and relevant ones that are not retrieved.
      const judgments = new Map([...grades.map((grade, i) => [`d${i}`, grade] as const), ['lost', 3], ['also lost', 1], ['judged 0', 0]])
      const totals = new RankingScores()
      expect(totals.add(ranked, scores, judgments)).toBe(ndcgAt(10, ranked, judgments))
      const means = totals.means()
      for (const k of CUTOFFS) {
        for (const [name, measure] of Object.entries(measures)) {
          const value = measure(k, ranked, judgments)
          expect(means[`${name}_at_${k}`], `${name}_at_${k}`).toBe(name === 'mrr' ? value : pythonRound(value, 5))
        }
        expect(means[`hit_rate_at_${k}`]).toBe(recallAt(k, ranked, judgments) > 0 ? 1 : 0)
      }
    }
  })

  test('of a query without a relevant document are 0, without a retrieved one too', () => {
    const totals = new RankingScores()
    expect(totals.add(['a'], [1], new Map([['a', 0]]))).toBe(0)
    expect(totals.add([], [], new Map([['a', 1]]))).toBe(0)
    expect(new Set(Object.values(totals.means()))).toEqual(new Set([0]))
  })
})

describe('nAUC as mteb computes it', () => {
  test.each(cases)('$queries queries x $documents documents, relevant: $relevant', (one) => {
    const totals = new RankingScores()
    for (const { scores, grades } of rankings(one)) {
      const judgments = new Map(grades.map((grade, i) => [`d${i}`, grade]))
      if (one.relevant !== 'first') judgments.set('lost', 1)
      totals.add(
        grades.map((_, i) => `d${i}`),
        scores,
        judgments,
      )
    }
    const actual = totals.nauc()
    expect(Object.keys(actual).sort()).toEqual(Object.keys(one.expected).sort())
    // Only the last bits of log2 may differ; whether a constant gives 1 or NaN may not.
    for (const [name, value] of Object.entries(one.expected))
      if (value === null) expect(actual[name], name).toBeNaN()
      else expect(Math.abs(actual[name]! - value), name).toBeLessThan(1e-12)
  })

  test('the cases hold what they are for: values, NaN, and the 1 that rounding makes of a constant', () => {
    const kinds = cases.map(({ expected }) => Object.values(expected))
    expect(kinds[0]!.some((value) => value !== null && Math.abs(value) > 0.01 && Math.abs(value) < 0.99)).toBe(true)
    expect(kinds[3]!.some((value) => value === null) && kinds[3]!.some((value) => value === 1)).toBe(true)
  })

  test('the order of confidence decides: sure where right is 1, sure where wrong is below 0', () => {
    const metric = Float64Array.from({ length: 20 }, (_, i) => i / 19)
    const [sure, unsure] = nauc([ascending(metric), ascending(metric.map((x) => -x))], metric)
    expect(sure).toBe(1)
    expect(unsure).toBeLessThan(-0.9)
  })

  test('no document, one document', () => {
    expect(confidenceOf([])).toEqual({ max: 0, std: 0, diff1: 0 })
    expect(confidenceOf([0.5])).toEqual({ max: 0.5, std: 0, diff1: 0 })
  })

  test('sums in blocks: 0.1 a thousand times is not what a loop gives', () => {
    // numpy.full(1000, 0.1).sum() prints 100.00000000000001, a loop of additions 99.9999999999986.
    expect(sumFloat64(new Float64Array(1000).fill(0.1))).toBe(100.00000000000001)
  })
})

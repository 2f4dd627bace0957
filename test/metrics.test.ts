import { readFileSync } from 'node:fs'
import { describe, expect, test } from 'vitest'
import {
  averagePrecision,
  averageRanks,
  compareUtf8,
  type Hit,
  mapAt,
  mrrAt,
  ndcgAt,
  pearson,
  precisionAt,
  rankHits,
  recallAt,
  spearman,
} from '../lib/eval/metrics.js'
import { SIMILARITIES } from '../lib/eval/numeric/pair_metrics.js'

interface Fixture {
  correlations: { x: number[]; y: number[]; ranks: number[]; pearson: number; spearman: number }[]
  averagePrecisions: { relevant: number[]; scores: number[]; ap: number }[]
  cosines: { x: number[]; y: number[]; cosine: number }[]
  rankings: { hits: [string, number][]; qrels: Record<string, number>; at: Record<string, Record<string, number>> }[]
}

const fixture = JSON.parse(readFileSync(new URL('./fixtures/metrics/metrics.json', import.meta.url), 'utf8')) as Fixture
// Both sides are sums of doubles in some order.
const close = (actual: number, expected: number): void => expect(Math.abs(actual - expected)).toBeLessThan(1e-12)

describe('against scipy and scikit-learn', () => {
  test.each(fixture.correlations)('correlations %#', ({ x, y, ranks, pearson: r, spearman: rho }) => {
    expect([...averageRanks(x)]).toEqual(ranks)
    close(pearson(x, y), r)
    close(spearman(x, y), rho)
  })
  test.each(fixture.averagePrecisions)('average precision %#', ({ relevant, scores, ap }) => close(averagePrecision(relevant, scores), ap))
  test.each(fixture.cosines)('paired cosine %#', ({ x, y, cosine }) => {
    // One unit of float32 at 1: only the order of summation differs.
    expect(Math.abs(SIMILARITIES.cosine.of(Float32Array.from(x), Float32Array.from(y)) - cosine)).toBeLessThanOrEqual(2 ** -23)
  })
})

describe('against the definitions of trec_eval, with ties', () => {
  test.each(fixture.rankings)('ranking %#', ({ hits, qrels, at }) => {
    const ranked = rankHits(hits.map(([id, score]): Hit => ({ id, score })))
    const judgments = new Map(Object.entries(qrels))
    for (const [k, expected] of Object.entries(at)) {
      close(ndcgAt(Number(k), ranked, judgments), expected.ndcg!)
      close(mapAt(Number(k), ranked, judgments), expected.map!)
      close(mrrAt(Number(k), ranked, judgments), expected.mrr!)
      close(recallAt(Number(k), ranked, judgments), expected.recall!)
      close(precisionAt(Number(k), ranked, judgments), expected.precision!)
    }
  })
})

describe('by hand', () => {
  const judgments = new Map([
    ['a', 3],
    ['b', 1],
    ['c', 0],
  ])
  test('ndcg: raw grades, ideal over all judgments', () => {
    // ranks: b (1), x (unjudged), a (3): 1/1 + 3/2, ideal 3/1 + 1/log2(3)
    close(ndcgAt(3, ['b', 'x', 'a'], judgments), (1 + 3 / 2) / (3 + 1 / Math.log2(3)))
    close(ndcgAt(1, ['b', 'x', 'a'], judgments), 1 / 3)
  })
  test('grade 0 is not relevant, k may exceed the list', () => {
    close(recallAt(2, ['c', 'b'], judgments), 1 / 2)
    close(precisionAt(10, ['c', 'b'], judgments), 1 / 10)
    close(mrrAt(10, ['c', 'b'], judgments), 1 / 2)
    close(mapAt(10, ['c', 'b'], judgments), 1 / 2 / 2)
  })
  test('a query without a relevant document scores 0', () => {
    const none = new Map([['c', 0]])
    expect([ndcgAt(10, ['c'], none), mapAt(10, ['c'], none), recallAt(10, ['c'], none), mrrAt(10, ['c'], none)]).toEqual([0, 0, 0, 0])
  })
  test('equal scores: larger id first, in bytes', () => {
    expect(
      rankHits([
        { id: 'd1', score: 1 },
        { id: 'd9', score: 1 },
        { id: 'd10', score: 1 },
        { id: 'a', score: 2 },
      ]),
    ).toEqual(['a', 'd9', 'd10', 'd1'])
    // U+20000 is after U+FF5A in UTF-8 and before it in UTF-16
    expect(compareUtf8('\u{20000}', '\uff5a')).toBeGreaterThan(0)
    expect(compareUtf8('月', '月a')).toBeLessThan(0)
  })
  test('average precision takes a tie block as one', () => close(averagePrecision([1, 0], [0.5, 0.5]), 0.5))
  test('a constant side has no correlation', () => {
    expect(spearman([1, 1, 1], [1, 2, 3])).toBeNaN()
    expect(pearson([1], [1])).toBeNaN()
  })
  test('cosine of a zero vector with a unit vector is 1 - 0.5, as scikit-learn says', () => {
    expect(SIMILARITIES.cosine.of(Float32Array.of(0, 0), Float32Array.of(0, 2))).toBe(0.5)
  })
})

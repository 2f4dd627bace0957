import type { Random } from '../data/random.js'
import type { Pool } from './pool.js'

/** What happened to the hits of one or many queries. */
export interface MiningCounts {
  /** hits ranked before the range: most likely relevant, so never sampled */
  beforeRange: number
  /** hits of the range that are a positive of the query, in this row or another */
  positive: number
  /** hits of the range that equal the query */
  query: number
  /** negatives sampled from the range */
  mined: number
  /** negatives drawn at random from the pool, because the range left too few */
  random: number
  /** negatives missing, because the pool has no further passage that is not a positive */
  missing: number
}

/** All counts zero. */
export function noCounts(): MiningCounts {
  return { beforeRange: 0, positive: 0, query: 0, mined: 0, random: 0, missing: 0 }
}

/**
 * Chooses the negatives of one query (recipe.md 3.6): the hits of ranks [low, high), 0-based, without positives and the query itself; `count` of
 * them at random, in rank order; a shortfall is filled with random passages of the pool.
 * @param hits passage numbers, best first, at least `high` of them unless the pool is smaller; -1 ends the list
 * @param counts is added to
 */
export function chooseNegatives(
  query: string,
  hits: ArrayLike<number>,
  pool: Pool,
  options: { range: readonly [low: number, high: number]; count: number; draw: Random; counts: MiningCounts },
): string[] {
  const { range, count, draw, counts } = options
  const positives = pool.positives(query)
  const candidates: number[] = []
  for (let rank = 0; rank < Math.min(range[1], hits.length); rank++) {
    const hit = hits[rank]!
    if (hit < 0) break
    const text = pool.passages[hit]!
    if (rank < range[0]) counts.beforeRange++
    else if (positives.has(text)) counts.positive++
    else if (text === query) counts.query++
    else candidates.push(rank)
  }
  const ranks = candidates.length > count ? draw.sample(candidates, count).sort((a, b) => a - b) : candidates
  const chosen = ranks.map((rank) => hits[rank]!)
  counts.mined += chosen.length
  const filled = fill(query, new Set(chosen), pool, count - chosen.length, draw)
  counts.random += filled.length
  counts.missing += count - chosen.length - filled.length
  return [...chosen, ...filled].map((number) => pool.passages[number]!)
}

/** `count` random passages that are neither taken, nor a positive, nor the query; fewer where the pool has no more. */
function fill(query: string, taken: Set<number>, pool: Pool, count: number, draw: Random): number[] {
  for (const text of [...pool.positives(query), query]) {
    const number = pool.number(text)
    if (number !== undefined) taken.add(number)
  }
  const wanted = Math.min(count, pool.passages.length - taken.size)
  const filled: number[] = []
  while (filled.length < wanted) {
    const number = draw.int(pool.passages.length)
    if (taken.has(number)) continue
    taken.add(number)
    filled.push(number)
  }
  return filled
}

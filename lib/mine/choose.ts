import type { PairRow } from '../data/jsonl.js'
import { type Random, random } from '../data/random.js'
import { BgeError } from '../errors.js'
import type { Settings } from './options.js'
import type { Pool } from './pool.js'
import type { Rejected, Rule, Tally } from './tally.js'

/** A row to mine for, its texts as numbers of the pool. */
export interface Job {
  readonly row: PairRow
  /** of the row in all data, from 0: what its draws depend on beside the seed */
  readonly index: number
  readonly query: number
  /** the query where it is itself a passage, else -1 */
  readonly self: number
  readonly positives: readonly number[]
}

/** A hit that may become a negative. */
export interface Candidate {
  readonly number: number
  readonly rank: number | null
  readonly score: number | null
}

export interface Chosen {
  readonly negatives: readonly number[]
  /** of the row's positives and of the negatives; null where nothing asked for scores */
  readonly scores: { readonly positives: readonly number[]; readonly negatives: readonly number[] } | null
}

export type ChoosingPool = Pick<Pool, 'size' | 'texts' | 'positives' | 'positiveIds' | 'ids'>

/** Random passages looked at for each negative that is missing, before it is given up. */
const DRAWS = 100

/** Throws ERR_BGE_DATA for a row that was not there when the pool was read. */
export function jobOf(row: PairRow, index: number, pool: Pool): Job {
  const query = pool.query(row.query)
  const positives = row.pos.map(pool.number)
  if (query < 0 || positives.some((number) => number < 0)) {
    const { file, line } = row
    throw new BgeError('ERR_BGE_DATA', `${file}:${line}: the file must stay as it is while it is mined, but was changed`, {
      details: { file, line },
    })
  }
  return { row, index, query, self: pool.number(row.query), positives }
}

/**
 * The hits of ranks [low, high) that are no positive of the query, by text or by id, in this row or another, and not the query itself.
 * @param hits passage numbers, best first; -1 ends the list @param scores of the hits
 */
export function candidatesOf(
  job: Job,
  hits: Int32Array,
  scores: Float32Array,
  { pool, settings, tally }: { pool: ChoosingPool; settings: Pick<Settings, 'range'>; tally: Tally },
): Candidate[] {
  const [low, high] = settings.range
  const unfit = unfitFor(job, pool)
  const candidates: Candidate[] = []
  for (let rank = 0; rank < Math.min(high, hits.length) && hits[rank]! >= 0; rank++) {
    const candidate = { number: hits[rank]!, rank, score: scores[rank]! }
    const rule = rank < low ? 'rank' : unfit(candidate.number)
    if (rule === undefined) candidates.push(candidate)
    else tally.reject(rule, job.index, () => rejected(job, candidate, null, pool))
  }
  return candidates
}

/** Why a passage can be no negative of the row's query, whatever its score. */
function unfitFor({ query, self }: Job, pool: ChoosingPool): (passage: number) => Rule | undefined {
  const positives = new Set(pool.positives(query))
  const ids = new Set(pool.positiveIds(query))
  return (passage) => {
    if (positives.has(passage)) return 'positive'
    if (ids.size > 0 && pool.ids(passage).some((id) => ids.has(id))) return 'positiveId'
    return passage === self ? 'query' : undefined
  }
}

/** Why a score is none of a negative. @param positive the lowest of the row's positives; null where nothing asked for it */
export function scoreRule(
  { maxRelative, margin, maxScore, minScore }: Settings['rules'],
  positive: number | null,
): (score: number) => Rule | undefined {
  const relative = maxRelative === null || positive === null ? Infinity : positive - (1 - maxRelative) * Math.abs(positive)
  const absolute = margin === null || positive === null ? Infinity : positive - margin
  return (score) => {
    if (score > relative) return 'maxRelative'
    if (score > absolute) return 'margin'
    if (score > (maxScore ?? Infinity)) return 'maxScore'
    return score < (minScore ?? -Infinity) ? 'minScore' : undefined
  }
}

/** What choosing needs beside the candidates. `score`: cosines with the row's query; undefined where nothing asks for scores */
export interface Choosing {
  readonly pool: ChoosingPool
  readonly settings: Settings
  readonly tally: Tally
  readonly score?: (numbers: readonly number[]) => Promise<readonly number[]>
  /** 'hits': the candidates have their scores; 'all': a teacher gives them */
  readonly scored: 'hits' | 'all'
}

/**
 * Chooses the negatives of a row (recipe.md 3.6): candidates that pass the score rules, `negatives` of them at random or the best, in rank order; a
 * shortfall is filled with random passages of the pool that pass the same rules. Where maxRelative and margin leave a row nothing at all, its positive
 * scores below nearly everything, and a comparison with it says nothing about a passage: random ones are then taken without these two rules, as
 * FlagEmbedding fills, because the row is one to learn from and training with negatives needs one in every row.
 */
export async function chooseNegatives(job: Job, candidates: readonly Candidate[], choosing: Choosing): Promise<Chosen> {
  const { pool, settings, tally, score } = choosing
  const { negatives: count, sampling, rules, seed } = settings
  const positiveScores = score ? await score(job.positives) : null
  const positive = positiveScores === null ? null : Math.min(...positiveScores)
  const ruleOf = scoreRule(rules, positive)
  const fits = (candidate: Candidate): boolean => {
    const rule = candidate.score === null ? undefined : ruleOf(candidate.score)
    if (rule !== undefined) tally.reject(rule, job.index, () => rejected(job, candidate, positive, pool))
    return rule === undefined
  }
  const scored = score && choosing.scored === 'all' ? await rescored(candidates, score) : candidates
  const fit = scored.filter(fits)
  const draw = random(seed, 'mine', 0, job.index)
  const chosen =
    fit.length <= count ? fit : sampling === 'top' ? fit.slice(0, count) : draw.sample(fit, count).sort((a, b) => a.rank! - b.rank!)
  tally.counts.mined += chosen.length
  if (sampling !== 'pool' && chosen.length < count) tally.counts.short++
  const taken = new Set(candidates.map(({ number }) => number))
  const fills = settings.fill === 'random' || sampling === 'pool'
  let filled = fills ? await fill(job, count - chosen.length, { ...choosing, taken, draw, fits }) : []
  if (fills && chosen.length + filled.length === 0 && positive !== null && (rules.maxRelative !== null || rules.margin !== null)) {
    const absolute = scoreRule({ ...rules, maxRelative: null, margin: null }, null)
    const passes = ({ score }: Candidate): boolean => absolute(score!) === undefined
    filled = await fill(job, count, { ...choosing, taken: new Set(), draw, fits: passes })
    if (filled.length > 0) tally.counts.weak++
  }
  tally.counts.random += filled.length
  tally.counts.missing += count - chosen.length - filled.length
  const all = [...chosen, ...filled]
  if (all.length === 0) tally.counts.empty++
  return {
    negatives: all.map(({ number }) => number),
    scores: positiveScores && { positives: positiveScores, negatives: all.map((candidate) => candidate.score!) },
  }
}

async function rescored(candidates: readonly Candidate[], score: NonNullable<Choosing['score']>): Promise<Candidate[]> {
  const scores = await score(candidates.map(({ number }) => number))
  return candidates.map((candidate, i) => ({ ...candidate, score: scores[i]! }))
}

/** Random passages that are no candidate, no positive and not the query, and whose scores pass. */
async function fill(
  job: Job,
  count: number,
  { pool, score, taken, draw, fits }: Choosing & { taken: ReadonlySet<number>; draw: Random; fits: (candidate: Candidate) => boolean },
): Promise<Candidate[]> {
  const filled: Candidate[] = []
  if (count === 0) return filled
  const unfit = unfitFor(job, pool)
  const drawn = distinctNumbers(pool.size, draw)
  for (let left = DRAWS * count; left > 0 && filled.length < count; ) {
    const numbers: number[] = []
    while (left > 0 && numbers.length < count - filled.length) {
      const { value, done } = drawn.next()
      left = done ? 0 : left - 1
      if (!done && !taken.has(value) && unfit(value) === undefined) numbers.push(value)
    }
    const scores = score ? await score(numbers) : null
    filled.push(...numbers.map((number, i) => ({ number, rank: null, score: scores?.[i] ?? null })).filter(fits))
  }
  return filled
}

/** 0 .. size - 1 in random order: Fisher-Yates that remembers only what it moved. */
function* distinctNumbers(size: number, draw: Random): Generator<number, undefined> {
  const moved = new Map<number, number>()
  for (let i = 0; i < size; i++) {
    const j = i + draw.int(size - i)
    yield moved.get(j) ?? j
    moved.set(j, moved.get(i) ?? i)
    moved.delete(i)
  }
}

function rejected({ row }: Job, { number, rank, score }: Candidate, positiveScore: number | null, pool: ChoosingPool): Rejected {
  return { at: `${row.file}:${row.line}`, query: row.query, passage: pool.texts.at(number), rank, score, positiveScore }
}

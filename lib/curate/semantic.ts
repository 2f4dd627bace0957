import { existsSync } from 'node:fs'
import { mkdir, readFile, rename, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { readLines } from '../data/jsonl.js'
import { createSample, type Sample } from '../data/sample.js'
import { BgeError } from '../errors.js'
import { encodeDistinct, type Embedder } from '../model/embedder.js'
import type { SemanticSettings } from './recipe.js'
import type { Row } from './row.js'
import type { Meter } from './stage.js'

/** Rows scored and stored at a time: what a kill loses. The vectors of its texts, at most 2 x 2048 x D floats, are all that is held. */
const CHUNK_ROWS = 2048

/** Scores are kept as integers: cosine x 10^6, rounded. So what is compared, counted and written is the same number. */
const GRID = 1e6

/** A pair as the report shows it. */
export interface ScoredSample {
  readonly at: string
  readonly source: string
  readonly query: string
  readonly passage: string
  readonly score: number
}

/** What a threshold would keep, and pairs whose score is within 0.01 of it, chosen by hash. */
export interface Candidate {
  readonly threshold: number
  readonly why: string
  readonly kept: number
  readonly samples: readonly ScoredSample[]
}

export interface SemanticReport {
  readonly rows: number
  readonly kept: number
  /** rows are kept whose cosine is at least this */
  readonly threshold: number
  /** the recipe's, where it asked for a rate */
  readonly keepRate: number | null
  /** rows that have the threshold's score exactly: all are kept, so a keep-rate may be exceeded by them */
  readonly ties: number
  readonly mean: number
  /** bins of 0.01 from -1 to 1: bin i holds -1 + i/100 <= score < -1 + (i+1)/100 */
  readonly histogram: readonly number[]
  readonly candidates: readonly Candidate[]
  /** of what was dropped, chosen by hash */
  readonly dropped: readonly ScoredSample[]
}

/**
 * Scores the rows of `inputs`, in order: cosine of query and first positive, the texts encoded without an instruction, equal texts of a chunk once.
 * (C-Pack, section 3.1, scores with Text2Vec-Chinese; any embedder does.) Scores go to `folder`, one file of 32-bit integers (cosine x 10^6) per 2048 rows, each written
 * beside and renamed; files that are there are not computed again.
 * Errors: ERR_BGE_NON_FINITE, ERR_BGE_FILE, the reason of the signal.
 */
export async function scoreRows(
  inputs: readonly string[],
  folder: string,
  embedder: () => Promise<Embedder>,
  { meter, signal }: { meter: Meter; signal?: AbortSignal | undefined },
): Promise<number> {
  await mkdir(folder, { recursive: true })
  let [chunk, rows] = [0, 0]
  for await (const lines of chunks(inputs)) {
    signal?.throwIfAborted()
    const file = join(folder, chunkName(chunk++))
    rows += lines.length
    if (existsSync(file)) {
      meter.advance(lines.length, 'found')
      continue
    }
    const scores = await scoreChunk(await embedder(), lines, signal)
    await writeFile(`${file}.tmp`, scores)
    await rename(`${file}.tmp`, file)
    meter.advance(lines.length)
  }
  return rows
}

function chunkName(chunk: number): string {
  return `${String(chunk).padStart(8, '0')}.i32`
}

async function* chunks(inputs: readonly string[]): AsyncGenerator<string[]> {
  let lines: string[] = []
  for (const input of inputs) {
    for await (const line of readLines(input)) {
      if (lines.push(line) < CHUNK_ROWS) continue
      yield lines
      lines = []
    }
  }
  if (lines.length > 0) yield lines
}

async function scoreChunk(embedder: Embedder, lines: readonly string[], signal: AbortSignal | undefined): Promise<Int32Array> {
  const texts: string[] = []
  for (const line of lines) {
    const row = JSON.parse(line) as Row
    texts.push(row.query, row.pos[0]!)
  }
  const vectors = await encodeDistinct(embedder, texts, signal ? { signal } : {})
  return Int32Array.from(lines, (_, i) => {
    const [query, pos] = [vectors.vector(vectors.rows[2 * i]!), vectors.vector(vectors.rows[2 * i + 1]!)]
    let sum = 0
    for (let d = 0; d < query.length; d++) sum += query[d]! * pos[d]!
    return Math.round(Math.max(-1, Math.min(1, sum)) * GRID)
  })
}

/** cosine x 10^6 in the order of the rows, chunk by chunk. */
async function* readScores(folder: string): AsyncGenerator<Int32Array> {
  for (let chunk = 0; existsSync(join(folder, chunkName(chunk))); chunk++) {
    const bytes = await readFile(join(folder, chunkName(chunk)))
    yield new Int32Array(new Uint8Array(bytes).buffer) // a copy: a Buffer need not start at a multiple of four
  }
}

/** Rows with their scores: `inputs` and `folder` as they were given to scoreRows. */
export async function* scoredLines(inputs: readonly string[], folder: string): AsyncGenerator<{ line: string; score: number }> {
  const scores = readScores(folder)
  for await (const lines of chunks(inputs)) {
    const { value } = await scores.next()
    if ((value as Int32Array | undefined)?.length !== lines.length)
      throw new BgeError('ERR_BGE_RESUME', `${folder} must hold a score for each row, but does not: remove it and run again`)
    for (const [i, line] of lines.entries()) yield { line, score: (value as Int32Array)[i]! / GRID }
  }
}

/**
 * Decides the threshold and looks at what it does. A keep-rate r of n rows becomes the score of rank ceil(r n), counted from the best; every row
 * with that score or a better one is kept, ties included, so the result does not depend on the order of the rows.
 */
export async function decide(
  inputs: readonly string[],
  folder: string,
  settings: Pick<SemanticSettings, 'threshold' | 'keepRate'>,
  signal?: AbortSignal,
): Promise<SemanticReport> {
  const ranks = await countScores(folder)
  const threshold = settings.keepRate === undefined ? settings.threshold! : ranks.atRank(Math.ceil(settings.keepRate * ranks.rows))
  const candidates = candidateThresholds(threshold, settings.keepRate, ranks).map((candidate) => ({
    ...candidate,
    kept: ranks.atLeast(candidate.threshold),
    sample: createSample<ScoredSample>(20),
  }))
  const dropped = createSample<ScoredSample>(20)
  for await (const { line, score } of scoredLines(inputs, folder)) {
    const near = candidates.filter((candidate) => Math.abs(Math.round((score - candidate.threshold) * GRID)) <= GRID / 100)
    if (near.length === 0 && score >= threshold) continue
    signal?.throwIfAborted()
    const row = JSON.parse(line) as Row
    const offer = (sample: Sample<ScoredSample>): void => sample.offer(rowKey(row), () => scoredSample(row, score))
    for (const { sample } of near) offer(sample)
    if (score < threshold) offer(dropped)
  }
  return {
    rows: ranks.rows,
    kept: ranks.atLeast(threshold),
    threshold,
    keepRate: settings.keepRate ?? null,
    ties: ranks.atLeast(threshold) - ranks.above(threshold),
    mean: ranks.mean,
    histogram: ranks.histogram,
    candidates: candidates.map(({ sample, ...candidate }) => ({
      ...candidate,
      samples: sample.items().sort((a, b) => b.score - a.score),
    })),
    dropped: dropped.items(),
  }
}

/** 44 bits of a row's ids: the same order wherever the row stands. */
export function rowKey({ queryId, posIds }: Pick<Row, 'queryId' | 'posIds'>): number {
  return (Number.parseInt(queryId.slice(0, 11), 16) * 31 + Number.parseInt(posIds[0]!.slice(0, 11), 16)) % 2 ** 44
}

function scoredSample({ at, source, query, pos }: Row, score: number): ScoredSample {
  return { at, source, query: excerpt(query), passage: excerpt(pos[0]!), score }
}

/** The first 200 characters of a text, not in the middle of a surrogate pair. */
export function excerpt(text: string): string {
  return text.length <= 200 ? text : `${text.slice(0, 200).replace(/[\ud800-\udbff]$/, '')}…`
}

function candidateThresholds(threshold: number, keepRate: number | undefined, ranks: Ranks): { threshold: number; why: string }[] {
  const own = { threshold, why: keepRate === undefined ? 'the recipe' : `the recipe: keep ${percent(keepRate)}` }
  const paper = { threshold: 0.43, why: 'C-Pack, for Text2Vec-Chinese' }
  const rates = [0.5, 0.75, 0.9, 0.95, 0.99].map((rate) => ({
    threshold: ranks.atRank(Math.ceil(rate * ranks.rows)),
    why: `keeps ${percent(rate)}`,
  }))
  const steps = [0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8].map((value) => ({ threshold: value, why: 'for comparison' }))
  const chosen = new Map<number, { threshold: number; why: string }>()
  for (const candidate of [own, paper, ...rates, ...steps]) {
    const bin = Math.round(candidate.threshold * 100)
    if (!chosen.has(bin)) chosen.set(bin, candidate)
  }
  return [...chosen.values()].sort((a, b) => a.threshold - b.threshold)
}

function percent(share: number): string {
  return `${Number((100 * share).toFixed(2))} %`
}

interface Ranks {
  readonly rows: number
  readonly mean: number
  readonly histogram: readonly number[]
  /** the score of the k-th best row, k from 1 */
  atRank(k: number): number
  /** rows with a score of at least / above a value */
  atLeast(score: number): number
  above(score: number): number
}

/** Exact ranks of scores that are never held or sorted: a count for each value of the grid. */
async function countScores(folder: string): Promise<Ranks> {
  const counts = new Float64Array(2 * GRID + 1) // by score + GRID
  const histogram = new Array<number>(200).fill(0)
  let [rows, sum] = [0, 0]
  for await (const scores of readScores(folder)) {
    for (const score of scores) {
      counts[score + GRID]!++
      histogram[Math.min(199, Math.floor(((score + GRID) * 100) / GRID))]!++
      sum += score / GRID
    }
    rows += scores.length
  }
  for (let i = counts.length - 2; i >= 0; i--) counts[i]! += counts[i + 1]! // now: rows with this score or a better one
  const from = (value: number): number => counts[value + GRID] ?? 0
  return {
    rows,
    mean: rows === 0 ? 0 : sum / rows,
    histogram,
    atRank: (k) => {
      let value = GRID
      while (value > -GRID && from(value) < k) value--
      return value / GRID
    },
    atLeast: (score) => from(onGrid(score)),
    above: (score) => from(onGrid(score) + (onGrid(score) / GRID > score ? 0 : 1)),
  }
}

/** The smallest value of the grid that is at least `score`; the product is rounded, because 0.43 * 1e6 need not be 430000. */
function onGrid(score: number): number {
  return Math.ceil(Number((score * GRID).toFixed(3)))
}

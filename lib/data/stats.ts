import type { Tokenizer } from '../tokenizer/tokenizer.js'
import { normaliseForIdentity } from './identity.js'
import { createLengths, type Lengths } from './lengths.js'
import { readDataRows } from './rows.js'
import { createSample } from './sample.js'
import { createTextNumbers } from './text_numbers.js'
import { type TokenStats, tokenStats } from './token_stats.js'

/** What training files hold: counts, repetitions, lengths. */
export interface DataStats {
  rows: number
  /** rows that validation would complain about, those that it would drop among them */
  faulty: number
  lost: number
  /** different texts, by normaliseForIdentity; queries and passages apart */
  queries: number
  passages: number
  /** rows that repeat the query and first positive of another */
  repeated: number
  /** rows whose query is one of their positives */
  queryIsPositive: number
  positives: number
  negatives: number
  /** rows by their field `source`; empty where no row has one */
  sources: Record<string, number>
  /** in characters (code points) */
  lengths: { query: Lengths; pos: Lengths; neg: Lengths }
  /** of a sample of rows; null without a tokenizer */
  tokens: { rows: number; query: TokenStats; pos: TokenStats } | null
}

/** Of `dataStats`. */
export interface StatsOptions {
  /** for tokens, unknown tokens and truncation */
  tokenizer?: Tokenizer
  /** rows tokenised, chosen by hash. Default 20000 */
  sampleRows?: number
  signal?: AbortSignal
  onProgress?: (rows: number) => void
}

/** Counts training rows of any form of forms.ts. Memory: some 120 bytes a row. Errors: ERR_BGE_FILE. */
export async function dataStats(files: readonly string[], options: StatsOptions = {}): Promise<DataStats> {
  const { tokenizer, sampleRows = 20_000, signal } = options
  const stats: DataStats = {
    rows: 0, faulty: 0, lost: 0, queries: 0, passages: 0, repeated: 0, queryIsPositive: 0, positives: 0, negatives: 0, sources: {},
    lengths: { query: createLengths(), pos: createLengths(), neg: createLengths() },
    tokens: null,
  } // biome-ignore format: zeros
  const [queries, passages, pairs] = [createTextNumbers(), createTextNumbers(), createTextNumbers()]
  const sample = createSample<{ query: string; pos: string }>(sampleRows)
  const lost = (): void => {
    stats.lost++
    stats.faulty++
  }
  for (const file of files) {
    for await (const row of readDataRows(file, 'skip', lost)) {
      if (++stats.rows % 4096 === 0) {
        signal?.throwIfAborted()
        options.onProgress?.(stats.rows)
      }
      if (row.faults > 0) stats.faulty++
      const query = queries.number(normaliseForIdentity(row.query))
      const ids = row.pos.map((text) => passages.number(normaliseForIdentity(text)))
      const known = pairs.size
      const pair = pairs.number(`${query} ${ids[0]}`)
      if (pairs.size === known) stats.repeated++
      if (row.pos.includes(row.query)) stats.queryIsPositive++
      stats.positives += row.pos.length
      stats.negatives += row.neg.length
      const { source } = row.value
      if (typeof source === 'string') stats.sources[source] = (stats.sources[source] ?? 0) + 1
      stats.lengths.query.add(codePoints(row.query))
      for (const text of row.pos) stats.lengths.pos.add(codePoints(text))
      for (const text of row.neg) stats.lengths.neg.add(codePoints(text))
      if (tokenizer) sample.offer(pairs.rank(pair), () => ({ query: row.query, pos: row.pos[0] ?? '' }))
    }
  }
  stats.queries = queries.size
  stats.passages = passages.size
  if (tokenizer) stats.tokens = await tokens(tokenizer, sample.items(), signal)
  return stats
}

async function tokens(
  tokenizer: Tokenizer,
  rows: readonly { query: string; pos: string }[],
  signal: AbortSignal | undefined,
): Promise<NonNullable<DataStats['tokens']>> {
  const query = await tokenStats(
    tokenizer,
    rows.map((row) => row.query),
    signal,
  )
  const pos = await tokenStats(
    tokenizer,
    rows.map((row) => row.pos).filter((text) => text !== ''),
    signal,
  )
  return { rows: rows.length, query, pos }
}

/** Without the surrogates counted twice. */
export function codePoints(text: string): number {
  let count = 0
  for (let i = 0; i < text.length; i++) if ((text.charCodeAt(i) & 0xfc00) !== 0xdc00) count++
  return count
}

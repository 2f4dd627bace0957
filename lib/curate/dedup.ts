import { hash } from 'node:crypto'
import { join } from 'node:path'
import { readLines } from '../data/jsonl.js'
import { invalidArgument } from '../errors.js'
import { type Banding, bandingFor, bandKey, MinHasher } from './near.js'
import { dropNear, type NearCounts } from './near_groups.js'
import type { DedupSettings, NearSettings } from './recipe.js'
import { type ShardWriter, shardWriter } from './shards.js'
import { openStore, type Store, type StoreOptions } from './store.js'
import { type Field, fieldText, hexKey, idKey, parseRow } from './stored_row.js'

export interface DedupOptions extends StoreOptions {
  /** source -> priority: of two copies the one of the higher priority stays. Default 0 for every source */
  priorities?: Readonly<Record<string, number>>
  /** where the store goes; it takes about twice the size of the inputs. Default: outDir */
  tempDir?: string
  /** rows in an output file. Default 250,000 */
  shardRows?: number
  /** `total` is missing where it is not known */
  onProgress?: (step: DedupStep, done: number, total?: number) => void
}

export type DedupStep = 'read' | 'exact' | 'bands' | 'verify' | 'write'

/** A dropped row beside the one that stays in its place. */
export interface DuplicateSample {
  dropped: { source: string; at: string; query: string; pos: string }
  kept: { source: string; at: string; query: string; pos: string }
  /** Jaccard similarity; for pairs the smaller one of query and passage. 1 for exact duplicates */
  similarity: number
}

export interface DedupReport {
  read: number
  /** dropped as exact duplicates */
  exact: number
  /** dropped as near-duplicates */
  near: number
  kept: number
  bySource: Record<string, { read: number; exact: number; near: number; kept: number }>
  /** at most ten each, the first in order */
  samples: { exact: DuplicateSample[]; near: DuplicateSample[] }
  /** absent where near-duplicates were not looked for */
  nearCounts?: NearCounts & Banding
  /** the output files, in order */
  files: string[]
}

/** Queries are short: one changed character of 15 spoils 5 of 11 five-grams, but 2 of 14 bigrams. */
const QUERY_NGRAM = 2
const SAMPLES = 10
/** Order of a row = number of its priority * PRIORITY + place by ids, in a double. */
const PRIORITY = 2 ** 40

/**
 * Removes duplicates among the rows (JSONL of Row) of all inputs together and writes what stays to `outDir`/part-00000.jsonl, ... The result,
 * files and report, is a function of the set of rows, the settings and the priorities: neither their order and distribution over the inputs
 * nor the number of threads matters.
 *
 * The order that decides: priority (high first), then the id of what is compared (query for 'pair' and 'query', positives for 'passage'), then
 * the other ids, then source and place. The output has this order too.
 * - exact: rows of equal ids of queries, positives and negatives ('pair'), queries, or positives: the first one stays.
 * - near: see dropNear; compared are queries by bigrams and passages by `ngram` characters of the normalised texts. For 'pair' both must
 *   reach the threshold: many questions on one passage stay. A pair with a negative that the earlier one lacks stays.
 *
 * Memory: bounded by memoryLimit whatever the number of rows, beside 1/8 byte a row. Throws as openStore, and ERR_BGE_DATA `file:line: ...`.
 */
export async function dedup(
  inputs: readonly string[],
  outDir: string,
  settings: DedupSettings,
  options: DedupOptions = {},
): Promise<DedupReport> {
  const { tempDir = outDir, shardRows = 250_000, onProgress = () => {}, signal } = options
  checkNear(settings.near)
  const writer = shardWriter(outDir, shardRows)
  const plan = planOf(settings)
  const store = await openStore(join(tempDir, 'dedup-store'), options)
  try {
    const sources = await readRows(store, inputs, plan, { onProgress, signal })
    const read = sources.reduce((sum, { read }) => sum + read, 0)
    await rankSources(store, sources, options.priorities ?? {})
    const exact = await dropExact(store, sources, settings, (done) => onProgress('exact', done, read))
    const near = plan.banding && (await dropNear(store, exact.ranks, plan, PRIORITY, onProgress))
    const files = await writeKept(store, writer, sources, near?.isDropped, (done) => onProgress('write', done, exact.ranks))
    const sum = (key: 'read' | 'exact' | 'near' | 'kept'): number => sources.reduce((total, source) => total + source[key], 0)
    const byName = [...sources].sort((a, b) => (a.name < b.name ? -1 : 1))
    return {
      read,
      exact: sum('exact'),
      near: sum('near'),
      kept: sum('kept'),
      bySource: Object.fromEntries(byName.map(({ name, read, exact, near, kept }) => [name, { read, exact, near, kept }])),
      samples: { exact: await samplesOf(store, exact.samples), near: near ? await samplesOf(store, near.samples) : [] },
      ...(near && { nearCounts: { ...near.counts, ...plan.banding! } }),
      files,
    }
  } finally {
    await store.close()
  }
}

/** What is compared, and how rows are cut into bands. */
export interface NearPlan {
  readonly fields: readonly Field[]
  readonly banding?: Banding
  readonly threshold: number
  readonly hashes: number
  /** a row with a negative that the other lacks is no duplicate of it */
  readonly negatives: 'count' | 'ignore'
}

function planOf({ near, on }: DedupSettings): NearPlan {
  if (!near) return { fields: [], threshold: 1, hashes: 0, negatives: 'ignore' }
  const query: Field = { name: 'query', ngram: Math.min(near.ngram, QUERY_NGRAM) }
  const passage: Field = { name: 'passage', ngram: near.ngram }
  const fields = on === 'pair' ? [query, passage] : [on === 'query' ? query : passage]
  // A band of a pair holds hashes of both fields: they agree with probability (Jq Jp)^rows, at the corner threshold^(2 rows).
  const banding = bandingFor(near.threshold ** fields.length, near.hashes)
  return { fields, banding, threshold: near.threshold, hashes: near.hashes, negatives: on === 'pair' ? 'count' : 'ignore' }
}

function checkNear(near: NearSettings | false): void {
  if (!near) return
  const { threshold, ngram, hashes } = near
  if (!(threshold > 0 && threshold <= 1)) throw invalidArgument('dedup.near.threshold', 'above 0, at most 1', threshold)
  if (!Number.isSafeInteger(ngram) || ngram < 1) throw invalidArgument('dedup.near.ngram', 'an integer of at least 1', ngram)
  if (!Number.isSafeInteger(hashes) || hashes < 1) throw invalidArgument('dedup.near.hashes', 'an integer of at least 1', hashes)
}

interface SourceCounts {
  name: string
  read: number
  exact: number
  near: number
  kept: number
}

/** Table raw: a row of the inputs each, with the keys of its bands. Returns the sources, by their number in `source`. */
async function readRows(
  store: Store,
  inputs: readonly string[],
  { fields, banding, hashes }: NearPlan,
  { onProgress, signal }: { onProgress: NonNullable<DedupOptions['onProgress']>; signal: AbortSignal | undefined },
): Promise<SourceCounts[]> {
  const bands = banding?.bands ?? 0
  const writer = await store.create('raw', {
    seq: 'UINTEGER',
    source: 'UINTEGER',
    q: 'UBIGINT', // ids of query, positives, negatives
    p: 'UBIGINT',
    n: 'UBIGINT',
    h: 'UBIGINT', // hash of the line
    origin: 'VARCHAR', // where the row was read: its `at`
    line: 'VARCHAR',
    ...Object.fromEntries(Array.from({ length: bands }, (_, i) => [`b${i}`, 'DOUBLE' as const])),
  })
  const sources = new Map<string, SourceCounts & { number: number }>()
  const hasher = new MinHasher(Math.max(1, hashes))
  const signatures = fields.map(() => new Uint32Array(hashes))
  let seq = 0
  for (const file of inputs) {
    let number = 0
    for await (const line of readLines(file)) {
      number++
      if (line.trim() === '') continue
      const row = parseRow(line, file, number)
      let source = sources.get(row.source)
      if (!source) sources.set(row.source, (source = { name: row.source, number: sources.size, read: 0, exact: 0, near: 0, kept: 0 }))
      source.read++
      const texts = fields.map((field, i) => hasher.sign(fieldText(row, field), field.ngram, signatures[i]!) > 0)
      const keys = Array.from({ length: bands }, (_, i) => (texts.every(Boolean) ? bandKey(i, banding!.rows, signatures) : null))
      const ids = [hexKey(row.queryId), idKey(row.posIds), idKey(row.negIds), hexKey(hash('sha256', line, 'hex'))]
      writer.add([seq++, source.number, ...ids, row.at, line, ...keys])
      if (seq % 10_000 === 0) {
        signal?.throwIfAborted()
        onProgress('read', seq)
      }
    }
  }
  writer.close()
  return [...sources.values()]
}

/** Table sources: number -> place of its priority (equal for equal priorities) and of its name. */
async function rankSources(store: Store, sources: readonly SourceCounts[], priorities: Readonly<Record<string, number>>): Promise<void> {
  const priorityOf = ({ name }: SourceCounts): number => (Object.hasOwn(priorities, name) ? priorities[name]! : 0)
  const levels = [...new Set(sources.map(priorityOf))].sort((a, b) => b - a)
  const names = sources.map(({ name }) => name).sort()
  const writer = await store.create('sources', { source: 'UINTEGER', priority: 'UINTEGER', name: 'UINTEGER' })
  for (const [i, source] of sources.entries()) writer.add([i, levels.indexOf(priorityOf(source)), names.indexOf(source.name)])
  writer.close()
}

/** A pair of rows by their `seq`. */
export interface SamplePair {
  dropped: number
  kept: number
  similarity: number
}

/** Table kept: seq of the rows that stay and their order. `ranks`: how many. */
async function dropExact(
  store: Store,
  sources: readonly SourceCounts[],
  { exact, on }: DedupSettings,
  progress: (done: number) => void,
): Promise<{ ranks: number; samples: SamplePair[] }> {
  const [same, rest] = { pair: ['q p n', ''], query: ['q', 'p n'], passage: ['p', 'q n'] }[on].map((names) =>
    names.split(' ').filter(Boolean),
  )
  const order = [...same!, 's.priority', ...rest!, 's.name', 'origin', 'h']
  const writer = await store.create('kept', { seq: 'UINTEGER', place: 'DOUBLE' })
  const samples: SamplePair[] = []
  let [ranks, done, first] = [0, 0, -1]
  let last: unknown[] = []
  const columns = ['seq', 'source', 's.priority', ...same!]
  for await (const [seqs, numbers, priorities, ...ids] of store.stream(
    `SELECT ${columns.join(', ')} FROM raw JOIN sources s USING (source) ORDER BY ${order.join(', ')}`,
  )) {
    for (let i = 0; i < seqs!.length; i++) {
      const seq = seqs![i] as number
      if (exact && first >= 0 && ids.every((column, k) => column[i] === last[k])) {
        sources[numbers![i] as number]!.exact++
        if (samples.length < SAMPLES) samples.push({ dropped: seq, kept: first, similarity: 1 })
        continue
      }
      last = ids.map((column) => column[i])
      first = seq
      writer.add([seq, (priorities![i] as number) * PRIORITY + ranks++])
    }
    progress((done += seqs!.length))
  }
  writer.close()
  return { ranks, samples }
}

async function writeKept(
  store: Store,
  writer: ShardWriter,
  sources: readonly SourceCounts[],
  isDropped: ((place: number) => boolean) | undefined,
  progress: (done: number) => void,
): Promise<string[]> {
  let done = 0
  try {
    for await (const [places, numbers, lines] of store.stream('SELECT place, source, line FROM raw JOIN kept USING (seq) ORDER BY place')) {
      for (let i = 0; i < places!.length; i++) {
        const source = sources[numbers![i] as number]!
        if (isDropped?.(places![i] as number)) {
          source.near++
        } else {
          source.kept++
          await writer.write(lines![i] as string)
        }
      }
      progress((done += places!.length))
    }
    return await writer.commit()
  } finally {
    await writer.discard()
  }
}

async function samplesOf(store: Store, pairs: readonly SamplePair[]): Promise<DuplicateSample[]> {
  if (pairs.length === 0) return []
  const texts = new Map<number, DuplicateSample['kept']>()
  const seqs = pairs.flatMap(({ dropped, kept }) => [dropped, kept])
  for await (const [found, lines] of store.stream(`SELECT seq, line FROM raw WHERE seq IN (${seqs.join(', ')})`)) {
    for (const [i, line] of lines!.entries()) {
      const { source, at, query, pos } = parseRow(line as string, 'store', 0)
      texts.set(found![i] as number, { source, at, query, pos: pos[0]! })
    }
  }
  return pairs.map(({ dropped, kept, similarity }) => ({ dropped: texts.get(dropped)!, kept: texts.get(kept)!, similarity }))
}

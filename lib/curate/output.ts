import { mkdir } from 'node:fs/promises'
import { basename, join } from 'node:path'
import type { SchemaElement } from 'hyparquet'
import { ByteWriter, ParquetWriter } from 'hyparquet-writer'
import { type AtomicFile, createAtomic } from '../data/atomic.js'
import { LENGTH_EDGES, createLengths, type Lengths } from '../data/lengths.js'
import { createSample } from '../data/sample.js'
import { codePoints } from '../data/stats.js'
import { CUT_LENGTHS, type TokenStats, tokenStats } from '../data/token_stats.js'
import type { Tokenizer } from '../tokenizer/tokenizer.js'
import type { OutputSettings } from './recipe.js'
import type { Row } from './row.js'
import { excerpt, rowKey } from './semantic.js'
import { shardWriter } from './shards.js'
import type { Meter } from './stage.js'

/** A row as it is written: FlagEmbedding's query, pos and neg, and where they come from. */
export interface OutputRow {
  readonly query: string
  readonly pos: readonly string[]
  readonly neg: readonly string[]
  readonly query_id: string
  readonly pos_ids: readonly string[]
  readonly neg_ids: readonly string[]
  readonly source: string
  /** the extractor, e.g. 'title-body' */
  readonly pair_type: string | null
  /** of the semantic filter; not pos_scores, which are a teacher's and would be distilled */
  readonly score: number | null
}

/** The shape of some texts: a histogram over `LENGTH_EDGES` and what was counted exactly. */
export interface LengthSummary {
  readonly count: number
  readonly mean: number
  readonly p50: number
  readonly p90: number
  readonly p99: number
  readonly max: number
  readonly bins: readonly number[]
}

export interface TokenSummary {
  /** rows that were tokenised, chosen by hash */
  readonly rows: number
  /** of the tokenizer: its fingerprint */
  readonly fingerprint: string
  readonly query: TokenSide
  readonly passage: TokenSide
  readonly unknownBySource: Readonly<Record<string, number>>
}

export interface TokenSide {
  readonly mean: number
  /** share of [UNK] */
  readonly unknown: number
  /** share of texts longer than 128 and 512 tokens */
  readonly cut: Readonly<Record<string, number>>
}

export interface OutputReport {
  readonly rows: number
  readonly files: readonly { readonly name: string; readonly rows: number; readonly bytes: number }[]
  /** rows by source and by kind of pair */
  readonly bySource: Readonly<Record<string, number>>
  readonly byType: Readonly<Record<string, number>>
  readonly positives: number
  readonly negatives: number
  /** rows with at least one negative */
  readonly withNegatives: number
  /** in characters (code points) */
  readonly lengths: { readonly query: LengthSummary; readonly passage: LengthSummary }
  /** null without a tokenizer */
  readonly tokens: TokenSummary | null
  /** rows to look at, chosen by hash */
  readonly samples: readonly { readonly source: string; readonly query: string; readonly passage: string; readonly score: number | null }[]
}

export interface OutputOptions extends OutputSettings {
  readonly tokenizer: Tokenizer | undefined
  readonly meter: Meter
  readonly signal?: AbortSignal | undefined
}

/** Rows whose tokens are counted; all, where there are fewer. */
const TOKEN_ROWS = 20_000
/** Rows of a parquet row group: what is held in memory. */
const ROW_GROUP = 8192

/** Writes rows to `folder`/part-00000.jsonl (or .parquet), ... and counts them. Errors: ERR_BGE_FILE, the reason of the signal. */
export async function writeOutput(
  rows: AsyncIterable<{ readonly row: Row; readonly score: number | null }>,
  folder: string,
  options: OutputOptions,
): Promise<OutputReport> {
  const { format, shardRows, tokenizer, meter, signal } = options
  await mkdir(folder, { recursive: true })
  const writer = format === 'jsonl' ? jsonlShards(folder, shardRows) : parquetShards(folder, shardRows)
  const counts = { rows: 0, positives: 0, negatives: 0, withNegatives: 0 }
  const [bySource, byType] = [new Map<string, number>(), new Map<string, number>()]
  const [query, passage] = [createLengths(), createLengths()]
  const tokenised = createSample<{ source: string; query: string; passage: string }>(tokenizer ? TOKEN_ROWS : 0)
  const samples = createSample<OutputReport['samples'][number]>(20)
  try {
    for await (const { row, score } of rows) {
      if (counts.rows % 1024 === 0) signal?.throwIfAborted()
      counts.rows++
      counts.positives += row.pos.length
      counts.negatives += row.neg.length
      if (row.neg.length > 0) counts.withNegatives++
      bySource.set(row.source, (bySource.get(row.source) ?? 0) + 1)
      if (row.type !== undefined) byType.set(row.type, (byType.get(row.type) ?? 0) + 1)
      query.add(codePoints(row.query))
      for (const text of row.pos) passage.add(codePoints(text))
      const key = rowKey(row)
      if (tokenizer) tokenised.offer(key, () => ({ source: row.source, query: row.query, passage: row.pos[0]! }))
      samples.offer(key, () => ({ source: row.source, query: excerpt(row.query), passage: excerpt(row.pos[0]!), score }))
      await writer.write(outputRow(row, score))
      meter.advance(1)
    }
    const files = await writer.commit()
    return {
      ...counts,
      files,
      bySource: sorted(bySource),
      byType: sorted(byType),
      lengths: { query: summary(query), passage: summary(passage) },
      tokens: tokenizer ? await countTokens(tokenizer, tokenised.items(), signal) : null,
      samples: samples.items(),
    }
  } finally {
    await writer.discard()
  }
}

function outputRow(row: Row, score: number | null): OutputRow {
  const { query, pos, neg, queryId, posIds, negIds, source, type } = row
  return { query, pos, neg, query_id: queryId, pos_ids: posIds, neg_ids: negIds, source, pair_type: type ?? null, score }
}

interface RowWriter {
  write(row: OutputRow): Promise<void>
  commit(): Promise<OutputReport['files']>
  discard(): Promise<void>
}

function jsonlShards(folder: string, shardRows: number): RowWriter {
  const writer = shardWriter(folder, shardRows)
  const sizes: { rows: number; bytes: number }[] = []
  return {
    async write(row) {
      const { pair_type, score, ...rest } = row
      const line = JSON.stringify({ ...rest, ...(pair_type !== null && { pair_type }), ...(score !== null && { score }) })
      let size = sizes.at(-1)
      if (size === undefined || size.rows === shardRows) sizes.push((size = { rows: 0, bytes: 0 }))
      size.rows++
      size.bytes += Buffer.byteLength(line) + 1
      await writer.write(line)
    },
    commit: async () => (await writer.commit()).map((file, i) => ({ name: basename(file), ...sizes[i]! })),
    discard: () => writer.discard(),
  }
}

const text = (name: string, repetition: 'REQUIRED' | 'OPTIONAL' = 'REQUIRED'): SchemaElement => ({
  name,
  type: 'BYTE_ARRAY',
  converted_type: 'UTF8',
  repetition_type: repetition,
})
const texts = (name: string): SchemaElement[] => [
  { name, num_children: 1, converted_type: 'LIST', repetition_type: 'REQUIRED' },
  { name: 'list', num_children: 1, repetition_type: 'REPEATED' },
  text('element'),
]
/** The columns of OutputRow, in order. */
const COLUMNS: readonly (readonly [name: keyof OutputRow, elements: SchemaElement[]])[] = [
  ['query', [text('query')]],
  ['pos', texts('pos')],
  ['neg', texts('neg')],
  ['query_id', [text('query_id')]],
  ['pos_ids', texts('pos_ids')],
  ['neg_ids', texts('neg_ids')],
  ['source', [text('source')]],
  ['pair_type', [text('pair_type', 'OPTIONAL')]],
  ['score', [{ name: 'score', type: 'FLOAT', repetition_type: 'OPTIONAL' }]],
]
const SCHEMA: SchemaElement[] = [{ name: 'root', num_children: COLUMNS.length }, ...COLUMNS.flatMap(([, elements]) => elements)]

function parquetShards(folder: string, shardRows: number): RowWriter {
  const files: OutputReport['files'][number][] = []
  let shard: { name: string; file: AtomicFile; bytes: ByteWriter; parquet: ParquetWriter; rows: number } | undefined
  let group: OutputRow[] = []
  const flush = async (): Promise<void> => {
    if (shard === undefined) return
    if (group.length > 0) {
      const columnData = COLUMNS.map(([name]) => ({ name, data: group.map((row) => row[name]) }))
      await shard.parquet.write({ columnData, rowGroupSize: ROW_GROUP })
    }
    group = []
    await drain(shard.file, shard.bytes)
  }
  const complete = async (): Promise<void> => {
    await flush()
    if (shard === undefined) return
    await shard.parquet.finish()
    await drain(shard.file, shard.bytes)
    await shard.file.commit()
    files.push({ name: shard.name, rows: shard.rows, bytes: shard.bytes.offset })
    shard = undefined
  }
  return {
    async write(row) {
      if (shard === undefined) {
        const name = `part-${String(files.length).padStart(5, '0')}.parquet`
        const bytes = new ByteWriter()
        shard = {
          name,
          file: await createAtomic(join(folder, name)),
          bytes,
          parquet: new ParquetWriter({ writer: bytes, schema: SCHEMA }),
          rows: 0,
        }
      }
      group.push(row)
      if (++shard.rows === shardRows) await complete()
      else if (group.length === ROW_GROUP) await flush()
    },
    async commit() {
      await complete()
      return files
    },
    discard: async () => shard?.file.discard(),
  }
}

/** Writes what the writer holds and lets it go; its offsets go on counting from the start of the file. */
async function drain(file: AtomicFile, bytes: ByteWriter): Promise<void> {
  await file.write(bytes.getBytes())
  bytes.index = 0
}

function sorted(counts: ReadonlyMap<string, number>): Record<string, number> {
  return Object.fromEntries([...counts].sort(([a], [b]) => (a < b ? -1 : 1)))
}

function summary(lengths: Lengths): LengthSummary {
  const { count, mean, max } = lengths
  const [p50, p90, p99] = [0.5, 0.9, 0.99].map((share) => lengths.percentile(share)) as [number, number, number]
  return { count, mean, p50, p90, p99, max, bins: lengths.bins(LENGTH_EDGES) }
}

async function countTokens(
  tokenizer: Tokenizer,
  rows: readonly { source: string; query: string; passage: string }[],
  signal: AbortSignal | undefined,
): Promise<TokenSummary> {
  const stats = { query: [] as TokenStats[], passage: [] as TokenStats[] }
  const unknownBySource: Record<string, number> = {}
  for (const source of [...new Set(rows.map((row) => row.source))].sort()) {
    const own = rows.filter((row) => row.source === source)
    const query = await tokenStats(
      tokenizer,
      own.map((row) => row.query),
      signal,
    )
    const passage = await tokenStats(
      tokenizer,
      own.map((row) => row.passage),
      signal,
    )
    stats.query.push(query)
    stats.passage.push(passage)
    unknownBySource[source] = tokenSide([query, passage]).unknown
  }
  const sides = { query: tokenSide(stats.query), passage: tokenSide(stats.passage) }
  return { rows: rows.length, fingerprint: tokenizer.fingerprint, ...sides, unknownBySource }
}

/** Means over all texts of several groups. */
function tokenSide(groups: readonly TokenStats[]): TokenSide {
  const mean = (weight: (group: TokenStats) => number, value: (group: TokenStats) => number): number => {
    const whole = groups.reduce((sum, group) => sum + weight(group), 0)
    return whole === 0 ? 0 : groups.reduce((sum, group) => sum + weight(group) * value(group), 0) / whole
  }
  const byText = (value: (group: TokenStats) => number): number => mean((group) => group.texts, value)
  return {
    mean: byText((group) => group.lengths.mean),
    unknown: mean(
      (group) => group.tokens,
      (group) => group.unknown,
    ),
    cut: Object.fromEntries(CUT_LENGTHS.map((length) => [length, byText((group) => group.cut[length]!)])),
  }
}

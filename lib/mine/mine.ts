import { createAtomic } from '../data/atomic.js'
import { type JsonlRow, pairRow, readJsonl } from '../data/jsonl.js'
import { random } from '../data/random.js'
import { invalidArgument } from '../errors.js'
import { type EncodeOptions, encodeDistinct, type Embedder } from '../model/embedder.js'
import { resolveInstruction } from '../model/instruction.js'
import { type SearchDevice, type VectorIndex, vectorIndex } from '../model/search.js'
import { chooseNegatives, type MiningCounts, noCounts } from './choose.js'
import { readPool } from './pool.js'

export interface MineOptions {
  /** JSONL of rows {"query","pos":[...],"neg"?:[...]} */
  data: string
  /** the same rows with new `neg`; may be `data` itself */
  out: string
  /** ranks [low, high), 0-based, that negatives are sampled from. Default [10, 210] */
  range?: readonly [low: number, high: number]
  /** negatives per row. Default 15 */
  negatives?: number
  /** JSONL of {"text"}: the passages to mine from. Default: every positive and negative of the file */
  pool?: string
  /** default 42 */
  seed?: number
  /** put before queries ('zh' and 'en' name BGE's); a row's own `prompt` goes first. Default: the model's own, else none */
  instruction?: string
  /** called after each block of rows */
  onProgress?: (done: number, total: number) => void
  signal?: AbortSignal
}

export interface MineResult extends MiningCounts {
  rows: number
  /** passages in the pool */
  pool: number
}

/** A model to mine with; a BgeModel is one. */
export type MiningModel = Embedder & { readonly device: SearchDevice; readonly instruction?: string | undefined }

const ROW_BLOCK = 512

/**
 * Mines hard negatives (recipe.md 3.6, after FlagEmbedding's hn_mine): passages are encoded without an instruction, queries with one; exact
 * inner-product search; `negatives` hits of the range are sampled, without positives of the query and the query itself. Rows keep their
 * order and their other fields; `neg` is replaced and `neg_scores`, which belonged to the old negatives, is dropped. The result is a function
 * of (model, file, pool, options): ties go to the passage that appears first, and each row draws from (seed, row).
 *
 * Throws ERR_BGE_ARGUMENT, ERR_BGE_DATA `file:line: ...`, ERR_BGE_FILE, ERR_BGE_NON_FINITE; `out` is then unchanged.
 */
export async function mine(model: MiningModel, options: MineOptions): Promise<MineResult> {
  const { data, out, range = [10, 210], negatives = 15, seed = 42, signal } = options
  checkOptions(range, negatives, seed)
  const encode: EncodeOptions = signal ? { signal } : {}
  const instruction = options.instruction === undefined ? (model.instruction ?? '') : resolveInstruction(options.instruction)
  const pool = await readPool(data, options.pool)
  const counts = noCounts()
  const passages = await encodeDistinct(model, pool.passages, encode)
  const index = vectorIndex(model.device, passages.data, passages.dims)
  const target = await createAtomic(out)
  let done = 0
  try {
    for await (const rows of blocks(readJsonl(data), ROW_BLOCK)) {
      signal?.throwIfAborted()
      const hits = await searchRows(model, index, rows, range[1], instruction, encode)
      const lines = rows.map((row, i) => {
        const draw = random(seed, 'mine', 0, done + i)
        const neg = chooseNegatives(pairRow(row).query, hits(i), pool, { range, count: negatives, draw, counts })
        const { neg_scores: _, ...kept } = row.value
        return JSON.stringify({ ...kept, neg }) + '\n'
      })
      await target.write(lines.join(''))
      done += rows.length
      options.onProgress?.(done, pool.rows)
    }
    await target.commit()
  } finally {
    await target.discard()
    index.dispose()
  }
  return { rows: done, pool: pool.passages.length, ...counts }
}

/** hits(i): passage numbers of row i, best first. Rows with a `prompt` of their own are encoded with that. */
async function searchRows(
  model: MiningModel,
  index: VectorIndex,
  rows: readonly JsonlRow[],
  high: number,
  instruction: string,
  encode: EncodeOptions,
): Promise<(row: number) => Int32Array> {
  const k = Math.min(high, index.size)
  const hits: Int32Array[] = []
  const parsed = rows.map(pairRow)
  for (const prompt of new Set(parsed.map((row) => row.prompt ?? instruction))) {
    const members = [...parsed.keys()].filter((i) => (parsed[i]!.prompt ?? instruction) === prompt)
    const queries = await encodeDistinct(
      model,
      members.map((i) => parsed[i]!.query),
      { ...encode, instruction: prompt },
    )
    const { indices } = await index.search(queries.data, k)
    for (const [m, i] of members.entries()) hits[i] = indices.subarray(queries.rows[m]! * k, (queries.rows[m]! + 1) * k)
  }
  return (row) => hits[row]!
}

async function* blocks<T>(source: AsyncIterable<T>, size: number): AsyncGenerator<T[]> {
  let block: T[] = []
  for await (const item of source) {
    if (block.push(item) < size) continue
    yield block
    block = []
  }
  if (block.length > 0) yield block
}

function checkOptions(range: readonly [number, number], negatives: number, seed: number): void {
  const [low, high] = range
  if (!Number.isSafeInteger(low) || !Number.isSafeInteger(high) || low < 0 || high <= low) {
    throw invalidArgument('range', 'two ranks [low, high) with 0 <= low < high', `${low}-${high}`)
  }
  if (!Number.isSafeInteger(negatives) || negatives < 1) throw invalidArgument('negatives', 'an integer of at least 1', negatives)
  if (!Number.isSafeInteger(seed) || seed < 0) throw invalidArgument('seed', 'an integer from 0 to 2^53 - 1', seed)
}

import { createHash } from 'node:crypto'
import { dirname, join } from 'node:path'
import { textId } from '../data/identity.js'
import { hashFile, type JsonlRow, pairRow, readJsonl } from '../data/jsonl.js'
import { resolveInstruction } from '../model/instruction.js'
import { arithmeticOf } from '../model/vector_cache.js'
import type { TopK } from '../native.js'
import { candidatesOf, type Chosen, chooseNegatives, type Job, jobOf } from './choose.js'
import { type KeptModel, type MineOptions, type MiningModel, needsScores, type Settings, settingsOf } from './options.js'
import { type Pool, type PoolFiles, poolFiles, readPool } from './pool.js'
import { type QueryVectors, queryVectors } from './queries.js'
import { searchPool } from './search.js'
import { createTally, type MiningReport, type Tally } from './tally.js'
import { openTextStore } from './texts.js'
import { keptVectors, type PassageVectors, passageVectors } from './vectors.js'
import { openWork, type Work } from './work.js'

export type { MineOptions, MineProgress, MiningModel } from './options.js'

/** What was taken and rejected, and what it cost. */
export interface MineResult extends MiningReport {
  rows: number
  /** distinct passages in the pool, and how many were there already */
  pool: number
  duplicates: number
  /** texts encoded by this run, also by the teacher: the others were in the cache */
  encoded: number
  /** rows that an earlier run of the same command had done */
  resumed: number
}

/** Raise it when the same options would give another result. */
const VERSION = 2
/** Rows whose candidates are prepared together. */
const ROWS = 256

/**
 * Mines hard negatives (recipe.md 3.6, after FlagEmbedding's hn_mine): passages are encoded without an instruction, queries with one; exact
 * inner-product search; `negatives` hits of the range are taken, without positives of the query (by text and by id), the query itself, and what a
 * score rule rejects. Rows keep their order and their other fields; `neg` is replaced, and `neg_scores` and `neg_ids`, which belonged to the old
 * negatives, are dropped or made anew. The result is a function of (model, teacher, files, options): ties go to the passage that appears first, and
 * each row draws from (seed, row). Vectors and texts are on disk, so memory is some 70 bytes a passage and a block of rows (docs/mining.md).
 *
 * `out` appears when it is complete. Until then `OUT.work` holds what is done; after a kill or an abort the same call continues there, and gives the
 * same file. Throws ERR_BGE_ARGUMENT, ERR_BGE_DATA `file:line: ...`, ERR_BGE_FILE, ERR_BGE_NON_FINITE; `out` is then unchanged.
 */
export async function mine(model: MiningModel, options: MineOptions): Promise<MineResult> {
  const { out, signal } = options
  const settings = settingsOf(model, options)
  const files = await poolFiles(options.data, options.pool)
  const { key, fingerprint, teacher } = await identify(model, options, settings, files)
  const work = await openWork(out, key)
  const tally = createTally(settings.seed, work.found?.tally)
  const open: { close(): void }[] = []
  let done = work.found?.rows ?? 0
  try {
    const texts = openTextStore(join(work.folder, 'texts.bin'))
    open.push(texts)
    const pool = await readPool(files, texts, (count) => {
      signal?.throwIfAborted()
      options.onProgress?.({ stage: 'read', done: count, total: null })
    })
    const cache = options.storage?.cache
    const directory = cache === null ? join(work.folder, 'vectors') : (cache ?? join(dirname(out), 'mine-cache'))
    const side = async (of: typeof teacher & object): Promise<Side> => {
      const passages = passageVectors(await keptVectors(of.model, of.fingerprint, { directory, instruction: '', signal }), pool)
      const queries = queryVectors(of.model, of.fingerprint, { directory, signal })
      open.push(passages.vectors, queries)
      return { passages, queries, instruction: of.instruction }
    }
    const searching = await side({ model, fingerprint, instruction: settings.instruction })
    const scoring = teacher ? await side(teacher) : needsScores(settings) ? searching : undefined
    const run: Run = { model, options, settings, pool, tally, work, searching, scoring }
    if (settings.sampling !== 'pool' && done < pool.rows) {
      const progress = (count: number): void => options.onProgress?.({ stage: 'encode', done: count, total: pool.size })
      progress(0)
      await searching.passages.prepareUpTo(pool.size, progress)
    }
    const block = options.storage?.block ?? (model.device.kind === 'cuda' ? 131_072 : 16_384)
    for await (const rows of blocks(skip(allRows(files.data), done), block)) {
      signal?.throwIfAborted()
      await mineBlock(run, rows, done)
      done += rows.length
      await work.checkpoint(done, tally.save())
    }
    const encoded = [searching, ...(scoring && scoring !== searching ? [scoring] : [])].map(
      ({ passages, queries }) => passages.vectors.encoded + queries.encoded,
    )
    const { size, duplicates } = pool
    for (const part of open.splice(0)) part.close()
    await work.finish()
    return {
      rows: done,
      pool: size,
      duplicates,
      encoded: encoded.reduce((a, b) => a + b),
      resumed: work.found?.rows ?? 0,
      ...tally.report(),
    }
  } finally {
    for (const part of open) part.close()
    await work.close(done > 0 || signal?.aborted ? 'keep' : 'remove')
  }
}

/** A model's vectors. */
interface Side {
  readonly passages: PassageVectors
  readonly queries: QueryVectors
  readonly instruction: string
}

interface Run {
  readonly model: MiningModel
  readonly options: MineOptions
  readonly settings: Settings
  readonly pool: Pool
  readonly tally: Tally
  readonly work: Work
  readonly searching: Side
  /** the teacher's, or `searching`; undefined where nothing asks for scores */
  readonly scoring: Side | undefined
}

/** Searches for a block of rows, the first of which is number `first`, and writes them. */
async function mineBlock(run: Run, lines: readonly JsonlRow[], first: number): Promise<void> {
  const { options, settings, pool, searching, scoring, work } = run
  const { signal, onProgress } = options
  const jobs = lines.map((line, i) => jobOf(pairRow(line), first + i, pool))
  const withPrompts = (some: readonly Job[]): { text: string; instruction: string }[] =>
    some.map(({ row }) => ({ text: row.query, instruction: row.prompt ?? searching.instruction }))
  const searches = settings.sampling !== 'pool'
  const progress = (searched: number): void =>
    onProgress?.({ stage: 'search', done: first * pool.size + jobs.length * searched, total: pool.rows * pool.size })
  if (searches) progress(0)
  const queries = searches || scoring === searching ? await searching.queries.encode(withPrompts(jobs)) : undefined
  const k = Math.min(settings.range[1], pool.size)
  let hits: TopK = { indices: new Int32Array(0), scores: new Float32Array(0) }
  if (searches)
    hits = await searchPool(run.model.device, queries!, searching.passages, { size: pool.size, k, onProgress: progress, signal })
  onProgress?.({ stage: 'choose', done: first, total: pool.rows })
  for (let start = 0; start < jobs.length; start += ROWS) {
    signal?.throwIfAborted()
    const some = jobs.slice(start, start + ROWS)
    const candidates = some.map((job, i) => {
      const [from, to] = [(start + i) * k, (start + i + 1) * k]
      return searches ? candidatesOf(job, hits.indices.subarray(from, to), hits.scores.subarray(from, to), run) : []
    })
    const teaches = scoring !== undefined && scoring !== searching
    const taught = teaches
      ? await scoring.queries.encode(some.map(({ row }) => ({ text: row.query, instruction: scoring.instruction })))
      : undefined
    const wanted = teaches ? candidates.flatMap((list) => list.map(({ number }) => number)) : []
    await scoring?.passages.prepare([...some.flatMap(({ positives }) => positives), ...wanted])
    const written: string[] = []
    for (const [i, job] of some.entries()) {
      const vectors = taught ?? queries
      const dims = scoring?.passages.vectors.dims ?? 0
      const at = taught ? i : start + i
      const score = scoring && {
        score: async (numbers: readonly number[]) => {
          await scoring.passages.prepare(numbers)
          return scoring.passages.scores(vectors!.subarray(at * dims, (at + 1) * dims), numbers)
        },
      }
      const chosen = await chooseNegatives(job, candidates[i]!, { ...run, ...score, scored: teaches ? 'all' : 'hits' })
      written.push(outputLine(lines[start + i]!, job, chosen, run))
    }
    await work.write(written.join(''))
    onProgress?.({ stage: 'choose', done: first + start + some.length, total: pool.rows })
  }
}

/** The row with its new negatives. Ids are written where the row's own are textIds, as `bge curate` writes them. */
function outputLine({ value }: JsonlRow, { row }: Job, { negatives, scores }: Chosen, { pool, settings }: Run): string {
  const { neg_scores: _, neg_ids: ids, ...kept } = value
  const neg = negatives.map((number) => pool.texts.at(number))
  const posIds = value['pos_ids']
  const stable = Array.isArray(ids) && Array.isArray(posIds) && posIds[0] === textId(row.pos[0]!)
  const { scoreTemperature: t } = settings
  const written = (list: readonly number[]): number[] => list.map((score) => Number((score / t!).toFixed(6)))
  return `${JSON.stringify({
    ...kept,
    neg,
    ...(stable && { neg_ids: neg.map(textId) }),
    ...(t !== null && scores && { pos_scores: written(scores.positives), neg_scores: written(scores.negatives) }),
  })}\n`
}

interface Identified {
  /** of everything that decides the result */
  readonly key: string
  readonly fingerprint: string
  readonly teacher: { readonly model: KeptModel; readonly fingerprint: string; readonly instruction: string } | undefined
}

async function identify(model: MiningModel, options: MineOptions, settings: Settings, files: PoolFiles): Promise<Identified> {
  const fingerprint = await model.fingerprint()
  const given = options.teacher
  const teacher = given && {
    model: given.model,
    fingerprint: await given.model.fingerprint(),
    instruction: given.instruction === undefined ? (given.model.instruction ?? '') : resolveInstruction(given.instruction),
  }
  const space = ({ device, maxLength, dims }: KeptModel): unknown[] => [device ? arithmeticOf(device) : null, maxLength ?? null, dims]
  const contents = async (list: readonly string[]): Promise<string[][]> => {
    const hashes: string[][] = []
    for (const file of list) hashes.push([file.endsWith('.txt') ? 'txt' : 'jsonl', await hashFile(file)])
    return hashes
  }
  const parts = [
    VERSION,
    settings,
    [fingerprint, space(model)],
    teacher ? [teacher.fingerprint, teacher.instruction, space(teacher.model)] : null,
    await contents(files.data),
    files.pool === undefined ? null : await contents(files.pool),
  ]
  return { key: createHash('sha256').update(JSON.stringify(parts)).digest('hex'), fingerprint, teacher }
}

async function* allRows(files: readonly string[]): AsyncGenerator<JsonlRow> {
  for (const file of files) yield* readJsonl(file)
}

async function* skip<T>(source: AsyncIterable<T>, count: number): AsyncGenerator<T> {
  let passed = 0
  for await (const item of source) if (passed++ >= count) yield item
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

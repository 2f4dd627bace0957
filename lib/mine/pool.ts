import { createHash } from 'node:crypto'
import { growing } from '../data/growing.js'
import { textId } from '../data/identity.js'
import { dataFiles, emptyFile, fieldError, type JsonlRow, pairRow, readJsonl, readLines, textRow } from '../data/jsonl.js'
import { createKeyTable, type KeyTable } from '../data/key_table.js'
import { type Lists, listsOf } from './csr.js'
import type { TextStore } from './texts.js'

/**
 * The passages that negatives are taken from, and what must not become one. A passage and a query are known by textId, 64 bits of a hash of the text
 * without case, width, white space and punctuation: texts that differ in these only are one.
 */
export interface Pool {
  /** 0 .. size - 1: the distinct passages, in the order in which they first appear; then positives of the data that are not in the pool */
  readonly texts: TextStore
  readonly size: number
  /** passages that were there already */
  readonly duplicates: number
  /** of the data */
  readonly rows: number
  /** number of a passage, -1 where it is neither in the pool nor a positive */
  number(text: string): number
  /** number of a query of the data */
  query(text: string): number
  /** the passages that any row lists as a positive of the query */
  positives(query: number): Int32Array
  /** the ids that any row lists in `pos_ids` for the query, and the ids of a passage, as numbers */
  positiveIds(query: number): Int32Array
  ids(passage: number): Int32Array
}

export interface PoolFiles {
  readonly data: readonly string[]
  /** undefined: the positives and negatives of the data */
  readonly pool: readonly string[] | undefined
}

/** The files of what may be a file, a folder or several. Throws ERR_BGE_FILE. */
export async function poolFiles(data: string | readonly string[], pool: string | readonly string[] | undefined): Promise<PoolFiles> {
  const listed = (paths: string | readonly string[]): Promise<string[]> => dataFiles(typeof paths === 'string' ? [paths] : paths)
  return { data: await listed(data), pool: pool === undefined ? undefined : await listed(pool) }
}

/**
 * Reads the pool, then the data once; texts go to `texts`. Memory: 16 to 32 bytes a passage for its hash, 8 for its place, 4 to 12 where it has an id, and as much a query.
 * Throws ERR_BGE_DATA `file:line: ...`, also for an empty file.
 */
export async function readPool(files: PoolFiles, texts: TextStore, onPassages?: (count: number) => void): Promise<Pool> {
  const passages = numbered(identity)
  const queries = numbered(identity)
  const ids = numbered(exact)
  const positives = pairs()
  const positiveIds = pairs()
  const passageIds = pairs()
  let duplicates = 0
  const add = (text: string, id: string | undefined): number => {
    const before = passages.size
    const number = passages.add(text)
    if (number === before) {
      texts.push(text)
      if (number % 65_536 === 0) onPassages?.(number)
    } else duplicates++
    if (id !== undefined) passageIds.add(number, ids.add(id))
    return number
  }
  let size = 0
  for (const file of files.pool ?? []) {
    let found = false
    for await (const { text, id } of corpus(file)) {
      found = true
      add(text, id)
    }
    if (!found) throw emptyFile(file)
  }
  const repeated = duplicates
  size = passages.size
  let rows = 0
  for (const file of files.data) {
    const before = rows
    for await (const line of readJsonl(file)) {
      const row = pairRow(line)
      rows++
      const query = queries.add(row.query)
      const posIds = idList(line, 'pos_ids')
      for (const id of posIds) positiveIds.add(query, ids.add(id))
      const own = (list: readonly string[], texts: readonly string[], i: number): string | undefined =>
        list.length === texts.length ? list[i] : undefined
      for (const [i, text] of row.pos.entries()) positives.add(query, add(text, own(posIds, row.pos, i)))
      if (files.pool !== undefined) continue
      const negIds = idList(line, 'neg_ids')
      for (const [i, text] of row.neg.entries()) add(text, own(negIds, row.neg, i))
    }
    if (rows === before) throw emptyFile(file)
  }
  if (files.pool === undefined) size = passages.size
  const positivesOf = positives.lists(queries.size)
  const positiveIdsOf = positiveIds.lists(queries.size)
  const idsOf = passageIds.lists(passages.size)
  return {
    texts,
    size,
    duplicates: files.pool === undefined ? duplicates : repeated,
    rows,
    number: passages.number,
    query: queries.number,
    positives: positivesOf.of,
    positiveIds: positiveIdsOf.of,
    ids: idsOf.of,
  }
}

async function* corpus(file: string): AsyncGenerator<{ text: string; id: string | undefined }> {
  if (file.endsWith('.txt')) {
    for await (const line of readLines(file)) if (line.trim() !== '') yield { text: line, id: undefined }
    return
  }
  for await (const row of readJsonl(file)) {
    const { id } = row.value
    if (id !== undefined && id !== null && !isId(id)) throw fieldError(row, 'id', 'a string or a number', id)
    yield { text: textRow(row).text, id: isId(id) ? String(id) : undefined }
  }
}

function idList(row: JsonlRow, field: 'pos_ids' | 'neg_ids'): readonly string[] {
  const value = row.value[field]
  if (value === undefined || value === null) return []
  if (!Array.isArray(value) || !value.every(isId)) throw fieldError(row, field, 'an array of strings or numbers', value)
  return value.map(String)
}

function isId(value: unknown): value is string | number {
  return typeof value === 'string' || typeof value === 'number'
}

type Key = readonly [high: number, low: number]

function identity(text: string): Key {
  const id = textId(text)
  return [Number.parseInt(id.slice(0, 8), 16), Number.parseInt(id.slice(8), 16)]
}

function exact(text: string): Key {
  const digest = createHash('sha256').update(text).digest()
  return [digest.readUInt32BE(0), digest.readUInt32BE(4)]
}

interface Numbered {
  readonly size: number
  /** its number; a new text gets the next one */
  add(text: string): number
  number(text: string): number
}

function numbered(keyOf: (text: string) => Key): Numbered {
  const table: KeyTable = createKeyTable()
  return {
    get size() {
      return table.size
    },
    add(text) {
      const [high, low] = keyOf(text)
      const known = table.get(high, low)
      if (known >= 0) return known
      table.set(high, low, table.size)
      return table.size - 1
    },
    number(text) {
      const [high, low] = keyOf(text)
      return table.get(high, low)
    },
  }
}

function pairs(): { add(owner: number, entry: number): void; lists(count: number): Lists } {
  const owners = growing((length) => new Int32Array(length))
  const entries = growing((length) => new Int32Array(length))
  return {
    add(owner, entry) {
      owners.push(owner)
      entries.push(entry)
    },
    lists: (count) => listsOf(count, owners.view(), entries.view()),
  }
}

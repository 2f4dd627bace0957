import { join, resolve } from 'node:path'
import { BgeError, invalidArgument } from '../errors.js'
import { createBufferedAtomic } from './atomic.js'
import { normaliseForIdentity } from './identity.js'
import { random } from './random.js'
import { readDataRows } from './rows.js'
import { createTextNumbers, type TextNumbers } from './text_numbers.js'

/** Of `splitData`. */
export interface SplitOptions {
  /** folder of train.jsonl and dev.jsonl */
  out: string
  /** below 1: the share of all rows; from 1: rows. Default 0.05 */
  dev?: number
  /** Default 42 */
  seed?: number
  onProgress?: (rows: number) => void
  signal?: AbortSignal
}

/** What `splitData` wrote. */
export interface SplitResult {
  train: number
  dev: number
  /** groups of rows that hang together by a query or a positive, and the rows of the largest */
  groups: number
  largestGroup: number
  files: { train: string; dev: string }
}

/**
 * Splits training rows of any form of forms.ts into train.jsonl and dev.jsonl without a leak: rows that share a query or a positive (by
 * normaliseForIdentity, whichever of the two it is in either row), directly or through other rows, stay together. Negatives do not tie rows: mined ones
 * would tie everything. Whole groups go to the dev set in the order of a hash of (seed, group) until it is full; a group that no longer fits stays
 * in the training set. The choice depends on the set of rows, not on their order. Rows are written as FlagEmbedding rows, in input order.
 *
 * Two passes over the files; memory is 70 to 140 bytes a row; ten million rows of two new texts each took 1.35 GB.
 * Errors: ERR_BGE_DATA for a row that is not right, or where no group fits; ERR_BGE_ARGUMENT; ERR_BGE_FILE. Then nothing is written.
 */
export async function splitData(files: readonly string[], options: SplitOptions): Promise<SplitResult> {
  const { out, dev = 0.05, seed = 42, signal } = options
  if (!(dev > 0 && (dev < 1 || Number.isSafeInteger(dev))))
    throw invalidArgument('dev', 'a share between 0 and 1, or a number of rows', dev)
  if (!Number.isSafeInteger(seed) || seed < 0) throw invalidArgument('seed', 'an integer from 0 to 2^53 - 1', seed)
  const targets = { train: join(out, 'train.jsonl'), dev: join(out, 'dev.jsonl') }
  for (const file of files) {
    if (Object.values(targets).some((target) => resolve(target) === resolve(file)))
      throw new BgeError(
        'ERR_BGE_ARGUMENT',
        `out must be a folder whose train.jsonl and dev.jsonl are not the input, but ${file} would be written over`,
      )
  }
  const { rowText, texts, parents } = await group(files, options)
  const groups = measure(rowText, texts, parents)
  const wanted = dev < 1 ? Math.round(dev * rowText.length) : dev
  const chosen = chooseGroups(groups, wanted, seed)
  if (chosen.rows === 0) {
    throw new BgeError(
      'ERR_BGE_DATA',
      `expected a group of rows that share a query or positive to fit into a dev set of ${wanted} rows, but the smallest has ${groups.smallest} rows (the largest has ${groups.largest} of ${rowText.length})`,
    )
  }
  const written = await write(files, targets, (row) => chosen.has(find(parents, rowText[row]!)), rowText.length, signal)
  return { ...written, groups: groups.roots.length, largestGroup: groups.largest, files: targets }
}

interface Grouped {
  /** a text number of each row */
  rowText: Int32Array
  texts: TextNumbers
  /** union-find forest over text numbers */
  parents: Int32Array
}

async function group(files: readonly string[], { signal, onProgress }: SplitOptions): Promise<Grouped> {
  const texts = createTextNumbers()
  let rowText = new Int32Array(1024)
  let parents = Int32Array.from({ length: 1024 }, (_, i) => i)
  let rows = 0
  const number = (text: string): number => {
    const found = texts.number(normaliseForIdentity(text))
    if (found >= parents.length) {
      const old = parents
      parents = new Int32Array(2 * old.length)
      parents.set(old)
      for (let i = old.length; i < parents.length; i++) parents[i] = i
    }
    return found
  }
  for (const file of files) {
    for await (const row of readDataRows(file, 'refuse')) {
      const query = number(row.query)
      for (const text of row.pos) unite(parents, query, number(text))
      if (rows === rowText.length) {
        const old = rowText
        rowText = new Int32Array(2 * rows)
        rowText.set(old)
      }
      rowText[rows++] = query
      if (rows % 4096 === 0) {
        signal?.throwIfAborted()
        onProgress?.(rows)
      }
    }
  }
  return { rowText: rowText.subarray(0, rows), texts, parents: parents.subarray(0, texts.size) }
}

function find(parents: Int32Array, text: number): number {
  while (parents[text] !== text) {
    parents[text] = parents[parents[text]!]!
    text = parents[text]!
  }
  return text
}

function unite(parents: Int32Array, a: number, b: number): void {
  const [x, y] = [find(parents, a), find(parents, b)]
  parents[Math.max(x, y)] = Math.min(x, y)
}

interface Groups {
  roots: Int32Array
  /** by root: rows, and the smallest rank of its texts, which does not depend on the order of the rows */
  size: Int32Array
  rank: Float64Array
  largest: number
  smallest: number
}

function measure(rowText: Int32Array, texts: TextNumbers, parents: Int32Array): Groups {
  const size = new Int32Array(parents.length)
  const rank = new Float64Array(parents.length).fill(Number.POSITIVE_INFINITY)
  for (const text of rowText) size[find(parents, text)]!++
  let count = 0
  for (let text = 0; text < parents.length; text++) {
    const root = find(parents, text)
    rank[root] = Math.min(rank[root]!, texts.rank(text))
    if (root === text) count++
  }
  const roots = new Int32Array(count)
  let [i, largest, smallest] = [0, 0, rowText.length]
  for (let text = 0; text < parents.length; text++) {
    if (parents[text] !== text) continue
    roots[i++] = text
    largest = Math.max(largest, size[text]!)
    smallest = Math.min(smallest, size[text]!)
  }
  return { roots, size, rank, largest, smallest }
}

function chooseGroups({ roots, size, rank }: Groups, wanted: number, seed: number): { rows: number; has(root: number): boolean } {
  const key = new Float64Array(size.length)
  for (const root of roots) key[root] = random(seed, 'split', 0, rank[root]!).next()
  const order = roots.slice().sort((a, b) => key[a]! - key[b]! || rank[a]! - rank[b]!)
  const taken = new Uint8Array(size.length)
  let rows = 0
  for (const root of order) {
    if (rows === wanted) break
    if (rows + size[root]! > wanted) continue
    taken[root] = 1
    rows += size[root]!
  }
  return { rows, has: (root) => taken[root] === 1 }
}

async function write(
  files: readonly string[],
  targets: { train: string; dev: string },
  isDev: (row: number) => boolean,
  expected: number,
  signal: AbortSignal | undefined,
): Promise<{ train: number; dev: number }> {
  const counts = { train: 0, dev: 0 }
  const train = await createBufferedAtomic(targets.train)
  const dev = await createBufferedAtomic(targets.dev)
  try {
    let row = 0
    for (const file of files) {
      for await (const { value } of readDataRows(file, 'refuse')) {
        if (row % 4096 === 0) signal?.throwIfAborted()
        const side = isDev(row) ? 'dev' : 'train'
        counts[side]++
        row++
        await (side === 'dev' ? dev : train).write(JSON.stringify(value) + '\n')
      }
    }
    if (row !== expected)
      throw new BgeError('ERR_BGE_DATA', `expected ${expected} rows as in the first pass, but found ${row}: a file changed meanwhile`)
    await train.commit()
    await dev.commit()
  } finally {
    await train.discard()
    await dev.discard()
  }
  return counts
}

import { emptyFile, type PairRow, pairRow, readJsonl, textRow } from '../data/jsonl.js'

/** The passages that negatives are taken from, and what must not become one. */
export interface Pool {
  /** distinct passages, in the order in which they first appear */
  readonly passages: readonly string[]
  /** number of a passage, undefined where it is not in the pool */
  number(text: string): number | undefined
  /** every positive of a query text, in whichever row it is listed */
  positives(query: string): ReadonlySet<string>
  readonly rows: number
}

/**
 * Reads the training file once. The pool is every distinct `pos` and `neg` of the file, or every distinct `{"text"}` of `poolFile`.
 * Throws ERR_BGE_DATA `file:line: ...`, also for an empty file.
 */
export async function readPool(data: string, poolFile: string | undefined): Promise<Pool> {
  const numbers = new Map<string, number>()
  const add = (text: string): void => {
    if (!numbers.has(text)) numbers.set(text, numbers.size)
  }
  const positives = new Map<string, Set<string>>()
  let rows = 0
  for await (const row of pairRows(data)) {
    rows++
    const known = positives.get(row.query) ?? new Set<string>()
    positives.set(row.query, known)
    for (const text of row.pos) known.add(text)
    if (poolFile === undefined) for (const text of [...row.pos, ...row.neg]) add(text)
  }
  if (rows === 0) throw emptyFile(data)
  if (poolFile !== undefined) for await (const line of readJsonl(poolFile)) add(textRow(line).text)
  if (numbers.size === 0) throw emptyFile(poolFile!)
  return { passages: [...numbers.keys()], number: (text) => numbers.get(text), positives: (query) => positives.get(query)!, rows }
}

async function* pairRows(file: string): AsyncGenerator<PairRow> {
  for await (const line of readJsonl(file)) yield pairRow(line)
}

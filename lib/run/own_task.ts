import { normaliseForIdentity } from '../data/identity.js'
import { dataFiles } from '../data/jsonl.js'
import { readDataRows } from '../data/rows.js'
import { BgeError } from '../errors.js'
import type { EvalTask } from '../eval/sources.js'

/** Rows of one's own as a retrieval task. */
export interface OwnTask {
  readonly task: EvalTask
  /** id of a query -> its text */
  readonly queries: ReadonlyMap<string, string>
  /** id of a query -> number of its group: queries that share a positive passage, directly or through others */
  readonly groups: ReadonlyMap<string, number>
  readonly passages: number
}

/** The name of the task in results. */
export const OWN = 'own-data'

/**
 * Each query of `data` looks for its positives among all passages of `data` and `corpus` (positives and negatives, or the texts of rows that have one). Passages are one when they are the
 * same text; what any row lists as a positive of the query is one. Throws ERR_BGE_DATA `file:line: ...` and ERR_BGE_FILE.
 */
export async function ownTask(data: readonly string[], corpus: readonly string[]): Promise<OwnTask> {
  const passages = new Map<string, string>()
  const idOf = (text: string): string => {
    const id = passages.get(text) ?? `d${String(passages.size).padStart(8, '0')}`
    passages.set(text, id)
    return id
  }
  const positives = new Map<string, Set<string>>()
  const queryTexts = new Map<string, string>()
  const asked = new Set<string>()
  for (const [files, isData] of [
    [await dataFiles(data), true],
    [await dataFiles(corpus), false],
  ] as const) {
    for (const file of files) {
      for await (const { query, pos, neg, line } of readDataRows(file, 'refuse')) {
        if (pos.length === 0) {
          if (isData)
            throw new BgeError('ERR_BGE_DATA', `${file}:${line}: expected a row with a query and a positive, but it is a text alone`)
          idOf(query)
          continue
        }
        const known = positives.get(query) ?? new Set<string>()
        positives.set(query, known)
        for (const text of pos) known.add(idOf(text))
        for (const text of neg) idOf(text)
        if (isData && !asked.has(query)) {
          asked.add(query)
          queryTexts.set(`q${String(asked.size - 1).padStart(8, '0')}`, query)
        }
      }
    }
  }
  const qrels = new Map([...queryTexts].map(([id, query]) => [id, new Map([...positives.get(query)!].map((did) => [did, 1]))]))
  const texts = new Map([...passages].map(([text, id]) => [id, text]))
  const retrieval = { type: 'retrieval' as const, corpus: texts, queries: queryTexts, qrels }
  return {
    task: {
      name: OWN,
      type: 'retrieval',
      identity: async () => JSON.stringify([data, corpus]),
      load: async () => ({ revision: null, splits: new Map([['test', retrieval]]), notes: [] }),
    },
    queries: queryTexts,
    groups: groupsOf(queryTexts, qrels, texts),
    passages: passages.size,
  }
}

/** As `bge data split` keeps rows together: by query and positive, after normalisation. */
function groupsOf(
  queries: ReadonlyMap<string, string>,
  qrels: ReadonlyMap<string, ReadonlyMap<string, number>>,
  texts: ReadonlyMap<string, string>,
): Map<string, number> {
  const parents: number[] = []
  const numbers = new Map<string, number>()
  const number = (text: string): number => {
    const normal = normaliseForIdentity(text)
    const found = numbers.get(normal) ?? parents.push(parents.length) - 1
    numbers.set(normal, found)
    return found
  }
  const find = (one: number): number => {
    while (parents[one] !== one) one = parents[one] = parents[parents[one]!]!
    return one
  }
  for (const [id, query] of queries) {
    for (const did of qrels.get(id)!.keys()) {
      const [a, b] = [find(number(query)), find(number(texts.get(did)!))]
      parents[Math.max(a, b)] = Math.min(a, b)
    }
  }
  return new Map([...queries].map(([id, query]) => [id, find(number(query))]))
}

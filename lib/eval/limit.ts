import { BgeError } from '../errors.js'
import type { CmtebData } from './cmteb/load.js'
import { MINI_LIMITS } from './cmteb/mini.js'

/** How much of a task is used: so many queries, pairs or texts, or what the mini set takes. */
export type Limit = number | 'mini'

/** What is kept of a task. */
export interface Limits {
  /** queries, pairs or texts */
  readonly items: number
  /** documents that a retrieval task keeps for each query it keeps, the judged ones included where they are fewer */
  readonly documentsPerQuery: number
  /** sets of a clustering task */
  readonly sets: number
  /** training texts of each label of a classification task */
  readonly trainingPerLabel: number
}

/**
 * A small version of a task for a quick look: some queries, pairs or texts, taken at even distances so that sorted files stay mixed; the same ones every
 * time. Retrieval keeps the documents judged for these queries and others, also at even distances, up to 10 a query. Scores of it are not those of the
 * task. Throws ERR_BGE_DATA where pairs of one label are left.
 */
export function limitData(data: CmtebData, limit: Limit): CmtebData {
  const every = Number.POSITIVE_INFINITY
  const { items, documentsPerQuery, sets, trainingPerLabel }: Limits =
    limit === 'mini' ? MINI_LIMITS[data.type] : { items: limit, documentsPerQuery: 10, sets: every, trainingPerLabel: every }
  switch (data.type) {
    case 'sts':
    case 'pairClassification': {
      const keep = evenly(data.labels.length, items)
      const pick = <T>(values: readonly T[]): T[] => keep.map((i) => values[i]!)
      if (new Set(pick(data.labels)).size < 2)
        throw new BgeError('ERR_BGE_DATA', `a limit of ${items} leaves pairs of one label only; a larger one is needed`)
      return { ...data, text1: pick(data.text1), text2: pick(data.text2), labels: pick(data.labels) }
    }
    case 'reranking':
      return { ...data, samples: evenly(data.samples.length, items).map((i) => data.samples[i]!) }
    case 'clustering':
      return {
        ...data,
        sets: evenly(data.sets.length, sets).map((i) => {
          const { texts, labels } = data.sets[i]!
          return some({ texts, labels }, items)
        }),
      }
    case 'classification':
      return { ...data, test: some(data.test, items), train: someOfEachLabel(data.train, trainingPerLabel) }
    case 'retrieval': {
      const all = [...data.queries]
      const queries = new Map(evenly(all.length, items).map((i) => all[i]!))
      const qrels = new Map([...queries.keys()].map((qid) => [qid, data.qrels.get(qid)!]))
      const judged = new Set([...qrels.values()].flatMap((judgments) => [...judgments.keys()]))
      const others = [...data.corpus.keys()].filter((did) => !judged.has(did))
      const more = Math.max(0, documentsPerQuery * queries.size - judged.size)
      const kept = new Set([...judged, ...evenly(others.length, more).map((i) => others[i]!)])
      return { ...data, queries, qrels, corpus: new Map([...data.corpus].filter(([did]) => kept.has(did))) }
    }
  }
}

/** What a limited result is, for tables: no score of the task itself. */
export function limitNote(limit: Limit): string {
  return limit === 'mini'
    ? 'the mini version of each task: not the scores of the tasks'
    : `limited to ${limit} queries, pairs or texts a task: not the scores of the tasks`
}

interface Labelled<L> {
  readonly texts: readonly string[]
  readonly labels: readonly L[]
}

function some<L>({ texts, labels }: Labelled<L>, limit: number): { texts: string[]; labels: L[] } {
  return rowsOf({ texts, labels }, evenly(texts.length, limit))
}

function someOfEachLabel<L>(data: Labelled<L>, limit: number): { texts: string[]; labels: L[] } {
  const rows = new Map<L, number[]>()
  for (const [i, label] of data.labels.entries()) {
    const ofLabel = rows.get(label)
    if (ofLabel) ofLabel.push(i)
    else rows.set(label, [i])
  }
  const kept = [...rows.values()].flatMap((all) => evenly(all.length, limit).map((i) => all[i]!))
  return rowsOf(
    data,
    kept.sort((a, b) => a - b),
  )
}

function rowsOf<L>({ texts, labels }: Labelled<L>, rows: readonly number[]): { texts: string[]; labels: L[] } {
  return { texts: rows.map((i) => texts[i]!), labels: rows.map((i) => labels[i]!) }
}

/** min(limit, n) indexes of 0..n-1 at even distances, ascending. */
function evenly(n: number, limit: number): number[] {
  const count = Math.min(n, limit)
  return Array.from({ length: count }, (_, i) => Math.floor((i * n) / count))
}

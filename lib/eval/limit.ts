import { BgeError } from '../errors.js'
import type { CmtebData } from './cmteb/load.js'

/** Documents that a limited retrieval task keeps for each query it keeps, the judged ones included where they are fewer. */
const DOCUMENTS_PER_QUERY = 10

/**
 * A small version of a task for a quick look: `limit` queries, pairs or texts, taken at even distances so that sorted files stay mixed. Retrieval keeps the
 * documents judged for these queries and others, also at even distances, up to 10 a query. Scores of it are not those of the task.
 */
export function limitData(data: CmtebData, limit: number): CmtebData {
  switch (data.type) {
    case 'sts':
    case 'pairClassification': {
      const keep = evenly(data.labels.length, limit)
      const pick = <T>(values: readonly T[]): T[] => keep.map((i) => values[i]!)
      if (new Set(pick(data.labels)).size < 2)
        throw new BgeError('ERR_BGE_DATA', `a limit of ${limit} leaves pairs of one label only; a larger one is needed`)
      return { ...data, text1: pick(data.text1), text2: pick(data.text2), labels: pick(data.labels) }
    }
    case 'reranking':
      return { ...data, samples: evenly(data.samples.length, limit).map((i) => data.samples[i]!) }
    case 'clustering':
      return { ...data, sets: data.sets.map(({ texts, labels }) => some({ texts, labels }, limit)) }
    case 'classification':
      return { ...data, test: some(data.test, limit) }
    case 'retrieval': {
      const all = [...data.queries]
      const queries = new Map(evenly(all.length, limit).map((i) => all[i]!))
      const qrels = new Map([...queries.keys()].map((qid) => [qid, data.qrels.get(qid)!]))
      const judged = new Set([...qrels.values()].flatMap((judgments) => [...judgments.keys()]))
      const others = [...data.corpus.keys()].filter((did) => !judged.has(did))
      const more = Math.max(0, DOCUMENTS_PER_QUERY * queries.size - judged.size)
      const kept = new Set([...judged, ...evenly(others.length, more).map((i) => others[i]!)])
      return { ...data, queries, qrels, corpus: new Map([...data.corpus].filter(([did]) => kept.has(did))) }
    }
  }
}

function some<L>({ texts, labels }: { texts: readonly string[]; labels: readonly L[] }, limit: number): { texts: string[]; labels: L[] } {
  const keep = evenly(texts.length, limit)
  return { texts: keep.map((i) => texts[i]!), labels: keep.map((i) => labels[i]!) }
}

/** min(limit, n) indexes of 0..n-1 at even distances, ascending. */
function evenly(n: number, limit: number): number[] {
  const count = Math.min(n, limit)
  return Array.from({ length: count }, (_, i) => Math.floor((i * n) / count))
}

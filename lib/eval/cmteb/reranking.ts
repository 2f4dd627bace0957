import { BgeError } from '../../errors.js'
import type { RerankingSample, RetrievalData } from '../data.js'

/** A sample with the ids by which trec_eval breaks ties between equal scores. */
export interface CmtebRerankingSample extends RerankingSample {
  readonly id: string
  /** one per text of `positive` / `negative` */
  readonly positiveIds: readonly string[]
  readonly negativeIds: readonly string[]
}

export interface CmtebReranking {
  readonly samples: readonly CmtebRerankingSample[]
  /** queries without a positive or without a negative candidate */
  readonly skipped: number
}

/**
 * Rows of the old layout, with the ids that mteb's conversion gives them: documents of the i-th kept row are `apositive_QID_00000` and
 * `negative_QID_00000`, so that of equal scores the negatives rank first.
 */
export function rerankingOfRows(rows: readonly RerankingSample[], split: string, name: string): CmtebReranking {
  const kept = rows.filter(({ positive, negative }) => positive.length > 0 && negative.length > 0)
  const samples = kept.map((sample, i) => {
    const id = `${split}_query${i}`
    const ids = (kind: string, texts: readonly string[]): string[] => texts.map((_, j) => `${kind}_${id}_${String(j).padStart(5, '0')}`)
    return { ...sample, id, positiveIds: ids('apositive', sample.positive), negativeIds: ids('negative', sample.negative) }
  })
  return notEmpty({ samples, skipped: rows.length - kept.length }, name)
}

/** The new layout: candidates by id; those judged 1 or more are the positives. Throws ERR_BGE_DATA where a candidate or a positive is not to be found. */
export function rerankingOfTables(
  { corpus, queries, qrels }: RetrievalData,
  candidates: ReadonlyMap<string, readonly string[]>,
  name: string,
): CmtebReranking {
  const samples: CmtebRerankingSample[] = []
  let skipped = 0
  for (const [id, query] of queries) {
    const ids = candidates.get(id)
    if (ids === undefined) throw new BgeError('ERR_BGE_DATA', `${name}: expected candidates of query "${id}", but it has none`)
    const unknown = ids.find((did) => !corpus.has(did))
    if (unknown !== undefined) throw new BgeError('ERR_BGE_DATA', `${name}: candidate "${unknown}" of query "${id}" is not in the corpus`)
    const isPositive = (did: string): boolean => (qrels.get(id)!.get(did) ?? 0) >= 1
    const listed = new Set(ids)
    const lost = [...qrels.get(id)!.keys()].find((did) => isPositive(did) && !listed.has(did))
    if (lost !== undefined)
      throw new BgeError('ERR_BGE_DATA', `${name}: expected positive "${lost}" of query "${id}" among its candidates, but it is not`)
    const positiveIds = ids.filter(isPositive)
    const negativeIds = ids.filter((did) => !isPositive(did))
    const texts = (of: readonly string[]): string[] => of.map((did) => corpus.get(did)!)
    if (positiveIds.length === 0 || negativeIds.length === 0) skipped++
    else samples.push({ id, query, positive: texts(positiveIds), negative: texts(negativeIds), positiveIds, negativeIds })
  }
  return notEmpty({ samples, skipped }, name)
}

function notEmpty(data: CmtebReranking, name: string): CmtebReranking {
  if (data.samples.length > 0) return data
  throw new BgeError(
    'ERR_BGE_DATA',
    `${name}: expected queries with at least one positive and one negative candidate, but it has none (${data.skipped} queries)`,
  )
}

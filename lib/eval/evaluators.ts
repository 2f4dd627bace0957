import { BgeError } from '../errors.js'
import { type EncodeOptions, encodeDistinct, type Embedder } from '../model/embedder.js'
import { type SearchDevice, vectorIndex } from '../model/search.js'
import type { RerankingData, RetrievalData, StsData } from './data.js'
import {
  averagePrecision,
  compareUtf8,
  mapAt,
  mrrAt,
  ndcgAt,
  pairedCosine,
  pearson,
  precisionAt,
  rankHits,
  recallAt,
  spearman,
} from './metrics.js'

/** Scores by name, all 0..1 (correlations -1..1); `n` counts what was scored. */
export interface TaskScores {
  readonly scores: Readonly<Record<string, number>>
  readonly n: Readonly<Record<string, number>>
}

/** What the query side is encoded with; passages and STS texts never get the instruction. */
export interface EvaluationContext {
  readonly instruction: string
  readonly device: SearchDevice
  readonly encode: EncodeOptions
}

/** mteb's cut-offs; the last is also how many documents are retrieved. */
const CUTOFFS = [1, 3, 5, 10, 20, 100, 1000] as const
const QUERY_BLOCK = 1024

/** STS: Spearman (main) and Pearson of the cosines with the labels (cmteb.md 2.4). No instruction. */
export async function evaluateSts(embedder: Embedder, data: StsData, context: EvaluationContext): Promise<TaskScores> {
  const n = data.labels.length
  const { rows, vector } = await encodeDistinct(embedder, [...data.text1, ...data.text2], context.encode)
  const cosines = data.labels.map((_, i) => pairedCosine(vector(rows[i]!), vector(rows[n + i]!)))
  const scores = { cosine_spearman: spearman(cosines, data.labels), cosine_pearson: pearson(cosines, data.labels) }
  if (Number.isNaN(scores.cosine_spearman)) {
    throw new BgeError('ERR_BGE_NON_FINITE', `the correlation is undefined because all ${n} pairs have the same cosine, ${cosines[0]}`)
  }
  return { scores, n: { pairs: n } }
}

/**
 * Retrieval: exact search for the best 1000 documents of each query, then trec_eval's ndcg (at 10: main), map, recall, precision and mrr at
 * 1, 3, 5, 10, 20, 100 and 1000, averaged over the queries (cmteb.md 2.1). The instruction goes before queries.
 */
export async function evaluateRetrieval(embedder: Embedder, data: RetrievalData, context: EvaluationContext): Promise<TaskScores> {
  const { instruction, encode, device } = context
  // In this order "equal scores by smaller index", the rule of the search, is trec_eval's "equal scores by larger id".
  const ids = [...data.corpus.keys()].sort((a, b) => compareUtf8(b, a))
  const documents = await encodeDistinct(
    embedder,
    ids.map((id) => data.corpus.get(id)!),
    encode,
  )
  const qids = [...data.queries.keys()]
  const queries = await encodeDistinct(embedder, [...data.queries.values()], { ...encode, instruction })
  const k = Math.min(CUTOFFS.at(-1)!, ids.length)
  const sums = new Map<string, number>()
  const index = vectorIndex(device, gather(documents.data, documents.rows, documents.dims), documents.dims)
  try {
    for (let start = 0; start < qids.length; start += QUERY_BLOCK) {
      encode.signal?.throwIfAborted()
      const block = qids.slice(start, start + QUERY_BLOCK)
      const { indices } = await index.search(gather(queries.data, queries.rows.subarray(start, start + QUERY_BLOCK), queries.dims), k)
      for (const [b, qid] of block.entries()) {
        const ranked = Array.from(indices.subarray(b * k, (b + 1) * k), (i) => ids[i]!)
        addRanking(sums, ranked, data.qrels.get(qid)!)
      }
    }
  } finally {
    index.dispose()
  }
  const scores = Object.fromEntries([...sums].map(([name, sum]) => [name, sum / qids.length]))
  return { scores, n: { queries: qids.length, documents: ids.length } }
}

function addRanking(sums: Map<string, number>, ranked: readonly string[], judgments: ReadonlyMap<string, number>): void {
  const metrics = { ndcg: ndcgAt, map: mapAt, recall: recallAt, precision: precisionAt, mrr: mrrAt }
  for (const [name, metric] of Object.entries(metrics)) {
    for (const k of CUTOFFS) sums.set(`${name}_at_${k}`, (sums.get(`${name}_at_${k}`) ?? 0) + metric(k, ranked, judgments))
  }
}

/**
 * Reranking: each query's own candidates by cosine (cmteb.md 2.3). `map` (main) is the mean of scikit-learn's average precision, as in C_MTEB;
 * `map_at_1000` is trec_eval's, mteb 2's main score, and differs from it only where scores tie; `mrr_at_10`. Ties rank negatives first, as the
 * document ids that mteb makes up do. The instruction goes before queries.
 */
export async function evaluateReranking(embedder: Embedder, data: RerankingData, context: EvaluationContext): Promise<TaskScores> {
  const { instruction, encode } = context
  const { samples } = data
  const candidates = samples.map(({ positive, negative }) => [...positive, ...negative])
  const documents = await encodeDistinct(embedder, candidates.flat(), encode)
  const queries = await encodeDistinct(
    embedder,
    samples.map((sample) => sample.query),
    { ...encode, instruction },
  )
  const sums = { map: 0, map_at_1000: 0, mrr_at_10: 0 }
  let next = 0
  for (const [s, { positive }] of samples.entries()) {
    const query = queries.vector(queries.rows[s]!)
    const cosines = candidates[s]!.map((_, i) => dot(query, documents.vector(documents.rows[next + i]!)))
    next += cosines.length
    const relevant = cosines.map((_, i) => i < positive.length)
    const ids = cosines.map((_, i) => (relevant[i] ? `apositive_${i}` : `negative_${i}`))
    const ranked = rankHits(cosines.map((score, i) => ({ id: ids[i]!, score })))
    const judgments = new Map(positive.map((_, i) => [ids[i]!, 1]))
    sums.map += averagePrecision(relevant, cosines)
    sums.map_at_1000 += mapAt(1000, ranked, judgments)
    sums.mrr_at_10 += mrrAt(10, ranked, judgments)
  }
  const scores = Object.fromEntries(Object.entries(sums).map(([name, sum]) => [name, sum / samples.length]))
  return { scores, n: { queries: samples.length, documents: next, skipped: data.skipped } }
}

/** float32 inner product, accumulated in double */
function dot(x: Float32Array, y: Float32Array): number {
  let sum = 0
  for (let i = 0; i < x.length; i++) sum += x[i]! * y[i]!
  return Math.fround(sum)
}

/** (N, D): row rows[i] of data for each i */
function gather(data: Float32Array, rows: Int32Array, dims: number): Float32Array {
  if (data.length === rows.length * dims && rows.every((row, i) => row === i)) return data
  const out = new Float32Array(rows.length * dims)
  for (const [i, row] of rows.entries()) out.set(data.subarray(row * dims, (row + 1) * dims), i * dims)
  return out
}

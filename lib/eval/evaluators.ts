import { BgeError } from '../errors.js'
import { type EncodeOptions, encodeDistinct, type Embedder, type Vectors } from '../model/embedder.js'
import { type SearchDevice, vectorIndex } from '../model/search.js'
import type { CmtebReranking } from './cmteb/reranking.js'
import type { Dialect } from './cmteb/tasks.js'
import type { RetrievalData, StsData } from './data.js'
import { type Example, worstPairs, WorstRankings } from './examples.js'
import { averagePrecision, compareUtf8, pearson, spearman } from './metrics.js'
import type { NumericOptions, SklearnGeneration } from './numeric/logistic_regression.js'
import { SIMILARITIES } from './numeric/pair_metrics.js'
import { DEPTH, RankingScores } from './ranking.js'

/** What a task came to. */
export interface TaskScores {
  /** scores by name, all 0..1 (correlations -1..1) */
  readonly scores: Readonly<Record<string, number>>
  /** what was scored, counted */
  readonly n: Readonly<Record<string, number>>
  /** scores of parts: experiments, sets */
  readonly parts?: Readonly<Record<string, unknown>>
  /** where the model was most wrong */
  readonly examples: readonly Example[]
}

/** What decides a score besides the model and the data. */
export interface Rules {
  readonly dialect: Dialect
  readonly sklearn: SklearnGeneration
  /** retrieval: what becomes of a document whose id is the query's. 'after': taken out of the 1000 found; 'during': never found */
  readonly identicalIds: 'keep' | 'after' | 'during'
  /** classification: training sets drawn, and texts of each label in one */
  readonly experiments: number
  readonly samplesPerLabel: number
}

/** What texts are encoded with; only queries of retrieval and reranking get the instruction. */
export interface EvaluationContext {
  readonly instruction: string
  readonly device: SearchDevice
  readonly encode: EncodeOptions
  readonly rules: Rules
  /** of logistic regression and k-means */
  readonly numeric?: NumericOptions
  /** called when the task needs no more vectors: another task may use the model while this one is scored */
  readonly onEncoded?: () => void
  /** retrieval: called with each query's nDCG@10 */
  readonly onQuery?: (query: string, score: number) => void
}

const QUERY_BLOCK = 1024

/** STS: correlations of similarities with the labels (cmteb.md 2.4); Spearman of the cosine is the main score. No instruction. */
export async function evaluateSts(embedder: Embedder, data: StsData, { encode, onEncoded }: EvaluationContext): Promise<TaskScores> {
  const n = data.labels.length
  const { rows, vector } = await encodeDistinct(embedder, [...data.text1, ...data.text2], encode, 'raw')
  onEncoded?.()
  const values = (of: (x: Float32Array, y: Float32Array) => number): Float32Array =>
    Float32Array.from(data.labels, (_, i) => of(vector(rows[i]!), vector(rows[n + i]!)))
  const cosines = values(SIMILARITIES.cosine.of)
  const correlations = (prefix: string, similarities: Float32Array): [string, number][] => [
    [`${prefix}pearson`, pearson(similarities, data.labels)],
    [`${prefix}spearman`, spearman(similarities, data.labels)],
  ]
  const scores = Object.fromEntries([
    ...correlations('', values(SIMILARITIES.similarity.of)),
    ...correlations('cosine_', cosines),
    ...correlations(
      'manhattan_',
      values((x, y) => -SIMILARITIES.manhattan.of(x, y)),
    ),
    ...correlations(
      'euclidean_',
      values((x, y) => -SIMILARITIES.euclidean.of(x, y)),
    ),
  ])
  if (Number.isNaN(scores.cosine_spearman)) {
    throw new BgeError('ERR_BGE_NON_FINITE', `the correlation is undefined because all ${n} pairs have the same cosine, ${cosines[0]}`)
  }
  return { scores, n: { pairs: n }, examples: worstPairs(data, cosines) }
}

/**
 * Retrieval: exact search for the best 1000 documents of each query, then trec_eval's measures (ndcg_at_10 is the main one) averaged over the
 * queries (cmteb.md 2.1), and in mteb2 nAUC. The instruction goes before queries.
 */
export async function evaluateRetrieval(embedder: Embedder, data: RetrievalData, context: EvaluationContext): Promise<TaskScores> {
  const { instruction, encode, device, rules } = context
  // In this order "equal scores by smaller index", the rule of the search, is the heap's and trec_eval's "equal scores by larger id".
  const ids = [...data.corpus.keys()].sort((a, b) => compareUtf8(b, a))
  const documents = await encodeDistinct(
    embedder,
    ids.map((id) => data.corpus.get(id)!),
    encode,
  )
  const qids = [...data.queries.keys()]
  const queries = await encodeDistinct(embedder, [...data.queries.values()], { ...encode, instruction })
  context.onEncoded?.()
  const k = Math.min(DEPTH + (rules.identicalIds === 'during' ? 1 : 0), ids.length)
  const totals = new RankingScores()
  const worst = new WorstRankings()
  const numbers = new Map(ids.map((id, i) => [id, i]))
  const index = vectorIndex(device, gather(documents, documents.rows), documents.dims)
  try {
    for (let start = 0; start < qids.length; start += QUERY_BLOCK) {
      encode.signal?.throwIfAborted()
      const block = qids.slice(start, start + QUERY_BLOCK)
      const { indices, scores } = await index.search(gather(queries, queries.rows.subarray(start, start + QUERY_BLOCK)), k)
      for (const [b, qid] of block.entries()) {
        const places = Array.from({ length: k }, (_, place) => b * k + place)
        const kept = rules.identicalIds === 'keep' ? places : places.filter((place) => ids[indices[place]!] !== qid)
        const found = kept.slice(0, DEPTH)
        const ranked = found.map((place) => indices[place]!)
        const judgments = data.qrels.get(qid)!
        const score = totals.add(
          ranked.map((i) => ids[i]!),
          found.map((place) => scores[place]!),
          judgments,
        )
        context.onQuery?.(qid, score)
        const relevant = [...judgments].flatMap(([did, grade]) => (grade >= 1 && numbers.has(did) ? [numbers.get(did)!] : []))
        worst.add(data.queries.get(qid)!, score, ranked, relevant, (i) => data.corpus.get(ids[i]!)!)
      }
    }
  } finally {
    index.dispose()
  }
  return { scores: rankingScores(totals, rules.dialect), n: { queries: qids.length, documents: ids.length }, examples: worst.list() }
}

/**
 * Reranking: each query's own candidates by cosine (cmteb.md 2.3). `map_at_1000` and the other measures are trec_eval's over the best 1000, as in
 * mteb 2; `map` and `mrr` are those of C_MTEB, the mean of scikit-learn's average precision and 1 / rank of the first relevant of ten. The two
 * differ where scores tie. The instruction goes before queries.
 */
export async function evaluateReranking(embedder: Embedder, data: CmtebReranking, context: EvaluationContext): Promise<TaskScores> {
  const { instruction, encode, rules } = context
  const { samples } = data
  const candidates = samples.map(({ positive, negative }) => [...positive, ...negative])
  const documents = await encodeDistinct(embedder, candidates.flat(), encode)
  const queries = await encodeDistinct(
    embedder,
    samples.map((sample) => sample.query),
    { ...encode, instruction },
  )
  context.onEncoded?.()
  const totals = new RankingScores()
  const worst = new WorstRankings()
  const sums = { map: 0, mrr: 0 }
  let next = 0
  for (const [s, { query, positiveIds, negativeIds }] of samples.entries()) {
    const vector = queries.vector(queries.rows[s]!)
    const texts = candidates[s]!
    const cosines = texts.map((_, i) => dot(vector, documents.vector(documents.rows[next + i]!)))
    next += texts.length
    const ids = [...positiveIds, ...negativeIds]
    const isPositive = (i: number): boolean => i < positiveIds.length
    const order = texts.map((_, i) => i).sort((a, b) => cosines[b]! - cosines[a]! || compareUtf8(ids[b]!, ids[a]!))
    const ranked = order.slice(0, DEPTH)
    totals.add(
      ranked.map((i) => ids[i]!),
      ranked.map((i) => cosines[i]!),
      new Map(positiveIds.map((id) => [id, 1])),
    )
    const precision = averagePrecision(
      texts.map((_, i) => isPositive(i)),
      cosines,
    )
    sums.map += precision
    const first = order.findIndex(isPositive)
    sums.mrr += first < 10 ? 1 / (first + 1) : 0
    worst.add(
      query,
      precision,
      ranked,
      texts.flatMap((_, i) => (isPositive(i) ? [i] : [])),
      (i) => texts[i]!,
    )
  }
  const scores = { map: sums.map / samples.length, mrr: sums.mrr / samples.length, ...rankingScores(totals, rules.dialect) }
  return { scores, n: { queries: samples.length, documents: next, skipped: data.skipped }, examples: worst.list() }
}

/** The measures of a dialect: mteb 1.1 knew no nAUC. */
function rankingScores(totals: RankingScores, dialect: Dialect): Record<string, number> {
  return dialect === 'mteb2' ? { ...totals.means(), ...totals.nauc() } : totals.means()
}

/** float32 inner product, accumulated in double */
function dot(x: Float32Array, y: Float32Array): number {
  let sum = 0
  for (let i = 0; i < x.length; i++) sum += x[i]! * y[i]!
  return Math.fround(sum)
}

/** (N, D): row rows[i] of the vectors for each i */
export function gather({ data, dims }: Pick<Vectors, 'data' | 'dims'>, rows: Int32Array): Float32Array {
  if (data.length === rows.length * dims && rows.every((row, i) => row === i)) return data
  const out = new Float32Array(rows.length * dims)
  for (const [i, row] of rows.entries()) out.set(data.subarray(row * dims, (row + 1) * dims), i * dims)
  return out
}

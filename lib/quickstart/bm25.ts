import type { RerankingData, RetrievalData } from '../eval/data.js'
import { averagePrecision, mrrAt, ndcgAt, rankHits } from '../eval/metrics.js'

/** The yardstick without a model. */
export interface Bm25Scores {
  ndcg_at_10: number
  mrr_at_10: number
  map: number
}

const K1 = 1.2
const B = 0.75

/** BM25 (Robertson and Zaragoza 2009) over character bigrams, with the common k1 = 1.2 and b = 0.75. */
export function bm25(documents: readonly string[]): (query: string) => Float64Array {
  const postings = new Map<string, Map<number, number>>()
  const lengths = documents.map((text, d) => {
    const terms = bigrams(text)
    for (const term of terms) {
      const counts = postings.get(term) ?? new Map<number, number>()
      postings.set(term, counts.set(d, (counts.get(d) ?? 0) + 1))
    }
    return terms.length
  })
  const mean = lengths.reduce((a, b) => a + b, 0) / documents.length
  return (query) => {
    const scores = new Float64Array(documents.length)
    for (const term of bigrams(query)) {
      const counts = postings.get(term)
      if (!counts) continue
      const idf = Math.log(1 + (documents.length - counts.size + 0.5) / (counts.size + 0.5))
      for (const [d, count] of counts) scores[d]! += (idf * count * (K1 + 1)) / (count + K1 * (1 - B + (B * lengths[d]!) / mean))
    }
    return scores
  }
}

/** Scores the same tasks as the model is scored on. */
export function evaluateBm25(retrieval: RetrievalData, reranking: RerankingData): Bm25Scores {
  const ids = [...retrieval.corpus.keys()]
  const search = bm25([...retrieval.corpus.values()])
  const sums = { ndcg_at_10: 0, mrr_at_10: 0, map: 0 }
  for (const [qid, query] of retrieval.queries) {
    const ranked = rankHits(Array.from(search(query), (score, i) => ({ id: ids[i]!, score })))
    sums.ndcg_at_10 += ndcgAt(10, ranked, retrieval.qrels.get(qid)!) / retrieval.queries.size
    sums.mrr_at_10 += mrrAt(10, ranked, retrieval.qrels.get(qid)!) / retrieval.queries.size
  }
  for (const { query, positive, negative } of reranking.samples) {
    const scores = bm25([...positive, ...negative])(query)
    sums.map +=
      averagePrecision(
        Array.from(scores, (_, i) => i < positive.length),
        scores,
      ) / reranking.samples.length
  }
  return sums
}

function bigrams(text: string): string[] {
  const characters = [...text.toLowerCase()].filter((character) => /[\p{L}\p{N}]/u.test(character))
  return characters.slice(1).map((character, i) => characters[i]! + character)
}

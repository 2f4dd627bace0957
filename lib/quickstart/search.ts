import { BgeModel } from '../model/model.js'
import { vectorIndex } from '../model/search.js'
import type { Article, Corpus } from './corpus.js'

/** A held-out question and what the trained model finds for it among all articles. */
export interface Found {
  readonly question: string
  readonly top: Article
  readonly score: number
  /** the article that the question was written for, and its rank among all articles, from 1 */
  readonly expected: Article
  readonly rank: number
}

/** Loads the trained folder again and asks it questions of `count` held-out articles, spread over the topics. */
export async function searchDemo(directory: string, { train, heldOut }: Corpus, count: number, device: string): Promise<Found[]> {
  const articles = [...train, ...heldOut]
  const asked = Array.from({ length: count }, (_, i) => heldOut[Math.floor((i * heldOut.length) / count)]!)
  const model = await BgeModel.load(directory, { device })
  try {
    const passages = await model.encode(articles.map(({ text }) => text))
    const queries = await model.encode(
      asked.map(({ questions }) => questions[0]!.q),
      { instruction: 'zh' },
    )
    const index = vectorIndex(model.device, passages.data, model.dims)
    const { indices, scores } = await index.search(queries.data, articles.length)
    return asked.map((expected, i) => {
      const first = i * articles.length
      const ranked = Array.from(indices.subarray(first, first + articles.length), (n) => articles[n]!)
      return { question: expected.questions[0]!.q, top: ranked[0]!, score: scores[first]!, expected, rank: ranked.indexOf(expected) + 1 }
    })
  } finally {
    model.dispose()
  }
}

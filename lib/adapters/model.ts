import type { BgeModel } from '../model/model.js'

/** What an adapter needs of a model; a BgeModel is one. */
export type AdaptedModel = Pick<BgeModel, 'encode' | 'encodeQueries' | 'dims'>

export interface AdapterOptions {
  /** Keep the first n components (Matryoshka). Default: all */
  dimensions?: number
  /** Documents are bulk work, so that queries overtake them; name another priority for them here. Default 'bulk' */
  documents?: 'query' | 'bulk'
  signal?: AbortSignal
}

/** Rows as the lists of numbers that these libraries want. */
export interface Rows {
  vectors: number[][]
  /** [CLS] and [SEP] not counted */
  tokens: number
}

/** Vectors of queries, with the model's instruction, or of documents. */
export async function rows(
  model: AdaptedModel,
  side: 'query' | 'document',
  texts: readonly string[],
  options: AdapterOptions,
): Promise<Rows> {
  const { dimensions = model.dims, documents = 'bulk', signal } = options
  const work = { output: { dimensions }, priority: side === 'query' ? 'query' : documents, ...(signal && { signal }) } as const
  const { data, tokens } = await (side === 'query' ? model.encodeQueries(texts, work) : model.encode(texts, work))
  return { vectors: texts.map((_, i) => Array.from(data.subarray(i * dimensions, (i + 1) * dimensions))), tokens }
}

import type { ExtractType } from './recipe.js'

/** What a type of pair is made of. */
export interface Extractor {
  /** the role that becomes the query, and the one that becomes the passages; both are also the default names of fields */
  readonly query: string
  readonly pos: string
  /** records say by a label what the passage is */
  readonly needsLabel?: true
}

/** The pair types of C-MTP (C-Pack, appendix on data). Every type also knows the role `negative`: passages that are no answer. */
export const EXTRACTORS: Readonly<Record<ExtractType, Extractor>> = {
  'title-body': { query: 'title', pos: 'body' },
  'subtitle-passage': { query: 'subtitle', pos: 'passage' },
  'question-answer': { query: 'question', pos: 'answer' },
  'question-question': { query: 'question', pos: 'similar' },
  'title-summary': { query: 'title', pos: 'summary' },
  'title-abstract': { query: 'title', pos: 'abstract' },
  'sentence-edited': { query: 'sentence', pos: 'edited' },
  'query-context': { query: 'query', pos: 'context' },
  'query-passage': { query: 'query', pos: 'passage' },
  nli: { query: 'premise', pos: 'hypothesis', needsLabel: true },
}

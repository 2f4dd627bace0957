export { normaliseForIdentity, textId } from '../data/identity.js'

/** What every stage of a curation passes on: a query with its positives, and negatives where the source is labelled. */
export interface Row {
  /** name of the source in the recipe */
  source: string
  /** 'file:line' (parquet: file:row) where it was read */
  at: string
  query: string
  /** at least one */
  pos: string[]
  /** may be empty */
  neg: string[]
  /** textId of query, pos and neg, entry by entry */
  queryId: string
  posIds: string[]
  negIds: string[]
  /** semantic filter: cosine of query and pos[0] */
  score?: number
  /** the extractor, e.g. 'title-body' */
  type?: string
}

import { invalidArgument, show } from '../errors.js'
import { type AdaptedModel, type AdapterOptions, rows } from './model.js'

/** What of LlamaIndexTS's BaseEmbedding is replaced. */
interface Replaced {
  embedBatchSize: number
  getTextEmbedding(text: string): Promise<number[]>
  getTextEmbeddings: (texts: string[]) => Promise<number[][]>
  getQueryEmbedding(query: unknown): Promise<number[] | null>
}

/** A class such as LlamaIndexTS's BaseEmbedding; abstract, with a protected constructor. */
interface BaseClass<T> {
  readonly prototype: T
}

/** Texts that LlamaIndexTS passes on at a time, which are split inside. */
const batchTexts = 1024

/**
 * A model for LlamaIndexTS. Its classes ask for instances of their own BaseEmbedding, so that class is given here. Queries get the model's instruction and
 * overtake documents. Errors: as BgeModel.encode; ERR_BGE_ARGUMENT for a query that is not a text.
 * @example Settings.embedModel = llamaIndexEmbedding(BaseEmbedding, await BgeModel.load('my-model'))
 */
export function llamaIndexEmbedding<T extends Replaced>(Base: BaseClass<T>, model: AdaptedModel, options: AdapterOptions = {}): T {
  const Parent = Base as unknown as new () => Replaced
  class BgeEmbedding extends Parent {
    constructor() {
      super()
      this.embedBatchSize = batchTexts
      this.getTextEmbeddings = async (texts) => (await rows(model, 'document', texts, options)).vectors
    }
    override async getTextEmbedding(text: string): Promise<number[]> {
      return (await rows(model, 'document', [text], options)).vectors[0]!
    }
    override async getQueryEmbedding(query: unknown): Promise<number[]> {
      return (await rows(model, 'query', [queryText(query)], options)).vectors[0]!
    }
  }
  return new BgeEmbedding() as unknown as T
}

/** A string, or { type: 'text', text }. */
function queryText(query: unknown): string {
  const text = typeof query === 'string' ? query : (query as { text?: unknown } | null)?.text
  if (typeof text !== 'string') throw invalidArgument('query', 'a text', show(query))
  return text
}

import { type AdaptedModel, type AdapterOptions, rows } from './model.js'

/** LangChain.js's EmbeddingsInterface, without needing the package. */
export interface LangChainEmbeddings {
  embedDocuments(documents: string[]): Promise<number[][]>
  embedQuery(document: string): Promise<number[]>
}

/**
 * A model for LangChain.js: anything that takes `EmbeddingsInterface`, such as a vector store. Queries get the model's instruction and overtake documents;
 * texts are not changed (no stripping of line breaks). Errors: as BgeModel.encode.
 * @example const store = new MemoryVectorStore(langchainEmbeddings(await BgeModel.load('my-model')))
 */
export function langchainEmbeddings(model: AdaptedModel, options: AdapterOptions = {}): LangChainEmbeddings {
  return {
    embedDocuments: async (documents) => (await rows(model, 'document', documents, options)).vectors,
    embedQuery: async (text) => (await rows(model, 'query', [text], options)).vectors[0]!,
  }
}

import { invalidArgument } from '../errors.js'
import { type AdaptedModel, type AdapterOptions, rows } from './model.js'

/** The specification of an embedding model: 'v2' for ai 5, 'v3' for ai 6, 'v4' for ai 7. */
export type AiSdkVersion = 'v2' | 'v3' | 'v4'

/** Of `aiSdkEmbeddingModel`. */
export interface AiSdkOptions extends Omit<AdapterOptions, 'signal'> {
  /** The specification: 'v2' for ai 5, 'v3' (the default) for ai 6, 'v4' for ai 7 */
  specification?: AiSdkVersion
  /** What `modelId` says. Default 'bge' */
  modelId?: string
  /** Whether the values are documents (the default) or queries, which get the model's instruction; providerOptions { bge: { side } } says it for a call */
  side?: 'query' | 'document'
}

/** EmbeddingModelV2<string>, V3 and V4 of @ai-sdk/provider, without needing the package. */
export interface AiSdkEmbeddingModel<V extends AiSdkVersion> {
  readonly specificationVersion: V
  readonly provider: 'bge-forge'
  readonly modelId: string
  /** undefined: as many as there are; they are split inside */
  readonly maxEmbeddingsPerCall: undefined
  readonly supportsParallelCalls: boolean
  doEmbed(options: AiSdkCall): Promise<{ embeddings: number[][]; usage: { tokens: number }; warnings: [] }>
}

/** What `embed` and `embedMany` of the AI SDK pass to a model. */
export interface AiSdkCall {
  values: string[]
  /** of v4 */
  dimensions?: number | undefined
  abortSignal?: AbortSignal | undefined
  providerOptions?: Record<string, Record<string, unknown>> | undefined
  headers?: Record<string, string | undefined> | undefined
}

/**
 * A model for the AI SDK's `embed` and `embedMany`. Errors: ERR_BGE_ARGUMENT, as BgeModel.encode.
 * @example const { embedding } = await embed({ model: aiSdkEmbeddingModel(model, { side: 'query' }), value: '长江有多长' })
 */
export function aiSdkEmbeddingModel<V extends AiSdkVersion = 'v3'>(
  model: AdaptedModel,
  options: AiSdkOptions & { specification?: V } = {},
): AiSdkEmbeddingModel<V> {
  const { specification = 'v3' as V, modelId = 'bge', side: usual = 'document', ...rest } = options
  if (!['v2', 'v3', 'v4'].includes(specification)) throw invalidArgument('specification', "'v2', 'v3' or 'v4'", specification)
  return {
    specificationVersion: specification,
    provider: 'bge-forge',
    modelId,
    maxEmbeddingsPerCall: undefined,
    supportsParallelCalls: true,
    async doEmbed({ values, dimensions, abortSignal, providerOptions }) {
      const side: unknown = providerOptions?.bge?.side ?? usual
      if (side !== 'query' && side !== 'document') throw invalidArgument('side', "'query' or 'document'", side)
      const own = { ...rest, ...(dimensions !== undefined && { dimensions }), ...(abortSignal && { signal: abortSignal }) }
      const { vectors, tokens } = await rows(model, side, values, own)
      return { embeddings: vectors, usage: { tokens }, warnings: [] }
    },
  }
}

import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Document as LangChainDocument } from '@langchain/core/documents'
import type { EmbeddingsInterface } from '@langchain/core/embeddings'
import { FakeVectorStore } from '@langchain/core/utils/testing'
import { BaseEmbedding, getTopKEmbeddings } from '@llamaindex/core/embeddings'
import { TextNode } from '@llamaindex/core/schema'
import { cosineSimilarity, embed, embedMany, type EmbeddingModel } from 'ai'
import { type EmbeddingModel as EmbeddingModel5, embedMany as embedMany5 } from 'ai5'
import { afterAll, beforeAll, describe, expect, expectTypeOf, test } from 'vitest'
import { type AiSdkCall, type AiSdkEmbeddingModel, aiSdkEmbeddingModel } from '../lib/adapters/ai-sdk.js'
import { langchainEmbeddings } from '../lib/adapters/langchain.js'
import { llamaIndexEmbedding } from '../lib/adapters/llamaindex.js'
import type { BgeModel } from '../lib/model/model.js'
import { type Device, openDevice } from '../lib/native.js'
import { smallModel } from './support/model_folder.js'

/** Of @ai-sdk/provider, as `ai` 6 takes it: the package itself is not one of ours. */
type EmbeddingModelV3 = Extract<EmbeddingModel, { specificationVersion: 'v3' }>

const texts = ['今天的天气真不错', '猫', 'hello world\n好', '长江有多长']
let root = ''
let device: Device
let model: BgeModel
let documents: number[][]
let query: number[]

beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), 'bge-adapters-'))
  device = await openDevice({ device: 'cpu', threads: 1 })
  model = await smallModel(root, device)
  model.instruction = '查：'
  const { data } = await model.encode(texts)
  documents = texts.map((_, i) => [...data.subarray(i * 64, (i + 1) * 64)])
  query = [...(await model.encodeQueries(['猫'])).data]
})
afterAll(async () => {
  device?.dispose()
  await rm(root, { recursive: true, force: true })
})

describe('LangChain.js', () => {
  test('a vector store finds documents with it', async () => {
    const embeddings = langchainEmbeddings(model)
    expectTypeOf(embeddings).toExtend<EmbeddingsInterface>()
    expect(await embeddings.embedDocuments(texts)).toEqual(documents)
    expect(await embeddings.embedQuery('猫')).toEqual(query)
    expect((await langchainEmbeddings(model, { dimensions: 8 }).embedQuery('猫')).length).toBe(8)
    const store = await FakeVectorStore.fromDocuments(
      texts.map((pageContent, id) => new LangChainDocument({ pageContent, metadata: { id } })),
      embeddings,
    )
    const found = await store.similaritySearchWithScore('猫', 4)
    const scores = documents.map((row) => cosineSimilarity(row, query))
    const best = [...scores.keys()].sort((a, b) => scores[b]! - scores[a]!)
    expect(found.map(([{ metadata }]) => metadata.id)).toEqual(best)
    expect(found[0]![1]).toBeCloseTo(scores[best[0]!]!, 6)
    const retriever = store.asRetriever(1)
    expect((await retriever.invoke('猫'))[0]!.metadata.id).toBe(best[0])
  })
})

describe('AI SDK', () => {
  test('ai 6: embed and embedMany', async () => {
    const own = aiSdkEmbeddingModel(model)
    expectTypeOf(own).toExtend<EmbeddingModelV3>()
    expectTypeOf(own).toExtend<EmbeddingModel>()
    const many = await embedMany({ model: own, values: texts })
    expect(many.embeddings).toEqual(documents)
    expect(many.usage.tokens).toBe((await model.encode(texts)).tokens)
    expect((await embed({ model: aiSdkEmbeddingModel(model, { side: 'query' }), value: '猫' })).embedding).toEqual(query)
    expect((await embed({ model: own, value: '猫', providerOptions: { bge: { side: 'query' } } })).embedding).toEqual(query)
    await expect(embed({ model: own, value: '猫', providerOptions: { bge: { side: 'left' } } })).rejects.toThrow(
      "side must be 'query' or 'document', but was \"left\"",
    )
    await expect(embedMany({ model: own, values: texts, abortSignal: AbortSignal.abort() })).rejects.toMatchObject({ name: 'AbortError' })
  })

  test('ai 5 takes v2', async () => {
    const own = aiSdkEmbeddingModel(model, { specification: 'v2', dimensions: 16 })
    expectTypeOf(own).toExtend<EmbeddingModel5<string>>()
    const { embeddings } = await embedMany5({ model: own, values: texts })
    expect(embeddings.flat()).toEqual([...(await model.encode(texts, { output: { dimensions: 16 } })).data])
  })

  test('v4 has dimensions of a call', async () => {
    /** EmbeddingModelV4 of @ai-sdk/provider 4, which needs Node 22. */
    interface EmbeddingModelV4 {
      readonly specificationVersion: 'v4'
      readonly provider: string
      readonly modelId: string
      readonly maxEmbeddingsPerCall: PromiseLike<number | undefined> | number | undefined
      readonly supportsParallelCalls: PromiseLike<boolean> | boolean
      doEmbed(options: {
        values: string[]
        dimensions?: number
        abortSignal?: AbortSignal
        providerOptions?: Record<string, Record<string, unknown>>
        headers?: Record<string, string | undefined>
      }): PromiseLike<{ embeddings: number[][]; usage?: { tokens: number }; warnings: { type: 'other'; message: string }[] }>
    }
    const own = aiSdkEmbeddingModel(model, { specification: 'v4', modelId: 'bge-small-zh' })
    expectTypeOf(own).toExtend<EmbeddingModelV4>()
    expect(own).toMatchObject({ specificationVersion: 'v4', modelId: 'bge-small-zh', provider: 'bge-forge' })
    const answer = await own.doEmbed({ values: texts, dimensions: 8 })
    expect(answer.embeddings.flat()).toEqual([...(await model.encode(texts, { output: { dimensions: 8 } })).data])
    expect(answer.warnings).toEqual([])
    expect(() => aiSdkEmbeddingModel(model, { specification: 'v1' as 'v2' })).toThrow("specification must be 'v2', 'v3' or 'v4'")
    expectTypeOf<AiSdkEmbeddingModel<'v4'>['doEmbed']>().parameter(0).toEqualTypeOf<AiSdkCall>()
  })
})

describe('LlamaIndexTS', () => {
  test('is a BaseEmbedding', async () => {
    const own = llamaIndexEmbedding(BaseEmbedding, model)
    expectTypeOf(own).toEqualTypeOf<BaseEmbedding>()
    expect(own).toBeInstanceOf(BaseEmbedding)
    expect(await own.getTextEmbeddings(texts)).toEqual(documents)
    const progress: number[] = []
    expect(await own.getTextEmbeddingsBatch(texts, { progressCallback: (done) => progress.push(done) })).toEqual(documents)
    expect(progress).toEqual([4])
    expect(await own.getTextEmbedding('猫')).toEqual(documents[1])
    expect(await own.getQueryEmbedding('猫' as never)).toEqual(query)
    expect(await own.getQueryEmbedding({ type: 'text', text: '猫' })).toEqual(query)
    await expect(own.getQueryEmbedding({ type: 'image_url', image_url: { url: 'x' } })).rejects.toThrow('query must be a text')
    // As a step of an ingestion pipeline: nodes in, nodes with vectors out.
    const nodes = await (own as unknown as (nodes: TextNode[]) => Promise<TextNode[]>)(texts.map((text) => new TextNode({ text })))
    expect(nodes.map(({ embedding }) => embedding)).toEqual(documents)
    const [scores, ids] = getTopKEmbeddings(query, documents, 2, [0, 1, 2, 3])
    expect(scores[0]).toBeCloseTo(own.similarity(query, documents[ids[0] as number]!), 12)
    expect(scores[0]!).toBeGreaterThanOrEqual(scores[1]!)
  })
})

// A model as LangChain.js's embeddings (npm install @langchain/core):  node examples/langchain.ts MODEL_DIR
// Any vector store takes it; the one of @langchain/core that keeps vectors in memory is among its test helpers.
import { Document } from '@langchain/core/documents'
import { FakeVectorStore } from '@langchain/core/utils/testing'
import { BgeModel } from 'bge-forge'
import { langchainEmbeddings } from 'bge-forge/adapters/langchain'

const [directory] = process.argv.slice(2)
if (!directory) throw new Error('usage: langchain.ts MODEL_DIR')
const texts = ['月食只在满月时发生。', '米饭要先泡后煮。', '骆驼的驼峰里储存的是脂肪，不是水。']

const model = await BgeModel.load(directory)
const documents = texts.map((pageContent) => new Document({ pageContent }))
const store = await FakeVectorStore.fromDocuments(documents, langchainEmbeddings(model))
// Questions get the model's instruction and overtake documents that wait to be encoded.
for (const [document, score] of await store.similaritySearchWithScore('驼峰里有水吗？', 2))
  console.log(score.toFixed(3), document.pageContent)
model.dispose()

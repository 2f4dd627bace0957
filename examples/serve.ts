// Serves a model with OpenAI's interface and asks it with OpenAI's client (npm install openai):  node examples/serve.ts MODEL_DIR
// `bge serve --model MODEL_DIR` is the server alone; a client in any language needs nothing but its address.
import { BgeModel } from 'bge-forge'
import { startServer } from 'bge-forge/serve'
import OpenAI from 'openai'

const [directory] = process.argv.slice(2)
if (!directory) throw new Error('usage: serve.ts MODEL_DIR')
const documents = ['月食只在满月时发生。', '米饭要先泡后煮。', '骆驼的驼峰里储存的是脂肪，不是水。']

const model = await BgeModel.load(directory)
const apiKey = 'a key of your choice'
const server = await startServer(model, { port: 0, names: ['bge'], apiKey }) // port 0: any that is free

const client = new OpenAI({ baseURL: `${server.url}/v1`, apiKey })
const stored = await client.embeddings.create({ model: 'bge', input: documents })
// `input_type` is not OpenAI's: 'query' puts the model's instruction before the text.
const question = { model: 'bge', input: '月食什么时候出现？', input_type: 'query' }
const asked = await client.embeddings.create(question)

const cosine = (a: readonly number[], b: readonly number[]): number => a.reduce((sum, x, i) => sum + x * b[i]!, 0)
for (const { index, embedding } of stored.data) console.log(cosine(asked.data[0]!.embedding, embedding).toFixed(3), documents[index])
console.log(`${stored.usage.total_tokens} tokens`)

await server.stop()
model.dispose()

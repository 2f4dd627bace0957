// Semantic search in a dozen lines. Node 22.18 or newer runs it as it is:  node examples/search.ts MODEL_DIR
import { BgeModel, vectorIndex } from 'bge-forge'

const [directory = 'quickstart-run/finetune/model'] = process.argv.slice(2)
const passages = [
  '月食发生在满月，地球挡住了射向月球的阳光。',
  '面团发酵时，酵母产生的二氧化碳让它变得蓬松。',
  '骆驼的驼峰里储存的是脂肪，不是水。',
]
const questions = ['馒头为什么会变松软？', '驼峰里有水吗？']

const model = await BgeModel.load(directory)
const documents = await model.encode(passages)
const queries = await model.encode(questions, { instruction: 'zh' })
const { indices, scores } = await vectorIndex(model.device, documents.data, model.dims).search(queries.data, 1)
for (const [i, question] of questions.entries()) console.log(`${question}  ${scores[i]!.toFixed(3)}  ${passages[indices[i]!]}`)
model.dispose()

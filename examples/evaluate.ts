// Scores a model, or anything else with `encode`, on local tasks:  node examples/evaluate.ts DATA_DIR [MODEL_DIR]
// DATA_DIR holds sts/*.jsonl, retrieval/NAME/{corpus,queries,qrels}.jsonl, reranking/*.jsonl. Without a model: hashed character counts.
import { BgeModel, type Embedder, evaluate } from 'bge-forge'

const [data, directory] = process.argv.slice(2)
if (!data) throw new Error('usage: evaluate.ts DATA_DIR [MODEL_DIR]')

const counts: Embedder = {
  dims: 512,
  async encode(texts) {
    const vectors = new Float32Array(texts.length * 512)
    for (const [i, text] of texts.entries()) for (const character of text) vectors[i * 512 + (character.codePointAt(0)! % 512)]! += 1
    return { data: vectors }
  },
}

const model = directory === undefined ? counts : await BgeModel.load(directory)
const { tasks } = await evaluate(model, { data })
for (const task of tasks) console.log(task.type, task.task_name, 'error' in task ? task.error.message : (100 * task.main_score).toFixed(2))
if (model instanceof BgeModel) model.dispose()

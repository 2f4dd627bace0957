// Fine-tunes a model on rows of your own, {"query","pos"}, and says whether it became better:  node examples/finetune.ts MODEL_DIR rows.jsonl [OUT_DIR]
// `bge run finetune-own-data --input model=MODEL_DIR --input rows=rows.jsonl` does the same.
import { BgeModel, planRun, readRunRecipe, runRecipe } from 'bge-forge'

const [model, rows, out = 'finetune-run'] = process.argv.slice(2)
if (!model || !rows) throw new Error('usage: finetune.ts MODEL_DIR rows.jsonl [OUT_DIR]')

const recipe = await readRunRecipe('finetune-own-data', {
  inputs: { model: [model], rows: [rows] },
  set: ['steps.finetune.epochs=3'],
})
for (const { name, state, reason } of await planRun(recipe, out)) console.log(name, state, reason)

const result = await runRecipe(recipe, {
  out,
  hooks: { onTrain: () => ({ onStep: ({ step, loss }) => console.log(step, loss.toFixed(3)) }) },
})
for (const { comparison } of result.summary.comparisons) {
  const { before, after, interval, verdict } = comparison
  console.log(`nDCG@10 ${before.toFixed(4)} -> ${after.toFixed(4)}, interval of the difference ${interval?.join(' to ')}: ${verdict}`)
}

const tuned = await BgeModel.load(result.model!)
const { data } = await tuned.encodeQueries(['怎么退货？'])
console.log(tuned.dims, data.slice(0, 4))
tuned.dispose()

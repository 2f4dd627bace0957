// The three stages of C-Pack in TypeScript, on files of your own:
//   node examples/recipe.ts MODEL_DIR texts.jsonl pairs.jsonl labeled.jsonl OUT_DIR
// Rows: {"text"} for stage 1, {"query","pos"} for stages 2 and 3. `bge pretrain | contrastive | mine | finetune` do the same.
import { BgeModel, mine, stages, train } from 'bge-forge'

const [start, texts, pairs, labeled, out] = process.argv.slice(2)
if (!start || !texts || !pairs || !labeled || !out)
  throw new Error('usage: recipe.ts MODEL_DIR texts.jsonl pairs.jsonl labeled.jsonl OUT_DIR')
const onStep = ({ step, loss }: { step: number; loss: number }): void => console.log(step, loss)

// Stage 1, RetroMAE: the encoder learns to put a text into one vector.
const pretrained = await train(stages.pretrain, { model: start, data: [texts], out: `${out}/pretrain`, hooks: { onStep } })

// Stage 2: contrastive training on pairs that nobody labelled; every other passage of the batch is a negative.
const general = await train(stages.contrastive, {
  model: pretrained.model,
  data: [pairs],
  out: `${out}/contrastive`,
  config: { batchSize: 256, temperature: 0.02 },
  hooks: { onStep },
})

// Stage 3: hard negatives found by the model so far, an instruction before each query.
const miner = await BgeModel.load(general.model)
const rules = { maxRelative: null } // FlagEmbedding's; the default, 0.95, leaves rows without negatives where the model is weak (docs/mining.md)
console.log(await mine(miner, { data: labeled, out: `${out}/mined.jsonl`, range: [10, 210], negatives: 15, rules, instruction: 'zh' }))
miner.dispose()
const final = await train(stages.finetune, {
  model: general.model,
  data: [`${out}/mined.jsonl`],
  out: `${out}/finetune`,
  hooks: { onStep },
})
console.log(`trained: ${final.model}`)

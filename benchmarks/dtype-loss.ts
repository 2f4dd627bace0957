// What bf16 and int8 lose against fp32 on the CPU: cosines of the same texts' vectors, and scores of evaluation tasks.
//   npm run bench -- dtype-loss --model FOLDER --texts FILE.jsonl --data DATA [--tasks sts/A,retrieval/B] [--limit N] [--threads N] [--out NAME]
// FILE has {"text"} rows. Of each file at most N rows are used, N = 2000 by default; a task is scored with all of its queries, as `bge eval --limit` cuts it.
import { parseArgs } from 'node:util'
import { readJsonLines } from '../lib/data/jsonl.js'
import { evaluate } from '../lib/eval/evaluate.js'
import { BgeModel } from '../lib/model/model.js'
import { dtypes } from '../lib/native.js'
import { machineFacts, writeResults } from './support.js'

const { values: args } = parseArgs({
  options: {
    model: { type: 'string' },
    texts: { type: 'string' },
    data: { type: 'string' },
    tasks: { type: 'string' },
    limit: { type: 'string', default: '2000' },
    threads: { type: 'string' },
    out: { type: 'string' },
  },
  allowPositionals: true,
})
if (!args.model || !args.texts || !args.data) throw new Error('dtype-loss needs --model, --texts and --data')
const { model: folder, texts: file, data } = args
const limit = Number(args.limit)

const texts: string[] = []
for await (const { value } of readJsonLines(file, 'a row with "text"')) {
  const { text } = value as { text?: unknown }
  if (typeof text === 'string' && texts.length < limit) texts.push(text)
}

interface Outcome {
  readonly dtype: string
  readonly device: string
  /** held by the device after encoding: weights, packed weights, workspace */
  readonly deviceBytes: number
  /** with the vectors of fp32 */
  readonly cosine: { readonly smallest: number; readonly mean: number; readonly hundredth: number }
  /** x100, by task */
  readonly scores: Readonly<Record<string, number>>
}

const outcomes: Outcome[] = []
let machine: unknown
let shape: unknown
let exact: Float32Array | undefined
for (const dtype of dtypes) {
  const model = await BgeModel.load(folder, { device: 'cpu', dtype, ...(args.threads && { threads: Number(args.threads) }) })
  machine ??= machineFacts(model.device)
  shape ??= { layers: model.config.layers, hidden: model.config.hidden }
  const { data: vectors } = await model.encode(texts)
  exact ??= vectors
  const deviceBytes = model.device.memory().allocated
  const evaluation = await evaluate(model, {
    data,
    rules: { dialect: 'mteb2', limit },
    ...(args.tasks && { tasks: args.tasks.split(',') }),
  })
  const scores: Record<string, number> = {}
  for (const task of evaluation.tasks) {
    if ('error' in task) throw new Error(task.error.message)
    scores[`${task.type}/${task.task_name}`] = 100 * task.main_score
  }
  const cosines = cosinesOf(exact, vectors, model.dims).sort()
  const cosine = {
    smallest: cosines[0]!,
    mean: cosines.reduce((sum, x) => sum + x, 0) / cosines.length,
    hundredth: cosines[Math.floor(cosines.length / 100)]!,
  }
  outcomes.push({ dtype, device: model.device.description, deviceBytes, cosine, scores })
  model.dispose()
  console.log(`${dtype}: smallest cosine ${cosine.smallest.toFixed(7)}, mean ${cosine.mean.toFixed(7)}`)
}

const [fp32] = outcomes
console.table(
  Object.fromEntries(
    Object.keys(fp32!.scores).map((task) => [
      task,
      Object.fromEntries(outcomes.map(({ dtype, scores }) => [dtype, Number(scores[task]!.toFixed(2))])),
    ]),
  ),
)
if (args.out) {
  const source = { shape, texts: texts.length, limit }
  console.log(`written to ${await writeResults(args.out, { machine, ...source, outcomes })}`)
}

/** Of the rows of a and b (N, D); vectors need not be normalised. */
function cosinesOf(a: Float32Array, b: Float32Array, width: number): Float64Array {
  return Float64Array.from({ length: a.length / width }, (_, n) => {
    let [product, left, right] = [0, 0, 0]
    for (let i = n * width; i < (n + 1) * width; i++) {
      product += a[i]! * b[i]!
      left += a[i]! ** 2
      right += b[i]! ** 2
    }
    return product / Math.sqrt(left * right)
  })
}

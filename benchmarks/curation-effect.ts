// What curation is worth: plants faults in pairs (curation-effect/dirt.ts), curates them, counts which of the planted faults went and what else went with
// them, and trains stage 2 for the same number of steps from the same weights on: the dirtied pairs; the curated ones; those that a semantic filter keeps of
// them; the curated ones without the mismatched and dead rows that were planted, as if a perfect filter had run; and the original pairs.
//   npm run bench -- curation-effect --pairs FILE --eval DIR --tokenizer DIR --work DIR [--rows 12000] [--steps 300] [--seeds 1,2,3] [--out NAME]
// FILE: JSONL of {"query","pos":[one],"source"}. DIR of --eval: tasks as bge eval reads them; all of them are de-contaminated against, TASKS are scored.
// DIR of --work: new, or that of an earlier call with the same flags, which goes on there. The seed of the dirt is 1; --seeds are those of weights and training.
import { existsSync } from 'node:fs'
import { cp, mkdir, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { loadavg } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { curate } from '../lib/curate/curate.js'
import { readRecipe } from '../lib/curate/recipe.js'
import { random } from '../lib/data/random.js'
import { evaluate } from '../lib/eval/evaluate.js'
import { BgeModel } from '../lib/model/model.js'
import { openDevice } from '../lib/native.js'
import { modelConfig } from '../lib/quickstart/settings.js'
import { Tokenizer } from '../lib/tokenizer/tokenizer.js'
import { train } from '../lib/train/loop.js'
import type { MetricsRow } from '../lib/train/run_folder.js'
import { stages } from '../lib/train/stages.js'
import { dirty, type Pair, SHARES } from './curation-effect/dirt.js'
import { filtering, outcomes, perfect } from './curation-effect/outcomes.js'
import { checkoutFile, machineFacts, writeResults } from './support.js'

const TASKS = [
  'sts/LCQMC',
  'sts/STSB',
  'retrieval/CMRC2018',
  'retrieval/DuReader2Demo',
  'reranking/CMedIR',
  'pairClassification/OCNLI',
  'clustering/CSLCategoryTitle_S2S',
]
/** Decided before any score was seen: a little more than the share of mismatched and dead rows is dropped. */
const KEEP_RATE = 0.8
const TRAINING = {
  batchSize: 64,
  queryMaxLength: 32,
  passageMaxLength: 64,
  learningRate: 1e-3,
  temperature: 0.05,
  saveEvery: 0,
  device: 'cpu',
}

const { values: args } = parseArgs({
  allowPositionals: true,
  options: {
    pairs: { type: 'string' },
    eval: { type: 'string' },
    tokenizer: { type: 'string' },
    work: { type: 'string' },
    rows: { type: 'string', default: '12000' },
    steps: { type: 'string', default: '300' },
    seeds: { type: 'string', default: '1,2,3' },
    out: { type: 'string' },
  },
})
const { pairs, eval: evaluation, tokenizer: tokenizerDir, work } = args
if (!pairs || !evaluation || !tokenizerDir || !work) throw new Error('curation-effect needs --pairs, --eval, --tokenizer and --work')
const steps = Number(args.steps)

const data = join(work, 'data')
await mkdir(data, { recursive: true })
const originals = await choose(pairs, Number(args.rows))
const planted = dirty(originals, 1)
if (!existsSync(join(data, 'dirty.jsonl'))) {
  await writeLines(join(data, 'original.jsonl'), originals)
  await writeLines(
    join(data, 'dirty.jsonl'),
    planted.map(({ pair }) => pair),
  )
}
const recipe = await readRecipe(checkoutFile('benchmarks/curation-effect/recipe.json'), { root: data })
const curated = join(work, 'curated')
await curate(recipe, { out: curated, decontaminate: [evaluation], tokenizer: tokenizerDir })
const faults = await outcomes(recipe, data, curated, originals, planted)
console.table(faults.kinds)
await writeLines(join(data, 'perfect.jsonl'), await perfect(curated, planted))

interface Arm {
  readonly seed: number
  readonly arm: string
  readonly rows: number
  readonly epochs: number
  /** mean of the last 20 steps; of different data, so not to be compared between arms */
  readonly loss: number | null
  readonly minutes: number
  /** x100 */
  readonly scores: Readonly<Record<string, number>>
}
const settings = {
  originals: originals.length,
  dirtied: planted.length,
  shares: SHARES,
  steps,
  ...TRAINING,
  keepRate: KEEP_RATE,
  maxLength: 64,
}
const arms: Arm[] = []
const finished = await earlier()
const filters: object[] = []
const device = await openDevice({ device: 'cpu' })
const machine = machineFacts(device)
device.dispose()

for (const seed of args.seeds.split(',').map(Number)) {
  const place = join(work, `seed-${seed}`)
  const initial = join(place, 'init')
  const { vocabSize } = await Tokenizer.load(tokenizerDir)
  const fresh = await BgeModel.createNew({ config: modelConfig(vocabSize), tokenizerDir, seed, device: 'cpu' })
  await fresh.save(initial).finally(() => fresh.dispose())
  await arm(seed, 'untrained', async () => ({ rows: 0, epochs: 0, loss: null, minutes: 0, scores: await score(initial) }))
  await run(seed, 'dirtied', join(data, 'dirty.jsonl'))
  const model = await run(seed, 'curated', join(curated, 'data'))

  const filtered = join(place, 'filtered-data')
  if (!existsSync(filtered)) await cp(curated, filtered, { recursive: true }) // its finished stages are found there
  await curate({ ...recipe, semantic: { model, keepRate: KEEP_RATE } }, { out: filtered, decontaminate: [evaluation] })
  filters.push({ seed, ...(await filtering(filtered, planted)) })
  await run(seed, 'curated and filtered', join(filtered, 'data'))
  await run(seed, 'curated, perfect filter', join(data, 'perfect.jsonl'))
  await run(seed, 'original', join(data, 'original.jsonl'))
}

/** Trains and scores an arm; returns its model folder. */
async function run(seed: number, name: string, file: string): Promise<string> {
  const place = join(work!, `seed-${seed}`)
  const out = join(place, name.replaceAll(/\W+/g, '-'))
  await arm(seed, name, async () => {
    const start = performance.now()
    const losses: number[] = []
    await rm(out, { recursive: true, force: true }) // of a call that was stopped
    const { model } = await train(stages.contrastive, {
      model: join(place, 'init'),
      data: [file],
      out,
      config: { ...TRAINING, steps, seed },
      hooks: { onStep: ({ loss }: MetricsRow) => void losses.push(loss) },
    })
    const minutes = (performance.now() - start) / 60_000
    const rows = await countRows(file)
    return { rows, epochs: (steps * TRAINING.batchSize) / rows, loss: mean(losses.slice(-20)), minutes, scores: await score(model) }
  })
  return join(out, 'model')
}

async function score(directory: string): Promise<Record<string, number>> {
  const model = await BgeModel.load(directory, { device: 'cpu' })
  try {
    const { tasks } = await evaluate(model, { data: evaluation!, tasks: TASKS, maxLength: 64 })
    const scores = tasks.map((task) => {
      if ('error' in task) throw new Error(task.error.message)
      return [`${task.type}/${task.task_name}`, 100 * task.main_score] as const
    })
    return Object.fromEntries([...scores, ['mean', mean(scores.map(([, value]) => value))]])
  } finally {
    model.dispose()
  }
}

/** Does an arm, or takes it from an earlier call; prints it, and writes what there is so far. */
async function arm(seed: number, name: string, make: () => Promise<Omit<Arm, 'seed' | 'arm'>>): Promise<void> {
  const done = finished.find((one) => one.seed === seed && one.arm === name) ?? { seed, arm: name, ...(await make()) }
  arms.push(done)
  const scores = Object.entries(done.scores).map(([task, value]) => `${task} ${value.toFixed(1)}`)
  console.log(
    `seed ${seed}, ${name}: ${done.rows} rows, ${done.minutes.toFixed(1)} min, loss ${done.loss?.toFixed(2)}: ${scores.join(', ')}`,
  )
  await writeFile(finishedFile(), JSON.stringify({ settings, arms: [...arms, ...finished.filter((one) => !arms.includes(one))] }))
  if (args.out) await writeResults(args.out, { machine, loadAverage: loadavg()[0], settings, faults, filters, arms })
}

async function earlier(): Promise<Arm[]> {
  if (!existsSync(finishedFile())) return []
  const found = JSON.parse(await readFile(finishedFile(), 'utf8')) as { settings: object; arms: Arm[] }
  if (JSON.stringify(found.settings) !== JSON.stringify(settings)) throw new Error(`${work} holds a run with other settings`)
  return found.arms
}

function finishedFile(): string {
  return join(work!, 'arms.json')
}

/** Some rows of a file, in its order, chosen by seed. */
async function choose(file: string, count: number): Promise<Pair[]> {
  const rows = (await readFile(file, 'utf8'))
    .split('\n')
    .filter(Boolean)
    .map((line) => JSON.parse(line) as Pair)
  const chosen = random(1, 'originals').sample([...rows.keys()], Math.min(count, rows.length))
  return chosen.sort((a, b) => a - b).map((i) => rows[i]!)
}

async function writeLines(file: string, rows: readonly object[]): Promise<void> {
  await writeFile(file, rows.map((row) => `${JSON.stringify(row)}\n`).join(''))
}

async function countRows(path: string): Promise<number> {
  const files = path.endsWith('.jsonl') ? [path] : (await readdir(path)).map((name) => join(path, name))
  const texts = await Promise.all(files.map((file) => readFile(file, 'utf8')))
  return texts.reduce((sum, text) => sum + text.split('\n').filter(Boolean).length, 0)
}

function mean(values: readonly number[]): number {
  return values.reduce((a, b) => a + b, 0) / values.length
}

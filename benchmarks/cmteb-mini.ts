// Does the mini set order models as all tasks do? Scores every model on parts of some tasks (limit 'mini') and on the whole of all tasks of a data folder.
//   npm run bench -- cmteb-mini --data DATA --work DIR --models NAME=FOLDER,NAME=FOLDER,... [--max-length N] [--threads N] [--out NAME]
// DIR keeps vectors and finished results, so that a run may be continued. The scores are main scores of dialect mteb2.
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { evaluate } from '../lib/eval/evaluate.js'
import type { Evaluation } from '../lib/eval/evaluation.js'
import { pearson, spearman } from '../lib/eval/metrics.js'
import { BgeModel } from '../lib/model/model.js'
import { machineFacts, writeResults } from './support.js'

/** The local tasks that are nearest to the twelve of the mini set. */
const MINI = [
  'retrieval/DuReader2Demo',
  'retrieval/CMedQA',
  'reranking/CMedQA',
  'pairClassification/OCNLI',
  'clustering/CSLDiscipline_P2P',
  'clustering/ThuNewsTitle_S2S',
  'sts/LCQMC',
  'sts/ATEC',
  'sts/STSB',
  'classification/TNews',
  'classification/Waimai',
  'classification/OnlineShopping',
]

const { values: args } = parseArgs({
  options: {
    data: { type: 'string' },
    work: { type: 'string' },
    models: { type: 'string' },
    'max-length': { type: 'string' },
    threads: { type: 'string' },
    out: { type: 'string' },
  },
  allowPositionals: true,
})
if (!args.data || !args.work || !args.models) throw new Error('cmteb-mini needs --data, --work and --models')
const [data, work] = [args.data, args.work]

interface Scored {
  readonly name: string
  /** x100, by task */
  readonly mini: Readonly<Record<string, number>>
  readonly full: Readonly<Record<string, number>>
  readonly means: Readonly<Record<string, { mini: number; full: number }>>
  readonly seconds: { readonly mini: number; readonly full: number }
}

const scored: Scored[] = []
let machine: unknown
for (const entry of args.models.split(',')) {
  const [name, folder] = entry.split('=') as [string, string]
  const model = await BgeModel.load(folder, { device: 'cpu', ...(args.threads && { threads: Number(args.threads) }) })
  machine = machineFacts(model.device)
  const common = { data, ...(args['max-length'] && { maxLength: Number(args['max-length']) }) }
  const rules = { dialect: 'mteb2' as const }
  // Without a cache, so that the seconds are those of a first look at a checkpoint.
  const mini = await evaluate(model, { ...common, tasks: MINI, out: join(work, name, 'mini'), rules: { ...rules, limit: 'mini' } })
  const full = await evaluate(model, { ...common, out: join(work, name, 'full'), rules, reuse: { cache: join(work, name, 'cache') } })
  model.dispose()
  const [parts, whole] = [scores(mini), scores(full)]
  const means: Record<string, { mini: number; full: number }> = {
    'Mean(Task)': { mini: mean(Object.values(parts)), full: mean(Object.values(whole)) },
    'Mean(TaskType)': { mini: meanOfTypes(parts), full: meanOfTypes(whole) },
  }
  for (const type of typesOf(parts)) means[type] = { mini: mean(ofType(parts, type)), full: mean(ofType(whole, type)) }
  scored.push({ name, mini: parts, full: whole, means, seconds: { mini: seconds(mini), full: seconds(full) } })
  const row = Object.entries(means).map(([label, pair]) => `${label} ${pair.mini.toFixed(2)} / ${pair.full.toFixed(2)}`)
  console.log(`${name} (mini / full): ${row.join(', ')}; mini took ${scored.at(-1)!.seconds.mini.toFixed(0)} s`)
}

const correlations = Object.fromEntries(
  Object.keys(scored[0]!.means).map((label) => {
    const [mini, full] = (['mini', 'full'] as const).map((side) => scored.map(({ means }) => means[label]![side]))
    return [label, { pearson: pearson(mini!, full!), spearman: spearman(mini!, full!) }]
  }),
)
console.table(correlations)
if (args.out) {
  const tasks = { mini: Object.keys(scored[0]!.mini).length, full: Object.keys(scored[0]!.full).length }
  console.log(`written to ${await writeResults(args.out, { machine, tasks, correlations, models: scored })}`)
}

function scores(evaluation: Evaluation): Record<string, number> {
  return Object.fromEntries(
    evaluation.tasks.map((task) => {
      if ('error' in task) throw new Error(task.error.message)
      return [`${task.type}/${task.task_name}`, 100 * task.main_score]
    }),
  )
}

function seconds(evaluation: Evaluation): number {
  return evaluation.tasks.reduce((sum, task) => sum + ('error' in task ? 0 : task.seconds), 0)
}

function typesOf(byTask: Readonly<Record<string, number>>): string[] {
  return [...new Set(Object.keys(byTask).map((task) => task.split('/')[0]!))]
}

function ofType(byTask: Readonly<Record<string, number>>, type: string): number[] {
  return Object.entries(byTask).flatMap(([task, score]) => (task.startsWith(`${type}/`) ? [score] : []))
}

function meanOfTypes(byTask: Readonly<Record<string, number>>): number {
  return mean(typesOf(byTask).map((type) => mean(ofType(byTask, type))))
}

function mean(values: readonly number[]): number {
  return values.reduce((a, b) => a + b, 0) / values.length
}

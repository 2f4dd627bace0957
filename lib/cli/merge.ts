import { join } from 'node:path'
import { type Command, InvalidArgumentError } from 'commander'
import { BgeError } from '../errors.js'
import { localTask } from '../eval/sources.js'
import { listTasks, selectTasks } from '../eval/tasks.js'
import { modelFolder } from '../hub/model.js'
import { sweepMerge } from '../merge/sweep.js'
import { mergeModels } from '../model/merge.js'
import { interruptible } from './interrupt.js'
import { list } from './options.js'

interface MergeFlags {
  models: string[]
  weights?: number[]
  sweep?: number[]
  out: string
  instruction?: string
  data?: string
  tasks?: string[]
  device: string
}

const shares = (value: string): number[] =>
  list(value).map((word) => {
    const number = Number(word)
    if (!(number >= 0 && number <= 1)) throw new InvalidArgumentError('It must be numbers from 0 to 1, as in 0.5,0.5.')
    return number
  })

/** Adds `merge`. */
export function register(program: Command): void {
  program
    .command('merge')
    .description('average models of one shape, or try several shares on two tasks and keep the best')
    .requiredOption('--models <dirs...>', 'model folders, or names on the hub')
    .requiredOption('--out <dir>', 'model folder to write; with --sweep a folder for model/, sweep.json and sweep.html')
    .option('--weights <shares>', 'a share of each model, together 1 (default: equal)', shares)
    .option('--sweep <alphas>', 'shares of the first of two models to try, such as 0,0.25,0.5,0.75,1', shares)
    .option('--data <dir>', "with --sweep: tasks, as bge eval's --data")
    .option('--tasks <names>', 'with --sweep: two of them, TYPE/NAME or NAME', list)
    .option('--instruction <text>', "of the merged model: a text, 'zh' or '' (default: the first model's)")
    .option('--device <device>', 'with --sweep: auto, cpu, cuda or cuda:N', 'auto')
    .addHelpText(
      'after',
      `
Examples:
  bge merge --models fine-tuned base --weights 0.6,0.4 --out merged
  bge merge --models fine-tuned base --sweep 0,0.25,0.5,0.75,1 --data eval --tasks retrieval/own,sts/general --out sweep`,
    )
    .action((flags: MergeFlags) => interruptible((signal) => run(flags, signal)))
}

async function run(flags: MergeFlags, signal: AbortSignal): Promise<void> {
  const folders: string[] = []
  for (const model of flags.models) folders.push(await modelFolder(model))
  const { out, sweep, weights, instruction } = flags
  if (sweep === undefined) {
    const share = weights ?? folders.map(() => 1 / folders.length)
    if (share.length !== folders.length) {
      throw new BgeError(
        'ERR_BGE_ARGUMENT',
        `--weights must hold a share for each of the ${folders.length} models, but holds ${share.length}`,
      )
    }
    const parts = folders.map((model, i) => ({ model, weight: share[i]! }))
    await mergeModels(parts, { out, ...(instruction !== undefined && { instruction }) })
    process.stdout.write(`${out}\n`)
    return
  }
  if (weights !== undefined) throw new BgeError('ERR_BGE_ARGUMENT', '--weights and --sweep exclude each other: a sweep tries several')
  if (folders.length !== 2) throw new BgeError('ERR_BGE_ARGUMENT', `--sweep takes two models, but there are ${folders.length}`)
  if (flags.data === undefined) throw new BgeError('ERR_BGE_ARGUMENT', '--sweep needs --data: tasks to score the merged models on')
  const tasks = selectTasks((await listTasks(flags.data)).map(localTask), flags.tasks ?? ['all'])
  if (tasks.length !== 2) {
    const names = tasks.map(({ type, name }) => `${type}/${name}`).join(', ')
    throw new BgeError('ERR_BGE_ARGUMENT', `--tasks must name two tasks of ${flags.data}, but names ${tasks.length}: ${names}`)
  }
  const [a, b] = tasks as [(typeof tasks)[0], (typeof tasks)[0]]
  const percent = (score: number): string => (100 * score).toFixed(2)
  const { best } = await sweepMerge({
    models: [folders[0]!, folders[1]!],
    alphas: sweep,
    tasks: [a, b],
    out,
    load: { device: flags.device },
    onPoint: ({ alpha, scores }) =>
      process.stderr.write(`alpha ${alpha}: ${a.name} ${percent(scores[0])}, ${b.name} ${percent(scores[1])}\n`),
    signal,
  })
  process.stderr.write(`best mean: alpha ${best.alpha}; picture in ${join(out, 'sweep.html')}\n`)
  process.stdout.write(`${join(out, 'model')}\n`)
}

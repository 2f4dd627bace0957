import type { Command } from 'commander'
import { type Evaluation, evaluate, type TaskOutcome } from '../eval/evaluate.js'
import { BgeModel } from '../model/model.js'
import { interruptible } from './interrupt.js'
import { integer, list } from './options.js'

interface EvalFlags {
  model: string
  data: string
  tasks: string[]
  out: string
  instruction?: string
  maxLength?: number
  device: string
  threads?: number
  json?: true
}

/** Adds `eval`. */
export function register(program: Command): void {
  program
    .command('eval')
    .description('score a model on local tasks: sts/*.jsonl, retrieval/NAME/, reranking/*.jsonl')
    .requiredOption('--model <dir>', 'model folder')
    .requiredOption('--data <dir>', 'folder of the tasks')
    .option(
      '--tasks <names>',
      'comma-separated: NAME (every task of that name), TYPE/NAME, a type (sts, retrieval, reranking) or all',
      list,
      ['all'],
    )
    .requiredOption('--out <dir>', 'folder for NAME.json per task (a second task of a name: NAME-TYPE.json) and summary.json')
    .option(
      '--instruction <text>',
      "put before the queries of retrieval and reranking; 'zh' and 'en' name BGE's, '' is none (default: the model folder's)",
    )
    .option('--max-length <n>', "tokens per text (default: the model's)", integer(3))
    .option('--device <device>', 'auto, cpu, cuda or cuda:N', 'auto')
    .option('--threads <n>', 'CPU threads (default: as many as the process may use)', integer(1))
    .option('--json', 'print the results as JSON instead of a table')
    .action((flags: EvalFlags) => interruptible((signal) => run(flags, signal)))
}

async function run(flags: EvalFlags, signal: AbortSignal): Promise<void> {
  const { instruction, maxLength, threads } = flags
  const model = await BgeModel.load(flags.model, { device: flags.device, ...(threads !== undefined && { threads }) })
  try {
    const evaluation = await evaluate(model, {
      data: flags.data,
      tasks: flags.tasks,
      out: flags.out,
      ...(instruction !== undefined && { instruction }),
      ...(maxLength !== undefined && { maxLength }),
      onTask: (task, outcome) => process.stderr.write(outcome ? `${line(outcome)}\n` : `${task.type}/${task.name} ...\n`),
      signal,
    })
    process.stdout.write(flags.json ? `${JSON.stringify(evaluation, null, 2)}\n` : table(evaluation))
    if (evaluation.tasks.some((task) => 'error' in task)) process.exitCode = 1
  } finally {
    model.dispose()
  }
}

function line(outcome: TaskOutcome): string {
  const name = `${outcome.type}/${outcome.task_name}`
  if ('error' in outcome) return `error [${outcome.error.code}]: ${name}: ${outcome.error.message}`
  return `${name} ${outcome.main_metric} ${percent(outcome.main_score)} in ${outcome.seconds.toFixed(1)} s`
}

/** Scores x100, as C-MTEB's tables print them. */
function table({ tasks, averages }: Evaluation): string {
  const rows = tasks.map((task) => {
    const name = `${task.type}/${task.task_name}`
    return 'error' in task ? [name, task.error.code, 'failed'] : [name, task.main_metric, percent(task.main_score)]
  })
  for (const [type, mean] of Object.entries(averages)) {
    const count = tasks.filter((task) => task.type === type).length
    if (count > 1) rows.push([`mean of ${count} ${type}`, '', mean === null ? 'none' : percent(mean)])
  }
  const widths = [0, 1].map((column) => Math.max(...rows.map((row) => row[column]!.length)))
  return rows.map(([name, metric, score]) => `${name!.padEnd(widths[0]!)}  ${metric!.padEnd(widths[1]!)}  ${score!.padStart(6)}\n`).join('')
}

function percent(score: number): string {
  return (100 * score).toFixed(2)
}

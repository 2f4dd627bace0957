import type { Command } from 'commander'
import { Option } from 'commander'
import { pullTasks } from '../eval/cmteb/pull.js'
import { CMTEB_SETS, type CmtebSet, CMTEB_TYPES, cmtebTasks } from '../eval/cmteb/tasks.js'
import { interruptible } from './interrupt.js'
import { list } from './options.js'

interface PullFlags {
  to: string
  tasks: string[]
  mirror?: string
  layout: 'current' | 'old'
}

/** Adds `cmteb`. */
export function register(program: Command): void {
  const cmteb = program.command('cmteb').description('the C-MTEB benchmark: its tasks and its data')
  const names = 'comma-separated: task names, types (retrieval, sts, ...) or sets (cmn-31, paper-35, mini)'
  cmteb
    .command('list')
    .description('the tasks, and where their data is')
    .option('--tasks <names>', names, list, ['paper-35'])
    .option('--json', 'print everything known of them as JSON')
    .action(({ tasks, json }: { tasks: string[]; json?: true }) => {
      process.stdout.write(json ? `${JSON.stringify(cmtebTasks(tasks), null, 2)}\n` : table(tasks))
    })
  cmteb
    .command('pull')
    .description('fetch the data into a folder with a list of hashes, for bge eval --data without a network; a stopped pull goes on')
    .requiredOption('--to <dir>', 'folder of the bundle')
    .option('--tasks <names>', names, list, ['cmn-31'])
    .option(
      '--mirror <url>',
      'a hub with the same paths, such as https://hf-mirror.com; never gets HF_TOKEN (default: HF_ENDPOINT, else https://huggingface.co)',
    )
    .addOption(
      new Option('--layout <layout>', 'the repositories of mteb 2 or those of C_MTEB and mteb 1')
        .choices(['current', 'old'])
        .default('current'),
    )
    .action((flags: PullFlags) => interruptible((signal) => pull(flags, signal)))
}

async function pull({ to, tasks: words, mirror, layout }: PullFlags, signal: AbortSignal): Promise<void> {
  const tasks = cmtebTasks(words)
  const result = await pullTasks({
    to,
    tasks,
    layout,
    hub: { signal, ...(mirror !== undefined && { endpoint: mirror }), onProgress: progress() },
    onTask: (task, files) => process.stderr.write(`${task.name}: ${files} files\n`),
  })
  for (const { task, error } of result.failures) process.stderr.write(`error [${error.code}]: ${task}: ${error.message}\n`)
  process.stderr.write(
    `${tasks.length - result.failures.length} of ${tasks.length} tasks; the bundle holds ${result.files} files, ${megabytes(result.bytes)} MB\n`,
  )
  process.stdout.write(`${to}\n`)
  if (result.failures.length > 0) process.exitCode = 1
}

/** A line per file and quarter of it, so that a log stays short. */
function progress(): (file: string, received: number, total: number) => void {
  let last = ''
  return (file, received, total) => {
    const line = `${file} ${25 * Math.floor((4 * received) / total)}% of ${megabytes(total)} MB\n`
    if (line !== last && total > 1e6) process.stderr.write(line)
    last = line
  }
}

function table(words: readonly string[]): string {
  const tasks = cmtebTasks(words)
  const rows = tasks.map((task) => {
    const { mainMetric } = CMTEB_TYPES[task.type]
    const metric = mainMetric.mteb2 === mainMetric.cmteb2023 ? mainMetric.mteb2 : `${mainMetric.mteb2} (2023: ${mainMetric.cmteb2023})`
    return [
      task.name,
      CMTEB_TYPES[task.type].displayName,
      task.splits.mteb2.join('+'),
      metric,
      `${task.current.path}@${task.current.revision.slice(0, 8)}`,
    ]
  })
  const widths = [0, 1, 2, 3, 4].map((column) => Math.max(...rows.map((row) => row[column]!.length)))
  const lines = rows.map((row) =>
    row
      .map((cell, i) => cell.padEnd(widths[i]!))
      .join('  ')
      .trimEnd(),
  )
  const sets = (Object.keys(CMTEB_SETS) as CmtebSet[]).map((set) => `${set} (${CMTEB_SETS[set].length})`)
  return `${lines.join('\n')}\n${tasks.length} tasks; sets: ${sets.join(', ')}\n`
}

function megabytes(bytes: number): string {
  return (bytes / 1e6).toFixed(1)
}

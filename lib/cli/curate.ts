import { rm } from 'node:fs/promises'
import { join } from 'node:path'
import type { Command } from 'commander'
import { curate, type CurateOptions, type CurateProgress } from '../curate/curate.js'
import { readRecipe } from '../curate/recipe.js'
import { steps, total } from '../curate/summary.js'
import { isAbort } from '../errors.js'
import { interruptible } from './interrupt.js'
import { integer, repeated } from './options.js'

interface CurateFlags {
  recipe: string
  set: string[]
  out: string
  root?: string
  model?: string
  decontaminate: string[]
  tokenizer?: string
  device?: string
  threads?: number
  memory?: string
  cleanWork?: true
}

/** Adds `curate`. */
export function register(program: Command): void {
  program
    .command('curate')
    .description(
      'from raw text to training pairs: read, extract, clean, de-duplicate, de-contaminate, filter by a model, write with a report',
    )
    .requiredOption('--recipe <file>', 'recipe: sources, rules and settings as JSON, JSON5 or .mjs (docs/curation.md)')
    .requiredOption(
      '--out <dir>',
      'folder for data/, data-card.md, report.html, summary.json and work/; the same command goes on after a stop',
    )
    .option('--set <key=value>', 'one setting of the recipe, as clean.chineseShare=0.5; may be repeated', repeated, [] as string[])
    .option('--root <dir>', "what the recipe's files are relative to (default: its `root`, else its own folder)")
    .option('--model <dir>', "model folder that scores pairs (default: the recipe's; drops below 0.43 unless the recipe says otherwise)")
    .option(
      '--decontaminate <name>',
      "'cmteb', what bge cmteb pull made, or a folder of tasks; may be repeated (default: the recipe's)",
      repeated,
      [] as string[],
    )
    .option('--tokenizer <dir>', "folder whose tokenizer counts tokens for the report (default: the model's)")
    .option('--device <device>', 'of the model: auto, cpu, cuda or cuda:N')
    .option('--threads <n>', 'for every step (default: as many as the process may use)', integer(1))
    .option('--memory <size>', "for de-duplication, as '4GB'")
    .option('--clean-work', 'remove work/ at the end; the next run then starts anew')
    .action((flags: CurateFlags) => interruptible((signal) => run(flags, signal)))
}

async function run(flags: CurateFlags, signal: AbortSignal): Promise<void> {
  const { out, model, decontaminate, tokenizer, device, threads, memory } = flags
  const recipe = await readRecipe(flags.recipe, { set: flags.set, ...(flags.root !== undefined && { root: flags.root }) })
  const options: CurateOptions = {
    out,
    ...(model !== undefined && { model }),
    ...(decontaminate.length > 0 && { decontaminate }),
    ...(tokenizer !== undefined && { tokenizer }),
    resources: {
      ...(device !== undefined && { device }),
      ...(threads !== undefined && { threads }),
      ...(memory !== undefined && { memoryLimit: memory }),
    },
    onProgress: reporter(),
    signal,
  }
  try {
    const { summary, reused } = await curate(recipe, options)
    if (reused.length > 0) process.stderr.write(`found done: ${reused.join(', ')}\n`)
    const counts = steps(summary).map(({ key, title }) => `${total(summary, key)} ${title}`)
    process.stderr.write(`${counts.join(' -> ')}\n`)
  } catch (error) {
    if (isAbort(error)) process.stderr.write('what is done stays in work/: the same command goes on from there\n')
    throw error
  }
  if (flags.cleanWork) await rm(join(out, 'work'), { recursive: true, force: true })
  for (const name of ['data', 'data-card.md', 'report.html', 'summary.json']) process.stdout.write(`${join(out, name)}\n`)
}

/** Rewrites one line on a terminal; elsewhere a line at the start and end of a stage and every ten seconds. */
function reporter(): (progress: CurateProgress) => void {
  const terminal = process.stderr.isTTY === true
  let last = { at: Number.NEGATIVE_INFINITY, stage: '' }
  return (progress) => {
    const now = performance.now()
    const stage = progress.stage === 'dedup' ? `${progress.stage} ${progress.note}` : progress.stage
    const finished = progress.total > 0 && progress.done >= progress.total
    if (!finished && stage === last.stage && now - last.at < (terminal ? 200 : 10_000)) return
    const line = describeProgress(progress)
    process.stderr.write(terminal ? `\r\x1b[K${line}${finished ? '\n' : ''}` : `${line}\n`)
    last = { at: now, stage }
  }
}

/** `clean: 12.5 of 50.0 MB, 1 min left` */
export function describeProgress({ stage, done, total, unit, eta, note, rows }: CurateProgress): string {
  const amount = (value: number): string => (unit === 'bytes' ? (value / 1e6).toFixed(1) : String(value))
  const what = `${amount(done)}${total > 0 ? ` of ${amount(total)}` : ''} ${unit === 'bytes' ? 'MB' : unit}`
  const about = note === undefined ? '' : ` (${note}${rows === undefined ? '' : `, ${rows} rows`})`
  return `${stage}${about}: ${what}${eta === null || eta < 1 ? '' : `, ${duration(eta)} left`}`
}

function duration(seconds: number): string {
  if (seconds < 90) return `${Math.round(seconds)} s`
  return seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`
}

import { type Command, InvalidArgumentError } from 'commander'
import { modelFolder } from '../hub/model.js'
import { isAbort } from '../errors.js'
import type { LiveRun } from '../live/run.js'
import { describeComparison, verdictSentence } from '../run/compare.js'
import { type ReadOptions, readRunRecipe, type RunRecipe, shippedRecipes } from '../run/recipe.js'
import { describeFacts } from '../run/report.js'
import { planRun, type RunHooks, runRecipe, type StepState } from '../run/run.js'
import type { StageName } from '../train/config.js'
import type { TrainHooks } from '../train/loop.js'
import { createProgress, type Progress } from '../train/progress.js'
import { describeProgress } from './curate.js'
import { interruptible } from './interrupt.js'
import { integer, repeated } from './options.js'
import { LIVE_PORT, liveOption, openPage } from './watch.js'

interface RunFlags {
  out?: string
  input: Record<string, string[]>
  set: string[]
  device?: string
  threads?: number
  live?: number | true
  dryRun?: true
  list?: true
  json?: true
}

/** Adds `run`. */
export function register(program: Command): void {
  program
    .command('run')
    .description('one recipe from data to model, scores and report; what has not changed is not done again, what was stopped goes on')
    .argument('[recipe]', 'a file (JSON, JSON5, .mjs) or the name of a recipe of this package')
    .option('--out <dir>', 'run folder for steps/, model/, summary.json and report.html (default: run-NAME)')
    .option('--input <name=path...>', 'an input of the recipe, relative to the working folder; several paths with commas', input, {})
    .option(
      '--set <key=value>',
      'one key of the recipe, as steps.finetune.epochs=3; null removes; may be repeated',
      repeated,
      [] as string[],
    )
    .option('--device <device>', "auto, cpu, cuda or cuda:N (default: the recipe's, else auto)")
    .option('--threads <n>', 'CPU threads (default: as many as the process may use)', integer(1))
    .addOption(liveOption('each training step while it runs'))
    .option('--dry-run', 'say what would run and why, then exit: nothing is done or written')
    .option('--list', 'the recipes of this package')
    .option('--json', 'print the summary (with --dry-run: the plan) as JSON')
    .addHelpText(
      'after',
      `
Examples:
  bge run finetune-own-data --input model=BAAI/bge-small-zh-v1.5 --input rows=faq.jsonl --dry-run
  bge run finetune-own-data --input model=BAAI/bge-small-zh-v1.5 --input rows=faq.jsonl --set steps.finetune.epochs=3
  bge run my-recipe.json5 --out run`,
    )
    .action((recipe: string | undefined, flags: RunFlags) => interruptible((signal) => run(recipe, flags, signal)))
}

function input(value: string, all: Record<string, string[]>): Record<string, string[]> {
  const at = value.indexOf('=')
  const paths = value
    .slice(at + 1)
    .split(',')
    .filter((path) => path !== '')
  if (at < 1 || paths.length === 0) throw new InvalidArgumentError('It must be NAME=PATH.')
  return { ...all, [value.slice(0, at)]: paths }
}

async function run(name: string | undefined, flags: RunFlags, signal: AbortSignal): Promise<void> {
  if (flags.list || name === undefined) {
    for (const shipped of await shippedRecipes()) {
      const { description = '' } = await readRunRecipe(shipped)
      process.stdout.write(`${shipped}  ${description}\n`)
    }
    return
  }
  const recipe = await readRunRecipe(name, await readOptions(flags))
  const out = flags.out ?? `run-${recipe.name}`
  if (flags.dryRun) {
    const plan = await planRun(recipe, out)
    process.stdout.write(
      flags.json
        ? `${JSON.stringify(plan, null, 2)}\n`
        : `${recipe.name} in ${out}\n${plan.map((state) => planLine(state, plan)).join('')}`,
    )
    return
  }
  const pages = livePages(flags.live === true ? LIVE_PORT : flags.live)
  try {
    const onTrain: RunHooks['onTrain'] = async (step, stage, place) => trainHooks(step, await pages.next(stage, place))
    const result = await runRecipe(recipe, { out, hooks: { ...hooksFor(recipe), onTrain }, signal })
    for (const { step, against, comparison } of result.summary.comparisons)
      process.stderr.write(`${step} against ${against}: ${describeComparison(comparison)}\n${verdictSentence(comparison)}\n`)
    if (flags.json) process.stdout.write(`${JSON.stringify(result.summary, null, 2)}\n`)
    else process.stdout.write(`${result.model === undefined ? '' : `${result.model}\n`}${result.report}\n`)
  } catch (error) {
    if (isAbort(error)) process.stderr.write('what is done stays: the same command goes on from there\n')
    throw error
  } finally {
    await pages.close()
  }
}

/** One live page at a time: a training step's stays until the next one begins or the run ends. */
function livePages(port: number | undefined): {
  next(stage: StageName, place: string): Promise<LiveRun | undefined>
  close(): Promise<void>
} {
  let page: LiveRun | undefined
  const close = async (): Promise<void> => {
    await page?.close().catch(() => {}) // a browser that went away
    page = undefined
  }
  return {
    async next(stage, place) {
      await close()
      if (port === undefined) return undefined
      page = await openPage(stage, place, port)
      if (page) process.stderr.write(`live page: ${page.url}\n`)
      return page
    },
    close,
  }
}

async function readOptions({ input, set, device, threads }: RunFlags): Promise<ReadOptions> {
  // The input `model` may be a name on the hub, as everywhere else.
  const inputs = { ...input }
  if (input.model?.length === 1) inputs.model = [await modelFolder(input.model[0]!)]
  return {
    inputs,
    set: [...set, ...(device !== undefined ? [`device=${device}`] : []), ...(threads !== undefined ? [`threads=${threads}`] : [])],
  }
}

function planLine({ name, state, reason }: StepState, all: readonly StepState[]): string {
  const width = Math.max(...all.map((one) => one.name.length))
  const words = { fresh: 'fresh', run: 'runs', resume: 'goes on', depends: 'runs' } as const
  return `  ${name.padEnd(width)}  ${words[state]}${reason === '' ? '' : `: ${reason}`}\n`
}

function hooksFor(recipe: RunRecipe): RunHooks {
  const say = (line: string): void => void process.stderr.write(`${line}\n`)
  let last = 0
  const seldom = (line: string): void => {
    if (performance.now() - last < 5000) return
    last = performance.now()
    say(line)
  }
  const place = (name: string): string => `[${recipe.steps.findIndex((step) => step.name === name) + 1}/${recipe.steps.length}] ${name}`
  return {
    onStep: ({ name, do: verb, state, reason }, done) => {
      if (done) say(`${place(name)}: ${describeFacts({ do: verb, facts: done.facts })} (${done.seconds.toFixed(1)} s)`)
      else say(`${place(name)}: ${state === 'fresh' ? 'nothing has changed' : `${state === 'resume' ? 'goes on' : 'runs'}, ${reason}`}`)
    },
    onTruncation: (step, { texts, truncated }) =>
      void (truncated > 0 && say(`note: ${step} cut ${truncated} of ${texts} texts at their maximal length`)),
    onMine: (step, { stage, done, total }) => seldom(`${step}: ${stage} ${done}${total === null ? '' : ` of ${total}`}`),
    onCurate: (step, progress) => seldom(`${step}: ${describeProgress(progress)}`),
    onEvaluate: (step) => ({ onTask: (task, outcome) => void (outcome && seldom(`${step}: ${task.type}/${task.name}`)) }),
  }
}

function trainHooks(step: string, page: LiveRun | undefined): TrainHooks {
  let progress: Progress | undefined
  let last = 0
  return {
    onStart: (run) => {
      const { config, step: first, totalSteps, device } = run
      page?.start(run)
      last = totalSteps
      progress = createProgress(process.stderr, { label: step, firstStep: first, totalSteps, config })
      progress.note(`${step} on ${device}: ${first > 0 ? `steps ${first + 1} to ` : ''}${totalSteps} steps`)
      if (first >= totalSteps) progress.end()
    },
    onStep: (row) => {
      const left = progress!.update(row)
      page?.row(row, left)
      if (row.step === last) progress?.end()
    },
  }
}

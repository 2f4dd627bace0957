import { join } from 'node:path'
import { type Command, Option } from 'commander'
import { writeFileAtomic } from '../data/atomic.js'
import { BgeError, invalidArgument } from '../errors.js'
import { benchmarkTasks } from '../eval/benchmark.js'
import { type CmtebSet, type Dialect, DIALECTS } from '../eval/cmteb/tasks.js'
import { openEndpoint } from '../eval/endpoint.js'
import { type EvaluatedModel, evaluateTasks, type RunOptions } from '../eval/evaluate.js'
import { summaryJson, type TaskOutcome } from '../eval/evaluation.js'
import type { Limit } from '../eval/limit.js'
import type { SklearnGeneration } from '../eval/numeric/logistic_regression.js'
import { readBaseline } from '../eval/results.js'
import { customPairs, customRetrieval, type EvalTask, localTask } from '../eval/sources.js'
import { listTasks, selectTasks } from '../eval/tasks.js'
import { readKnownScores, verify, type Verified } from '../eval/verify.js'
import type { HubOptions } from '../hub/hub.js'
import { BgeModel } from '../model/model.js'
import type { Dtype } from '../native.js'
import { type Other, published } from '../report/comparison.js'
import { reportPage } from '../report/page.js'
import { textTable } from '../report/table.js'
import { createEvalProgress, type EvalProgress } from './eval_progress.js'
import { interruptible } from './interrupt.js'
import { dtypeOption, integer, list } from './options.js'

interface EvalFlags {
  model: string
  endpointModel?: string
  modelName?: string
  revision?: string
  benchmark?: string
  data?: string
  mirror?: string
  tasks?: string[]
  taskRetrieval: string[]
  taskPairs: string[]
  out: string
  dialect?: Dialect
  sklearnCompat?: SklearnGeneration
  limit?: Limit
  cache?: string
  force?: true
  compare: string[]
  baseline?: string
  report?: string
  verify?: string
  instruction?: string
  maxLength?: number
  device: string
  dtype?: Dtype
  threads?: number
  json?: true
}

/** What --benchmark may name, and the set that is meant. */
const BENCHMARKS: Readonly<Record<string, CmtebSet>> = { cmteb: 'cmn-31', 'cmn-31': 'cmn-31', 'paper-35': 'paper-35', mini: 'mini' }

const repeated = (value: string, all: string[]): string[] => [...all, value]
const models = (value: string, all: string[]): string[] => [...all, ...list(value)]

/** Adds `eval`. */
export function register(program: Command): void {
  program
    .command('eval')
    .description('score a model on C-MTEB or on tasks of your own')
    .requiredOption(
      '--model <dir>',
      'model folder, name on the hub, or the URL of an OpenAI-style service such as https://host/v1 (key: OPENAI_API_KEY)',
    )
    .requiredOption(
      '--out <dir>',
      'folder for NAME.json per task (a second task of a name: NAME-TYPE.json), summary.json, and results/ as mteb reads it',
    )
    .addOption(
      new Option('--benchmark <set>', 'C-MTEB: cmteb is cmn-31; mini: a part of twelve tasks, for training').choices(
        Object.keys(BENCHMARKS),
      ),
    )
    .option(
      '--data <dir>',
      'your tasks: sts/*.jsonl, retrieval/NAME/, reranking/*.jsonl, classification/*.test.jsonl, ...; with --benchmark: what bge cmteb pull made',
    )
    .option('--mirror <url>', 'with --benchmark: a hub to fetch from what --data does not hold')
    .option('--task-retrieval <name=files>', 'your own task: NAME=corpus.jsonl,queries.jsonl,qrels.jsonl; may be repeated', repeated, [])
    .option(
      '--task-pairs <name=file>',
      'your own task: NAME=pairs.jsonl of {"query","pos"} or {"text1","text2","label"}; may be repeated',
      repeated,
      [],
    )
    .option('--tasks <names>', 'comma-separated: NAME (every task of that name), TYPE/NAME, a type (sts, retrieval, ...) or all', list)
    .addOption(new Option('--dialect <dialect>', 'whose main scores (default: mteb2 with --benchmark, else cmteb2023)').choices(DIALECTS))
    .addOption(
      new Option('--sklearn-compat <version>', 'whose k-means and logistic regression (default: 1.9 for mteb2, 1.8 for cmteb2023)').choices(
        ['1.8', '1.9'],
      ),
    )
    .option('--limit <n>', "queries, pairs or texts of each task, or 'mini', for a quick look", (value) =>
      value === 'mini' ? value : integer(1)(value),
    )
    .option('--cache <dir>', 'keep vectors there: a text is encoded once for each model and instruction')
    .option('--force', 'compute tasks again whose result in --out is of the same model, data and rules')
    .option('--compare <models>', 'comma-separated: put published scores beside, such as bge-small-zh-v1.5', models, [])
    .option('--baseline <dir>', 'put the results of another run (its --out) or of mteb (results/MODEL/REVISION) beside')
    .option('--report <file>', 'write one HTML page that needs no network')
    .option('--verify <file>', 'check the scores against known ones, or the summary.json of an earlier run; exit code 1 where they differ')
    .option('--model-name <name>', 'ORG/NAME in result files (default: local/FOLDER)')
    .option('--revision <name>', "the model's revision in result files (default: the start of its fingerprint)")
    .option('--endpoint-model <name>', 'with a URL: the name of the model there')
    .option(
      '--instruction <text>',
      "put before the queries of retrieval and reranking; 'zh' and 'en' name BGE's, '' is none (default: the model folder's)",
    )
    .option('--max-length <n>', "tokens per text (default: the model's)", integer(3))
    .option('--device <device>', 'auto, cpu, cuda or cuda:N', 'auto')
    .addOption(dtypeOption())
    .option('--threads <n>', 'CPU threads (default: as many as the process may use)', integer(1))
    .option('--json', 'print the results as JSON instead of a table')
    .action((flags: EvalFlags) => interruptible((signal) => run(flags, signal)))
}

async function run(flags: EvalFlags, signal: AbortSignal): Promise<void> {
  const set = flags.benchmark === undefined ? undefined : BENCHMARKS[flags.benchmark]!
  const dialect = flags.dialect ?? (set === undefined ? 'cmteb2023' : 'mteb2')
  if (set === undefined && flags.data === undefined && flags.taskRetrieval.length + flags.taskPairs.length === 0) {
    throw new BgeError(
      'ERR_BGE_ARGUMENT',
      'one of --benchmark, --data, --task-retrieval and --task-pairs is needed: nothing says what to score',
    )
  }
  const known = flags.verify === undefined ? undefined : await readKnownScores(flags.verify)
  const others = await otherModels(flags, dialect)
  const { model, name, dispose } = await openModel(flags, signal)
  let progress: EvalProgress | undefined
  try {
    const shown = createEvalProgress(process.stderr)
    progress = shown
    const tasks = await chooseTasks(flags, set, { dialect, hub: { signal, onProgress: shown.download } })
    const { instruction, maxLength, sklearnCompat: sklearn, cache } = flags
    const limit = flags.limit ?? (set === 'mini' ? 'mini' : undefined)
    const options: RunOptions = {
      out: flags.out,
      ...(instruction !== undefined && { instruction }),
      ...(maxLength !== undefined && { maxLength }),
      ...(flags.threads !== undefined && { threads: flags.threads }),
      rules: { dialect, ...(sklearn && { sklearn }), ...(limit !== undefined && { limit }) },
      reuse: { ...(cache !== undefined && { cache }), results: flags.force ? 'never' : 'finished' },
      benchmark: { ...(set && { set }), meta: name },
      onTask: (task, outcome) => shown.note(outcome ? line(outcome) : `${task.type}/${task.name} ...`),
      onProgress: shown.update,
      signal,
    }
    const evaluation = await evaluateTasks(model, tasks, options)
    shown.end()
    if (flags.report !== undefined) await writeFileAtomic(flags.report, reportPage(evaluation, { model: name.name ?? flags.model, others }))
    process.stdout.write(flags.json ? summaryJson(evaluation) : textTable(evaluation, others))
    const differences = known === undefined ? [] : verify(known, evaluation).filter(({ ok }) => !ok)
    if (known !== undefined) process.stderr.write(verdict(differences, known.tolerance))
    if (differences.length > 0 || evaluation.tasks.some((task) => 'error' in task)) process.exitCode = 1
  } finally {
    progress?.end()
    dispose()
  }
}

async function chooseTasks(
  flags: EvalFlags,
  set: CmtebSet | undefined,
  { dialect, hub }: { dialect: Dialect; hub: HubOptions },
): Promise<EvalTask[]> {
  const own = [...flags.taskRetrieval.map(customRetrieval), ...(await Promise.all(flags.taskPairs.map(customPairs)))]
  const { data, mirror } = flags
  if (set !== undefined) {
    const source = { ...(data !== undefined && { data }), hub: { ...hub, ...(mirror !== undefined && { endpoint: mirror }) } }
    return [...benchmarkTasks({ set, source, ...(flags.tasks && { tasks: flags.tasks }) }, dialect), ...own]
  }
  if (mirror !== undefined) throw invalidArgument('--mirror', 'left out without --benchmark', mirror)
  const local = data === undefined ? [] : (await listTasks(data)).map(localTask)
  const wanted = data === undefined ? [] : selectTasks(local, flags.tasks ?? ['all'])
  return [...wanted, ...own]
}

async function openModel(
  flags: EvalFlags,
  signal: AbortSignal,
): Promise<{ model: EvaluatedModel; name: NonNullable<NonNullable<RunOptions['benchmark']>['meta']>; dispose: () => void }> {
  const { modelName, revision, endpointModel, dtype, threads } = flags
  const named = { ...(modelName !== undefined && { name: modelName }), ...(revision !== undefined && { revision }) }
  if (/^https?:\/\//.test(flags.model)) {
    if (endpointModel === undefined) throw new BgeError('ERR_BGE_ARGUMENT', '--endpoint-model must name a model where --model is a URL')
    const model = await openEndpoint({ url: flags.model, model: endpointModel, signal })
    return { model, name: { name: `endpoint/${endpointModel.replaceAll('/', '_')}`, framework: 'API', ...named }, dispose: () => {} }
  }
  if (endpointModel !== undefined) throw invalidArgument('--endpoint-model', 'left out where --model is a folder', endpointModel)
  const model = await BgeModel.load(flags.model, {
    device: flags.device,
    ...(dtype && { dtype }),
    ...(threads !== undefined && { threads }),
  })
  const parameters = model.encoder.parameters.list.reduce((sum, { shape }) => sum + shape.reduce((a, b) => a * b, 1), 0)
  return { model, name: { parameters, ...named }, dispose: () => model.dispose() }
}

async function otherModels({ compare, baseline }: EvalFlags, dialect: Dialect): Promise<Other[]> {
  const others = compare.map((model) => published(model, dialect))
  return baseline === undefined ? others : [{ ...(await readBaseline(baseline)), source: `results in ${join(baseline)}` }, ...others]
}

function verdict(differences: readonly Verified[], tolerance: number): string {
  if (differences.length === 0) return `verified: every known score within ${tolerance}\n`
  const lines = differences.map(
    ({ task, metric, expected, actual }) => `differs: ${task} ${metric} expected ${expected}, but was ${actual ?? 'not computed'}`,
  )
  return `${lines.join('\n')}\n${differences.length} known scores differ by more than ${tolerance}\n`
}

function line(outcome: TaskOutcome): string {
  const name = `${outcome.type}/${outcome.task_name}`
  if ('error' in outcome) return `error [${outcome.error.code}]: ${name}: ${outcome.error.message}`
  return `${name} ${outcome.main_metric} ${(100 * outcome.main_score).toFixed(2)} in ${outcome.seconds.toFixed(1)} s`
}

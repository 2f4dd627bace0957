import { type Command, InvalidArgumentError, Option } from 'commander'
import { parseAssignment, readSettings } from '../data/config_file.js'
import { BgeError, isAbort } from '../errors.js'
import { evaluate } from '../eval/evaluate.js'
import type { BgeModel } from '../model/model.js'
import { configOrigins, type ConfigSource, mergeConfig, type StageName, type TrainConfig } from '../train/config.js'
import { type TrainOptions, train } from '../train/loop.js'
import { formatBytes } from '../train/plan.js'
import { planTraining, type TrainingPlan } from '../train/plan_run.js'
import { stages } from '../train/stages.js'
import { interruptible } from './interrupt.js'
import { list, repeated } from './options.js'
import { LIVE_PORT, liveOption, watchRun } from './watch.js'

interface TrainFlags {
  model: string
  data: string[]
  out: string
  config?: string
  set: string[]
  device?: string
  dtype?: string
  pooling?: 'cls' | 'mean'
  dev?: string
  devTasks: string[]
  resume?: true
  plan?: true
  memoryLimit?: number
  live?: number | true
}

const descriptions: Readonly<Record<StageName, string>> = {
  pretrain: 'stage 1: RetroMAE pre-training on rows {"text"}',
  contrastive: 'stage 2: contrastive training with in-batch negatives on rows {"query","pos"}',
  finetune: 'stage 3: fine-tuning with instruction and hard negatives on rows {"query","pos","neg"}',
}

/** Adds `pretrain`, `contrastive` and `finetune`. */
export function register(program: Command): void {
  for (const name of Object.keys(stages) as StageName[]) {
    program
      .command(name)
      .description(descriptions[name])
      .requiredOption('--model <dir>', 'model folder to start from, or a name on the hub such as BAAI/bge-small-zh-v1.5')
      .requiredOption('--data <file...>', 'JSONL files, or folders of them')
      .requiredOption('--out <dir>', 'run folder: new, empty, or with --resume the one to continue')
      .option('--config <file>', 'JSON, JSON5 or .mjs file of configuration keys (schemas/train.schema.json)')
      .option('--set <key=value>', 'one configuration key; may be repeated', repeated, [] as string[])
      .option('--device <device>', 'auto, cpu, cuda or cuda:N')
      .addOption(
        new Option('--dtype <type>', 'what linear layers multiply in; CUDA always computes in bf16 (default: fp32)').choices([
          'fp32',
          'bf16',
        ]),
      )
      .addOption(new Option('--pooling <how>', 'for a model folder that does not say how to pool').choices(['cls', 'mean']))
      .option(
        '--dev <dir>',
        'evaluate every checkpoint on the tasks of this folder; the best becomes model/, and patience may stop the run',
      )
      .option('--dev-tasks <names>', 'comma-separated tasks of --dev', list, ['all'])
      .option('--resume', 'continue from the newest checkpoint in --out')
      .option('--plan', 'print memory, largest batch and step time of this run, then exit: nothing is trained, --out is not touched')
      .option('--memory-limit <size>', 'memory of the device that the run may use, as in 8GiB; default: what is free', memorySize)
      .addOption(liveOption('the run'))
      .action((flags: TrainFlags) => (flags.plan ? plan(name, flags) : run(name, flags)))
  }
}

async function run(name: StageName, flags: TrainFlags): Promise<void> {
  const config = await configuration(name, flags)
  const watch = await watchRun(name, flags.out, flags.live === true ? LIVE_PORT : flags.live)
  try {
    const result = await interruptible((signal) => {
      signal.addEventListener('abort', () => {
        if (watch.started) watch.note('stopping: the last complete step will be saved; press Ctrl-C again to leave at once')
      })
      return train(stages[name], {
        ...trainOptions(flags),
        config,
        signal,
        hooks: {
          ...watch.hooks,
          onStart: (start) => {
            const { config: effective, step, totalSteps, device } = start
            watch.hooks.onStart(start)
            watch.note(`${name} on ${device}: ${remaining(step, totalSteps)}; ${shape(name, effective)}`)
          },
          ...(flags.dev !== undefined && {
            onCheckpoint: async ({ step, model }) => {
              const score = await devScore(model, flags.dev!, flags.devTasks, signal)
              watch.note(`step ${step}: dev score ${score.toFixed(4)}`)
              return score
            },
          }),
        },
      })
    }).finally(() => watch.end())
    const { texts, truncated } = result.truncation
    if (truncated > 0) process.stderr.write(`note: ${truncated} of ${texts} texts were longer than their maximal length and were cut\n`)
    process.stdout.write(`${result.model}\n`)
  } catch (error) {
    if (isAbort(error) && watch.started) process.stderr.write(`continue with: ${resumeCommand(name, flags)}\n`)
    throw error
  }
}

function trainOptions({ model, pooling, data, out, resume, memoryLimit }: TrainFlags): Omit<TrainOptions, 'config'> {
  return {
    model,
    ...(pooling && { pooling }),
    data,
    out,
    resume: resume ? 'continue' : 'never',
    ...(memoryLimit !== undefined && { memoryLimit }),
  }
}

async function configuration(name: StageName, flags: TrainFlags): Promise<Partial<TrainConfig>> {
  const given = await sources(flags)
  const { config, unused } = mergeConfig(name, given)
  const settings = [...configOrigins(given)].filter(([key]) => !unused.includes(key))
  for (const [key, origin] of settings) process.stderr.write(`${key}: ${JSON.stringify(config[key as keyof TrainConfig])} (${origin})\n`)
  for (const key of unused) process.stderr.write(`note: ${key} is not used by ${name}\n`)
  return config
}

async function plan(name: StageName, flags: TrainFlags): Promise<void> {
  const config = await configuration(name, flags)
  const found = await interruptible((signal) => planTraining(stages[name], { ...trainOptions(flags), config, signal }))
  process.stdout.write(planTable(name, found))
}

/** The plan as lines of a name and what it is. */
function planTable(name: StageName, plan: TrainingPlan): string {
  const { memory, needed, limit, largest, all, probe, batchSize } = plan
  const count = (n: number): string => n.toLocaleString('en')
  const most = (value: number, isAll: boolean, what: string): string =>
    value === 0 ? 'none fits' : `${count(value)}${isAll ? ` (${what})` : ''}`
  const rows: [string, string][] = [
    ['weights', formatBytes(memory.weights)],
    ['  copies to multiply with', formatBytes(memory.weightCopies)],
    ['gradients', formatBytes(memory.gradients)],
    ['optimizer state', formatBytes(memory.optimizer)],
    ['activations', `${formatBytes(memory.activations)} (one micro-batch)`],
    ...(name !== 'pretrain' ? [['  kept from pass 1', formatBytes(memory.kept)] as [string, string]] : []),
    ...(memory.embeddingCache > 0 ? [['embedding cache', formatBytes(memory.embeddingCache)] as [string, string]] : []),
    ['workspace', formatBytes(memory.workspace)],
    ['total', `${formatBytes(memory.total)}, reserved ${formatBytes(memory.reserved)}`],
    [
      'limit',
      `${formatBytes(limit)}: ${plan.fits ? `fits, ${formatBytes(Math.max(0, limit - needed - memory.kept))} free` : `does not fit, ${formatBytes(needed - limit)} too much`}`,
    ],
    ['largest batchSize', most(largest.batchSize, all.batchSize, 'all rows')],
    ['largest microBatchTokens', most(largest.microBatchTokens, all.microBatchTokens, 'the whole batch')],
  ]
  if (probe) {
    const part = probe.rows < batchSize ? `, from ${count(probe.rows)} of ${count(batchSize)} rows` : ''
    rows.push(['expected step', `${probe.stepSeconds.toPrecision(3)} s, ${count(Math.round(probe.tokensPerSecond))} tokens/s${part}`])
  }
  const width = Math.max(...rows.map(([title]) => title.length)) + 2
  const head = `${name} on ${plan.device}: batchSize ${count(batchSize)}, microBatchTokens ${count(plan.microBatchTokens)}`
  return `${[head, ...rows.map(([title, value]) => `  ${title.padEnd(width)}${value}`)].join('\n')}\n`
}

/** Parser of an amount of memory: a number with GiB, MiB, KiB, GB, MB, kB or nothing (bytes). */
function memorySize(value: string): number {
  const match = /^(\d+(?:\.\d+)?) ?(GiB|MiB|KiB|GB|MB|kB)?$/i.exec(value)
  const units: Readonly<Record<string, number>> = { gib: 2 ** 30, mib: 2 ** 20, kib: 2 ** 10, gb: 1e9, mb: 1e6, kb: 1e3 }
  const bytes = match ? Math.floor(Number(match[1]) * (match[2] ? units[match[2].toLowerCase()]! : 1)) : 0
  if (!(bytes > 0)) throw new InvalidArgumentError('It must be an amount of memory, as in 8GiB.')
  return bytes
}

/** Everything that the run folder does not know: config.json holds the configuration. */
function resumeCommand(name: StageName, { model, data, out, pooling, dev, devTasks, memoryLimit }: TrainFlags): string {
  const words = [`bge ${name} --model`, model, '--data', ...data, '--out', out]
  if (pooling) words.push('--pooling', pooling)
  if (dev !== undefined) words.push('--dev', dev, '--dev-tasks', devTasks.join(','))
  if (memoryLimit !== undefined) words.push('--memory-limit', String(memoryLimit))
  return [...words, '--resume'].join(' ')
}

/** Mean of the main scores. A task that fails ends the run: a mean with holes would compare different things. */
async function devScore(model: BgeModel, data: string, tasks: readonly string[], signal: AbortSignal): Promise<number> {
  const evaluation = await evaluate(model, { data, tasks, signal })
  const scores = evaluation.tasks.map((task) => {
    if ('error' in task) throw new BgeError(task.error.code, `dev task ${task.type}/${task.task_name}: ${task.error.message}`)
    return task.main_score
  })
  return scores.reduce((a, b) => a + b, 0) / scores.length
}

function remaining(step: number, totalSteps: number): string {
  if (step >= totalSteps) return `complete at step ${step}`
  return step > 0 ? `steps ${step + 1} to ${totalSteps}` : `${totalSteps} steps`
}

/** What one step sees, in words. */
function shape(name: StageName, { batchSize, groupSize, candidates }: TrainConfig): string {
  if (name === 'pretrain') return `${batchSize} texts a step`
  const inBatch = candidates === 'batch' ? (batchSize - 1) * groupSize : 0
  return `${batchSize} queries a step, negatives per query: ${groupSize - 1} own + ${inBatch} in-batch`
}

async function sources(flags: TrainFlags): Promise<ConfigSource[]> {
  const list: ConfigSource[] = []
  if (flags.config !== undefined) list.push({ origin: `file ${flags.config}`, ...(await readSettings(flags.config, 'ERR_BGE_CONFIG')) })
  for (const text of flags.set) list.push({ origin: '--set', values: Object.fromEntries([parseAssignment(text)]) })
  if (flags.device !== undefined) list.push({ origin: '--device', values: { device: flags.device } })
  if (flags.dtype !== undefined) list.push({ origin: '--dtype', values: { dtype: flags.dtype } })
  return list
}

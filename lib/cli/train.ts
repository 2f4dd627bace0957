import { readFile } from 'node:fs/promises'
import { type Command, Option } from 'commander'
import { BgeError, isAbort } from '../errors.js'
import { evaluate } from '../eval/evaluate.js'
import type { BgeModel } from '../model/model.js'
import { type ConfigSource, mergeConfig, parseAssignment, type StageName, type TrainConfig } from '../train/config.js'
import { train } from '../train/loop.js'
import { createProgress, type Progress } from '../train/progress.js'
import { stages } from '../train/stages.js'
import { interruptible } from './interrupt.js'
import { list } from './options.js'

interface TrainFlags {
  model: string
  data: string[]
  out: string
  config?: string
  set: string[]
  device?: string
  pooling?: 'cls' | 'mean'
  dev?: string
  devTasks: string[]
  resume?: true
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
      .requiredOption('--model <dir>', 'model folder to start from')
      .requiredOption('--data <file...>', 'JSONL files, or folders of them')
      .requiredOption('--out <dir>', 'run folder: new, empty, or with --resume the one to continue')
      .option('--config <file>', 'JSON file of configuration keys')
      .option(
        '--set <key=value>',
        'one configuration key; may be repeated',
        (value: string, all: string[]) => [...all, value],
        [] as string[],
      )
      .option('--device <device>', 'auto, cpu, cuda or cuda:N')
      .addOption(new Option('--pooling <how>', 'for a model folder that does not say how to pool').choices(['cls', 'mean']))
      .option(
        '--dev <dir>',
        'evaluate every checkpoint on the tasks of this folder; the best becomes model/, and patience may stop the run',
      )
      .option('--dev-tasks <names>', 'comma-separated tasks of --dev', list, ['all'])
      .option('--resume', 'continue from the newest checkpoint in --out')
      .action((flags: TrainFlags) => run(name, flags))
  }
}

async function run(name: StageName, flags: TrainFlags): Promise<void> {
  const { config, unused } = mergeConfig(name, await sources(flags))
  for (const key of unused) process.stderr.write(`note: ${key} is not used by ${name}\n`)
  let progress: Progress | undefined
  try {
    const result = await interruptible((signal) => {
      signal.addEventListener('abort', () =>
        progress?.note('stopping: the last complete step will be saved; press Ctrl-C again to leave at once'),
      )
      return train(stages[name], {
        model: flags.model,
        ...(flags.pooling && { pooling: flags.pooling }),
        data: flags.data,
        out: flags.out,
        config,
        resume: flags.resume ? 'continue' : 'never',
        signal,
        hooks: {
          onStart: ({ config: effective, step, totalSteps, device }) => {
            progress = createProgress(process.stderr, { label: name, firstStep: step, totalSteps })
            progress.note(`${name} on ${device}: ${remaining(step, totalSteps)}; ${shape(name, effective)}`)
          },
          onStep: (row) => progress?.update(row),
          ...(flags.dev !== undefined && {
            onCheckpoint: async ({ step, model }) => {
              const score = await devScore(model, flags.dev!, flags.devTasks, signal)
              progress?.note(`step ${step}: dev score ${score.toFixed(4)}`)
              return score
            },
          }),
        },
      })
    })
    progress?.end()
    const { texts, truncated } = result.truncation
    if (truncated > 0) process.stderr.write(`note: ${truncated} of ${texts} texts were longer than their maximal length and were cut\n`)
    process.stdout.write(`${result.model}\n`)
  } catch (error) {
    progress?.end()
    if (isAbort(error) && progress) process.stderr.write(`continue with: ${resumeCommand(name, flags)}\n`)
    throw error
  }
}

/** Everything that the run folder does not know: config.json holds the configuration. */
function resumeCommand(name: StageName, { model, data, out, pooling, dev, devTasks }: TrainFlags): string {
  const words = [`bge ${name} --model`, model, '--data', ...data, '--out', out]
  if (pooling) words.push('--pooling', pooling)
  if (dev !== undefined) words.push('--dev', dev, '--dev-tasks', devTasks.join(','))
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
  if (flags.config !== undefined) list.push({ origin: `file ${flags.config}`, values: await configFile(flags.config) })
  for (const text of flags.set) list.push({ origin: '--set', values: Object.fromEntries([parseAssignment(text)]) })
  if (flags.device !== undefined) list.push({ origin: '--device', values: { device: flags.device } })
  return list
}

async function configFile(file: string): Promise<Record<string, unknown>> {
  let text: string
  try {
    text = await readFile(file, 'utf8')
  } catch (cause) {
    throw new BgeError('ERR_BGE_FILE', `configuration file ${file} cannot be read: ${(cause as Error).message}`, { cause })
  }
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch (cause) {
    throw new BgeError('ERR_BGE_CONFIG', `${file} must hold a JSON object: ${(cause as Error).message}`, { cause })
  }
  if (value === null || typeof value !== 'object' || Array.isArray(value)) {
    throw new BgeError('ERR_BGE_CONFIG', `${file} must hold a JSON object of configuration keys`)
  }
  return value as Record<string, unknown>
}

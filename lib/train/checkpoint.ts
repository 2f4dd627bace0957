import { mkdir, readdir, readFile, rename, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { hashFile } from '../data/jsonl.js'
import { BgeError } from '../errors.js'
import { openSafetensors, type TensorToWrite, writeSafetensors } from '../model/safetensors.js'
import type { AdamW, Parameter } from '../native.js'
import { sync } from './run_folder.js'
import type { StageRun } from './stage.js'

/** Where a run stands; all the rest of its state follows from the seed and the step. Written to state.json. */
export interface RunState {
  /** optimizer steps done */
  step: number
  /** wall time so far */
  seconds: number
  /** highest dev score, and how many scores in a row did not beat it */
  best?: { step: number; score: number }
  stale: number
}

interface StateFile {
  readonly state: RunState
  readonly optimizerSteps: number
  readonly run: string
  /** SHA-256 of every other file of the checkpoint */
  readonly files: Readonly<Record<string, string>>
}

type Modules = StageRun['modules']

/** AdamW's first and second moment in a file of moments. */
const MOMENTS = ['m', 'v'] as const

/** Checkpoints kept besides the best. */
const KEEP = 2

/**
 * checkpoints/step-N/: NAME.safetensors and NAME.moments.safetensors of every module, state.json last. Written to a folder beside it,
 * synced, then renamed: a step-N folder is complete. Older ones are removed, the best is kept.
 * Throws ERR_BGE_SAVE; then nothing of it is left and the earlier checkpoints are untouched.
 */
export async function writeCheckpoint(out: string, run: string, modules: Modules, adamW: AdamW, state: RunState): Promise<void> {
  const folder = join(out, 'checkpoints')
  const target = join(folder, `step-${state.step}`)
  const temporary = join(folder, `.step-${state.step}`)
  try {
    await rm(temporary, { recursive: true, force: true })
    await mkdir(temporary, { recursive: true })
    const files: Record<string, string> = {}
    for (const [index, [name, { parameters }]] of Object.entries(modules).entries()) {
      const weights = parameters.list.map((parameter) => ({ ...parameter, read: () => parameters.read(parameter.name) }))
      const tables = { [`${name}.safetensors`]: weights, [`${name}.moments.safetensors`]: moments(adamW, index, parameters.list) }
      for (const [file, tensors] of Object.entries(tables)) {
        await writeSafetensors(join(temporary, file), tensors)
        files[file] = await hashFile(join(temporary, file))
      }
    }
    const content: StateFile = { state, optimizerSteps: adamW.steps, run, files }
    await writeFile(join(temporary, 'state.json'), JSON.stringify(content, null, 2) + '\n')
    await sync(join(temporary, 'state.json'))
    await sync(temporary)
    await rm(target, { recursive: true, force: true })
    await rename(temporary, target)
    await sync(folder)
  } catch (cause) {
    await rm(temporary, { recursive: true, force: true }).catch(() => {})
    throw new BgeError('ERR_BGE_SAVE', `checkpoint ${target} could not be written: ${(cause as Error).message}`, { cause })
  }
  await prune(out, state.best?.step)
}

/** Keeps the newest checkpoints and the best; removes what an interrupted save left behind. */
async function prune(out: string, best: number | undefined): Promise<void> {
  const kept = new Set([best, ...(await checkpointSteps(out)).slice(0, KEEP)].map((step) => `step-${step}`))
  for (const name of await readdir(join(out, 'checkpoints'))) {
    if (/^\.?step-\d+$/.test(name) && !kept.has(name)) await rm(join(out, 'checkpoints', name), { recursive: true, force: true })
  }
}

/**
 * The state of the newest checkpoint whose files are as they were written; undefined where there is no checkpoint at all.
 * Throws ERR_BGE_RESUME when every checkpoint is damaged or belongs to another run.
 */
export async function newestCheckpoint(out: string, run: string): Promise<RunState | undefined> {
  const steps = await checkpointSteps(out)
  const problems: string[] = []
  for (const step of steps) {
    const folder = join(out, 'checkpoints', `step-${step}`)
    try {
      const { state, files, run: owner } = await readState(folder)
      if (owner !== run) throw new Error('it belongs to another run')
      for (const [file, sha256] of Object.entries(files)) {
        if ((await hashFile(join(folder, file))) !== sha256) throw new Error(`${file} is damaged`)
      }
      return state
    } catch (error) {
      problems.push(`step-${step}: ${(error as Error).message}`)
    }
  }
  if (problems.length > 0) throw new BgeError('ERR_BGE_RESUME', `no checkpoint in ${out} can be resumed (${problems.join('; ')})`)
  return undefined
}

/** Weights of one checkpoint, and with `adamW` the optimizer's moments and step count, into existing modules. */
export async function loadCheckpoint(out: string, step: number, modules: Modules, adamW?: AdamW): Promise<void> {
  const folder = join(out, 'checkpoints', `step-${step}`)
  for (const [index, [name, { parameters }]] of Object.entries(modules).entries()) {
    await read(
      join(folder, `${name}.safetensors`),
      parameters.list.map(({ name: key }) => [key, (values) => parameters.write(key, values)]),
    )
    if (!adamW) continue
    const moment = (which: 0 | 1) =>
      parameters.list.map(({ name: key }): Reader => [`${MOMENTS[which]}.${key}`, (values) => adamW.writeMoment(index, which, key, values)])
    await read(join(folder, `${name}.moments.safetensors`), [...moment(0), ...moment(1)])
  }
  if (adamW) adamW.steps = (await readState(folder)).optimizerSteps
}

/** Steps that have a checkpoint, newest first. */
export async function checkpointSteps(out: string): Promise<number[]> {
  const names = await readdir(join(out, 'checkpoints')).catch(() => [])
  return names
    .map((name) => /^step-(\d+)$/.exec(name)?.[1])
    .filter((step) => step !== undefined)
    .map(Number)
    .sort((a, b) => b - a)
}

function moments(adamW: AdamW, index: number, list: readonly Parameter[]): TensorToWrite[] {
  const table = (which: 0 | 1): TensorToWrite[] =>
    list.map(({ name, shape }) => ({ name: `${MOMENTS[which]}.${name}`, shape, read: () => adamW.readMoment(index, which, name) }))
  return [...table(0), ...table(1)]
}

type Reader = [name: string, use: (values: Float32Array) => Promise<void>]

async function read(file: string, readers: readonly Reader[]): Promise<void> {
  const source = await openSafetensors(file)
  try {
    for (const [name, use] of readers) await use(await source.read(name))
  } finally {
    await source.close()
  }
}

async function readState(folder: string): Promise<StateFile> {
  return JSON.parse(await readFile(join(folder, 'state.json'), 'utf8')) as StateFile
}

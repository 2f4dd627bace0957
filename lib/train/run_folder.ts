import { createHash } from 'node:crypto'
import { appendFile, open, readdir, readFile, rm, stat } from 'node:fs/promises'
import { basename, join } from 'node:path'
import { writeFileAtomic } from '../data/atomic.js'
import { hashFile } from '../data/jsonl.js'
import { BgeError, show } from '../errors.js'
import { CONFIG_KEYS, type ConfigKey, type StageName, stageKeys, type TrainConfig } from './config.js'

/** What a run was started from; a resumed run must be started from the same. Written to run.json. */
export interface RunIdentity {
  readonly stage: StageName
  /** SHA-256 over the names and contents of the model folder's files */
  readonly model: string
  /** as given, or 'folder': what the model folder says */
  readonly pooling: string
  /** name and SHA-256 of each data file, in order */
  readonly data: readonly { readonly name: string; readonly sha256: string }[]
}

/**
 * One row of metrics.jsonl: the values of one optimizer step (docs/watching.md has a table of all). The stage adds its own: accuracy, masked,
 * falseNegatives; encoderLoss, decoderLoss, encoderAccuracy, decoderAccuracy and, now and then, clsGain and clsGainShuffled.
 */
export interface MetricsRow {
  /** 1-based */
  step: number
  /** passes over the data so far, a fraction */
  epoch: number
  loss: number
  /** used by this step */
  learningRate: number
  /** before clipping */
  gradNorm: number
  /** since the row before */
  tokensPerSecond: number
  /** texts of stage 1, pairs of the others, since the row before */
  rowsPerSecond: number
  /** since the row before: time in which the device had nothing to do, because the next batch was not tokenized and collated yet */
  stallSeconds: number
  /** in this step's batch, [CLS] and [SEP] included */
  tokens: number
  /** wall time of the run up to here, interruptions left out */
  seconds: number
  [name: string]: number
}

/** What of a row is wall time: everything else repeats bit for bit when a run is repeated or resumed on the same device. */
export const TIMED: readonly string[] = ['seconds', 'tokensPerSecond', 'rowsPerSecond', 'stallSeconds']

/** Throws ERR_BGE_RESUME when a new run would write into a folder that holds something. */
export async function requireEmpty(out: string): Promise<void> {
  const entries = await readdir(out).catch((cause: NodeJS.ErrnoException) => {
    if (cause.code === 'ENOENT') return []
    throw new BgeError('ERR_BGE_FILE', `run folder ${out} cannot be read: ${cause.message}`, { cause })
  })
  if (entries.length > 0) {
    throw new BgeError(
      'ERR_BGE_RESUME',
      `run folder ${out} must be empty or new, but holds ${show(entries[0])}; resume the run or choose another folder`,
    )
  }
}

/** Makes a run folder: metrics.jsonl, config.json, run.json. Throws ERR_BGE_FILE; then none of them is left. */
export async function createRunFolder(out: string, identity: RunIdentity, config: TrainConfig): Promise<void> {
  const files = {
    'metrics.jsonl': '',
    'config.json': JSON.stringify(pick(config, stageKeys(identity.stage)), null, 2) + '\n',
    'run.json': JSON.stringify(identity, null, 2) + '\n',
  }
  try {
    for (const [name, text] of Object.entries(files)) await writeFileAtomic(join(out, name), text)
  } catch (error) {
    for (const name of Object.keys(files)) await rm(join(out, name), { force: true }).catch(() => {})
    throw error
  }
}

/**
 * The configuration of a run to resume: the stored one, with the free keys (logEvery, saveEvery, threads) of `given`.
 * Throws ERR_BGE_RESUME, naming the key, when another configuration, model or data is given than the run was started with.
 */
export async function resumedConfig<Defaults>(
  out: string,
  identity: RunIdentity,
  given: Partial<TrainConfig>,
  defaults: Defaults,
): Promise<Defaults & Partial<TrainConfig>> {
  const stored = await readJson<Partial<TrainConfig>>(out, 'config.json')
  compareIdentity(out, await readJson<RunIdentity>(out, 'run.json'), identity)
  const config: Record<string, unknown> = { ...defaults, ...stored }
  for (const key of stageKeys(identity.stage)) {
    if (!(key in given)) continue
    if (CONFIG_KEYS[key].free) config[key] = given[key]
    else if (JSON.stringify(given[key]) !== JSON.stringify(config[key])) {
      const sentence = `${key} must be ${show(config[key])} as in its config.json, but was ${show(given[key])}`
      throw new BgeError('ERR_BGE_RESUME', `${out} cannot be resumed: ${sentence}`, { details: { key } })
    }
  }
  return config as Defaults & Partial<TrainConfig>
}

/** Hashes what a run starts from. `files`: the data files. */
export async function runIdentity(
  stage: StageName,
  { model, pooling = 'folder' }: { model: string; pooling?: string },
  files: readonly string[],
): Promise<RunIdentity> {
  const data = []
  for (const file of files) data.push({ name: basename(file), sha256: await hashFile(file) })
  return { stage, model: await hashFolder(model), pooling, data }
}

/** Hash of configuration and identity: a checkpoint belongs to exactly one run. */
export function runHash(config: TrainConfig, identity: RunIdentity): string {
  const fixed = stageKeys(identity.stage).filter((key) => !CONFIG_KEYS[key].free)
  return createHash('sha256')
    .update(JSON.stringify([pick(config, fixed), identity]))
    .digest('hex')
}

/** Appends a row to metrics.jsonl. */
export async function appendMetrics(out: string, row: MetricsRow): Promise<void> {
  try {
    await appendFile(join(out, 'metrics.jsonl'), JSON.stringify(row) + '\n')
  } catch (cause) {
    throw new BgeError('ERR_BGE_FILE', `${join(out, 'metrics.jsonl')} cannot be written: ${(cause as Error).message}`, { cause })
  }
}

/** The rows of metrics.jsonl, without a last one that was cut off; none where the file is missing. */
export async function readMetrics(out: string): Promise<MetricsRow[]> {
  const text = await readFile(join(out, 'metrics.jsonl'), 'utf8').catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return ''
    throw new BgeError('ERR_BGE_FILE', `${join(out, 'metrics.jsonl')} cannot be read: ${error.message}`, { cause: error })
  })
  return text.split('\n').flatMap((line) => {
    try {
      return [JSON.parse(line) as MetricsRow]
    } catch {
      return []
    }
  })
}

/** Drops the rows of metrics.jsonl after `step`, and a last row that was cut off. Returns what is left. */
export async function truncateMetrics(out: string, step: number): Promise<MetricsRow[]> {
  const kept = (await readMetrics(out)).filter((row) => row.step <= step)
  await writeFileAtomic(join(out, 'metrics.jsonl'), kept.map((row) => JSON.stringify(row) + '\n').join(''))
  return kept
}

/** fsync of a file or folder. */
export async function sync(path: string): Promise<void> {
  const handle = await open(path, 'r')
  try {
    await handle.sync()
  } finally {
    await handle.close()
  }
}

function compareIdentity(out: string, stored: RunIdentity, now: RunIdentity): void {
  const refuse = (key: string, expected: string, actual: string): never => {
    throw new BgeError('ERR_BGE_RESUME', `${out} cannot be resumed: ${key} must be ${expected}, but was ${actual}`, { details: { key } })
  }
  if (stored.stage !== now.stage) refuse('stage', stored.stage, now.stage)
  if (stored.model !== now.model) refuse('model', 'the folder that the run was started from, unchanged', 'another one or changed')
  if (stored.pooling !== now.pooling) refuse('pooling', stored.pooling, now.pooling)
  if (stored.data.length !== now.data.length) refuse('data', `${stored.data.length} files`, String(now.data.length))
  for (const [i, file] of stored.data.entries()) {
    if (file.sha256 !== now.data[i]!.sha256)
      refuse('data', `${file.name} as it was when the run was started`, `${now.data[i]!.name} with other contents`)
  }
}

async function hashFolder(folder: string): Promise<string> {
  const hash = createHash('sha256')
  const names = await readdir(folder, { recursive: true }).catch((cause: unknown) => {
    throw new BgeError('ERR_BGE_FILE', `model folder ${folder} cannot be read: ${(cause as Error).message}`, { cause })
  })
  for (const name of names.sort()) {
    const file = join(folder, name)
    if ((await stat(file)).isFile()) hash.update(`${name} ${await hashFile(file)}\n`)
  }
  return hash.digest('hex')
}

async function readJson<T>(out: string, name: string): Promise<T> {
  try {
    return JSON.parse(await readFile(join(out, name), 'utf8')) as T
  } catch (cause) {
    throw new BgeError('ERR_BGE_RESUME', `${out} holds no run to resume: ${name} cannot be read (${(cause as Error).message})`, { cause })
  }
}

function pick(config: Partial<TrainConfig>, keys: readonly ConfigKey[]): Partial<TrainConfig> {
  return Object.fromEntries(keys.map((key) => [key, config[key]]))
}

import { readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import JSON5 from 'json5'
import { writeFileAtomic } from '../data/atomic.js'
import { BgeError } from '../errors.js'
import type { CmtebTask, Dialect } from './cmteb/tasks.js'
import { pythonRound } from './ranking.js'

/** The version of mteb whose scores dialect mteb2 computes. C_MTEB's are of none: null. */
export const MTEB_VERSION: Readonly<Record<Dialect, string | null>> = { mteb2: '2.20.0', cmteb2023: null }

/** A model as result files name it. */
export interface ModelMeta {
  /** `ORG/NAME`: mteb refuses names without an organisation */
  readonly name: string
  readonly revision: string
  readonly dims: number | null
  readonly maxTokens: number | null
  readonly parameters: number | null
  readonly usesInstructions: boolean
  readonly framework: 'PyTorch' | 'API'
}

/** One split of a task. */
export interface SplitResult {
  readonly main_score: number
  readonly scores: Readonly<Record<string, number>>
  readonly parts: Readonly<Record<string, unknown>>
}

/** The folder of a model's results in mteb's layout: `results/ORG__NAME/REVISION`. */
export function mtebFolder(out: string, { name, revision }: Pick<ModelMeta, 'name' | 'revision'>): string {
  const safe = (text: string): string => text.replaceAll('/', '__').replaceAll(' ', '_')
  return join(out, 'results', safe(name), safe(revision))
}

/** Writes `TASK.json` as mteb 2 does (cmteb.md 3.2): scores 0..1 with six decimals; what is not a number becomes null. Throws ERR_BGE_FILE. */
export async function writeMtebResult(
  folder: string,
  task: CmtebTask,
  result: { dialect: Dialect; revision: string; seconds: number; splits: ReadonlyMap<string, SplitResult> },
): Promise<void> {
  const mteb_version = MTEB_VERSION[result.dialect]
  const entry = ({ main_score, scores, parts }: SplitResult): object => ({
    ...(rounded({ ...parts, ...scores, main_score }) as object),
    hf_subset: task.subset,
    languages: [task.language],
    ...(mteb_version !== null && { mteb_version }),
  })
  const content = {
    dataset_revision: result.revision,
    task_name: task.name,
    mteb_version,
    scores: Object.fromEntries([...result.splits].map(([split, scores]) => [split, [entry(scores)]])),
    evaluation_time: result.seconds,
    kg_co2_emissions: null,
    date: Date.now() / 1000,
  }
  await writeFileAtomic(join(folder, `${task.name}.json`), `${JSON.stringify(content, null, 2)}\n`)
}

/** Writes `model_meta.json` with every key mteb's ModelMeta requires; what is not known is null. Throws ERR_BGE_FILE. */
export async function writeModelMeta(folder: string, meta: ModelMeta): Promise<void> {
  const content = {
    loader: null,
    name: meta.name,
    revision: meta.revision,
    release_date: null,
    languages: null,
    n_parameters: meta.parameters,
    memory_usage_mb: null,
    max_tokens: meta.maxTokens,
    embed_dim: meta.dims,
    license: null,
    open_weights: null,
    public_training_code: null,
    public_training_data: null,
    framework: [meta.framework],
    reference: null,
    similarity_fn_name: 'cosine',
    use_instructions: meta.usesInstructions,
    training_datasets: null,
  }
  await writeFileAtomic(join(folder, 'model_meta.json'), `${JSON.stringify(content, null, 2)}\n`)
}

function rounded(value: unknown): unknown {
  if (typeof value === 'number') return Number.isFinite(value) ? pythonRound(value, 6) : null
  if (Array.isArray(value)) return value.map(rounded)
  if (value !== null && typeof value === 'object')
    return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, rounded(item)]))
  return value
}

/** Main scores by task name, 0..1, of another model. */
export interface Baseline {
  readonly name: string
  readonly scores: ReadonlyMap<string, number>
}

/**
 * Reads a folder of results: what `bge eval --out` wrote (summary.json; tasks are keyed `TYPE/NAME` and NAME), or one revision of a results
 * repository of mteb, in its current form or that of 2023. The score of a task is the mean over its splits. Throws ERR_BGE_FILE, ERR_BGE_DATA.
 */
export async function readBaseline(folder: string): Promise<Baseline> {
  const files = await readdir(folder).catch((cause: unknown) => {
    throw new BgeError('ERR_BGE_FILE', `results folder ${folder} cannot be read: ${(cause as Error).message}`, { cause })
  })
  const scores = new Map<string, number>()
  if (files.includes('summary.json')) {
    const { model, tasks } = (await readJson(join(folder, 'summary.json'))) as {
      model?: string
      tasks?: { task_name: string; type: string; main_score?: number }[]
    }
    for (const { task_name, type, main_score } of Array.isArray(tasks) ? tasks : []) {
      if (typeof main_score !== 'number') continue
      scores.set(`${type}/${task_name}`, main_score)
      if (!scores.has(task_name)) scores.set(task_name, main_score)
    }
    return notEmpty({ name: model ?? folder, scores }, folder)
  }
  for (const file of files.filter((name) => name.endsWith('.json') && name !== 'model_meta.json')) {
    const [task, score] = mtebScore((await readJson(join(folder, file))) as Record<string, unknown>)
    if (task !== undefined && score !== undefined) scores.set(task, score)
  }
  const meta = files.includes('model_meta.json') ? ((await readJson(join(folder, 'model_meta.json'))) as { name?: string }) : {}
  return notEmpty({ name: meta.name ?? folder, scores }, folder)
}

function notEmpty(baseline: Baseline, folder: string): Baseline {
  if (baseline.scores.size > 0) return baseline
  throw new BgeError(
    'ERR_BGE_DATA',
    `results folder ${folder} must hold summary.json of bge eval or TASK.json files of mteb, but holds no score`,
  )
}

/** Names of 2023. */
const RENAMED: Readonly<Record<string, string>> = { CMedQAv1: 'CMedQAv1-reranking', CMedQAv2: 'CMedQAv2-reranking' }

function mtebScore(file: Record<string, unknown>): [task: string | undefined, score: number | undefined] {
  const name = (file.task_name ?? file.mteb_dataset_name) as string | undefined
  const task = name === undefined ? undefined : (RENAMED[name] ?? name)
  const scores = file.scores as Record<string, { main_score?: unknown }[]> | undefined
  const values =
    scores === undefined ? legacyScores(file) : Object.values(scores).flatMap((entries) => entries.map((entry) => entry.main_score))
  const numbers = values.filter((value) => typeof value === 'number')
  return [task, numbers.length === 0 ? undefined : numbers.reduce((a, b) => a + b, 0) / numbers.length]
}

/** Where mteb 1.1 kept the main score of a split, by type: cosine Spearman, cosine AP, or at the top. */
function legacyScores(file: Record<string, unknown>): unknown[] {
  return ['dev', 'validation', 'test'].flatMap((split) => {
    const scores = file[split] as Record<string, unknown> | undefined
    const cosine = scores?.cos_sim as Record<string, unknown> | undefined
    return scores === undefined
      ? []
      : [cosine?.spearman ?? cosine?.ap ?? scores.ndcg_at_10 ?? scores.map ?? scores.v_measure ?? scores.accuracy]
  })
}

async function readJson(file: string): Promise<unknown> {
  try {
    const text = await readFile(file, 'utf8')
    // Python writes a score that is none as NaN, which is JSON5 and no JSON.
    return /\bNaN\b|\bInfinity\b/.test(text) ? JSON5.parse<unknown>(text) : (JSON.parse(text) as unknown)
  } catch (cause) {
    throw new BgeError('ERR_BGE_DATA', `${file} must be a JSON file of results: ${(cause as Error).message}`, { cause })
  }
}

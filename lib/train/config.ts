import { BgeError, show } from '../errors.js'

export type StageName = 'pretrain' | 'contrastive' | 'finetune'

/** Everything that shapes a run. Ranges and meanings: CONFIG_KEYS. */
export interface TrainConfig {
  steps: number
  epochs: number
  batchSize: number
  microBatchTokens: number
  groupSize: number
  learningRate: number
  warmupRatio: number
  weightDecay: number
  maxGradNorm: number
  temperature: number
  queryMaxLength: number
  passageMaxLength: number
  maxLength: number
  encoderMaskRatio: number
  decoderMaskRatio: number
  instruction: string
  /** null: the model's own hidden and attention dropout */
  dropout: number | null
  seed: number
  device: string
  /** what linear layers multiply in on the CPU; CUDA multiplies in bf16 either way. Sums, weights and optimizer state are fp32 */
  dtype: 'fp32' | 'bf16'
  saveEvery: number
  logEvery: number
  duplicates: 'mask' | 'keep'
  /** 'source': the passages of queries from the same file of the data */
  candidates: 'batch' | 'source' | 'group'
  /** 'symmetric': InfoNCE is the mean of both directions */
  direction: 'query-to-passage' | 'symmetric'
  /** which negatives are no candidates when they score above the positive by more than falseNegativeMargin */
  falseNegatives: 'keep' | 'in-batch' | 'all'
  falseNegativeMargin: number
  distillation: 'none' | 'kl_div' | 'm3_kd_loss'
  /** widths; empty: the full width only */
  matryoshka: readonly number[]
  /** every batch from one file of the data */
  sameSource: boolean
  patience: number
  threads: number
}

export type ConfigKey = keyof TrainConfig

interface KeyRule {
  /** completes "KEY must be ..." */
  readonly expected: string
  readonly accepts: (value: unknown) => boolean
  /** stages that use the key; absent: all */
  readonly stages?: readonly StageName[]
  /** may differ when a run is resumed, because it does not change the numbers */
  readonly free?: true
}

const integer =
  (min: number, max: number = Number.MAX_SAFE_INTEGER) =>
  (v: unknown): boolean =>
    Number.isSafeInteger(v) && (v as number) >= min && (v as number) <= max
const number =
  (accepts: (v: number) => boolean) =>
  (v: unknown): boolean =>
    typeof v === 'number' && Number.isFinite(v) && accepts(v)
const word =
  (...words: string[]) =>
  (v: unknown): boolean =>
    words.includes(v as string)
const pairs: readonly StageName[] = ['contrastive', 'finetune']
const pretrain: readonly StageName[] = ['pretrain']

/** Every key of a configuration. */
export const CONFIG_KEYS: Readonly<Record<ConfigKey, KeyRule>> = {
  steps: { expected: 'an integer of at least 0 (optimizer steps; 0: epochs decide)', accepts: integer(0) },
  epochs: { expected: 'a number greater than 0', accepts: number((v) => v > 0) },
  batchSize: { expected: 'an integer of at least 1 (texts or queries per optimizer step)', accepts: integer(1) },
  microBatchTokens: { expected: 'an integer of at least 1 (tokens of activations kept at a time)', accepts: integer(1) },
  groupSize: { expected: 'an integer of at least 1 (passages per query: 1 positive + hard negatives)', accepts: integer(1), stages: pairs },
  learningRate: { expected: 'a number greater than 0 and at most 1', accepts: number((v) => v > 0 && v <= 1) },
  warmupRatio: { expected: 'a number from 0 to 1 (share of all steps)', accepts: number((v) => v >= 0 && v <= 1) },
  weightDecay: { expected: 'a number from 0 to 1', accepts: number((v) => v >= 0 && v <= 1) },
  maxGradNorm: { expected: 'a number of at least 0 (0: no clipping)', accepts: number((v) => v >= 0) },
  temperature: { expected: 'a number from 0.0001 to 1', accepts: number((v) => v >= 1e-4 && v <= 1), stages: pairs },
  queryMaxLength: {
    expected: 'an integer of at least 3 (tokens, [CLS], [SEP] and instruction included)',
    accepts: integer(3),
    stages: pairs,
  },
  passageMaxLength: { expected: 'an integer of at least 3 (tokens, [CLS] and [SEP] included)', accepts: integer(3), stages: pairs },
  maxLength: { expected: 'an integer of at least 3 (tokens, [CLS] and [SEP] included)', accepts: integer(3), stages: pretrain },
  encoderMaskRatio: { expected: 'a number between 0 and 1', accepts: number((v) => v > 0 && v < 1), stages: pretrain },
  decoderMaskRatio: { expected: 'a number between 0 and 1', accepts: number((v) => v > 0 && v < 1), stages: pretrain },
  instruction: {
    expected: 'a string (put before every query; "" for none, "zh" and "en" for BGE\'s)',
    accepts: (v) => typeof v === 'string',
    stages: pairs,
  },
  dropout: {
    expected: "a number from 0 to below 1, or null for the model's own",
    accepts: (v) => v === null || number((p) => p >= 0 && p < 1)(v),
  },
  seed: { expected: 'an integer from 0 to 2^53 - 1', accepts: integer(0) },
  device: {
    expected: "a device: 'auto', 'cpu', 'cuda' or 'cuda:N'",
    accepts: (v) => typeof v === 'string' && /^(auto|cpu|cuda(:\d+)?)$/.test(v),
  },
  dtype: { expected: "'fp32' or 'bf16'", accepts: word('fp32', 'bf16') },
  saveEvery: { expected: 'an integer of at least 0 (steps between checkpoints; 0: only at the end)', accepts: integer(0), free: true },
  logEvery: { expected: 'an integer of at least 1 (steps between rows of metrics.jsonl)', accepts: integer(1), free: true },
  duplicates: { expected: "'mask' or 'keep'", accepts: word('mask', 'keep'), stages: pairs },
  candidates: { expected: "'batch', 'source' or 'group'", accepts: word('batch', 'source', 'group'), stages: pairs },
  direction: { expected: "'query-to-passage' or 'symmetric'", accepts: word('query-to-passage', 'symmetric'), stages: pairs },
  falseNegatives: {
    expected: "'keep', 'in-batch' (other queries' passages) or 'all' (the own hard negatives too)",
    accepts: word('keep', 'in-batch', 'all'),
    stages: pairs,
  },
  falseNegativeMargin: { expected: 'a number from -2 to 2 (of cosine)', accepts: number((v) => v >= -2 && v <= 2), stages: pairs },
  distillation: { expected: "'none', 'kl_div' or 'm3_kd_loss'", accepts: word('none', 'kl_div', 'm3_kd_loss'), stages: pairs },
  matryoshka: { expected: 'a list of different widths, integers of at least 1', accepts: widths, stages: pairs },
  sameSource: { expected: 'true or false (every batch from one file of the data)', accepts: (v) => typeof v === 'boolean', stages: pairs },
  patience: { expected: 'an integer of at least 0 (dev scores without a new best before stopping; 0: never)', accepts: integer(0) },
  threads: { expected: 'an integer of at least 0 (0: as many as the process may use)', accepts: integer(0, 4096), free: true },
}

function widths(value: unknown): boolean {
  return Array.isArray(value) && value.every(integer(1)) && new Set(value).size === value.length
}

/** Some values and where they came from, for messages: `file config.json`, `--set`, ... */
export interface ConfigSource {
  readonly origin: string
  readonly values: Readonly<Record<string, unknown>>
}

/**
 * Checks and merges sources, later ones win. Unknown keys and values out of range throw ERR_BGE_CONFIG naming the key and where it came
 * from. Known keys that this stage does not use are left out and named in `unused`.
 */
export function mergeConfig(stage: StageName, sources: readonly ConfigSource[]): { config: Partial<TrainConfig>; unused: string[] } {
  const config: Record<string, unknown> = {}
  const unused = new Set<string>()
  for (const { origin, values } of sources) {
    for (const [key, value] of Object.entries(values)) {
      const rule = Object.hasOwn(CONFIG_KEYS, key) ? CONFIG_KEYS[key as ConfigKey] : undefined
      if (!rule) throw unknownKey(key, origin)
      if (!rule.accepts(value)) {
        throw new BgeError('ERR_BGE_CONFIG', `${key} must be ${rule.expected}, but was ${show(value)} (${origin})`, {
          details: { key, origin },
        })
      }
      if (rule.stages && !rule.stages.includes(stage)) unused.add(key)
      else config[key] = value
    }
  }
  return { config: config as Partial<TrainConfig>, unused: [...unused] }
}

/** The keys that a stage uses. */
export function stageKeys(stage: StageName): ConfigKey[] {
  return (Object.keys(CONFIG_KEYS) as ConfigKey[]).filter((key) => CONFIG_KEYS[key].stages?.includes(stage) ?? true)
}

/** Reads `key=value`: JSON where the value is JSON (numbers, lists, null, quoted text), otherwise the text itself. Throws ERR_BGE_CONFIG. */
export function parseAssignment(text: string): [key: string, value: unknown] {
  const at = text.indexOf('=')
  if (at < 1) throw new BgeError('ERR_BGE_CONFIG', `--set must be key=value, but was ${show(text)}`)
  const key = text.slice(0, at)
  const value = text.slice(at + 1)
  if (key === 'instruction' && !value.startsWith('"')) return [key, value]
  try {
    return [key, JSON.parse(value)]
  } catch {
    return [key, value]
  }
}

function unknownKey(key: string, origin: string): BgeError {
  const nearest = (Object.keys(CONFIG_KEYS) as ConfigKey[])
    .map((known) => ({ known, distance: editDistance(key.toLowerCase().replaceAll(/[-_]/g, ''), known.toLowerCase()) }))
    .sort((a, b) => a.distance - b.distance)[0]!
  const hint =
    nearest.distance <= Math.max(2, key.length / 3)
      ? `; did you mean ${nearest.known}?`
      : `; known keys: ${Object.keys(CONFIG_KEYS).join(', ')}`
  return new BgeError('ERR_BGE_CONFIG', `${show(key)} is not a configuration key (${origin})${hint}`, { details: { key, origin } })
}

/** Levenshtein distance. */
function editDistance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, j) => j)
  for (let i = 1; i <= a.length; i++) {
    const next = [i]
    for (let j = 1; j <= b.length; j++) {
      next.push(Math.min(row[j]! + 1, next[j - 1]! + 1, row[j - 1]! + (a[i - 1] === b[j - 1] ? 0 : 1)))
    }
    row = next
  }
  return row[b.length]!
}

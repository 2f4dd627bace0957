import { didYouMean, matches, type Schema } from '../data/check.js'
import { BgeError, show } from '../errors.js'

/** The three stages of C-Pack by name: RetroMAE, general contrastive training, task-specific fine-tuning. */
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
  /** what a value must be; schemas/train.schema.json is made of these */
  readonly schema: Schema
  /** stages that use the key; absent: all */
  readonly stages?: readonly StageName[]
  /** may differ when a run is resumed, because it does not change the numbers */
  readonly free?: true
}

const integer = (minimum: number, maximum?: number): Schema => ({ type: 'integer', minimum, ...(maximum !== undefined && { maximum }) })
const number = (bounds: Pick<Schema, 'minimum' | 'maximum' | 'exclusiveMinimum' | 'exclusiveMaximum'>): Schema => ({
  type: 'number',
  ...bounds,
})
const word = (...words: string[]): Schema => ({ enum: words })
const pairs: readonly StageName[] = ['contrastive', 'finetune']
const pretrain: readonly StageName[] = ['pretrain']

/** Every key of a configuration. */
export const CONFIG_KEYS: Readonly<Record<ConfigKey, KeyRule>> = {
  steps: { expected: 'an integer of at least 0 (optimizer steps; 0: epochs decide)', schema: integer(0) },
  epochs: { expected: 'a number greater than 0', schema: number({ exclusiveMinimum: 0 }) },
  batchSize: { expected: 'an integer of at least 1 (texts or queries per optimizer step)', schema: integer(1) },
  microBatchTokens: { expected: 'an integer of at least 1 (tokens of activations kept at a time)', schema: integer(1) },
  groupSize: { expected: 'an integer of at least 1 (passages per query: 1 positive + hard negatives)', schema: integer(1), stages: pairs },
  learningRate: { expected: 'a number greater than 0 and at most 1', schema: number({ exclusiveMinimum: 0, maximum: 1 }) },
  warmupRatio: { expected: 'a number from 0 to 1 (share of all steps)', schema: number({ minimum: 0, maximum: 1 }) },
  weightDecay: { expected: 'a number from 0 to 1', schema: number({ minimum: 0, maximum: 1 }) },
  maxGradNorm: { expected: 'a number of at least 0 (0: no clipping)', schema: number({ minimum: 0 }) },
  temperature: { expected: 'a number from 0.0001 to 1', schema: number({ minimum: 1e-4, maximum: 1 }), stages: pairs },
  queryMaxLength: {
    expected: 'an integer of at least 3 (tokens, [CLS], [SEP] and instruction included)',
    schema: integer(3),
    stages: pairs,
  },
  passageMaxLength: { expected: 'an integer of at least 3 (tokens, [CLS] and [SEP] included)', schema: integer(3), stages: pairs },
  maxLength: { expected: 'an integer of at least 3 (tokens, [CLS] and [SEP] included)', schema: integer(3), stages: pretrain },
  encoderMaskRatio: {
    expected: 'a number between 0 and 1',
    schema: number({ exclusiveMinimum: 0, exclusiveMaximum: 1 }),
    stages: pretrain,
  },
  decoderMaskRatio: {
    expected: 'a number between 0 and 1',
    schema: number({ exclusiveMinimum: 0, exclusiveMaximum: 1 }),
    stages: pretrain,
  },
  instruction: {
    expected: 'a string (put before every query; "" for none, "zh" and "en" for BGE\'s)',
    schema: { type: 'string' },
    stages: pairs,
  },
  dropout: {
    expected: "a number from 0 to below 1, or null for the model's own",
    schema: { type: ['number', 'null'], minimum: 0, exclusiveMaximum: 1 },
  },
  seed: { expected: 'an integer from 0 to 2^53 - 1', schema: integer(0, Number.MAX_SAFE_INTEGER) },
  device: {
    expected: "a device: 'auto', 'cpu', 'cuda' or 'cuda:N'",
    schema: { type: 'string', pattern: '^(auto|cpu|cuda(:\\d+)?)$' },
  },
  dtype: { expected: "'fp32' or 'bf16'", schema: word('fp32', 'bf16') },
  saveEvery: { expected: 'an integer of at least 0 (steps between checkpoints; 0: only at the end)', schema: integer(0), free: true },
  logEvery: { expected: 'an integer of at least 1 (steps between rows of metrics.jsonl)', schema: integer(1), free: true },
  duplicates: { expected: "'mask' or 'keep'", schema: word('mask', 'keep'), stages: pairs },
  candidates: { expected: "'batch', 'source' or 'group'", schema: word('batch', 'source', 'group'), stages: pairs },
  direction: { expected: "'query-to-passage' or 'symmetric'", schema: word('query-to-passage', 'symmetric'), stages: pairs },
  falseNegatives: {
    expected: "'keep', 'in-batch' (other queries' passages) or 'all' (the own hard negatives too)",
    schema: word('keep', 'in-batch', 'all'),
    stages: pairs,
  },
  falseNegativeMargin: { expected: 'a number from -2 to 2 (of cosine)', schema: number({ minimum: -2, maximum: 2 }), stages: pairs },
  distillation: { expected: "'none', 'kl_div' or 'm3_kd_loss'", schema: word('none', 'kl_div', 'm3_kd_loss'), stages: pairs },
  matryoshka: {
    expected: 'a list of different widths, integers of at least 1',
    schema: { type: 'array', items: integer(1), uniqueItems: true },
    stages: pairs,
  },
  sameSource: { expected: 'true or false (every batch from one file of the data)', schema: { type: 'boolean' }, stages: pairs },
  patience: { expected: 'an integer of at least 0 (dev scores without a new best before stopping; 0: never)', schema: integer(0) },
  threads: { expected: 'an integer of at least 0 (0: as many as the process may use)', schema: integer(0, 4096), free: true },
}

/** Some values and where they came from, for messages: `file config.json`, `--set`, ... */
export interface ConfigSource {
  readonly origin: string
  readonly values: Readonly<Record<string, unknown>>
  /** where a key of them was written, `file.json:3`; default: origin */
  at?(key: string): string
}

/**
 * Checks and merges sources, later ones win. Unknown keys and values out of range throw ERR_BGE_CONFIG naming the key and where it came
 * from. Known keys that this stage does not use are left out and named in `unused`.
 */
export function mergeConfig(stage: StageName, sources: readonly ConfigSource[]): { config: Partial<TrainConfig>; unused: string[] } {
  const config: Record<string, unknown> = {}
  const unused = new Set<string>()
  for (const source of sources) {
    for (const [key, value] of Object.entries(source.values)) {
      if (key === '$schema') continue // for editors
      const origin = source.at?.(key) ?? source.origin
      const rule = Object.hasOwn(CONFIG_KEYS, key) ? CONFIG_KEYS[key as ConfigKey] : undefined
      if (!rule) throw unknownKey(key, origin)
      if (!matches(rule.schema, value)) {
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

/** Where each key of some sources has its value from, the last source winning: `epochs` -> `config.json5:3`. */
export function configOrigins(sources: readonly ConfigSource[]): Map<string, string> {
  return new Map(
    sources.flatMap((source) =>
      Object.keys(source.values)
        .filter((key) => key !== '$schema')
        .map((key) => [key, source.at?.(key) ?? source.origin] as const),
    ),
  )
}

/** The keys that a stage uses. */
export function stageKeys(stage: StageName): ConfigKey[] {
  return (Object.keys(CONFIG_KEYS) as ConfigKey[]).filter((key) => CONFIG_KEYS[key].stages?.includes(stage) ?? true)
}

function unknownKey(key: string, origin: string): BgeError {
  const known = Object.keys(CONFIG_KEYS)
  const hint = didYouMean(key, known) || `; known keys: ${known.join(', ')}`
  return new BgeError('ERR_BGE_CONFIG', `${show(key)} is not a configuration key (${origin})${hint}`, { details: { key, origin } })
}

/** The properties of a stage's configuration, for schemas and recipes: what each key may be and what it is. */
export function configSchema(stage: StageName): Readonly<Record<string, Schema>> {
  return Object.fromEntries(stageKeys(stage).map((key) => [key, { ...CONFIG_KEYS[key].schema, description: CONFIG_KEYS[key].expected }]))
}

/** What a configuration file of `--config` may hold: schemas/train.schema.json is this object. Keys that a stage does not use are noted, not refused. */
export const TRAIN_SCHEMA: Schema = {
  $schema: 'https://json-schema.org/draft/2020-12/schema',
  title: 'Training configuration of bge-forge',
  type: 'object',
  additionalProperties: false,
  properties: {
    $schema: { type: 'string' },
    ...configSchema('pretrain'),
    ...configSchema('contrastive'),
  },
}

import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { readIfThere } from '../data/optional_file.js'
import { BgeError, invalidArgument, show } from '../errors.js'
import { Tokenizer } from '../tokenizer/tokenizer.js'
import { type ModelConfig, type Pooling, parseConfig } from './config.js'

type JsonObject = Record<string, unknown>

/** What a Hugging Face / sentence-transformers folder says about a model, weights and tokenizer apart. */
export interface ModelDescription {
  config: ModelConfig
  pooling: Pooling
  /** Whether the folder's pipeline L2-normalises. */
  normalize: boolean
  /** Longest sequence, [CLS] and [SEP] included; undefined: the folder does not say. */
  maxLength: number | undefined
  /** do_lower_case of sentence_bert_config.json: sentence-transformers lower-cases texts before the tokenizer. */
  lowerCase: boolean
  /** Prefix of queries: prompts.query of config_sentence_transformers.json, '' where there is none. */
  instruction: string
  /** config_sentence_transformers.json, kept on save. */
  sentenceConfig: Readonly<JsonObject>
}

/** Reads config.json and the sentence-transformers files. Errors: ERR_BGE_FILE, ERR_BGE_MODEL_FORMAT, ERR_BGE_POOLING. */
export async function readDescription(folder: string, pooling?: Pooling): Promise<ModelDescription> {
  if (pooling !== undefined) checkPooling(pooling)
  const json = await readJson(folder, 'config.json')
  if (json === undefined) throw new BgeError('ERR_BGE_FILE', `${folder} must hold config.json, but does not`)
  const config = parseConfig(json, join(folder, 'config.json'))
  const pipeline = await readPipeline(folder, pooling)
  const sentenceBert = (await readObject(folder, 'sentence_bert_config.json')) ?? {}
  const sentenceConfig = (await readObject(folder, 'config_sentence_transformers.json')) ?? {}
  const maxLength = sentenceBert.max_seq_length ?? undefined
  if (maxLength !== undefined && (!Number.isSafeInteger(maxLength) || (maxLength as number) < 3)) {
    throw format(folder, 'sentence_bert_config.json', 'max_seq_length', 'an integer of at least 3', maxLength)
  }
  const prompts = (sentenceConfig.prompts ?? {}) as JsonObject
  const instruction = prompts.query ?? ''
  if (typeof instruction !== 'string') throw format(folder, 'config_sentence_transformers.json', 'prompts.query', 'a string', instruction)
  return {
    config,
    ...pipeline,
    maxLength: maxLength as number | undefined,
    lowerCase: sentenceBert.do_lower_case === true,
    instruction,
    sentenceConfig,
  }
}

/** The tokenizer of a model folder, or of one with tokenizer files only, as BgeModel.load sets it up. Errors: ERR_BGE_TOKENIZER, ERR_BGE_MODEL_FORMAT. */
export async function loadTokenizer(folder: string): Promise<Tokenizer> {
  const sentenceBert = await readObject(folder, 'sentence_bert_config.json')
  return Tokenizer.load(folder, { lowerCase: sentenceBert?.do_lower_case === true })
}

/** Errors: ERR_BGE_ARGUMENT. */
export function checkPooling(pooling: unknown): void {
  if (pooling !== 'cls' && pooling !== 'mean') throw invalidArgument('pooling', '"cls" or "mean"', pooling)
}

/** modules.json names the steps of the pipeline; a step is known by the last part of its class name, which is the same in every version. */
async function readPipeline(folder: string, asked: Pooling | undefined): Promise<{ pooling: Pooling; normalize: boolean }> {
  const modules = await readJson(folder, 'modules.json')
  if (modules === undefined) {
    // Without modules.json nothing says "do not normalise"; BGE always does.
    const pooling = asked ?? (existsSync(join(folder, '1_Pooling', 'config.json')) ? await readPooling(folder, '1_Pooling') : undefined)
    if (pooling === undefined) throw unknownPooling(folder, 'has no modules.json and no 1_Pooling/config.json')
    return { pooling, normalize: true }
  }
  if (!Array.isArray(modules)) throw format(folder, 'modules.json', 'its content', 'an array of modules', modules)
  let pooling = asked
  let normalize = false
  for (const [i, module] of (modules as (JsonObject | null)[]).entries()) {
    const name = String(module?.type).split('.').at(-1)
    if (name === 'Normalize') normalize = true
    else if (name === 'Pooling') pooling ??= await readPooling(folder, String(module?.path ?? ''))
    else if (name !== 'Transformer')
      throw format(folder, 'modules.json', `[${i}].type`, 'a Transformer, Pooling or Normalize module', module?.type)
  }
  if (pooling === undefined) throw unknownPooling(folder, 'has a modules.json without a Pooling module')
  return { pooling, normalize }
}

function unknownPooling(folder: string, what: string): BgeError {
  return new BgeError(
    'ERR_BGE_POOLING',
    `${folder} ${what}, so how to pool is unknown and will not be guessed: for a BGE model pass { pooling: 'cls' } or --pooling cls, or add modules.json and 1_Pooling/config.json with "pooling_mode_cls_token": true`,
  )
}

const oldModes: Readonly<Record<string, string>> = {
  pooling_mode_cls_token: 'cls',
  pooling_mode_mean_tokens: 'mean',
  pooling_mode_max_tokens: 'max',
  pooling_mode_mean_sqrt_len_tokens: 'mean_sqrt_len_tokens',
  pooling_mode_weightedmean_tokens: 'weightedmean',
  pooling_mode_lasttoken: 'lasttoken',
}

async function readPooling(folder: string, path: string): Promise<Pooling> {
  const name = join(path, 'config.json')
  const config = await readObject(folder, name)
  if (config === undefined) throw unknownPooling(folder, `has no ${name}`)
  const { pooling_mode: mode } = config
  const modes =
    mode !== undefined
      ? [mode].flat()
      : Object.keys(oldModes)
          .filter((key) => config[key] === true)
          .map((key) => oldModes[key])
  const [pooling] = modes
  if (modes.length !== 1 || (pooling !== 'cls' && pooling !== 'mean')) {
    throw new BgeError(
      'ERR_BGE_POOLING',
      `${join(folder, name)}: pooling must be cls or mean, but was ${modes.length === 0 ? 'none' : modes.join(' + ')}`,
    )
  }
  if (pooling === 'mean' && config.include_prompt === false) {
    throw new BgeError(
      'ERR_BGE_POOLING',
      `${join(folder, name)}: include_prompt must be true, but was false (a mean without the instruction's tokens)`,
    )
  }
  return pooling
}

async function readJson(folder: string, name: string): Promise<unknown> {
  const file = join(folder, name)
  const text = await readIfThere(file)
  if (text === undefined) return undefined
  try {
    return JSON.parse(text)
  } catch (cause) {
    throw new BgeError('ERR_BGE_MODEL_FORMAT', `${file} is not valid JSON: ${(cause as Error).message}`, { cause })
  }
}

async function readObject(folder: string, name: string): Promise<JsonObject | undefined> {
  const value = await readJson(folder, name)
  if (value === undefined) return undefined
  if (value === null || typeof value !== 'object' || Array.isArray(value)) throw format(folder, name, 'its content', 'a JSON object', value)
  return value as JsonObject
}

function format(folder: string, name: string, key: string, expected: string, actual: unknown): BgeError {
  return new BgeError('ERR_BGE_MODEL_FORMAT', `${join(folder, name)}: ${key} must be ${expected}, but was ${show(actual)}`)
}

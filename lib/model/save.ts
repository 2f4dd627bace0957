import { randomBytes } from 'node:crypto'
import { existsSync } from 'node:fs'
import { mkdir, open, readdir, realpath, rename, rm, writeFile } from 'node:fs/promises'
import { basename, dirname, join, resolve } from 'node:path'
import { BgeError, show } from '../errors.js'
import { tokenizerFileNames } from '../tokenizer/definition.js'
import { type Calibration, calibrationFile } from './calibrate.js'
import { type NamedTensor, openCheckpoint, readTensor } from './checkpoint.js'
import { configJson } from './config.js'
import type { ModelDescription } from './folder.js'
import { readDescription } from './folder.js'
import { type StoredType, type TensorToWrite, writeSafetensors } from './safetensors.js'
import { checkFinite } from './weights.js'

/** Tensors that are read one at a time: a module, or an average of several. */
export interface TensorSource {
  readonly parameters: {
    readonly list: readonly { readonly name: string; readonly shape: readonly number[] }[]
    read(name: string): Promise<Float32Array>
  }
}

/** Everything a model folder is made of. */
export interface FolderContent extends ModelDescription {
  maxLength: number
  padId: number
  tokenizerFiles: ReadonlyMap<string, Buffer>
  encoder: TensorSource
  mlmHead: TensorSource | undefined
  /** pooler and other tensors the model came with */
  others: ReadonlyMap<string, NamedTensor>
  calibration?: Calibration | undefined
  /** what the weights are written as; 'F16' needs values that are half precision already, or they do not read back equal. Default 'F32' */
  stored?: StoredType
}

const ownFiles = [
  'config.json',
  'model.safetensors',
  'modules.json',
  '1_Pooling',
  '2_Normalize',
  'sentence_bert_config.json',
  'config_sentence_transformers.json',
  calibrationFile,
]
/** What a folder may hold to be replaced: nothing of a user's own is ever deleted. */
const replaceable = new Set([...ownFiles, ...tokenizerFileNames, 'pytorch_model.bin', 'training_args.bin'])

/**
 * Writes a complete Hugging Face + sentence-transformers folder. It is made beside `folder`, synced, read back and compared (descriptions, number of
 * tensors, every byte, and what `verify` does), and only then renamed into place; a model folder that was there is replaced.
 * Errors: ERR_BGE_NON_FINITE for weights that are not finite, else ERR_BGE_SAVE; then nothing has changed on disk.
 */
export async function saveFolder(folder: string, content: FolderContent, verify: (written: string) => Promise<void>): Promise<void> {
  let temporary: string | undefined
  try {
    const target = existsSync(folder) ? await realpath(folder) : resolve(folder)
    await checkReplaceable(target)
    await mkdir(dirname(target), { recursive: true })
    temporary = join(dirname(target), `.${basename(target)}.${randomBytes(6).toString('hex')}`)
    await mkdir(temporary)
    const tensors = tensorsOf(content)
    await writeFolder(temporary, content, tensors)
    await compare(temporary, content, tensors)
    await verify(temporary)
    await swap(temporary, target)
  } catch (cause) {
    if (temporary !== undefined) await rm(temporary, { recursive: true, force: true }).catch(() => {})
    if (cause instanceof BgeError && cause.code === 'ERR_BGE_NON_FINITE') throw cause
    throw new BgeError('ERR_BGE_SAVE', `${folder} could not be saved and is as it was before: ${(cause as Error).message}`, { cause })
  }
}

async function checkReplaceable(target: string): Promise<void> {
  if (!existsSync(target)) return
  const foreign = (await readdir(target)).find(
    (name) => !replaceable.has(name) && !/^(model|pytorch_model)[-.].*\.(safetensors|bin|json)$/.test(name),
  )
  if (foreign !== undefined) throw new Error(`it also holds ${show(foreign)}, which does not belong to a model folder and would be lost`)
}

/** With an MLM head the layout of BertForMaskedLM (`bert.` prefix), else that of a bare BertModel. */
function tensorsOf({ encoder, mlmHead, others }: FolderContent): TensorToWrite[] {
  const stored = (name: string): string => (mlmHead !== undefined && /^(embeddings|encoder|pooler)\./.test(name) ? `bert.${name}` : name)
  const module = ({ parameters }: TensorSource): TensorToWrite[] =>
    parameters.list.map(({ name, shape }) => ({
      name: stored(name),
      shape,
      read: async () => {
        const values = await parameters.read(name)
        checkFinite(values, name, 'the model to save')
        return values
      },
    }))
  const extra = [...others].map(([name, { shape, values }]) => ({ name: stored(name), shape, read: () => values }))
  return [...module(encoder), ...extra, ...(mlmHead === undefined ? [] : module(mlmHead))]
}

async function writeFolder(folder: string, content: FolderContent, tensors: TensorToWrite[]): Promise<void> {
  for (const [name, json] of Object.entries(jsonFiles(content))) {
    await mkdir(dirname(join(folder, name)), { recursive: true })
    await writeFile(join(folder, name), `${JSON.stringify(json, null, 2)}\n`, { flush: true })
  }
  for (const [name, bytes] of content.tokenizerFiles) await writeFile(join(folder, name), bytes, { flush: true })
  await writeSafetensors(join(folder, 'model.safetensors'), tensors, content.stored)
  for (const path of [join(folder, '1_Pooling'), ...(content.normalize ? [join(folder, '2_Normalize')] : []), folder])
    await syncDirectory(path)
}

function jsonFiles(content: FolderContent): Record<string, unknown> {
  const { config, pooling, normalize, sentenceConfig, instruction } = content
  const module = (idx: number, path: string, name: string): unknown => ({
    idx,
    name: String(idx),
    path,
    type: `sentence_transformers.models.${name}`,
  })
  return {
    'config.json': configJson(config, content.mlmHead === undefined ? 'BertModel' : 'BertForMaskedLM', content.padId, content.stored),
    ...(content.calibration && { [calibrationFile]: content.calibration }),
    // The class names of sentence-transformers 2, which every later version understands.
    'modules.json': [
      module(0, '', 'Transformer'),
      module(1, '1_Pooling', 'Pooling'),
      ...(normalize ? [module(2, '2_Normalize', 'Normalize')] : []),
    ],
    '1_Pooling/config.json': {
      word_embedding_dimension: config.hidden,
      pooling_mode_cls_token: pooling === 'cls',
      pooling_mode_mean_tokens: pooling === 'mean',
      pooling_mode_max_tokens: false,
      pooling_mode_mean_sqrt_len_tokens: false,
    },
    // Normalize has no settings; the file keeps the folder alive where empty ones are lost (git, npm).
    ...(normalize ? { '2_Normalize/config.json': {} } : {}),
    'sentence_bert_config.json': { max_seq_length: content.maxLength, do_lower_case: content.lowerCase },
    'config_sentence_transformers.json': {
      default_prompt_name: null,
      similarity_fn_name: 'cosine',
      ...sentenceConfig,
      prompts: { document: '', ...(sentenceConfig.prompts as Record<string, unknown> | undefined), query: instruction },
    },
  }
}

async function compare(folder: string, content: FolderContent, tensors: readonly TensorToWrite[]): Promise<void> {
  const written = await readDescription(folder)
  for (const key of ['pooling', 'normalize', 'maxLength', 'lowerCase', 'instruction'] as const) {
    if (written[key] !== content[key]) throw new Error(`${key} was ${show(content[key])}, but reads back as ${show(written[key])}`)
  }
  const checkpoint = await openCheckpoint(folder)
  try {
    if (checkpoint.tensors.size !== tensors.length)
      throw new Error(`${tensors.length} tensors were written, but ${checkpoint.tensors.size} read back`)
    for (const { name, shape, read } of tensors) {
      const back = await readTensor(checkpoint, name.replace(/^bert\./, ''), shape)
      if (bytes(back).compare(bytes(await read())) !== 0) throw new Error(`tensor "${name}" does not read back as it was written`)
    }
  } finally {
    await checkpoint.close()
  }
}

function bytes(values: Float32Array): Buffer {
  return Buffer.from(values.buffer, values.byteOffset, values.byteLength)
}

/** The old folder steps aside and comes back if the new one cannot take its place. */
async function swap(temporary: string, target: string): Promise<void> {
  const old = `${temporary}.old`
  const replacing = existsSync(target)
  if (replacing) await rename(target, old)
  try {
    await rename(temporary, target)
  } catch (error) {
    if (replacing) await rename(old, target)
    throw error
  }
  await syncDirectory(dirname(target))
  // The new folder is in place: what is left of the old one is only litter, and no reason to call the save failed.
  if (replacing) await rm(old, { recursive: true, force: true }).catch(() => {})
}

async function syncDirectory(path: string): Promise<void> {
  if (process.platform === 'win32') return // folders cannot be synced there
  const handle = await open(path, 'r')
  try {
    await handle.sync()
  } finally {
    await handle.close()
  }
}

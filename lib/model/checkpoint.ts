import { existsSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { BgeError, show } from '../errors.js'
import type { Module } from './parameters.js'
import { openSafetensors } from './safetensors.js'
import { openTorch } from './torch.js'
import { checkFinite, type WeightSource } from './weights.js'

/** A tensor of a model folder under its name in a bare BertModel (no `bert.` prefix). */
export interface StoredTensor {
  file: string
  shape: readonly number[]
  read(): Promise<Float32Array>
}

/** The weights of a model folder. Close when done. */
export interface Checkpoint {
  /** The folder, for messages. */
  folder: string
  tensors: ReadonlyMap<string, StoredTensor>
  close(): Promise<void>
}

export interface NamedTensor {
  shape: readonly number[]
  values: Float32Array
}

/**
 * Opens model.safetensors (or its sharded index), else pytorch_model.bin (or its index). Names lose a `bert.` prefix; LayerNorm.gamma and
 * .beta, as the first PyTorch BERTs had them, become weight and bias. Errors: ERR_BGE_FILE, ERR_BGE_MODEL_FORMAT.
 */
export async function openCheckpoint(folder: string): Promise<Checkpoint> {
  const sources: WeightSource[] = []
  const close = async (): Promise<void> => {
    for (const source of sources) await source.close()
  }
  try {
    for (const file of await weightFiles(folder))
      sources.push(await (file.endsWith('.safetensors') ? openSafetensors(file) : openTorch(file)))
    const tensors = new Map<string, StoredTensor>()
    for (const source of sources) {
      for (const [stored, { shape }] of source.tensors) {
        const name = bareName(stored)
        if (tensors.has(name))
          throw new BgeError(
            'ERR_BGE_MODEL_FORMAT',
            `${source.file}: tensor "${name}" is stored twice (as "${stored}" and under another name)`,
          )
        tensors.set(name, { file: source.file, shape, read: () => source.read(stored) })
      }
    }
    return { folder, tensors, close }
  } catch (error) {
    await close()
    throw error
  }
}

function bareName(stored: string): string {
  return stored
    .replace(/^bert\./, '')
    .replace(/LayerNorm\.gamma$/, 'LayerNorm.weight')
    .replace(/LayerNorm\.beta$/, 'LayerNorm.bias')
}

async function weightFiles(folder: string): Promise<string[]> {
  for (const name of ['model.safetensors', 'pytorch_model.bin']) {
    const file = join(folder, name)
    if (existsSync(file)) return [file]
    const index = `${file}.index.json`
    if (existsSync(index)) return shards(folder, index)
  }
  throw new BgeError('ERR_BGE_FILE', `${folder} must hold model.safetensors or pytorch_model.bin, but holds neither`)
}

async function shards(folder: string, index: string): Promise<string[]> {
  let map: unknown
  try {
    map = (JSON.parse(await readFile(index, 'utf8')) as { weight_map?: unknown } | null)?.weight_map
  } catch (cause) {
    throw new BgeError('ERR_BGE_MODEL_FORMAT', `${index} is not valid JSON: ${(cause as Error).message}`, { cause })
  }
  const names = map !== null && typeof map === 'object' ? [...new Set(Object.values(map))].sort() : []
  for (const name of names) {
    if (typeof name !== 'string' || name !== name.replace(/[/\\]/g, ''))
      throw new BgeError('ERR_BGE_MODEL_FORMAT', `${index}: a shard must be a file name, but was ${show(name)}`)
  }
  if (names.length === 0) throw new BgeError('ERR_BGE_MODEL_FORMAT', `${index} must hold a weight_map from tensor to file, but does not`)
  return names.map((name) => join(folder, name as string))
}

/** Reads one tensor, checked against the shape it must have. Errors: ERR_BGE_MODEL_FORMAT, ERR_BGE_NON_FINITE; they name tensor, shapes and file. */
export async function readTensor(checkpoint: Checkpoint, name: string, shape: readonly number[]): Promise<Float32Array> {
  const tensor = checkpoint.tensors.get(name)
  if (tensor === undefined) {
    throw new BgeError(
      'ERR_BGE_MODEL_FORMAT',
      `${checkpoint.folder}: tensor "${name}" of shape [${shape.join(', ')}] is missing from the weights`,
      { details: { name } },
    )
  }
  if (tensor.shape.length !== shape.length || tensor.shape.some((size, i) => size !== shape[i])) {
    const actual = `[${tensor.shape.join(', ')}]`
    throw new BgeError(
      'ERR_BGE_MODEL_FORMAT',
      `${tensor.file}: tensor "${name}" must have shape [${shape.join(', ')}], but has ${actual}`,
      { details: { name } },
    )
  }
  const values = await tensor.read()
  checkFinite(values, name, tensor.file)
  return values
}

/** Fills a module from a checkpoint. */
export async function loadParameters(module: Module, checkpoint: Checkpoint): Promise<void> {
  const { parameters } = module
  for (const { name, shape } of parameters.list) await parameters.write(name, await readTensor(checkpoint, name, shape))
}

/**
 * The tensors that are not in `known`: the pooler and whatever else a folder carries. Kept in memory so that a save can write them again.
 * Errors: ERR_BGE_MODEL_FORMAT for a tensor of the encoder that config.json knows nothing of: leaving it out would compute another model.
 */
export async function readOthers(checkpoint: Checkpoint, known: (name: string) => boolean): Promise<Map<string, NamedTensor>> {
  const others = new Map<string, NamedTensor>()
  for (const [name, tensor] of checkpoint.tensors) {
    // position_ids is 0, 1, 2, ...: a buffer, and an integer one; some converters wrote it as floats.
    if (known(name) || name === 'embeddings.position_ids') continue
    if (/^(embeddings|encoder)\./.test(name)) {
      throw new BgeError(
        'ERR_BGE_MODEL_FORMAT',
        `${tensor.file}: tensor "${name}" has no place in the BERT encoder that config.json describes (fewer layers, or another architecture)`,
        { details: { name } },
      )
    }
    others.set(name, { shape: tensor.shape, values: await readTensor(checkpoint, name, tensor.shape) })
  }
  return others
}

import { BgeError } from '../errors.js'
import type { Device, Encoder, MlmHead } from '../native.js'
import { type Checkpoint, type NamedTensor, readTensor } from './checkpoint.js'
import { initialiseParameters, writeParameters } from './parameters.js'

/** A model with the head its folder came with, if any; a BgeModel is one. */
export interface ModelWithHead {
  readonly device: Device
  readonly encoder: Encoder
  /** cls.predictions.* of the folder; undefined: it has no MLM head */
  readonly storedMlmHead: ReadonlyMap<string, NamedTensor> | undefined
}

const prefix = 'cls.predictions.'

/** True for a tensor of cls.predictions, by its bare name. */
export function isMlmHeadTensor(name: string): boolean {
  return name.startsWith(prefix)
}

/**
 * Reads the head's own tensors. Its output matrix must be the word embeddings (tied, as in every released BERT), so it is compared and dropped.
 * Errors: ERR_BGE_MODEL_FORMAT, ERR_BGE_NON_FINITE.
 */
export async function readMlmHead(checkpoint: Checkpoint, wordEmbeddings: Float32Array): Promise<Map<string, NamedTensor> | undefined> {
  const head = new Map<string, NamedTensor>()
  for (const [name, { shape, file }] of checkpoint.tensors) {
    if (!isMlmHeadTensor(name)) continue
    const values = await readTensor(checkpoint, name, shape)
    if (name !== `${prefix}decoder.weight`) head.set(name, { shape, values })
    else if (values.length !== wordEmbeddings.length || values.some((x, i) => x !== wordEmbeddings[i])) {
      throw new BgeError(
        'ERR_BGE_MODEL_FORMAT',
        `${file}: tensor "${name}" must equal embeddings.word_embeddings.weight (tied), but differs`,
      )
    }
  }
  // Newer files store the output bias under both names, or under the second alone.
  const bias = head.get(`${prefix}decoder.bias`)
  head.delete(`${prefix}decoder.bias`)
  if (bias !== undefined && !head.has(`${prefix}bias`)) head.set(`${prefix}bias`, bias)
  return head.size === 0 ? undefined : head
}

/**
 * The MLM head of a model: with the weights of its folder, else new ones (N(0, 0.02), LayerNorm 1 and 0) that depend on `seed` alone.
 * Errors: ERR_BGE_MODEL_FORMAT for a head that is stored in part.
 */
export async function loadMlmHead(model: ModelWithHead, seed: number): Promise<MlmHead> {
  const head = model.device.mlmHead(model.encoder)
  try {
    const stored = model.storedMlmHead
    if (stored === undefined) await initialiseParameters(head, seed)
    else await writeParameters(head, new Map([...stored].map(([name, { values }]) => [name, values])))
    return head
  } catch (error) {
    head.dispose()
    throw error
  }
}

import { BgeError, invalidArgument, show } from '../errors.js'
import { type Checkpoint, openCheckpoint, readTensor } from './checkpoint.js'
import type { ModelConfig } from './config.js'
import { loadTokenizer, type ModelDescription, readDescription } from './folder.js'
import { resolveInstruction } from './instruction.js'
import { isMlmHeadTensor } from './mlm_head.js'
import { saveFolder, type TensorSource } from './save.js'

/** A model folder and its share of the merged model. */
export interface MergePart {
  readonly model: string
  /** from 0 to 1; the weights of all parts sum to 1 */
  readonly weight: number
}

/** Of `mergeModels`. */
export interface MergeOptions {
  /** model folder to write; a model folder that is there is replaced when all is written */
  out: string
  /** of the merged model: a text, 'zh', 'en' or ''. Default: the first part's */
  instruction?: string
}

/**
 * Averages models: each tensor is sum_i weight_i tensor_i, summed in float64 (LM-Cocktail, arXiv 2311.13534; docs/recipes.md 4). Models must have the
 * same shape, tokenizer, pooling and tensors; the first gives everything else. An MLM head is left out: it is no part of an embedding model. Memory is one
 * tensor of each model: a tensor is read, averaged and written before the next.
 * Errors: ERR_BGE_ARGUMENT for weights that do not sum to 1, ERR_BGE_MODEL_FORMAT for models that differ, ERR_BGE_FILE, ERR_BGE_NON_FINITE, ERR_BGE_SAVE.
 * @example
 * await mergeModels([{ model: 'with', weight: 0.5 }, { model: 'without', weight: 0.5 }], { out: 'merged' })
 */
export async function mergeModels(parts: readonly MergePart[], { out, instruction }: MergeOptions): Promise<void> {
  checkWeights(parts)
  const first = parts[0]!.model
  const description = await readDescription(first)
  const tokenizer = await loadTokenizer(first)
  for (const { model } of parts.slice(1)) {
    const other = await readDescription(model)
    for (const [what, a, b] of comparison(description, other)) if (a !== b) throw differ(model, first, what, b, a)
    const { fingerprint } = await loadTokenizer(model)
    if (fingerprint !== tokenizer.fingerprint) throw differ(model, first, 'tokenizer', 'another', 'one')
  }
  const checkpoints: Checkpoint[] = []
  try {
    for (const { model } of parts) checkpoints.push(await openCheckpoint(model))
    const { maxPositions } = description.config
    const encoder = { parameters: averaged(checkpoints, parts) }
    const content = {
      ...description,
      maxLength: Math.min(description.maxLength ?? tokenizer.modelMaxLength ?? maxPositions, maxPositions),
      instruction: instruction === undefined ? description.instruction : resolveInstruction(instruction),
      padId: tokenizer.padId,
      tokenizerFiles: tokenizer.files,
      encoder,
      mlmHead: undefined,
      others: new Map(),
      calibration: undefined, // the parts' cosines are not the merged model's
    }
    await saveFolder(out, content, async () => {})
  } finally {
    for (const checkpoint of checkpoints) await checkpoint.close()
  }
}

function checkWeights(parts: readonly MergePart[]): void {
  if (parts.length < 2) throw invalidArgument('parts', 'at least two models', parts)
  for (const { model, weight } of parts)
    if (!(weight >= 0 && weight <= 1)) throw invalidArgument(`the weight of ${model}`, 'a number from 0 to 1', weight)
  const sum = parts.reduce((total, { weight }) => total + weight, 0)
  if (Math.abs(sum - 1) > 1e-6) throw invalidArgument('the sum of the weights', '1', sum)
}

/** What two models must share, besides tokenizer and tensors. */
function comparison(a: ModelDescription, b: ModelDescription): (readonly [what: string, a: unknown, b: unknown])[] {
  const shape: (keyof ModelConfig)[] = ['layers', 'hidden', 'heads', 'intermediate', 'vocab', 'maxPositions', 'typeVocab', 'layerNormEps']
  return [
    ...shape.map((key) => [key, a.config[key], b.config[key]] as const),
    ['pooling', a.pooling, b.pooling],
    ['normalisation', a.normalize, b.normalize],
    ['lower-casing', a.lowerCase, b.lowerCase],
  ]
}

/** The tensors of the models as one module whose values are made when they are asked for. */
function averaged(checkpoints: readonly Checkpoint[], parts: readonly MergePart[]): TensorSource['parameters'] {
  const namesOf = ({ tensors }: Checkpoint): string[] =>
    [...tensors.keys()].filter((name) => !isMlmHeadTensor(name) && name !== 'embeddings.position_ids')
  const [first, ...others] = checkpoints as [Checkpoint, ...Checkpoint[]]
  const names = namesOf(first)
  for (const other of others) {
    const theirs = namesOf(other)
    const extra = theirs.find((name) => !first.tensors.has(name)) ?? names.find((name) => !other.tensors.has(name))
    if (extra !== undefined) {
      const [has, lacks] = first.tensors.has(extra) ? [first, other] : [other, first]
      throw new BgeError(
        'ERR_BGE_MODEL_FORMAT',
        `models to merge must have the same tensors, but ${show(extra)} is in ${has.folder} and not in ${lacks.folder}`,
        {
          details: { name: extra },
        },
      )
    }
  }
  const list = names.map((name) => ({ name, shape: first.tensors.get(name)!.shape }))
  const shapes = new Map(list.map(({ name, shape }) => [name, shape]))
  return {
    list,
    async read(name) {
      let sum = new Float64Array(0)
      for (const [i, { weight }] of parts.entries()) {
        const values = await readTensor(checkpoints[i]!, name, shapes.get(name)!)
        if (i === 0) sum = new Float64Array(values.length)
        for (let at = 0; at < values.length; at++) sum[at]! += weight * values[at]!
      }
      return Float32Array.from(sum)
    },
  }
}

function differ(model: string, first: string, what: string, actual: unknown, expected: unknown): BgeError {
  return new BgeError(
    'ERR_BGE_MODEL_FORMAT',
    `models to merge must have the same ${what}, but ${first} has ${String(expected)} and ${model} ${String(actual)}`,
    { details: { what } },
  )
}

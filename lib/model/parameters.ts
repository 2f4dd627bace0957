import { BgeError } from '../errors.js'
import type { Parameters } from '../native.js'
import { normals } from './random.js'
import { elements } from './weights.js'

/** Anything with parameters: an encoder, an MLM head, an enhanced decoder. */
export interface Module {
  readonly parameters: Parameters
}

/** All parameters of a module, by Hugging Face name, in the order of its table. */
export async function readParameters(module: Module): Promise<Map<string, Float32Array>> {
  const values = new Map<string, Float32Array>()
  for (const { name } of module.parameters.list) values.set(name, await module.parameters.read(name))
  return values
}

/** Writes all parameters of a module. Errors: ERR_BGE_MODEL_FORMAT where `values` lacks one or has one of another size; nothing is written then. */
export async function writeParameters(module: Module, values: ReadonlyMap<string, Float32Array>): Promise<void> {
  for (const { name, shape } of module.parameters.list) {
    const size = values.get(name)?.length
    if (size !== elements(shape)) {
      throw new BgeError(
        'ERR_BGE_MODEL_FORMAT',
        `tensor "${name}" must have shape [${shape.join(', ')}], but ${size === undefined ? 'is missing' : `has ${size} elements`}`,
      )
    }
  }
  for (const { name } of module.parameters.list) await module.parameters.write(name, values.get(name) as Float32Array)
}

/** BERT's initialisation: matrices N(0, 0.02), LayerNorm weights 1, biases 0. The same seed and name give the same values. */
export async function initialiseParameters(module: Module, seed: number): Promise<void> {
  for (const { name, shape } of module.parameters.list) await module.parameters.write(name, initialValues(name, shape, seed))
}

/** What `initialiseParameters` writes to one tensor. `range`: the standard deviation of matrices (config.json's initializer_range). */
export function initialValues(name: string, shape: readonly number[], seed: number, range = 0.02): Float32Array {
  const size = elements(shape)
  if (name.endsWith('.bias')) return new Float32Array(size)
  if (name.endsWith('LayerNorm.weight')) return new Float32Array(size).fill(1)
  return normals(size, range, seed, name)
}

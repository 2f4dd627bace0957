import { BgeError, show } from '../errors.js'

/** Anything that turns texts into vectors; a BgeModel is one. */
export interface Embedder {
  /** D, the width of a vector */
  readonly dims: number
  /** data (N, D) row-major, one row per text, in the order of `texts`. The instruction is put before every text. */
  encode(texts: readonly string[], options?: EncodeOptions): Promise<{ readonly data: Float32Array }>
}

export interface EncodeOptions {
  instruction?: string
  maxLength?: number
  signal?: AbortSignal
  /** told how many of the texts are ready; an embedder need not call it */
  onProgress?: (progress: { done: number; total: number }) => void
}

/** The vectors of a list of texts, equal texts sharing one row. */
export interface Vectors {
  /** (U, D) one row per distinct text */
  readonly data: Float32Array
  readonly dims: number
  /** (N) row of each text */
  readonly rows: Int32Array
  /** row r of data, a view */
  vector(row: number): Float32Array
}

/**
 * Encodes every distinct text once, so that equal texts have bit-equal vectors and exactly equal scores. `scale`: 'unit' L2-normalises the
 * rows (the default), 'raw' leaves them as the model gives them.
 * Throws ERR_BGE_NON_FINITE for a vector with NaN or infinity and ERR_BGE_SHAPE for a result of the wrong size.
 */
export async function encodeDistinct(
  embedder: Embedder,
  texts: readonly string[],
  options: EncodeOptions = {},
  scale: 'unit' | 'raw' = 'unit',
): Promise<Vectors> {
  const numbers = new Map<string, number>()
  const rows = Int32Array.from(texts, (text) => {
    const known = numbers.get(text) ?? numbers.size
    numbers.set(text, known)
    return known
  })
  const distinct = [...numbers.keys()]
  const dims = embedder.dims
  const encoded = distinct.length === 0 ? new Float32Array(0) : (await embedder.encode(distinct, options)).data
  if (encoded.length !== distinct.length * dims) {
    throw new BgeError('ERR_BGE_SHAPE', `encode must return ${distinct.length} x ${dims} numbers, but returned ${encoded.length}`)
  }
  const data = Float32Array.from(encoded)
  const vector = (row: number): Float32Array => data.subarray(row * dims, (row + 1) * dims)
  for (const [row, text] of distinct.entries()) {
    if (!(scale === 'unit' ? normalize(vector(row)) : vector(row).every(Number.isFinite))) {
      throw new BgeError('ERR_BGE_NON_FINITE', `the embedding of text ${show(text)} holds NaN or infinity, so nothing can be ranked by it`)
    }
  }
  return { data, dims, rows, vector }
}

/** x / |x| in place, as torch.nn.functional.normalize; false where x is not finite. A zero vector stays zero. */
function normalize(x: Float32Array): boolean {
  let sum = 0
  for (const value of x) sum += value * value
  if (!Number.isFinite(sum)) return false
  const norm = Math.max(Math.fround(Math.sqrt(sum)), 1e-12)
  for (let i = 0; i < x.length; i++) x[i]! /= norm
  return true
}

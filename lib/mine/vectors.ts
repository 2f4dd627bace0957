import { BgeError } from '../errors.js'
import { encodeDistinct, type EncodeOptions } from '../model/embedder.js'
import { arithmeticOf, openVectorCache, textKey, type VectorCache } from '../model/vector_cache.js'
import type { KeptModel } from './options.js'
import type { Pool } from './pool.js'

/** L2-normalised vectors of texts under one instruction, on disk: a text is encoded once, whatever run asks. */
export interface KeptVectors {
  readonly dims: number
  /** texts that the model has encoded */
  readonly encoded: number
  /** Encodes what is missing or damaged; returns where the vectors (N) are. Throws ERR_BGE_NON_FINITE, ERR_BGE_SHAPE, ERR_BGE_FILE. */
  ensure(texts: readonly string[]): Promise<Int32Array>
  /** @param places (N) of ensure() @param out (N, D) */
  read(places: Int32Array, out: Float32Array): void
  close(): void
}

/** Texts encoded at a time: what a kill loses at most. */
export const WINDOW = 2048

export interface VectorOptions {
  readonly directory: string
  readonly instruction: string
  readonly signal: AbortSignal | undefined
}

export async function keptVectors(model: KeptModel, fingerprint: string, options: VectorOptions): Promise<KeptVectors> {
  const { directory, instruction, signal } = options
  const { dims } = model
  const space = {
    fingerprint,
    device: arithmeticOf(model.device),
    instruction,
    maxLength: model.maxLength ?? null,
    scale: 'unit',
  } as const
  const cache: VectorCache = await openVectorCache(directory, space, dims)
  const encodeOptions: EncodeOptions = { ...(instruction !== '' && { instruction }), ...(signal && { signal }) }
  let encoded = 0
  const ensureWindow = async (texts: readonly string[]): Promise<Int32Array> => {
    const keys = texts.map(textKey)
    const places = Int32Array.from(keys, cache.place)
    const known = [...keys.keys()].filter((i) => places[i]! >= 0)
    const scratch = new Float32Array(known.length * dims)
    const damaged = cache.read(
      Int32Array.from(known, (i) => places[i]!),
      scratch,
    )
    for (const n of damaged) places[known[n]!] = -1
    const missing = new Map<string, string>()
    for (const [i, key] of keys.entries()) if (places[i]! < 0) missing.set(key, texts[i]!)
    if (missing.size > 0) {
      signal?.throwIfAborted()
      const { data } = await encodeDistinct(model, [...missing.values()], encodeOptions)
      cache.put([...missing.keys()], data)
      encoded += missing.size
      for (const [i, key] of keys.entries()) if (places[i]! < 0) places[i] = cache.place(key)
    }
    return places
  }
  return {
    dims,
    get encoded() {
      return encoded
    },
    async ensure(texts) {
      const places = new Int32Array(texts.length)
      for (let first = 0; first < texts.length; first += WINDOW) places.set(await ensureWindow(texts.slice(first, first + WINDOW)), first)
      return places
    },
    read(places, out) {
      if (cache.read(places, out).length === 0) return
      throw new BgeError('ERR_BGE_FILE', `embedding cache ${directory} holds vectors that were damaged while they were in use: run again`)
    },
    close: cache.close,
  }
}

/** The vectors of a pool's passages, made when they are asked for: 4 bytes of memory a passage beside the cache's own. */
export interface PassageVectors {
  readonly vectors: KeptVectors
  /** (N) where they are; -1: not made yet */
  readonly places: Int32Array
  /** Makes those of the passages [0, end). */
  prepareUpTo(end: number, onProgress: (done: number) => void): Promise<void>
  prepare(numbers: Iterable<number>): Promise<void>
  /** cosines of a query (D) and prepared passages, rounded to float32 */
  scores(query: Float32Array, numbers: readonly number[]): number[]
}

export function passageVectors(vectors: KeptVectors, { texts }: Pick<Pool, 'texts'>): PassageVectors {
  const { dims } = vectors
  const places = new Int32Array(texts.size).fill(-1)
  return {
    vectors,
    places,
    async prepareUpTo(end, onProgress) {
      for (let first = 0; first < end; first += WINDOW) {
        const last = Math.min(end, first + WINDOW)
        places.set(await vectors.ensure(texts.slice(first, last)), first)
        onProgress(last)
      }
    },
    async prepare(numbers) {
      const missing = [...new Set(numbers)].filter((number) => places[number]! < 0).sort((a, b) => a - b)
      for (let first = 0; first < missing.length; first += WINDOW) {
        const window = missing.slice(first, first + WINDOW)
        const made = await vectors.ensure(window.map((number) => texts.at(number)))
        for (const [i, number] of window.entries()) places[number] = made[i]!
      }
    },
    scores(query, numbers) {
      const rows = new Float32Array(numbers.length * dims)
      vectors.read(
        Int32Array.from(numbers, (number) => places[number]!),
        rows,
      )
      return numbers.map((_, n) => {
        let sum = 0
        for (let d = 0; d < dims; d++) sum += query[d]! * rows[n * dims + d]!
        return Math.fround(sum)
      })
    },
  }
}

import { BgeError } from '../errors.js'
import type { Embedder, EncodeOptions } from '../model/embedder.js'
import { memoryStore, openVectorCache, textKey, type VectorSpace, type VectorStore } from './vector_cache.js'

/** How far the encoding of one list of texts is. Tokens are estimated from characters: in Chinese one each. */
export interface EncodingProgress {
  readonly tokens: number
  readonly totalTokens: number
  readonly texts: number
  readonly totalTexts: number
  /** of this list so far */
  readonly seconds: number
}

export interface RunEmbedderOptions {
  /** folder of a cache on disk; needs `space`. Without it vectors are kept in memory, up to MEMORY */
  directory?: string
  space?: Omit<VectorSpace, 'instruction' | 'maxLength'>
  onProgress?: (progress: EncodingProgress) => void
}

export interface RunEmbedder extends Embedder {
  close(): void
}

/** Vectors that a run without a cache keeps: what does not fit is encoded again where another task needs it. */
const MEMORY = 1 << 30
/** Texts given to the model at a time: what an interrupted run loses at most. */
const BLOCK = 8192
/** Where neither the caller nor the model says: BERT's. */
const LONGEST = 512

/**
 * An embedder that remembers: within a run, and with a cache across runs, a text is encoded once for each instruction. A model's vector of a text does
 * not depend on its neighbours, so the scores are the same. Errors: ERR_BGE_FILE for the cache, ERR_BGE_SHAPE for a result of the wrong size.
 */
export function runEmbedder(embedder: Embedder, options: RunEmbedderOptions = {}): RunEmbedder {
  const { dims } = embedder
  const { directory, space, onProgress } = options
  const budget = { bytes: MEMORY }
  const stores = new Map<string, Promise<VectorStore>>()
  const storeOf = (instruction: string, maxLength: number | null): Promise<VectorStore> => {
    const key = JSON.stringify([instruction, maxLength])
    const store =
      stores.get(key) ??
      (directory !== undefined && space !== undefined
        ? openVectorCache(directory, { ...space, instruction, maxLength }, dims)
        : Promise.resolve(memoryStore(dims, budget)))
    stores.set(key, store)
    return store
  }
  const opened: VectorStore[] = []
  return {
    dims,
    async encode(texts, encodeOptions = {}) {
      const { instruction = '', maxLength } = encodeOptions
      const store = await storeOf(instruction, maxLength ?? null)
      if (!opened.includes(store)) opened.push(store)
      const data = new Float32Array(texts.length * dims)
      const keys = texts.map(textKey)
      const missing: number[] = []
      for (const [i, key] of keys.entries()) if (!store.get(key, data.subarray(i * dims, (i + 1) * dims))) missing.push(i)
      const meter = progressMeter(
        missing.map((i) => texts[i]!),
        encodeOptions,
        onProgress,
      )
      for (let start = 0; start < missing.length; start += BLOCK) {
        const block = missing.slice(start, start + BLOCK)
        const inner: EncodeOptions = { ...encodeOptions, ...(onProgress && { onProgress: ({ done }) => meter(start + done) }) }
        const part = (
          await embedder.encode(
            block.map((i) => texts[i]!),
            inner,
          )
        ).data
        if (part.length !== block.length * dims) {
          throw new BgeError('ERR_BGE_SHAPE', `encode must return ${block.length} x ${dims} numbers, but returned ${part.length}`)
        }
        for (const [n, i] of block.entries()) data.set(part.subarray(n * dims, (n + 1) * dims), i * dims)
        // A vector that is not finite is the caller's to report, and nothing to keep.
        if (part.every(Number.isFinite))
          store.put(
            block.map((i) => keys[i]!),
            part,
          )
        meter(start + block.length)
      }
      return { data }
    },
    close() {
      for (const store of opened) store.close()
    },
  }
}

/** Reports the tokens of the first `done` texts. */
function progressMeter(
  texts: readonly string[],
  { maxLength = LONGEST, instruction = '' }: EncodeOptions,
  report?: (progress: EncodingProgress) => void,
): (done: number) => void {
  if (report === undefined) return () => {}
  const start = performance.now()
  const before = new Float64Array(texts.length + 1)
  for (const [i, text] of texts.entries()) before[i + 1] = before[i]! + Math.min(maxLength, text.length + instruction.length + 2)
  return (done) =>
    report({
      tokens: before[done]!,
      totalTokens: before[texts.length]!,
      texts: done,
      totalTexts: texts.length,
      seconds: (performance.now() - start) / 1000,
    })
}

import { BgeError } from '../errors.js'
import type { Embedder, EncodeOptions } from '../model/embedder.js'
import { memoryStore, openVectorCache, textKey, type VectorSpace, type VectorStore } from '../model/vector_cache.js'

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
  /** tokens at which the model cuts texts where the caller names no length; default 512. For progress only */
  longest?: number
  onProgress?: (progress: EncodingProgress) => void
}

export interface RunEmbedder extends Embedder {
  readonly work: Readonly<Work>
  close(): void
}

/** What an embedder of a run has done so far. */
export interface Work {
  /** tokens whose vectors were there already, and tokens that the model encoded */
  known: number
  encoded: number
  /** of encoding */
  seconds: number
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
  const { directory, space, longest = LONGEST, onProgress } = options
  const budget = { bytes: MEMORY }
  const work: Work = { known: 0, encoded: 0, seconds: 0 }
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
    work,
    async encode(texts, encodeOptions = {}) {
      const { instruction = '', maxLength } = encodeOptions
      const store = await storeOf(instruction, maxLength ?? null)
      if (!opened.includes(store)) opened.push(store)
      const data = new Float32Array(texts.length * dims)
      const keys = texts.map(textKey)
      const missing: number[] = []
      for (const [i, key] of keys.entries()) if (!store.get(key, data.subarray(i * dims, (i + 1) * dims))) missing.push(i)
      const tokens = estimatedTokens(texts, { instruction, maxLength: maxLength ?? longest })
      const meter = progressMeter(
        missing.map((i) => tokens[i]!),
        work,
        onProgress,
      )
      for (const count of tokens) work.known += count
      for (const i of missing) work.known -= tokens[i]!
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

/** Tokens of each text as far as the model reads it, estimated from characters: in Chinese one each, and [CLS] and [SEP]. */
export function estimatedTokens(texts: readonly string[], { instruction = '', maxLength = LONGEST }: TokenLimits): number[] {
  return texts.map((text) => Math.min(maxLength, text.length + instruction.length + 2))
}

interface TokenLimits {
  readonly instruction?: string
  readonly maxLength?: number | undefined
}

/** Counts the tokens of the first `done` texts into `work`, and reports them. @param tokens of each text of a list */
function progressMeter(tokens: readonly number[], work: Work, report?: (progress: EncodingProgress) => void): (done: number) => void {
  const start = performance.now()
  const before = new Float64Array(tokens.length + 1)
  for (const [i, count] of tokens.entries()) before[i + 1] = before[i]! + count
  const [encoded, seconds] = [work.encoded, work.seconds]
  return (done) => {
    const taken = (performance.now() - start) / 1000
    work.encoded = encoded + before[done]!
    work.seconds = seconds + taken
    report?.({ tokens: before[done]!, totalTokens: before[tokens.length]!, texts: done, totalTexts: tokens.length, seconds: taken })
  }
}

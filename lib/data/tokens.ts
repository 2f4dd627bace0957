import { createLengths, type Lengths } from './lengths.js'

/** The part of a tokenizer that caching needs. */
export interface BatchTokenizer {
  encodeBatch(texts: readonly string[], options: { maxLength: number; signal?: AbortSignal }): Promise<TokenizedTexts> | TokenizedTexts
}

export interface TokenizedTexts {
  readonly ids: Int32Array[]
  /** how many texts were cut at maxLength */
  readonly truncatedTexts: number
}

/** Texts tokenized on first use and remembered, so that later epochs cost nothing. */
export interface TokenCache {
  /** ids of each text, [CLS] and [SEP] included; `indices` may repeat */
  get(indices: ArrayLike<number>, signal?: AbortSignal): Promise<Int32Array[]>
  /** texts tokenized so far, how many of them were cut at maxLength, and their lengths after that (texts beyond the cache's limit count each time) */
  readonly stats: { texts: number; truncated: number; readonly lengths: Lengths }
}

/** Tokens that one cache keeps: 256 MiB of ids. Texts beyond it are tokenized again whenever they are needed. */
const LIMIT = 1 << 26

/** @param text the i-th text @param maxLength tokens, [CLS] and [SEP] included */
export function tokenCache(tokenizer: BatchTokenizer, text: (index: number) => string, maxLength: number): TokenCache {
  const kept = new Map<number, Int32Array>()
  const stats = { texts: 0, truncated: 0, lengths: createLengths() }
  let tokens = 0
  return {
    stats,
    async get(indices, signal) {
      const missing = [...new Set(Array.from(indices))].filter((i) => !kept.has(i))
      const fresh = new Map<number, Int32Array>()
      if (missing.length > 0) {
        const encoded = await tokenizer.encodeBatch(missing.map(text), { maxLength, ...(signal && { signal }) })
        stats.texts += missing.length
        stats.truncated += encoded.truncatedTexts
        for (const [k, index] of missing.entries()) {
          const ids = encoded.ids[k]!
          stats.lengths.add(ids.length)
          fresh.set(index, ids)
          if (tokens + ids.length > LIMIT) continue
          tokens += ids.length
          kept.set(index, ids)
        }
      }
      return Array.from(indices, (i) => fresh.get(i) ?? kept.get(i)!)
    },
  }
}

// Near-duplicates of short Chinese texts: sets of character n-grams, their Jaccard similarity, and MinHash signatures cut into bands
// (Broder 1997; Leskovec, Rajaraman, Ullman, Mining of Massive Datasets, 3.4).

/** A signature of bands * rows hashes: two texts are candidates when all rows of at least one band agree. */
export interface Banding {
  readonly bands: number
  /** hashes in a band */
  readonly rows: number
}

/** Candidates are verified, so a false one costs time only and a missed one is lost: this many of the pairs exactly at the threshold are found. */
const RECALL_AT_THRESHOLD = 0.95

/** Between the texts of a list: normalised texts hold no white space, and no n-gram spans it. */
export const SEPARATOR = '\n'

/**
 * The probability that two texts of Jaccard similarity `s` become candidates: 1 - (1 - s^rows)^bands. Where a band holds the hashes of two
 * fields (query and passage), s is the product of the two similarities.
 */
export function candidateProbability(s: number, { bands, rows }: Banding): number {
  return 1 - (1 - s ** rows) ** bands
}

/**
 * The most selective banding of at most `hashes` hashes that finds 95 % of the pairs whose similarity is exactly `threshold`: the most rows
 * a band, and then as many bands as there are hashes for. For 128 hashes and 0.8: 18 bands of 7, found 98.6 % at 0.8, 99.999 % at 0.9,
 * 40 % at 0.6, 0.4 % at 0.3. Where not even one row a band reaches 95 %, it is one row.
 */
export function bandingFor(threshold: number, hashes: number): Banding {
  for (let rows = hashes; rows > 1; rows--) {
    const banding = { bands: Math.floor(hashes / rows), rows }
    if (candidateProbability(threshold, banding) >= RECALL_AT_THRESHOLD) return banding
  }
  return { bands: hashes, rows: 1 }
}

/** Calls `visit` with every n-gram (with repetitions) as [start, end) of `texts`; a text shorter than n is one n-gram. */
export function eachShingle(texts: string, ngram: number, visit: (hash: number, start: number, end: number) => void): void {
  for (let start = 0; start < texts.length; ) {
    const found = texts.indexOf(SEPARATOR, start)
    const end = found < 0 ? texts.length : found
    if (end > start && end - start < ngram) visit(hashOf(texts, start, end), start, end)
    for (let i = start; i + ngram <= end; i++) visit(hashOf(texts, i, i + ngram), i, i + ngram)
    start = end + 1
  }
}

/** 32 bits of the UTF-16 code units [start, end): the mixing of MurmurHash2, one unit a step, and MurmurHash3's finalizer. */
function hashOf(text: string, start: number, end: number): number {
  let h = 0x9747b28c
  for (let i = start; i < end; i++) {
    h = Math.imul(h ^ text.charCodeAt(i), 0x5bd1e995)
    h ^= h >>> 15
  }
  return mix(h)
}

function mix(x: number): number {
  let h = Math.imul(x ^ (x >>> 16), 0x85ebca6b)
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35)
  return (h ^ (h >>> 16)) >>> 0
}

/**
 * MinHash signatures by one permutation with optimal densification (Li, Owen, Zhang 2012; Shrivastava 2017, arXiv 1703.04664): each n-gram
 * is hashed once and falls into one of `hashes` bins, a bin keeps its minimum, and an empty bin takes the value of a bin chosen at random,
 * the same for all texts. Two signatures agree in a place with probability J. Against one pass per hash (128 of them) a text of 150 characters
 * takes 4.7 instead of 24.7 microseconds (benchmarks/results/curate-hashing.json), and the curve of candidateProbability holds for it (test/curate-dedup.test.ts).
 */
export class MinHasher {
  readonly hashes: number
  readonly #bins: Uint32Array
  readonly #filled: Uint8Array
  /** the first bins that each bin asks when it is empty; (hashes, ASKED) */
  readonly #asked: Uint16Array
  /** @param hashes places of a signature, at most 65,536 */
  constructor(hashes: number) {
    this.hashes = hashes
    this.#bins = new Uint32Array(hashes)
    this.#filled = new Uint8Array(hashes)
    this.#asked = Uint16Array.from({ length: hashes * ASKED }, (_, i) => askedBin(Math.floor(i / ASKED), i % ASKED, hashes))
  }

  /** The signature of the n-gram set of `texts` (separated by SEPARATOR) into `out`; returns the n-grams with repetitions, 0 for no text. */
  sign(texts: string, ngram: number, out: Uint32Array): number {
    const [bins, filled, asked, hashes] = [this.#bins, this.#filled, this.#asked, this.hashes]
    filled.fill(0)
    let count = 0
    // eachShingle without the call per n-gram, which would be half of the time.
    for (let start = 0; start < texts.length; ) {
      const found = texts.indexOf(SEPARATOR, start)
      const end = found < 0 ? texts.length : found
      for (let i = start; i === start ? i < end : i + ngram <= end; i++) {
        const hash = hashOf(texts, i, Math.min(i + ngram, end))
        const bin = Math.floor(hash * (hashes / 2 ** 32))
        if (filled[bin] === 0 || hash < bins[bin]!) bins[bin] = hash
        filled[bin] = 1
        count++
      }
      start = end + 1
    }
    if (count === 0) return 0
    for (let bin = 0; bin < hashes; bin++) {
      let from = bin
      for (let i = 0; filled[from] === 0; i++) from = i < ASKED ? asked[bin * ASKED + i]! : askedBin(bin, i, hashes)
      out[bin] = bins[from]!
    }
    return count
  }
}

const ASKED = 64

function askedBin(bin: number, attempt: number, hashes: number): number {
  return Math.floor(mix(bin * 0x10001 + (attempt + 1) * 0x9e3779b1) * (hashes / 2 ** 32))
}

/** The key of one band of one or two signatures: 53 bits, an integer that a double holds exactly. */
export function bandKey(band: number, rows: number, signatures: readonly Uint32Array[]): number {
  let [high, low] = [0x9e3779b9, 0x85ebca6b]
  for (const signature of signatures) {
    for (let i = band * rows; i < (band + 1) * rows; i++) {
      high = Math.imul(high ^ signature[i]!, 0x5bd1e995)
      high ^= high >>> 15
      low = Math.imul(low ^ signature[i]!, 0xcc9e2d51)
      low ^= low >>> 13
    }
  }
  return (mix(high) & 0x1fffff) * 2 ** 32 + mix(low)
}

let table = new Int32Array(1 << 12)

/**
 * |A and B| / |A or B| of the sets of n-grams, exact: n-grams of equal hash are compared. 1 for two empty sets. Texts of a list are
 * separated by SEPARATOR.
 */
export function jaccard(a: string, b: string, ngram: number): number {
  if (a === b) return 1
  const { shared, inA, inB } = overlap(a, b, ngram)
  return shared / (inA + inB - shared)
}

/** Sizes of the sets of n-grams of `a`, of `b` and of what they share. */
export function overlap(a: string, b: string, ngram: number): { shared: number; inA: number; inB: number } {
  const both = a + SEPARATOR + b
  let size = 1 << 10
  while (size < 2 * both.length) size *= 2
  if (table.length < 2 * size) table = new Int32Array(2 * size)
  table.fill(0, 0, 2 * size) // pairs: start + 1, and end with its sign for "seen in b"
  let [shared, inA, inB] = [0, 0, 0]
  const boundary = a.length
  eachShingle(both, ngram, (hash, start, end) => {
    let slot = 2 * (hash & (size - 1))
    while (table[slot] !== 0 && !sameUnits(both, table[slot]! - 1, Math.abs(table[slot + 1]!), start, end)) slot = (slot + 2) % (2 * size)
    const fromB = start > boundary
    if (table[slot] === 0) {
      table[slot] = start + 1
      table[slot + 1] = fromB ? -end : end
      if (fromB) inB++
      else inA++
    } else if (fromB && table[slot + 1]! > 0) {
      table[slot + 1] = -table[slot + 1]!
      shared++
      inB++
    }
  })
  return { shared, inA, inB }
}

function sameUnits(text: string, start: number, end: number, otherStart: number, otherEnd: number): boolean {
  if (end - start !== otherEnd - otherStart) return false
  for (let i = 0; i < end - start; i++) if (text.charCodeAt(start + i) !== text.charCodeAt(otherStart + i)) return false
  return true
}

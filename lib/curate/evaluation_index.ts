import { type Banding, bandingFor, bandKey, eachShingle, jaccard, MinHasher, overlap } from './near.js'
import { Postings } from './postings.js'
import { normaliseForIdentity } from './row.js'

/** A text that an evaluation reads. */
export interface EvaluationText {
  readonly task: string
  /** where in the task, e.g. 'queries', 'corpus' */
  readonly field: string
  readonly text: string
}

export type OverlapRule = 'equal' | 'near' | 'ngram'

export interface Overlap {
  readonly rule: OverlapRule
  readonly evaluation: EvaluationText
  /** the Jaccard similarity ('near'), the share of common n-grams ('ngram'), or 1 */
  readonly similarity: number
}

export interface OverlapSettings {
  /** characters of an n-gram */
  readonly ngram: number
  /** Jaccard similarity of the sets of bigrams, at least */
  readonly threshold: number
}

/** Shorter ones ("好的", "5 元") are found in any corpus by chance. */
const SHORTEST = 6
const NEAR_NGRAM = 2
const HASHES = 128
/** Share of the n-grams of the shorter text that the other one holds too. */
const CONTAINED = 0.5
const TEXTS_PER_HASH = 64
const MOST_POSTINGS = 2 ** 26

/** The texts of evaluation sets, to find those that a training text repeats. In memory: about 2 bytes a character and 20 an n-gram. */
export class EvaluationIndex {
  /** task -> texts looked for, and texts too short for that */
  readonly tasks: Map<string, { texts: number; short: number }> = new Map()
  readonly #texts: string[] = []
  /** of each text: its first appearance in every task */
  readonly #origins: EvaluationText[][] = []
  readonly #numbers = new Map<string, number>()
  readonly #settings: OverlapSettings
  readonly #banding: Banding
  readonly #hasher = new MinHasher(HASHES)
  readonly #signature = new Uint32Array(HASHES)
  #grams: Postings | undefined
  #bands: Postings | undefined
  /** one n-gram of so many is in #grams */
  #every = 1

  readonly #mostPostings: number

  /** @param mostPostings n-grams in the index: 12 to 20 bytes each; default 2^26 */
  constructor(settings: OverlapSettings, mostPostings: number = MOST_POSTINGS) {
    this.#settings = settings
    this.#banding = bandingFor(settings.threshold, HASHES)
    this.#mostPostings = mostPostings
  }

  add(evaluation: EvaluationText): void {
    if (!this.tasks.has(evaluation.task)) this.tasks.set(evaluation.task, { texts: 0, short: 0 })
    const counts = this.tasks.get(evaluation.task)!
    const text = normaliseForIdentity(evaluation.text)
    if (text.length < SHORTEST) {
      counts.short++
      return
    }
    counts.texts++
    let number = this.#numbers.get(text)
    if (number === undefined) {
      number = this.#texts.push(text) - 1
      this.#numbers.set(text, number)
      this.#origins.push([])
    }
    const origins = this.#origins[number]!
    if (!origins.some(({ task }) => task === evaluation.task)) origins.push(evaluation)
  }

  /** After the last add(). */
  build(): void {
    const { ngram } = this.#settings
    const { bands, rows } = this.#banding
    const grams = this.#texts.reduce((sum, text) => sum + Math.max(0, text.length - ngram + 1), 0)
    // Beyond 67 M n-grams (800 MB) only every second, fourth, ... of a text is indexed; what is found is compared whole all the same.
    this.#every = 2 ** Math.max(0, Math.ceil(Math.log2(grams / this.#mostPostings)))
    this.#grams = new Postings(Math.ceil(grams / this.#every) + this.#texts.length, TEXTS_PER_HASH)
    this.#bands = new Postings(this.#texts.length * bands, TEXTS_PER_HASH)
    for (const [number, text] of this.#texts.entries()) {
      let i = 0
      eachShingle(text, ngram, (hash, start, end) => {
        if (end - start === ngram && i++ % this.#every === 0) this.#grams!.add(hash, number)
      })
      this.#hasher.sign(text, NEAR_NGRAM, this.#signature)
      for (let band = 0; band < bands; band++) this.#bands.add(bandHash(band, rows, this.#signature), number)
    }
  }

  /** The strongest overlap with each task, for a text of a row; `seen` is its normalised form. */
  find(text: string): Overlap[] {
    const { ngram, threshold } = this.#settings
    const seen = normaliseForIdentity(text)
    const found = new Map<string, Overlap>()
    if (seen.length < SHORTEST) return []
    const note = (rule: OverlapRule, number: number, similarity: number): void => {
      for (const evaluation of this.#origins[number]!) {
        if (!found.has(evaluation.task)) found.set(evaluation.task, { rule, evaluation, similarity })
      }
    }
    const equal = this.#numbers.get(seen)
    if (equal !== undefined) note('equal', equal, 1)
    for (const [number, similarity] of this.#near(seen, threshold)) note('near', number, similarity)
    for (const [number, share] of this.#containing(seen, ngram)) note('ngram', number, share)
    return [...found.values()]
  }

  #near(text: string, threshold: number): [number, number][] {
    const { bands, rows } = this.#banding
    const candidates = new Set<number>()
    this.#hasher.sign(text, NEAR_NGRAM, this.#signature)
    for (let band = 0; band < bands; band++) this.#bands!.each(bandHash(band, rows, this.#signature), (number) => candidates.add(number))
    return strongest(candidates, (number) => jaccard(text, this.#texts[number]!, NEAR_NGRAM), threshold)
  }

  #containing(text: string, ngram: number): [number, number][] {
    if (text.length < ngram) return []
    const hits = new Map<number, number>()
    eachShingle(text, ngram, (hash) => this.#grams!.each(hash, (number) => hits.set(number, (hits.get(number) ?? 0) + this.#every)))
    // Comparing whole texts for one set phrase in common would take most of the time: a quarter of the shorter one must have been hit.
    const candidates = new Set<number>()
    for (const [number, count] of hits) {
      const shorter = Math.min(text.length, this.#texts[number]!.length) - ngram + 1
      if (count >= (CONTAINED / 2) * shorter) candidates.add(number)
    }
    const share = (number: number): number => {
      const { shared, inA, inB } = overlap(text, this.#texts[number]!, ngram)
      return shared / Math.min(inA, inB)
    }
    return strongest(candidates, share, CONTAINED)
  }
}

function bandHash(band: number, rows: number, signature: Uint32Array): number {
  return (bandKey(band, rows, [signature]) + band * 0x9e3779b1) % 2 ** 32
}

/** Those of at least `least`, the most similar first; equal ones in the order of their texts. */
function strongest(candidates: ReadonlySet<number>, similarity: (number: number) => number, least: number): [number, number][] {
  const scored = [...candidates].map((number): [number, number] => [number, similarity(number)])
  return scored.filter(([, score]) => score >= least).sort((a, b) => b[1] - a[1] || a[0] - b[0])
}

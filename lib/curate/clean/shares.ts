const OTHER = 0
const SPACE = 1
const HAN = 2
const LETTER = 3
const DIGIT = 4

/** The class of every UTF-16 unit; surrogates are decided with their partner. */
let table: Uint8Array | undefined

function classes(): Uint8Array {
  if (table) return table
  table = new Uint8Array(65536)
  for (let unit = 0; unit < 65536; unit++) {
    const text = String.fromCharCode(unit)
    if (/\s/.test(text)) table[unit] = SPACE
    else if (/\p{Script=Han}/u.test(text) && /[\p{L}\p{N}]/u.test(text)) table[unit] = HAN
    else if (/[\p{L}\p{M}]/u.test(text)) table[unit] = LETTER
    else if (/\p{N}/u.test(text)) table[unit] = DIGIT
    else table[unit] = OTHER
  }
  return table
}

export interface CharacterCounts {
  /** UTF-16 units that are not white space */
  readonly characters: number
  /** letters (Chinese characters included) and digits */
  readonly text: number
  /** Chinese characters */
  readonly han: number
  /** Chinese characters and runs of other letters */
  readonly words: number
}

/** One pass over a text. */
export function countCharacters(text: string): CharacterCounts {
  const kinds = classes()
  let [spaces, other, han, runs] = [0, 0, 0, 0]
  let previous = OTHER
  for (let i = 0; i < text.length; i++) {
    const unit = text.charCodeAt(i)
    let kind = kinds[unit]!
    if (unit >= 0xd800 && unit < 0xdc00) {
      // Planes 2 and 3 are ideographs; the letters of plane 1 are none of a living language's.
      kind = unit >= 0xd840 && unit < 0xd8c0 ? HAN : OTHER
      i++
      other += kind === HAN ? 0 : 2
      if (kind === HAN) han++
      previous = kind
      continue
    }
    if (kind === SPACE) spaces++
    else if (kind === OTHER) other++
    else if (kind === HAN) han++
    else if (kind === LETTER && previous !== LETTER) runs++
    previous = kind
  }
  return { characters: text.length - spaces, text: text.length - spaces - other, han, words: han + runs }
}

/** Share of characters that stand in lines that occurred before, 0 to 1. Line breaks are no characters of it. */
export function repeatedLineShare(text: string): number {
  if (!text.includes('\n')) return 0
  const seen = new Set<string>()
  let repeated = 0
  let total = 0
  for (const line of text.split('\n')) {
    total += line.length
    if (seen.has(line)) repeated += line.length
    else seen.add(line)
  }
  return total === 0 ? 0 : repeated / total
}

/** The length of the runs whose repetition counts. */
export const NGRAM = 10
/** Shorter texts have no repetition to speak of: 4 runs. */
const SHORTEST = 4 * NGRAM

const TABLE_BITS = 15
const slots = new Int32Array(1 << TABLE_BITS)
const stamps = new Uint32Array(1 << TABLE_BITS)
let stamp = 0

const BASE = 0x01000193
/** BASE^(NGRAM - 1) mod 2^32 */
const LEADING: number = Array.from({ length: NGRAM - 1 }).reduce<number>((power) => Math.imul(power, BASE), 1)

/**
 * Share of characters covered by runs of NGRAM characters that occurred before in the text, 0 to 1; 0 for texts under 4 such runs. Looks at
 * the first 16,384 characters. By a rolling hash; a hit is compared, so the share is exact.
 */
export function repeatedNgramShare(text: string): number {
  const length = Math.min(text.length, 1 << (TABLE_BITS - 1))
  if (length < SHORTEST) return 0
  if (++stamp === 0xffffffff) {
    stamps.fill(0)
    stamp = 1
  }
  let hash = 0
  for (let i = 0; i < NGRAM - 1; i++) hash = (Math.imul(hash, BASE) + text.charCodeAt(i)) | 0
  let covered = 0
  let coveredTo = 0
  for (let end = NGRAM; end <= length; end++) {
    const start = end - NGRAM
    hash = (Math.imul(hash, BASE) + text.charCodeAt(end - 1)) | 0
    let slot = Math.imul(hash ^ (hash >>> 15), 0x85ebca6b) >>> (32 - TABLE_BITS)
    let before = -1
    while (stamps[slot] === stamp) {
      if (equalRuns(text, slots[slot]!, start)) {
        before = slots[slot]!
        break
      }
      slot = (slot + 1) & (slots.length - 1)
    }
    if (before < 0) {
      stamps[slot] = stamp
      slots[slot] = start
    } else {
      covered += end - Math.max(start, coveredTo)
      coveredTo = end
    }
    hash = (hash - Math.imul(LEADING, text.charCodeAt(start))) | 0
  }
  return covered / length
}

function equalRuns(text: string, a: number, b: number): boolean {
  for (let i = 0; i < NGRAM; i++) if (text.charCodeAt(a + i) !== text.charCodeAt(b + i)) return false
  return true
}

import { type Random, random } from '../../lib/data/random.js'
import { type Row, textId } from '../../lib/curate/row.js'

// Chinese-like text from a seeded generator: words of one to four characters with Zipf frequencies, every topic with words of its own, sentences
// of 8 to 30 characters, passages of log-normal length. It means nothing, and has what de-duplication sees: character n-grams and lengths.

const TOPICS = 2000
const COMMON = 3000
const OWN = 300

export interface Writer {
  /** a title: 8 to 25 characters */
  title(topic: number, draw: Random): string
  /** about `length` characters: whole sentences */
  passage(topic: number, length: number, draw: Random): string
}

export function chineseLike(seed: number): Writer {
  const makeWord = (draw: Random): string => {
    const length = [1, 2, 2, 2, 2, 2, 3, 4][draw.int(8)]!
    let word = ''
    // Squared: low characters are frequent ones.
    for (let i = 0; i < length; i++) word += String.fromCharCode(0x4e00 + Math.floor((draw.int(3000) * draw.int(3000)) / 3000))
    return word
  }
  const words = (count: number, index: number): string[] => {
    const draw = random(seed, 'words', 0, index)
    return Array.from({ length: count }, () => makeWord(draw))
  }
  const common = words(COMMON, 0)
  const own = new Map<number, string[]>()
  const ownWords = (topic: number): string[] => {
    let found = own.get(topic)
    if (!found) own.set(topic, (found = words(OWN, 1 + topic)))
    return found
  }
  // The inverse of the distribution function of 1/x: rank 1 is drawn as often as ranks 2 and 3 together.
  const zipf = (list: readonly string[], draw: Random): string => list[Math.floor(list.length ** (draw.next() / 2 ** 32)) - 1]!
  const sentence = (topic: number, length: number, draw: Random): string => {
    const mine = ownWords(topic % TOPICS)
    let text = ''
    while (text.length < length) text += draw.chance(0.4) ? zipf(mine, draw) : common[draw.int(COMMON)]!
    return text
  }
  return {
    title: (topic, draw) => sentence(topic, 8 + draw.int(15), draw),
    passage(topic, length, draw) {
      let text = ''
      while (text.length < length) text += sentence(topic, 8 + draw.int(20), draw) + (draw.chance(0.35) ? '。' : '，')
      return `${text.slice(0, -1)}。`
    },
  }
}

/** Log-normal: median 120 characters, 512 at most. */
export function passageLength(draw: Random): number {
  const normal = Math.sqrt(-2 * Math.log((draw.next() + 1) / 2 ** 32)) * Math.cos(2 * Math.PI * (draw.next() / 2 ** 32))
  return Math.max(20, Math.min(500, Math.round(120 * Math.exp(0.7 * normal))))
}

/** Replaces, inserts or drops `share` of the characters (at least one), at distinct places drawn at random. */
export function editCharacters(text: string, share: number, draw: Random): string {
  const places = new Set(
    draw.sample(
      [...text].map((_, i) => i),
      Math.max(1, Math.round(share * text.length)),
    ),
  )
  const other = (): string => String.fromCharCode(0x4e00 + draw.int(6000))
  return [...text].map((c, i) => (places.has(i) ? [other(), c + other(), ''][draw.int(3)] : c)).join('')
}

/** Exchanges two sentences. */
export function swapSentences(text: string, draw: Random): string {
  const sentences = text.split(/(?<=[。，])/)
  if (sentences.length < 2) return text
  const [a, b] = draw.sample([...sentences.keys()], 2)
  ;[sentences[a!], sentences[b!]] = [sentences[b!]!, sentences[a!]!]
  return sentences.join('')
}

/** The same text to a reader, with other white space and marks. */
export function respell(text: string, draw: Random): string {
  return [` ${text}`, text.replaceAll('。', '．'), `${text}！`, text.replaceAll('，', ' , ')][draw.int(4)]!
}

export function rowOf(source: string, at: string, query: string, pos: string | string[], neg: string[] = []): Row {
  const positives = typeof pos === 'string' ? [pos] : pos
  return { source, at, query, pos: positives, neg, queryId: textId(query), posIds: positives.map(textId), negIds: neg.map(textId) }
}

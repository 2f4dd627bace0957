import { random, type Random } from '../data/random.js'
import type { DecoderBatch, TokenBatch } from '../native.js'

/** Label of a token that is not predicted. */
export const IGNORE = -100
/** At most this many sampled masks per sequence, and at most this many masked tokens per mask (FlagEmbedding's retromae_pretrain). */
const MAX_MASKS = 128
const MAX_PREDICTIONS = 512

/** What masking needs to know of a vocabulary; a Tokenizer fits. */
export interface MaskingVocabulary {
  readonly clsId: number
  readonly sepId: number
  readonly maskId: number
  readonly unkId: number
  readonly vocabSize: number
  /** a `##` piece: belongs to the word before it */
  isContinuation(id: number): boolean
  isSpecial(id: number): boolean
}

/** One text as both halves of RetroMAE see it. L tokens, [CLS] and [SEP] included. */
export interface RetroMaeExample {
  /** (L) clean ids: the decoder's input */
  readonly ids: Int32Array
  /** (L) corrupted ids: the encoder's input */
  readonly encoderIds: Int32Array
  /** (L) the clean id where the encoder must predict it, else -100 */
  readonly encoderLabels: Int32Array
  /** min(L, 128) rows of ceil(L / 32) words, bit j of a row: key position j is hidden from the decoder */
  readonly masks: readonly Uint32Array[]
  /** (L) which of `masks` each decoder position uses */
  readonly choice: Int32Array
}

/** One micro-batch for `encoder.forward`, `mlmHead.step` and `decoder.step`. */
export interface RetroMaeBatch {
  /** corrupted ids; `rows` are the labelled tokens */
  readonly encoder: TokenBatch & { rows: Int32Array }
  /** (R) labels of `encoder.rows` */
  readonly encoderLabels: Int32Array
  readonly decoder: DecoderBatch
  /** labelled decoder tokens */
  readonly decoderCount: number
}

/**
 * RetroMAE's collator (recipe.md 2.3, the FlagEmbedding variant): the encoder sees one whole-word mask, 80 % [MASK], 10 % a random
 * token, 10 % unchanged; each decoder position sees one of min(L, 128) other whole-word masks, drawn with replacement.
 * All draws are a function of (seed, epoch, index).
 */
export function maskExample(
  ids: Int32Array,
  vocabulary: MaskingVocabulary,
  options: { encoderMaskRatio: number; decoderMaskRatio: number; seed: number; epoch: number; index: number },
): RetroMaeExample {
  const draw = random(options.seed, 'retromae', options.epoch, options.index)
  const length = ids.length
  const words = wholeWords(ids, vocabulary)

  const encoderIds = ids.slice()
  const encoderLabels = new Int32Array(length).fill(IGNORE)
  for (const i of wholeWordMask(words, length, options.encoderMaskRatio, draw)) {
    const id = ids[i]!
    // [UNK] and other special tokens count towards the ratio but are neither corrupted nor predicted here.
    if (id === vocabulary.unkId || vocabulary.isSpecial(id)) continue
    encoderLabels[i] = id
    if (draw.chance(0.8)) encoderIds[i] = vocabulary.maskId
    else if (draw.chance(0.5)) encoderIds[i] = draw.int(vocabulary.vocabSize)
  }

  const masks = Array.from({ length: Math.min(length, MAX_MASKS) }, () => {
    const bits = new Uint32Array(Math.ceil(length / 32))
    for (const j of wholeWordMask(words, length, options.decoderMaskRatio, draw)) bits[j >>> 5]! |= 1 << (j & 31)
    return bits
  })
  const choice = Int32Array.from({ length }, () => draw.int(masks.length))
  return { ids, encoderIds, encoderLabels, masks, choice }
}

/** Candidates for masking: positions of each word, a `##` piece joining the word before it; [CLS] and [SEP] are no candidates. */
export function wholeWords(ids: Int32Array, vocabulary: MaskingVocabulary): number[][] {
  const words: number[][] = []
  for (const [i, id] of ids.entries()) {
    if (id === vocabulary.clsId || id === vocabulary.sepId) continue
    const last = words.at(-1)
    if (last && vocabulary.isContinuation(id)) last.push(i)
    else words.push([i])
  }
  return words
}

/** min(512, max(1, round(length * ratio))), halves to even as Python rounds. `length` includes [CLS] and [SEP]. */
export function maskedCount(length: number, ratio: number): number {
  const x = length * ratio
  const floor = Math.floor(x)
  const rounded = x - floor === 0.5 ? floor + (floor % 2) : Math.round(x)
  return Math.min(MAX_PREDICTIONS, Math.max(1, rounded))
}

/** Takes words in random order until the count is reached, skipping a word that would exceed it. Reorders `words`. */
function wholeWordMask(words: number[][], length: number, ratio: number, draw: Random): number[] {
  const count = maskedCount(length, ratio)
  const masked: number[] = []
  for (let next = 0; next < words.length && masked.length < count; next++) {
    const pick = next + draw.int(words.length - next)
    const word = words[pick]!
    words[pick] = words[next]!
    words[next] = word
    if (masked.length + word.length <= count) masked.push(...word)
  }
  return masked
}

/** Packs the examples `indices` of a batch; `indices` are also their dropout streams, so that micro-batching changes no mask. */
export function packExamples(examples: readonly RetroMaeExample[], indices: readonly number[]): RetroMaeBatch {
  const chosen = indices.map((i) => examples[i]!)
  const tokens = chosen.reduce((sum, example) => sum + example.ids.length, 0)
  const words = Math.ceil(Math.max(...chosen.map((example) => example.ids.length)) / 64)
  const masks = chosen.reduce((sum, example) => sum + example.masks.length, 0)

  const cuSeqlens = new Int32Array(chosen.length + 1)
  const stream = Uint32Array.from(indices)
  const clean = new Int32Array(tokens)
  const corrupted = new Int32Array(tokens)
  const labels = new Int32Array(tokens)
  const maskBits = new BigUint64Array(masks * words)
  const bits = new Uint32Array(maskBits.buffer) // the low half of a 64-bit word comes first on every platform Node runs the addon on
  const maskChoice = new Int32Array(tokens)
  const rows: number[] = []
  const encoderLabels: number[] = []

  let at = 0
  let mask = 0
  let decoderCount = 0
  for (const [n, example] of chosen.entries()) {
    const length = example.ids.length
    clean.set(example.ids, at)
    corrupted.set(example.encoderIds, at)
    for (const [i, label] of example.encoderLabels.entries()) {
      if (label === IGNORE) continue
      rows.push(at + i)
      encoderLabels.push(label)
    }
    labels.set(example.ids, at)
    labels[at] = IGNORE
    labels[at + length - 1] = IGNORE
    decoderCount += length - 2
    for (const [i, choice] of example.choice.entries()) maskChoice[at + i] = mask + choice
    for (const row of example.masks) bits.set(row, 2 * words * mask++)
    at += length
    cuSeqlens[n + 1] = at
  }
  return {
    encoder: { ids: corrupted, cuSeqlens, stream, rows: Int32Array.from(rows) },
    encoderLabels: Int32Array.from(encoderLabels),
    decoder: { ids: clean, cuSeqlens, stream, labels, maskBits, maskChoice },
    decoderCount,
  }
}

import { describe, expect, it } from 'vitest'
import { random } from '../lib/data/random.js'
import { IGNORE, type MaskingVocabulary, maskedCount, maskExample, packExamples, wholeWords } from '../lib/train/collator.js'

// ids 5..499 are words, 500..999 are ## pieces
const vocabulary: MaskingVocabulary = {
  clsId: 2,
  sepId: 3,
  maskId: 4,
  unkId: 1,
  vocabSize: 1000,
  isContinuation: (id) => id >= 500,
  isSpecial: (id) => id < 5,
}
const ratios = { encoderMaskRatio: 0.3, decoderMaskRatio: 0.5, seed: 7, epoch: 0 }
const framed = (...ids: number[]): Int32Array => Int32Array.from([2, ...ids, 3])
const words = (n: number): number[] => Array.from({ length: n }, (_, i) => 5 + (i % 400))
const isHidden = (mask: Uint32Array, j: number): boolean => ((mask[j >>> 5]! >>> (j & 31)) & 1) === 1
const hidden = (mask: Uint32Array): number[] => Array.from({ length: mask.length * 32 }, (_, j) => j).filter((j) => isHidden(mask, j))

describe('masked count', () => {
  it.each([
    [5, 0.5, 2],
    [7, 0.5, 4],
    [3, 0.5, 2],
    [9, 0.5, 4],
    [512, 0.3, 154],
    [512, 0.5, 256],
    [2, 0.1, 1],
    [4096, 0.5, 512],
  ])('of %i tokens at ratio %f is %i (halves to even, at least 1, at most 512)', (length, ratio, count) => {
    expect(maskedCount(length, ratio)).toBe(count)
  })
})

describe('whole words', () => {
  it('join ## pieces to the word before them and leave out [CLS] and [SEP]', () => {
    expect(wholeWords(framed(10, 500, 501, 11, 1, 600, 4), vocabulary)).toEqual([[1, 2, 3], [4], [5, 6], [7]])
    expect(wholeWords(framed(700, 10), vocabulary)).toEqual([[1], [2]])
  })

  it('are masked as a whole, skipping a word that would exceed the count', () => {
    // L = 12, 6 to hide; words of 5, 2, 2 and 1 tokens: sums of 6 and 5 can be reached, never half a word
    const ids = framed(10, 501, 502, 503, 504, 11, 505, 12, 506, 13)
    const groups = wholeWords(ids, vocabulary)
    for (let index = 0; index < 200; index++) {
      for (const mask of maskExample(ids, vocabulary, { ...ratios, index }).masks) {
        for (const group of groups) expect(new Set(group.map((i) => isHidden(mask, i))).size).toBe(1)
        expect(hidden(mask).length).toBeLessThanOrEqual(6)
        expect(hidden(mask).length).toBeGreaterThanOrEqual(5)
      }
    }
  })
})

describe('RetroMAE collator', () => {
  it('corrupts 80 % to [MASK], 10 % to a random token, leaves 10 %', () => {
    const ids = framed(...words(510))
    let [masked, replaced, unchanged, total] = [0, 0, 0, 0]
    for (let index = 0; index < 300; index++) {
      const { encoderIds, encoderLabels } = maskExample(ids, vocabulary, { ...ratios, index })
      for (let i = 0; i < ids.length; i++) {
        if (encoderLabels[i] === IGNORE) {
          expect(encoderIds[i]).toBe(ids[i])
          continue
        }
        expect(encoderLabels[i]).toBe(ids[i])
        total++
        if (encoderIds[i] === vocabulary.maskId) masked++
        else if (encoderIds[i] === ids[i]) unchanged++
        else replaced++
      }
    }
    expect(total).toBe(300 * 154)
    // A random token is the token itself or [MASK] once in 1000 draws. Bounds: 5 standard deviations of a binomial with 46,200 draws.
    const five = (p: number): number => 5 * Math.sqrt((p * (1 - p)) / total)
    expect(Math.abs(masked / total - 0.8001)).toBeLessThan(five(0.8))
    expect(Math.abs(replaced / total - 0.0998)).toBeLessThan(five(0.1))
    expect(Math.abs(unchanged / total - 0.1001)).toBeLessThan(five(0.1))
  })

  it('never corrupts or predicts [UNK] in the encoder, counts it, and predicts it in the decoder', () => {
    const ids = framed(...words(40), ...Array<number>(40).fill(vocabulary.unkId))
    let labels = 0
    for (let index = 0; index < 200; index++) {
      const example = maskExample(ids, vocabulary, { ...ratios, index })
      for (let i = 41; i <= 80; i++) {
        expect(example.encoderLabels[i]).toBe(IGNORE)
        expect(example.encoderIds[i]).toBe(vocabulary.unkId)
      }
      labels += example.encoderLabels.filter((label) => label !== IGNORE).length
      const { decoder } = packExamples([example], [0])
      expect(decoder.labels[50]).toBe(vocabulary.unkId)
    }
    // round(82 * 0.3) = 25 of 80 candidates are drawn, half of them [UNK]
    expect(labels / 200).toBeGreaterThan(11)
    expect(labels / 200).toBeLessThan(14)
  })

  it('draws the decoder positions, with replacement, from min(L, 128) masks that differ from the encoder mask', () => {
    for (const length of [3, 60, 128, 512]) {
      const ids = framed(...words(length - 2))
      const example = maskExample(ids, vocabulary, { ...ratios, index: 1 })
      expect(example.masks.length).toBe(Math.min(length, 128))
      expect(example.choice.length).toBe(length)
      for (const choice of example.choice) expect(choice).toBeLessThan(example.masks.length)
      if (length < 60) continue
      const used = new Set(example.choice).size
      expect(used).toBeLessThan(example.masks.length) // 128 draws from 128 leave about a third unused; so would 60 from 60
      for (const mask of example.masks) {
        expect(hidden(mask).length).toBe(maskedCount(length, 0.5))
        expect(isHidden(mask, 0) || isHidden(mask, length - 1)).toBe(false)
      }
      expect(new Set(example.masks.map(String)).size).toBe(example.masks.length)
    }
  })

  it('hides every token of the text equally often', () => {
    const ids = framed(...words(30))
    const counts = new Float64Array(32)
    let masks = 0
    for (let index = 0; index < 400; index++) {
      for (const mask of maskExample(ids, vocabulary, { ...ratios, index }).masks) {
        masks++
        for (const j of hidden(mask)) counts[j]!++
      }
    }
    const p = 16 / 30
    for (let j = 1; j <= 30; j++) expect(Math.abs(counts[j]! / masks - p)).toBeLessThan(5 * Math.sqrt((p * (1 - p)) / masks))
  })

  it('is a function of seed, epoch and index', () => {
    const ids = framed(...words(64))
    const one = maskExample(ids, vocabulary, { ...ratios, index: 3 })
    expect(maskExample(ids, vocabulary, { ...ratios, index: 3 })).toEqual(one)
    for (const other of [{ index: 4 }, { index: 3, epoch: 1 }, { index: 3, seed: 8 }]) {
      expect(maskExample(ids, vocabulary, { ...ratios, ...other })).not.toEqual(one)
    }
  })

  it('packs a micro-batch: rows of labelled tokens, decoder labels without the first and last token, bit rows as wide as the longest', () => {
    const texts = [framed(...words(3)), framed(...words(68)), framed(...words(30))]
    const examples = texts.map((ids, index) => maskExample(ids, vocabulary, { ...ratios, index }))
    const { encoder, encoderLabels, decoder, decoderCount } = packExamples(examples, [2, 0, 1])
    expect([...encoder.cuSeqlens]).toEqual([0, 32, 37, 107])
    expect([...encoder.stream!]).toEqual([2, 0, 1])
    expect([...decoder.ids]).toEqual([...texts[2]!, ...texts[0]!, ...texts[1]!])
    expect(encoder.rows.length).toBe(encoderLabels.length)
    for (const [r, row] of encoder.rows.entries()) expect(encoderLabels[r]).toBe(decoder.ids[row])
    expect([...encoder.rows]).toEqual([...encoder.rows].sort((a, b) => a - b))
    const ends = [0, 31, 32, 36, 37, 106]
    for (let i = 0; i < 107; i++) expect(decoder.labels[i]).toBe(ends.includes(i) ? IGNORE : decoder.ids[i])
    expect(decoderCount).toBe(101)

    const wide = 2 // ceil(70 / 64)
    expect(decoder.maskBits.length).toBe((32 + 5 + 70) * wide)
    for (const [n, source] of [2, 0, 1].entries()) {
      const example = examples[source]!
      for (let i = 0; i < example.ids.length; i++) {
        const row = decoder.maskChoice[encoder.cuSeqlens[n]! + i]! * wide
        for (let j = 0; j < 64 * wide; j++) {
          const bit = (decoder.maskBits[row + (j >> 6)]! >> BigInt(j & 63)) & 1n
          expect(bit === 1n).toBe(j < example.ids.length && isHidden(example.masks[example.choice[i]!]!, j))
        }
      }
    }
  })
})

describe('random', () => {
  it('gives uniform integers, independent streams and permutations', () => {
    const draw = random(1, 'test')
    const counts = new Int32Array(10)
    for (let i = 0; i < 100_000; i++) counts[draw.int(10)]!++
    for (const count of counts) expect(Math.abs(count - 10_000)).toBeLessThan(5 * Math.sqrt(9000))
    for (const n of [2 ** 21, 2 ** 21 + 1, 3_000_000_019, 2 ** 32]) {
      const mean = Array.from({ length: 10_000 }, () => draw.int(n)).reduce((a, b) => a + b, 0) / 10_000 / n
      expect(Math.abs(mean - 0.5)).toBeLessThan(5 * Math.sqrt(1 / 12 / 10_000))
    }
    const first = (...key: Parameters<typeof random>): number => random(...key).next()
    const streams = [first(1, 'a'), first(2, 'a'), first(1, 'b'), first(1, 'a', 1), first(1, 'a', 0, 1), first(2 ** 40 + 1, 'a')]
    expect(new Set(streams).size).toBe(streams.length)
    const order = random(1, 'p').shuffle(Int32Array.from({ length: 50 }, (_, i) => i))
    expect([...order].sort((a, b) => a - b)).toEqual(Array.from({ length: 50 }, (_, i) => i))
    expect(new Set(random(1, 's').sample([1, 2, 3, 4, 5], 5)).size).toBe(5)
  })
})

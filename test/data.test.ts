import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { dataFiles, type JsonlRow, pairRow, readJsonl, textRow } from '../lib/data/jsonl.js'
import { chooseBatch, chooseGroup, type PairData, readPairs, softmax } from '../lib/data/pairs.js'
import { batchesPerEpoch, epochBatches } from '../lib/data/plan.js'
import { random } from '../lib/data/random.js'
import { tokenCache } from '../lib/data/tokens.js'
import { parseAssignment } from '../lib/data/config_file.js'
import { mergeConfig } from '../lib/train/config.js'

let folder: string
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'bge-data-'))
})
afterAll(() => rm(folder, { recursive: true }))

let files = 0
async function file(content: string | Uint8Array): Promise<string> {
  const path = join(folder, `${files++}.jsonl`)
  await writeFile(path, content)
  return path
}
async function all(path: string): Promise<JsonlRow[]> {
  const rows = []
  for await (const row of readJsonl(path)) rows.push(row)
  return rows
}
const rowsOf = (...rows: unknown[]): Promise<string> => file(rows.map((row) => JSON.stringify(row)).join('\n'))

describe('JSONL', () => {
  it('skips a byte-order mark and blank lines, takes CRLF and a missing last newline, and counts lines from 1', async () => {
    const path = await file('\ufeff{"text":"一"}\r\n\r\n  \n{"text":"二\\u2028行\u2028"}\n{"text":"三"}')
    const rows = await all(path)
    expect(rows.map(({ line, value }) => [line, value.text])).toEqual([
      [1, '一'],
      [4, '二\u2028行\u2028'],
      [5, '三'],
    ])
  })

  it('joins characters that lie across the borders of the chunks read', async () => {
    const texts = Array.from({ length: 3 }, (_, i) => '汉'.repeat(400_000 + i))
    const path = await file(texts.map((text) => JSON.stringify({ text })).join('\n'))
    expect((await all(path)).map(({ value }) => value.text)).toEqual(texts)
  })

  it.each([
    ['{"text":"a"}\n{"text":', ':2: expected a JSON object on one line'],
    ['{"text":"a"}\n\n[1]', ':3: expected a JSON object, but was an array of 1'],
    [Uint8Array.of(0x7b, 0x7d, 0x0a, 0xff, 0xfe), ':2: expected UTF-8 text'],
  ])('names file and line of %j', async (content, message) => {
    await expect(all(await file(content))).rejects.toMatchObject({ code: 'ERR_BGE_DATA', message: expect.stringContaining(message) })
  })

  it('lists the files of a folder by name and refuses a missing one', async () => {
    const inner = join(folder, 'sources')
    await mkdir(inner)
    for (const name of ['b.jsonl', 'a.json', 'notes.txt']) await writeFile(join(inner, name), '')
    expect(await dataFiles([inner])).toEqual([join(inner, 'a.json'), join(inner, 'b.jsonl')])
    await expect(dataFiles([join(folder, 'missing.jsonl')])).rejects.toMatchObject({ code: 'ERR_BGE_FILE' })
  })
})

describe('rows', () => {
  const row = (value: Record<string, unknown>): JsonlRow => ({ file: 'f.jsonl', line: 7, value })
  it.each<[Record<string, unknown>, string]>([
    [{}, 'f.jsonl:7: field query expected a string, but was missing'],
    [{ query: 3, pos: ['p'] }, 'field query expected a string, but was 3'],
    [{ query: ' ', pos: ['p'] }, 'field query expected a text that is not empty'],
    [{ query: 'q' }, 'field pos expected an array of strings, but was missing'],
    [{ query: 'q', pos: 'p' }, 'field pos expected an array of strings'],
    [{ query: 'q', pos: [] }, 'field pos expected at least one positive text'],
    [{ query: 'q', pos: ['p', null] }, 'field pos[1] expected a string, but was null'],
    [{ query: 'q', pos: ['p'], neg: ['', 'n'] }, 'field neg[0] expected a text that is not empty'],
    [{ query: 'q', pos: ['p'], neg: 'n' }, 'field neg expected an array of strings'],
    [{ query: 'q', pos: ['p'], pos_scores: [1, 2] }, 'field pos_scores expected 1 scores, one per text'],
    [{ query: 'q', pos: ['p'], neg: ['n'], neg_scores: ['1'] }, 'field neg_scores[0] expected a number'],
    [{ query: 'q', pos: ['p'], prompt: 1 }, 'field prompt expected a string'],
  ])('%j is refused', (value, message) => {
    expect(() => pairRow(row(value))).toThrow(message)
  })

  it('need no neg, and keep what FlagEmbedding rows carry', () => {
    expect(pairRow(row({ query: 'q', pos: ['p'] })).neg).toEqual([])
    expect(pairRow(row({ query: 'q', pos: ['p'], neg: [] })).neg).toEqual([])
    const full = { query: 'q', pos: ['p'], neg: ['n', 'm'], pos_scores: [1], neg_scores: [0, -1], prompt: '', type: 'normal' }
    expect(pairRow(row(full))).toMatchObject({ posScores: [1], negScores: [0, -1], prompt: '', type: 'normal' })
    expect(() => textRow(row({ text: '' }))).toThrow('f.jsonl:7: field text expected a text that is not empty')
  })

  it('need neg when groupSize > 1 and scores when distilling, and say so', async () => {
    const plain = await rowsOf({ query: 'q', pos: ['p'], neg: ['n'] }, { query: 'r', pos: ['p'] })
    await expect(readPairs([plain], { groupSize: 2, scores: false })).rejects.toThrow(
      ':2: field neg expected at least one negative text because groupSize is 2',
    )
    await expect(readPairs([plain], { groupSize: 1, scores: true })).rejects.toThrow(
      ':1: field pos_scores expected teacher scores because distillation is on',
    )
    await expect(readPairs([await file('\n\n')], { groupSize: 1, scores: false })).rejects.toThrow(
      'expected at least one row, but was empty',
    )
  })
})

describe('batch plan', () => {
  const sources = [{ name: 'a', start: 0, end: 103 }]
  const flat = (batches: Int32Array[]): number[] => batches.flatMap((batch) => [...batch])

  it('differs from epoch to epoch, repeats for the same seed, and holds each row at most once', () => {
    const [one, two] = [epochBatches(sources, 10, 42, 0), epochBatches(sources, 10, 42, 1)]
    expect(flat(one)).not.toEqual(flat(two))
    expect(epochBatches(sources, 10, 42, 0)).toEqual(one)
    expect(flat(epochBatches(sources, 10, 43, 0))).not.toEqual(flat(one))
    expect(one.length).toBe(batchesPerEpoch(sources, 10))
    expect(new Set(flat(one)).size).toBe(100)
    expect([...flat(one), ...flat(two)].every((row) => row >= 0 && row < 103)).toBe(true)
    // the three rows left out are not the same ones each time
    expect(new Set(flat(one))).not.toEqual(new Set(flat(two)))
  })

  it('takes every batch from one source', () => {
    const two = [...sources, { name: 'b', start: 103, end: 140 }]
    const batches = epochBatches(two, 8, 1, 0)
    expect(batches.length).toBe(batchesPerEpoch(two, 8))
    for (const batch of batches) expect(new Set([...batch].map((row) => row < 103)).size).toBe(1)
    expect(batches.slice(0, 12).some((batch) => batch[0]! >= 103)).toBe(true)
  })

  it('refuses a batch that the rows do not fill', () => {
    expect(() => batchesPerEpoch(sources, 104)).toThrow('batchSize must be at most 103, the number of rows in a, but was 104')
  })
})

describe('groups', () => {
  const example = { query: 0, pos: Int32Array.of(0, 1, 2), neg: Int32Array.of(3, 4, 5, 6, 7) }

  it('draw negatives without replacement and repeat a list that is short', () => {
    for (let i = 0; i < 100; i++) {
      const { positive, negatives } = chooseGroup(example, 5, random(1, 'group', 0, i))
      expect(positive).toBeLessThan(3)
      expect(new Set(negatives).size).toBe(4)
      const repeated = chooseGroup(example, 12, random(1, 'group', 0, i)).negatives
      expect(repeated.length).toBe(11)
      for (let n = 0; n < 5; n++) expect(repeated.filter((m) => m === n).length).toBeLessThanOrEqual(3)
    }
  })

  it('choose other positives in other epochs', () => {
    const epochs = Array.from({ length: 20 }, (_, epoch) => chooseGroup(example, 2, random(1, 'group', epoch, 0)).positive)
    expect(new Set(epochs).size).toBe(3)
  })

  it('turn teacher scores into probabilities', () => {
    expect(softmax([1000, 1000])).toEqual([0.5, 0.5])
    expect(softmax([0, Math.log(3)])[1]).toBeCloseTo(0.75, 12)
  })
})

describe('identity', () => {
  // The rule of the device contract: which columns of row i stay candidates besides its own target.
  function candidates(batch: ReturnType<typeof chooseBatch>, i: number, groupSize: number): number[] {
    const { passageIds, queryIds, positiveOffsets, positiveIds } = batch
    const target = i * groupSize
    const listed = new Set(positiveIds.subarray(positiveOffsets[i], positiveOffsets[i + 1]))
    return [...passageIds.keys()].filter((j) => {
      if (j === target || passageIds[j] === passageIds[target] || listed.has(passageIds[j]!)) return false
      const row = Math.floor(j / groupSize)
      return !(row !== i && j % groupSize === 0 && queryIds[row] === queryIds[i])
    })
  }

  it('never leaves a positive of a query among its negatives', async () => {
    const draw = random(5, 'property')
    const text = (kind: string, n: number): string => `${kind}${draw.int(n)}`
    const rows = Array.from({ length: 60 }, () => ({
      query: text('q', 25),
      pos: Array.from({ length: 1 + draw.int(3) }, () => text('p', 30)),
      neg: Array.from({ length: 1 + draw.int(4) }, () => text('p', 30)),
    }))
    const data: PairData = await readPairs([await rowsOf(...rows)], { groupSize: 3, scores: false })
    const positivesOf = (query: string): Set<string> => new Set(rows.filter((row) => row.query === query).flatMap((row) => row.pos))
    let removed = 0
    for (const batchRows of epochBatches(data.sources, 12, 9, 0)) {
      const batch = chooseBatch(data, batchRows, { groupSize: 3, seed: 9, epoch: 0, distillation: 'none' })
      for (const [i, row] of batchRows.entries()) {
        const positives = positivesOf(rows[row]!.query)
        expect(positives.has(data.passages[batch.passageIds[i * 3]!]!)).toBe(true)
        const left = candidates(batch, i, 3)
        for (const j of left) expect(positives.has(data.passages[batch.passageIds[j]!]!)).toBe(false)
        removed += 35 - left.length
        const listed = batch.positiveIds.subarray(batch.positiveOffsets[i], batch.positiveOffsets[i + 1])
        expect([...listed]).toEqual([...listed].sort((a, b) => a - b))
      }
    }
    expect(removed).toBeGreaterThan(0)
  })

  it('numbers texts by their exact string over all files, and gives teacher probabilities in the order of the group', async () => {
    const paths = [
      await rowsOf({ query: 'q', pos: ['a'], neg: ['b'], pos_scores: [Math.log(3)], neg_scores: [0] }),
      await rowsOf({ query: 'q ', pos: ['b'], neg: ['a'], pos_scores: [0], neg_scores: [0] }),
    ]
    const data = await readPairs(paths, { groupSize: 2, scores: true })
    expect(data.queries).toEqual(['q', 'q '])
    expect(data.passages).toEqual(['a', 'b'])
    expect(data.sources.map(({ start, end }) => [start, end])).toEqual([
      [0, 1],
      [1, 2],
    ])
    const batch = chooseBatch(data, Int32Array.of(0, 1), { groupSize: 2, seed: 1, epoch: 0, distillation: 'kl_div' })
    expect([...batch.passageIds]).toEqual([0, 1, 1, 0])
    expect(batch.teacher![0]).toBeCloseTo(0.75, 6)
    expect([...batch.teacher!.subarray(2)]).toEqual([0.5, 0.5])
  })
})

describe('token cache', () => {
  it('tokenizes each text once and keeps the order', async () => {
    const seen: string[] = []
    const tokenizer = {
      encodeBatch: (texts: readonly string[]) => {
        seen.push(...texts)
        return { ids: texts.map((text) => Int32Array.of(text.length)), truncatedTexts: 0 }
      },
    }
    const cache = tokenCache(tokenizer, (i) => 'x'.repeat(i), 8)
    expect((await cache.get([3, 1, 3])).map((ids) => ids[0])).toEqual([3, 1, 3])
    expect((await cache.get([1, 2])).map((ids) => ids[0])).toEqual([1, 2])
    expect(seen).toEqual(['xxx', 'x', 'xx'])
    expect(cache.stats.texts).toBe(3)
  })
})

describe('configuration', () => {
  const merge = (values: Record<string, unknown>, origin = '--set') => mergeConfig('finetune', [{ origin, values }])
  it('refuses unknown keys with a suggestion and the place', () => {
    expect(() => merge({ learning_rate: 1 })).toThrow('"learning_rate" is not a configuration key (--set); did you mean learningRate?')
    expect(() => merge({ batchsize: 1 }, 'file c.json')).toThrow('(file c.json); did you mean batchSize?')
    expect(() => merge({ false_negative: 'all' })).toThrow('did you mean falseNegatives?')
    expect(() => merge({ colour: 1 })).toThrow('known keys: steps, epochs')
  })

  it.each<[string, unknown, string]>([
    ['batchSize', 0, 'batchSize must be an integer of at least 1'],
    ['learningRate', '1e-4', 'learningRate must be a number greater than 0'],
    ['temperature', 20, 'temperature must be a number from 0.0001 to 1'],
    ['dropout', 1, 'dropout must be a number from 0 to below 1'],
    ['dtype', 'int8', "dtype must be 'fp32' or 'bf16', but was \"int8\""],
    ['candidates', 'sources', "candidates must be 'batch', 'source' or 'group', but was \"sources\""],
    ['direction', 'both', "direction must be 'query-to-passage' or 'symmetric'"],
    ['falseNegatives', 'off', "falseNegatives must be 'keep', 'in-batch'"],
    ['falseNegativeMargin', 3, 'falseNegativeMargin must be a number from -2 to 2'],
    ['matryoshka', [64, 64], 'matryoshka must be a list of different widths'],
    ['device', 'gpu', "device must be a device: 'auto', 'cpu', 'cuda' or 'cuda:N'"],
  ])('refuses %s = %j', (key, value, message) => {
    expect(() => merge({ [key]: value })).toThrow(message)
  })

  it('lets later sources win and names the keys that a stage does not use', () => {
    const sources = [
      { origin: 'file', values: { batchSize: 8, encoderMaskRatio: 0.2 } },
      { origin: '--set', values: { batchSize: 16 } },
    ]
    expect(mergeConfig('finetune', sources)).toEqual({ config: { batchSize: 16 }, unused: ['encoderMaskRatio'] })
  })

  it('reads key=value', () => {
    expect(parseAssignment('learningRate=2e-5')).toEqual(['learningRate', 2e-5])
    expect(parseAssignment('matryoshka=[64,128]')).toEqual(['matryoshka', [64, 128]])
    expect(parseAssignment('device=cpu')).toEqual(['device', 'cpu'])
    expect(parseAssignment('instruction=检索：a=b')).toEqual(['instruction', '检索：a=b'])
    expect(parseAssignment('instruction=')).toEqual(['instruction', ''])
    expect(() => parseAssignment('=1')).toThrow('--set must be key=value')
  })
})

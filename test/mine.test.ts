import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, describe, expect, test } from 'vitest'
import { random } from '../lib/data/random.js'
import { chooseNegatives, noCounts } from '../lib/mine/choose.js'
import { mine } from '../lib/mine/mine.js'
import { fakeModel } from './support/fake_model.js'

const root = mkdtempSync(join(tmpdir(), 'bge-mine-'))
afterAll(() => rmSync(root, { recursive: true, force: true }))
let made = 0
const file = (): string => join(root, `${made++}.jsonl`)
function write(rows: readonly unknown[]): string {
  const name = file()
  writeFileSync(name, rows.map((row) => JSON.stringify(row) + '\n').join(''))
  return name
}
const read = (name: string): Record<string, unknown>[] =>
  readFileSync(name, 'utf8')
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line) as Record<string, unknown>)

/** Passage p_i has the cosine rank i for the query 'q': vectors on a quarter circle, best first. */
function circle(n: number): Record<string, number[]> {
  const angle = (i: number): number[] => [Math.cos((i * Math.PI) / 2 / n), Math.sin((i * Math.PI) / 2 / n)]
  return { q: [1, 0], ...Object.fromEntries(Array.from({ length: n }, (_, i) => [`p${i}`, angle(i)])) }
}

describe('chooseNegatives', () => {
  const passages = Array.from({ length: 10 }, (_, i) => `p${i}`)
  const pool = (positives: string[]) => ({
    passages,
    rows: 1,
    number: (text: string) => (passages.includes(text) ? passages.indexOf(text) : undefined),
    positives: () => new Set(positives),
  })
  const hits = Int32Array.from({ length: 10 }, (_, i) => i)

  test('ranks [low, high), 0-based, without positives and the query itself', () => {
    const counts = noCounts()
    const neg = chooseNegatives('p4', hits, pool(['p0', 'p3']), { range: [2, 7], count: 5, draw: random(1, 'test'), counts })
    expect(neg.slice(0, 3)).toEqual(['p2', 'p5', 'p6'])
    expect(counts).toEqual({ beforeRange: 2, positive: 1, query: 1, mined: 3, random: 2, missing: 0 })
    expect(new Set(neg).size).toBe(5)
    for (const text of ['p0', 'p3', 'p4']) expect(neg).not.toContain(text)
  })

  test('a pool that is too small gives what there is and counts the rest', () => {
    const counts = noCounts()
    const neg = chooseNegatives('q', hits, pool(['p0']), { range: [8, 20], count: 15, draw: random(1, 'test'), counts })
    expect([...neg].sort()).toEqual(passages.slice(1))
    expect(counts).toMatchObject({ mined: 2, random: 7, missing: 6 })
  })

  test('-1 ends the hits', () => {
    const counts = noCounts()
    chooseNegatives('q', Int32Array.of(5, -1, 7), pool(['p0']), { range: [0, 3], count: 1, draw: random(1, 'test'), counts })
    expect(counts).toMatchObject({ mined: 1, random: 0 })
  })

  test('every rank of the range is drawn equally often', () => {
    const seen = new Map<string, number>()
    for (let i = 0; i < 3000; i++) {
      const [neg] = chooseNegatives('q', hits, pool(['p0']), { range: [2, 8], count: 1, draw: random(3, 'test', 0, i), counts: noCounts() })
      seen.set(neg!, (seen.get(neg!) ?? 0) + 1)
    }
    expect([...seen.keys()].sort()).toEqual(['p2', 'p3', 'p4', 'p5', 'p6', 'p7'])
    for (const count of seen.values()) expect(Math.abs(count - 500)).toBeLessThan(5 * Math.sqrt(500 * (5 / 6)))
  })
})

describe('mine', () => {
  const vectors = circle(30)
  const rows = [
    { query: 'q', pos: ['p0'], neg: ['p9'], pos_scores: [9], neg_scores: [1], prompt: '', source: 'x' },
    { query: 'q', pos: ['p3'] },
    { query: 'r', pos: Array.from({ length: 29 }, (_, i) => `p${i + 1}`) },
  ]
  const model = () => fakeModel({ ...vectors, r: [0, 1] })

  test('negatives come from the range, never a positive of the same query text in another row; other fields stay', async () => {
    const out = file()
    const result = await mine(model(), { data: write(rows), out, range: [1, 6], negatives: 3 })
    const [first, second] = read(out)
    for (const row of [first!, second!]) {
      const neg = row.neg as string[]
      expect(neg).toHaveLength(3)
      for (const text of neg) expect(['p1', 'p2', 'p4', 'p5']).toContain(text)
    }
    expect(first).toMatchObject({ query: 'q', pos: ['p0'], pos_scores: [9], prompt: '', source: 'x' })
    expect(first).not.toHaveProperty('neg_scores')
    // 'r' has one passage that is not a positive
    expect(read(out)[2]).toMatchObject({ query: 'r', neg: ['p0'] })
    // q twice: p3 in the range; r: its best five are p29 .. p25, of which rank 0 is before the range
    expect(result).toEqual({ rows: 3, pool: 30, beforeRange: 3, positive: 2 + 5, query: 0, mined: 6, random: 1, missing: 2 })
  })

  test('is repeatable, follows the seed, and may write over its input', async () => {
    const data = write(rows)
    const once = file()
    const again = file()
    const other = file()
    await mine(model(), { data, out: once, range: [1, 20], negatives: 3, seed: 7 })
    await mine(model(), { data, out: again, range: [1, 20], negatives: 3, seed: 7 })
    await mine(model(), { data, out: other, range: [1, 20], negatives: 3, seed: 8 })
    expect(readFileSync(again, 'utf8')).toBe(readFileSync(once, 'utf8'))
    expect(readFileSync(other, 'utf8')).not.toBe(readFileSync(once, 'utf8'))
    await mine(model(), { data, out: data, range: [1, 20], negatives: 3, seed: 7 })
    expect(readFileSync(data, 'utf8')).toBe(readFileSync(once, 'utf8'))
  })

  test('passages without, queries with the instruction; a prompt of the row goes first', async () => {
    const fake = model()
    await mine(fake, { data: write(rows), out: file(), range: [1, 6], instruction: '问' })
    expect(fake.calls.map(({ texts, instruction }) => [texts.length, instruction])).toEqual([
      [30, ''],
      [1, ''],
      [2, '问'],
    ])
  })

  test('a pool file replaces the passages of the data', async () => {
    const pool = write(['p10', 'p11', 'q', 'p10', 'p3'].map((text) => ({ text })))
    const out = file()
    const result = await mine(model(), { data: write(rows.slice(0, 2)), out, pool, range: [0, 9], negatives: 9 })
    expect(read(out).map((row) => row.neg)).toEqual([
      ['p10', 'p11'],
      ['p10', 'p11'],
    ])
    expect(result).toMatchObject({ pool: 4, positive: 2, query: 2, mined: 4, missing: 14 })
  })

  test('bad input leaves nothing behind', async () => {
    const data = write([...rows, { query: 'q', pos: [] }])
    const before = readdirSync(root)
    const out = join(root, 'out.jsonl')
    await expect(mine(model(), { data, out })).rejects.toThrow(/:4: field pos expected at least one positive text/)
    await expect(mine(model(), { data: write([]), out })).rejects.toThrow(/expected at least one row/)
    await expect(mine(model(), { data: write(rows), out, range: [5, 5] })).rejects.toThrow(/range must be two ranks/)
    await expect(mine(model(), { data: write(rows), out, negatives: 0 })).rejects.toThrow(
      /negatives must be an integer of at least 1, but was 0/,
    )
    const nan = fakeModel({ ...vectors, r: [Number.NaN, 1] })
    await expect(mine(nan, { data: write(rows), out })).rejects.toThrow(expect.objectContaining({ code: 'ERR_BGE_NON_FINITE' }))
    expect(readdirSync(root).filter((name) => !before.includes(name) && !/^\d+\.jsonl$/.test(name))).toEqual([])
  })
})

import { createHash } from 'node:crypto'
import { cpSync, existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { afterAll, beforeEach, describe, expect, test } from 'vitest'
import { textId } from '../lib/data/identity.js'
import { random } from '../lib/data/random.js'
import { scoreRule } from '../lib/mine/choose.js'
import { mine, type MineOptions, type MineResult, type MiningModel } from '../lib/mine/mine.js'
import { fakeModel } from './support/fake_model.js'

const root = mkdtempSync(join(tmpdir(), 'bge-mine-'))
afterAll(() => rmSync(root, { recursive: true, force: true }))
let made = 0
let folder = ''
beforeEach(() => {
  folder = join(root, String(made++))
  mkdirSync(folder)
})

function write(name: string, rows: readonly unknown[]): string {
  const file = join(folder, name)
  writeFileSync(file, rows.map((row) => JSON.stringify(row) + '\n').join(''))
  return file
}
const read = (name: string): Record<string, unknown>[] =>
  readFileSync(name, 'utf8')
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line) as Record<string, unknown>)
const negatives = (name: string): string[][] => read(name).map((row) => row['neg'] as string[])
const hash = (file: string): string => createHash('sha256').update(readFileSync(file)).digest('hex')

type Fake = MiningModel & { readonly calls: { texts: string[]; instruction: string }[] }
const named = (vectors: Record<string, readonly number[]>, fingerprint = 'f'): Fake => ({
  ...fakeModel(vectors),
  fingerprint: async () => fingerprint,
})
const asked = ({ calls }: Fake): string[] => calls.flatMap(({ texts }) => texts)

/** A passage whose cosine with the query 'q' is given. */
const at = (cosine: number): number[] => [cosine, Math.sqrt(1 - cosine * cosine)]
/** Passages p0 .. p(n-1), the best first, on a quarter circle that starts at 'q'. */
function circle(n: number): Record<string, number[]> {
  const angle = (i: number): number[] => [Math.cos((i * Math.PI) / 2 / n), Math.sin((i * Math.PI) / 2 / n)]
  return { q: [1, 0], ...Object.fromEntries(Array.from({ length: n }, (_, i) => [`p${i}`, angle(i)])) }
}
const texts = (n: number, first = 0): string[] => Array.from({ length: n }, (_, i) => `p${first + i}`)
const ranksOnly = { rules: { maxRelative: null }, storage: { cache: null } }
const counts = ({ rejected }: MineResult): Record<string, number> =>
  Object.fromEntries(Object.entries(rejected).flatMap(([rule, { count }]) => (count > 0 ? [[rule, count]] : [])))

/** Mines for one query 'q' with the positives `pos` over a pool. */
async function mineOne(
  vectors: Record<string, readonly number[]>,
  pool: readonly unknown[],
  options: Partial<MineOptions> = {},
  row: Record<string, unknown> = {},
): Promise<{ neg: string[]; row: Record<string, unknown>; result: MineResult }> {
  const data = write('data.jsonl', [{ query: 'q', pos: ['positive'], ...row }])
  const out = join(folder, 'out.jsonl')
  const passages = write(
    'pool.jsonl',
    pool.map((entry) => (typeof entry === 'string' ? { text: entry } : entry)),
  )
  const result = await mine(named({ positive: at(0.9), q: [1, 0], ...vectors }), {
    data,
    out,
    pool: passages,
    range: [0, 100],
    fill: 'none',
    storage: { cache: null },
    ...options,
  })
  return { neg: negatives(out)[0]!, row: read(out)[0]!, result }
}

describe('the rank range', () => {
  test('takes ranks [low, high), 0-based, without positives and the query itself', async () => {
    const { neg, result } = await mineOne(circle(10), ['q', ...texts(10)], { ...ranksOnly, range: [2, 7], negatives: 9 }, { pos: ['p3'] })
    // q, p0 | p1 .. p5
    expect(neg).toEqual(['p1', 'p2', 'p4', 'p5'])
    expect(counts(result)).toEqual({ rank: 2, positive: 1 })
    expect(result).toMatchObject({ rows: 1, pool: 11, mined: 4, random: 0, missing: 5, short: 1 })
    const whole = await mineOne(circle(10), ['q', ...texts(10)], { ...ranksOnly, negatives: 20 }, { pos: ['p3'] })
    expect(whole.neg).toEqual(texts(10).filter((text) => text !== 'p3'))
    expect(counts(whole.result)).toEqual({ query: 1, positive: 1 })
  })

  test('every rank of it is drawn equally often, "top" takes the best', async () => {
    const rows = Array.from({ length: 3000 }, () => ({ query: 'q', pos: ['p0'] }))
    const data = write('data.jsonl', rows)
    const out = join(folder, 'out.jsonl')
    const options = {
      data,
      out,
      pool: write(
        'pool.jsonl',
        texts(10).map((text) => ({ text })),
      ),
      range: [2, 8],
      ...ranksOnly,
    } as const
    await mine(named(circle(10)), { ...options, negatives: 1 })
    const seen = new Map<string, number>()
    for (const [neg] of negatives(out)) seen.set(neg!, (seen.get(neg!) ?? 0) + 1)
    expect([...seen.keys()].sort()).toEqual(texts(6, 2))
    for (const count of seen.values()) expect(Math.abs(count - 500)).toBeLessThan(5 * Math.sqrt(500 * (5 / 6)))
    await mine(named(circle(10)), { ...options, negatives: 2, sampling: 'top' })
    expect(new Set(negatives(out).map(String))).toEqual(new Set(['p2,p3']))
  })

  test('what it leaves short is filled with other passages at random, or not', async () => {
    const filled = await mineOne(circle(12), texts(12), { ...ranksOnly, range: [8, 10], negatives: 6, fill: 'random' }, { pos: ['p0'] })
    expect(filled.neg.slice(0, 2)).toEqual(['p8', 'p9'])
    expect(new Set(filled.neg).size).toBe(6)
    expect(filled.neg).not.toContain('p0')
    expect(filled.result).toMatchObject({ mined: 2, random: 4, missing: 0, short: 1 })
    const all = await mineOne(circle(12), texts(12), { ...ranksOnly, range: [8, 10], negatives: 50, fill: 'random' }, { pos: ['p0'] })
    expect([...all.neg].sort()).toEqual(texts(11, 1).sort())
    expect(all.result).toMatchObject({ mined: 2, random: 9, missing: 39 })
  })

  test('sampling "pool" searches and encodes nothing, and draws every passage that is no positive', async () => {
    const model = named(circle(30))
    const data = write(
      'data.jsonl',
      Array.from({ length: 2000 }, () => ({ query: 'q', pos: ['p0'] })),
    )
    const out = join(folder, 'out.jsonl')
    const pool = write(
      'pool.jsonl',
      texts(11).map((text) => ({ text })),
    )
    const result = await mine(model, { data, out, pool, negatives: 1, sampling: 'pool', ...ranksOnly })
    expect(model.calls).toEqual([])
    expect(result).toMatchObject({ mined: 0, random: 2000, missing: 0, short: 0 })
    const seen = new Map<string, number>()
    for (const [neg] of negatives(out)) seen.set(neg!, (seen.get(neg!) ?? 0) + 1)
    expect([...seen.keys()].sort()).toEqual(texts(10, 1).sort())
    for (const count of seen.values()) expect(Math.abs(count - 200)).toBeLessThan(5 * Math.sqrt(200 * 0.9))
  })
})

describe('positives are removed', () => {
  test('those of every row of the query, also in another spelling', async () => {
    const data = write('data.jsonl', [
      { query: 'q', pos: ['p0'] },
      { query: 'ｑ？', pos: ['p3'] },
      { query: 'other', pos: ['p5'] },
    ])
    const out = join(folder, 'out.jsonl')
    const pool = write('pool.jsonl', [{ text: 'P 0。' }, ...texts(5, 1).map((text) => ({ text }))])
    const vectors = { ...circle(10), 'P 0。': [1, 0], 'ｑ？': [1, 0], other: [1, 0] }
    const result = await mine(named(vectors), { data, out, pool, range: [0, 9], fill: 'none', ...ranksOnly })
    expect(negatives(out)).toEqual([
      ['p1', 'p2', 'p4', 'p5'],
      ['p1', 'p2', 'p4', 'p5'],
      ['P 0。', 'p1', 'p2', 'p3', 'p4'],
    ])
    expect(counts(result)).toEqual({ positive: 5 })
  })

  test('by id where rows and pool have ids, whatever the text is', async () => {
    const pool = [{ text: 'p1', id: 'd1' }, { text: 'p2', id: 2 }, { text: 'p3', id: 'd1' }, { text: 'p4' }, { text: 'P4', id: 'd9' }]
    const { neg, result } = await mineOne(circle(10), pool, ranksOnly, { pos_ids: ['d1', 7] })
    expect(neg).toEqual(['p2', 'p4'])
    expect(counts(result)).toEqual({ positiveId: 2 })
    expect(result).toMatchObject({ pool: 4, duplicates: 1 })
    const second = await mineOne(circle(10), pool, ranksOnly, { pos_ids: ['d9', '2'] })
    expect(second.neg).toEqual(['p1', 'p3'])
  })

  test('equal passages are one, and the first spelling of it is written', async () => {
    const { neg, result } = await mineOne({ ...circle(10), 'P 1': at(0.1) }, ['p1', 'P 1', 'p2', 'p1'], ranksOnly)
    expect(neg).toEqual(['p1', 'p2'])
    expect(result).toMatchObject({ pool: 2, duplicates: 2 })
  })
})

describe('score rules', () => {
  const scores = [0.88, 0.86, 0.85, 0.7, 0.5, -0.2]
  const vectors = Object.fromEntries(scores.map((score) => [`s${score}`, at(score)]))
  const pool = Object.keys(vectors)
  const kept = async (rules: MineOptions['rules'], row: Record<string, unknown> = {}, more = {}): Promise<string[]> =>
    (await mineOne({ ...vectors, ...more }, pool, { ...(rules && { rules }) }, row)).neg

  test('a candidate above 95 % of the positive is suspect unless told otherwise', async () => {
    expect(await kept(undefined)).toEqual(['s0.85', 's0.7', 's0.5', 's-0.2']) // 0.855
    expect(await kept({ maxRelative: 0.7 })).toEqual(['s0.5', 's-0.2'])
    expect(await kept({ maxRelative: null })).toEqual(pool)
  })

  test('margin, highest and lowest score', async () => {
    expect(await kept({ maxRelative: null, margin: 0.1 })).toEqual(['s0.7', 's0.5', 's-0.2'])
    expect(await kept({ maxRelative: null, maxScore: 0.6 })).toEqual(['s0.5', 's-0.2'])
    expect(await kept({ minScore: 0.6 })).toEqual(['s0.85', 's0.7'])
  })

  test('the lowest positive of the row counts, and a negative one lowers the bound', async () => {
    expect(await kept(undefined, { pos: ['positive', 'weak'] }, { weak: at(0.6) })).toEqual(['s0.5', 's-0.2'])
    const rule = scoreRule({ maxRelative: 0.95, margin: null, maxScore: null, minScore: null }, -0.4)
    expect([rule(-0.41), rule(-0.43)]).toEqual(['maxRelative', undefined])
    const bare = scoreRule({ maxRelative: 1, margin: 0, maxScore: 0.5, minScore: 0.5 }, 0.5)
    expect([bare(0.5), bare(0.51), bare(0.49)]).toEqual([undefined, 'maxRelative', 'minScore'])
  })

  test('hold for passages drawn at random too', async () => {
    const { neg, result } = await mineOne(vectors, pool, { fill: 'random', range: [5, 6], negatives: 6 })
    expect(neg[0]).toBe('s-0.2')
    expect(new Set(neg)).toEqual(new Set(['s-0.2', 's0.5', 's0.7', 's0.85']))
    expect(counts(result)).toEqual({ rank: 5, maxRelative: 2 })
    expect(result).toMatchObject({ mined: 1, random: 3, missing: 2 })
    expect(result.rejected.maxRelative.examples).toEqual([
      expect.objectContaining({ rank: null, positiveScore: Math.fround(0.9), query: 'q', at: join(folder, 'data.jsonl:1') }),
    ])
  })

  test('a row to which they leave nothing gets random negatives that are not compared with its positive, and is counted', async () => {
    const rows = Array.from({ length: 600 }, () => ({ query: 'q', pos: ['weak'] }))
    const options: MineOptions = {
      data: write('data.jsonl', rows),
      out: join(folder, 'out.jsonl'),
      pool: write(
        'pool.jsonl',
        ['weak', ...pool].map((text) => ({ text })),
      ),
      range: [0, 4],
      negatives: 2,
      storage: { cache: null },
    }
    const model = named({ q: [1, 0], weak: at(-0.5), ...vectors })
    const result = await mine(model, options)
    expect(result).toMatchObject({ mined: 0, random: 1200, missing: 0, short: 600, weak: 600, empty: 0 })
    const drawn = negatives(options.out).flat()
    expect(new Set(negatives(options.out).map((neg) => new Set(neg).size))).toEqual(new Set([2]))
    expect(new Set(drawn)).toEqual(new Set(pool)) // the range's own and others, never the positive
    for (const text of pool)
      expect(Math.abs(drawn.filter((other) => other === text).length - 200)).toBeLessThan(5 * Math.sqrt(600 * (1 / 3) * (2 / 3)))
    // What was asked for of the score alone holds for them too, and one that passes the rules is enough.
    const low = await mine(model, { ...options, rules: { maxScore: 0.6 } })
    expect(low).toMatchObject({ random: 1200, weak: 600, empty: 0 })
    expect(new Set(negatives(options.out).flat())).toEqual(new Set(['s0.5', 's-0.2']))
    const none = await mine(model, { ...options, rules: { maxScore: -0.9 } })
    expect(none).toMatchObject({ mined: 0, random: 0, missing: 1200, weak: 0, empty: 600 })
    const margin = await mine(model, { ...options, rules: { maxRelative: null, margin: 0 } })
    expect(margin).toMatchObject({ random: 1200, weak: 600 })
    expect(await mine(model, { ...options, fill: 'none' })).toMatchObject({ random: 0, missing: 1200, weak: 0, empty: 600 })
    const one = await mine(named({ q: [1, 0], weak: at(-0.1), ...vectors }), options)
    expect(one).toMatchObject({ mined: 0, random: 600, missing: 600, weak: 0, empty: 0 })
    expect(new Set(negatives(options.out).flat())).toEqual(new Set(['s-0.2']))
  })

  test('each candidate counts under the first rule that rejects it, with ten examples a rule at most', async () => {
    const rows = Array.from({ length: 40 }, (_, i) => ({ query: `q${i}`, pos: ['positive'] }))
    const queries = Object.fromEntries(rows.map(({ query }) => [query, [1, 0]]))
    const data = write('data.jsonl', rows)
    const options: MineOptions = {
      data,
      out: join(folder, 'out.jsonl'),
      pool: write(
        'pool.jsonl',
        ['positive', ...pool].map((text) => ({ text })),
      ),
      range: [1, 100],
      rules: { margin: 0.1, maxScore: 0.6, minScore: 0 },
      storage: { cache: null },
    }
    const { rejected } = await mine(named({ positive: at(0.9), ...vectors, ...queries }), options)
    const each = Object.entries(rejected).map(([rule, { count, examples }]) => [rule, count / 40, examples.length])
    expect(each).toEqual([
      ['rank', 1, 10],
      ['positive', 0, 0],
      ['positiveId', 0, 0],
      ['query', 0, 0],
      ['maxRelative', 2, 10],
      ['margin', 1, 10],
      ['maxScore', 1, 10],
      ['minScore', 1, 10],
    ])
    const lines = rejected.margin.examples.map((example) => example.at)
    expect(new Set(lines).size).toBe(10)
    expect(rejected.margin.examples[0]).toMatchObject({
      passage: 's0.85',
      rank: 3,
      score: Math.fround(0.85),
      positiveScore: Math.fround(0.9),
    })
  })
})

describe('scores', () => {
  const vectors = { a: at(0.8), b: at(0.4), c: at(0.2) }

  test('are written for positives and negatives, divided by the temperature', async () => {
    const { row } = await mineOne(vectors, ['a', 'b', 'c'], { scoreTemperature: 0.1 }, { pos_scores: [7], neg: ['x'], neg_scores: [1] })
    expect(row).toEqual({ query: 'q', pos: ['positive'], neg: ['a', 'b', 'c'], pos_scores: [9], neg_scores: [8, 4, 2] })
  })

  test('a teacher searches nothing, but its scores decide and are written', async () => {
    const teacher = named(
      { q: [0, 1, 0], positive: [0, 1, 0], a: [1, 0, 0], b: [0, 0.99, Math.sqrt(1 - 0.99 ** 2)], c: [0, 0.5, Math.sqrt(0.75)] },
      't',
    )
    const options = { scoreTemperature: 1, teacher: { model: teacher, instruction: '师' } }
    const { row, result } = await mineOne({ ...vectors, a: at(0.89) }, ['a', 'b', 'c'], options)
    expect(row).toMatchObject({ neg: ['a', 'c'], pos_scores: [1], neg_scores: [0, 0.5] })
    expect(counts(result)).toEqual({ maxRelative: 1 })
    expect(result.rejected.maxRelative.examples[0]).toMatchObject({ passage: 'b', rank: 1, score: Math.fround(0.99) })
    expect(teacher.calls).toEqual([
      { texts: ['q'], instruction: '师' },
      { texts: expect.arrayContaining(['positive', 'a', 'b', 'c']) as string[], instruction: '' },
    ])
  })

  test('a teacher that nothing asks is refused', async () => {
    await expect(mineOne(vectors, ['a'], { teacher: { model: named(vectors) }, rules: { maxRelative: null } })).rejects.toThrow(
      /teacher must be given with a score rule or a scoreTemperature/,
    )
  })
})

describe('rows', () => {
  const vectors = { ...circle(30), r: [0, 1] }
  const rows = [
    { query: 'q', pos: ['p0'], neg: ['p9'], pos_scores: [9], neg_scores: [1], neg_ids: ['x'], prompt: '', source: 'x' },
    { query: 'q', pos: ['p3'] },
    { query: 'r', pos: texts(29, 1) },
  ]

  test('keep their order and other fields; without a pool the passages are those of the data', async () => {
    const out = join(folder, 'out.jsonl')
    const result = await mine(named(vectors), { data: write('data.jsonl', rows), out, range: [1, 6], negatives: 3, ...ranksOnly })
    const [first, second, third] = read(out)
    for (const row of [first!, second!]) {
      const neg = row['neg'] as string[]
      expect(neg).toHaveLength(3)
      for (const text of neg) expect(['p1', 'p2', 'p4', 'p5']).toContain(text)
    }
    expect(first).toEqual({ query: 'q', pos: ['p0'], neg: first!['neg'], pos_scores: [9], prompt: '', source: 'x' })
    expect(third).toMatchObject({ query: 'r', neg: ['p0'] }) // it has one passage that is not a positive
    expect(result).toMatchObject({ rows: 3, pool: 30, mined: 6, random: 1, missing: 2, short: 1 })
    expect(counts(result)).toEqual({ rank: 3, positive: 2 + 5 })
  })

  test('of bge curate get the stable ids of their negatives', async () => {
    const row = { pos_ids: [textId('positive')], neg_ids: [] }
    const { neg, row: written } = await mineOne(circle(5), texts(5), ranksOnly, row)
    expect(neg).toHaveLength(5)
    expect(written).toMatchObject({ pos_ids: [textId('positive')], neg_ids: neg.map(textId) })
  })

  test('may come from several files and a folder, and a pool from text lines', async () => {
    const one = write('one.jsonl', rows.slice(0, 1))
    mkdirSync(join(folder, 'more'))
    write('more/two.jsonl', rows.slice(1, 2))
    const pool = join(folder, 'pool.txt')
    writeFileSync(pool, 'p10\n\np11\r\nq\np10\np3\n')
    const out = join(folder, 'out.jsonl')
    const result = await mine(named(vectors), { data: [one, join(folder, 'more')], out, pool, range: [0, 9], negatives: 9, ...ranksOnly })
    expect(negatives(out)).toEqual([
      ['p10', 'p11'],
      ['p10', 'p11'],
    ])
    expect(result).toMatchObject({ pool: 4, duplicates: 1, mined: 4, missing: 14 })
    expect(counts(result)).toEqual({ positive: 2, query: 2 })
  })

  test('passages without, queries with the instruction; a prompt of the row goes first', async () => {
    const fake = named(vectors)
    await mine(fake, { data: write('data.jsonl', rows), out: join(folder, 'out.jsonl'), range: [1, 6], instruction: '问', ...ranksOnly })
    expect(fake.calls.map(({ texts, instruction }) => [texts.length, instruction])).toEqual([
      [30, ''],
      [1, ''],
      [2, '问'],
    ])
  })

  test('are repeatable, follow the seed, do not depend on the block, and may be written over their file', async () => {
    const data = write('data.jsonl', rows)
    const run = async (name: string, seed: number, block?: number): Promise<string> => {
      const out = join(folder, name)
      const storage = { cache: null, ...(block !== undefined && { block }) }
      await mine(named(vectors), { data, out, range: [1, 20], negatives: 3, seed, scoreTemperature: 1, storage })
      return hash(out)
    }
    const once = await run('1', 7)
    expect(await run('2', 7)).toBe(once)
    expect(await run('3', 7, 1)).toBe(once)
    expect(await run('4', 8)).not.toBe(once)
    expect(await run('data.jsonl', 7)).toBe(once)
  })
})

describe('the cache', () => {
  const data = (): string =>
    write('data.jsonl', [
      { query: 'q', pos: ['p0'] },
      { query: 'r', pos: ['p1'] },
    ])
  const vectors = { ...circle(30), r: [0, 1] }
  const pool = (n: number): string =>
    write(
      'pool.jsonl',
      texts(n).map((text) => ({ text })),
    )
  const run = async (model: Fake, options: Partial<MineOptions> = {}): Promise<MineResult> =>
    mine(model, { data: data(), out: join(folder, 'out.jsonl'), pool: pool(20), range: [0, 9], ...options })

  test('beside the output keeps every vector for the same model, in any order; another model has its own', async () => {
    const first = named(vectors)
    expect(await run(first)).toMatchObject({ encoded: 22 })
    const before = hash(join(folder, 'out.jsonl'))
    const second = named(vectors)
    expect(await run(second)).toMatchObject({ encoded: 0 })
    expect(second.calls).toEqual([])
    expect(hash(join(folder, 'out.jsonl'))).toBe(before)
    const third = named(vectors)
    const turned = write(
      'turned.jsonl',
      texts(22)
        .reverse()
        .map((text) => ({ text })),
    )
    await run(third, { pool: turned })
    expect(asked(third).sort()).toEqual(['p20', 'p21'])
    const other = named(vectors, 'g')
    await run(other)
    expect(asked(other)).toHaveLength(22)
    const instructed = named(vectors)
    await run(instructed, { instruction: '问' })
    expect(asked(instructed).sort()).toEqual(['q', 'r'])
  })

  test('a damaged vector is made again', async () => {
    await run(named(vectors))
    const before = hash(join(folder, 'out.jsonl'))
    const cache = join(folder, 'mine-cache')
    const file = readdirSync(cache)
      .flatMap((name) => readdirSync(join(cache, name)).map((entry) => join(cache, name, entry)))
      .find((name) => name.endsWith('.vec'))!
    const bytes = readFileSync(file)
    bytes[16 + 3 * (16 + 4 * 2 + 4) + 17]! ^= 1
    writeFileSync(file, bytes)
    const again = named(vectors)
    await run(again)
    expect(asked(again)).toHaveLength(1)
    expect(hash(join(folder, 'out.jsonl'))).toBe(before)
  })

  test('can be left out', async () => {
    await run(named(vectors), { storage: { cache: null } })
    expect(readdirSync(folder).sort()).toEqual(['data.jsonl', 'out.jsonl', 'pool.jsonl'])
  })
})

describe('a killed run', () => {
  const draw = random(5, 'test')
  const vectors = Object.fromEntries(
    [...texts(150), ...Array.from({ length: 60 }, (_, i) => `q${i}`)].map((text) => [
      text,
      [0, 1, 2, 3].map(() => draw.int(1000) / 500 - 1),
    ]),
  )
  const options = (out: string): MineOptions => ({
    data: join(folder, 'data.jsonl'),
    pool: join(folder, 'pool.jsonl'),
    out,
    range: [3, 60],
    negatives: 4,
    scoreTemperature: 0.02,
    rules: { margin: 0.01 },
    teacher: { model: named(vectors, 't') },
    storage: { block: 16, cache: null },
  })
  const comparable = ({ resumed: _, encoded: __, ...result }: MineResult): unknown => result
  beforeEach(() => {
    write(
      'data.jsonl',
      Array.from({ length: 60 }, (_, i) => ({ query: `q${i}`, pos: [`p${i}`, `p${i + 1}`] })),
    )
    write(
      'pool.jsonl',
      texts(150).map((text) => ({ text })),
    )
  })

  test('continues: at every point the result is that of an uninterrupted run', async () => {
    const whole = join(folder, 'whole/out.jsonl')
    const snapshots: string[] = []
    // A copy of the folder is what a kill at that moment leaves.
    const result = await mine(named(vectors), {
      ...options(whole),
      onProgress: () => {
        const copy = join(folder, `killed${snapshots.length}`)
        cpSync(dirname(whole), copy, { recursive: true })
        snapshots.push(copy)
      },
    })
    expect(result).toMatchObject({ rows: 60, resumed: 0 })
    expect(result.rejected.maxRelative.count).toBeGreaterThan(10)
    const resumed = new Set<number>()
    expect(snapshots.length).toBeGreaterThan(8)
    for (const copy of snapshots) {
      const out = join(copy, 'out.jsonl')
      expect(existsSync(out)).toBe(false)
      const again = await mine(named(vectors), { ...options(out), storage: { block: 7, cache: null } })
      expect(hash(out)).toBe(hash(whole))
      expect(comparable(again)).toEqual(comparable(result))
      expect(readdirSync(copy)).toEqual(['out.jsonl'])
      resumed.add(again.resumed)
    }
    expect([...resumed].sort((a, b) => a - b)).toEqual([0, 16, 32, 48])
  })

  test('an abort keeps what is done; other settings, another model or changed data begin anew', async () => {
    const whole = join(folder, 'whole.jsonl')
    await mine(named(vectors), options(whole))
    const stop = async (out: string): Promise<void> => {
      const abort = new AbortController()
      const onProgress: MineOptions['onProgress'] = ({ stage, done }) => {
        if (stage === 'choose' && done === 32) abort.abort()
      }
      await expect(mine(named(vectors), { ...options(out), onProgress, signal: abort.signal })).rejects.toThrow(/abort/)
    }
    const out = join(folder, 'out.jsonl')
    await stop(out)
    expect(existsSync(out)).toBe(false)
    expect(await mine(named(vectors), { ...options(out), seed: 1 })).toMatchObject({ resumed: 0 })
    await stop(out)
    expect(await mine(named(vectors, 'other'), options(out))).toMatchObject({ resumed: 0 })
    await stop(out)
    expect(await mine(named(vectors), options(out))).toMatchObject({ resumed: 32, rows: 60 })
    expect(hash(out)).toBe(hash(whole))
    await stop(out)
    write(
      'pool.jsonl',
      texts(140).map((text) => ({ text })),
    )
    expect(await mine(named(vectors), options(out))).toMatchObject({ resumed: 0, pool: 140 })
  })
})

describe('bad input', () => {
  const vectors = { ...circle(30), r: [0, 1] }
  const rows = [
    { query: 'q', pos: ['p0'] },
    { query: 'r', pos: ['p1'] },
  ]

  test('a file that changes while it is mined is refused', async () => {
    const data = write('data.jsonl', rows)
    const onProgress: MineOptions['onProgress'] = ({ stage, done }) => {
      if (stage === 'encode' && done === 0) write('data.jsonl', [rows[0], { query: 'r', pos: ['p2'] }])
    }
    const changed = mine(named(vectors), { data, out: join(folder, 'out.jsonl'), ...ranksOnly, onProgress })
    await expect(changed).rejects.toThrow(/data\.jsonl:2: the file must stay as it is while it is mined/)
    expect(readdirSync(folder)).toEqual(['data.jsonl'])
  })

  test('is a sentence and leaves nothing behind', async () => {
    const out = join(folder, 'out.jsonl')
    const data = write('data.jsonl', rows)
    const fails = async (options: Partial<MineOptions>, message: RegExp, model = named(vectors)): Promise<void> => {
      await expect(mine(model, { data, out, storage: { cache: null }, ...options })).rejects.toThrow(message)
    }
    const bad = write('bad.jsonl', [...rows, { query: 'q', pos: [] }])
    const ids = write('ids.jsonl', [{ query: 'q', pos: ['p0'], pos_ids: [null] }])
    const id = write('id.jsonl', [{ text: 'p0', id: {} }])
    const empty = write('empty.jsonl', [])
    const before = readdirSync(folder)
    await fails({ data: bad }, /bad\.jsonl:3: field pos expected at least one positive text/)
    await fails({ data: ids }, /ids\.jsonl:1: field pos_ids expected an array of strings or numbers/)
    await fails({ pool: id }, /id\.jsonl:1: field id expected a string or a number/)
    await fails({ data: empty }, /expected at least one row/)
    await fails({ pool: empty }, /expected at least one row/)
    await fails({ pool: join(folder, 'absent') }, /absent cannot be read/)
    await fails({ out: folder }, /cannot be written: it is a folder/)
    await fails({ range: [5, 5] }, /range must be two ranks/)
    await fails({ negatives: 0 }, /negatives must be an integer of at least 1, but was 0/)
    await fails({ sampling: 'best' as 'top' }, /sampling must be 'random', 'top' or 'pool'/)
    await fails({ rules: { maxRelative: 95 } }, /rules.maxRelative must be a number above 0 and at most 1/)
    await fails({ rules: { minScore: Number.NaN } }, /rules.minScore must be a cosine/)
    await fails({ scoreTemperature: 0 }, /scoreTemperature must be a number above 0/)
    await fails({ storage: { block: 0.5 } }, /storage.block must be an integer/)
    await fails({}, /holds NaN or infinity/, named({ ...vectors, r: [Number.NaN, 1] }))
    expect(readdirSync(folder)).toEqual(before)
    expect(readdirSync(dirname(folder)).filter((name) => name.endsWith('.work'))).toEqual([])
  })
})

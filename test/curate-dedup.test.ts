import { mkdtemp, readFile, rm, writeFile, readdir } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest'
import { decontaminate, type EvaluationText } from '../lib/curate/decontaminate.js'
import { type DedupOptions, type DedupReport, dedup } from '../lib/curate/dedup.js'
import { bandingFor, bandKey, candidateProbability, jaccard, MinHasher, overlap } from '../lib/curate/near.js'
import type { DedupSettings } from '../lib/curate/recipe.js'
import { EvaluationIndex } from '../lib/curate/evaluation_index.js'
import { normaliseForIdentity, type Row } from '../lib/curate/row.js'
import { openStore } from '../lib/curate/store.js'
import { random } from '../lib/data/random.js'
import { chineseLike, editCharacters, passageLength, respell, rowOf, swapSentences } from './support/corpus.js'

let folder: string
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'bge-dedup-'))
})
afterAll(() => rm(folder, { recursive: true, force: true }))

let runs = 0
const near = { threshold: 0.8, ngram: 5, hashes: 128 }
const settings = (changes: Partial<DedupSettings> = {}): DedupSettings => ({ exact: true, near, on: 'pair', ...changes })

/** Writes the rows to `files` files and de-duplicates them. */
async function run(
  rows: readonly Row[],
  changes: Partial<DedupSettings> = {},
  options: DedupOptions = {},
  files = 1,
): Promise<DedupReport & { rows: Row[]; text: string; places: string[] }> {
  const work = join(folder, `run-${runs++}`)
  const inputs: string[] = []
  for (let i = 0; i < files; i++) {
    const input = `${work}-in-${i}.jsonl`
    const lines = rows.filter((_, k) => k % files === i).map((row) => `${JSON.stringify(row)}\n`)
    await writeFile(input, lines.join(''))
    inputs.push(input)
  }
  const report = await dedup(inputs, work, settings(changes), { memoryLimit: '512MiB', threads: 2, ...options })
  const text = (await Promise.all(report.files.map((file) => readFile(file, 'utf8')))).join('')
  const kept = text
    .split('\n')
    .filter(Boolean)
    .map((line) => JSON.parse(line) as Row)
  return {
    ...report,
    files: report.files.map((file) => file.slice(work.length)),
    rows: kept,
    text,
    places: kept.map(({ at }) => at).sort(),
  }
}

const words = chineseLike(1)

describe('normaliseForIdentity', () => {
  it('is its definition by regular expressions: every code unit alone, between digits, and in random company', () => {
    const draw = random(2, 'identity')
    const byExpressions = (text: string): string => {
      const dense = text
        .normalize('NFKC')
        .toLowerCase()
        .normalize('NFKC')
        .replaceAll(/[\s\p{C}\p{Z}]+/gu, '')
      return dense.replaceAll(/(?<!\d)\p{P}+|\p{P}+(?!\d|\p{P})/gu, '') || dense
    }
    const wrong: string[] = []
    const check = (text: string): void => {
      if (normaliseForIdentity(text) !== byExpressions(text)) wrong.push(text)
    }
    const any = [
      '3',
      '0',
      ' ',
      '.',
      '．',
      ',',
      '，',
      '…',
      'a',
      'Ａ',
      'Σ',
      'İ',
      'が',
      'カ',
      'ﾞ',
      '\u3099',
      '\u0301',
      '한',
      'ᄒ',
      '𠮷',
      '\u200b',
      '中',
    ]
    for (let unit = 0; unit < 0x10000; unit++) {
      const c = String.fromCharCode(unit)
      for (const text of [c, `中${c}`, `3${c}5`, `3${c}${c}5`, `3${c}x`]) check(text)
      check(Array.from({ length: 6 }, () => (draw.chance(0.3) ? c : any[draw.int(any.length)]!)).join(''))
    }
    expect(wrong).toEqual([])
    expect(normaliseForIdentity('检索'.repeat(50_000))).toHaveLength(100_000)
  })
})

describe('similarity', () => {
  it('is the Jaccard similarity of the sets of n-grams, by brute force', () => {
    const draw = random(1, 'jaccard')
    const grams = (text: string, n: number): Set<string> =>
      new Set(
        text.split('\n').flatMap((t) => {
          if (t === '') return []
          return t.length < n ? [t] : Array.from({ length: t.length - n + 1 }, (_, i) => t.slice(i, i + n))
        }),
      )
    // Few different characters: repeated n-grams, and texts with much in common.
    const text = (): string => Array.from({ length: draw.int(40) }, () => 'ab\nc'[draw.int(4)]).join('')
    for (let i = 0; i < 2000; i++) {
      const [a, b, n] = [text(), text(), 1 + draw.int(5)]
      const [A, B] = [grams(a, n), grams(b, n)]
      const shared = [...A].filter((gram) => B.has(gram)).length
      expect(overlap(a, b, n)).toEqual({ shared, inA: A.size, inB: B.size })
      if (A.size + B.size > 0) expect(jaccard(a, b, n)).toBe(shared / (A.size + B.size - shared))
    }
  })

  it('derives the banding from the threshold', () => {
    expect(bandingFor(0.8, 128)).toEqual({ bands: 18, rows: 7 })
    expect(bandingFor(0.64, 128)).toEqual({ bands: 32, rows: 4 })
    // The curve that the documentation of bandingFor gives.
    const percent = [0.3, 0.6, 0.8, 0.9].map((s) => (100 * candidateProbability(s, { bands: 18, rows: 7 })).toPrecision(5))
    expect(percent).toEqual(['0.39293', '40.015', '98.554', '99.999'])
    for (const threshold of [0.3, 0.5, 0.7, 0.9, 0.95, 1]) {
      const banding = bandingFor(threshold, 128)
      expect(banding.bands * banding.rows).toBeLessThanOrEqual(128)
      expect(candidateProbability(threshold, banding)).toBeGreaterThanOrEqual(0.95)
      const steeper = { rows: banding.rows + 1, bands: Math.floor(128 / (banding.rows + 1)) }
      if (steeper.bands > 0) expect(candidateProbability(threshold, steeper)).toBeLessThan(0.95)
    }
  })

  // The standard error of a share p of 2000 pairs is sqrt(p (1 - p) / 2000); 5 of them, and p itself for the true J of each pair.
  it.each([
    { length: 12, ngram: 2 },
    { length: 60, ngram: 5 },
    { length: 130, ngram: 5 },
    { length: 500, ngram: 5 },
  ])('signatures agree with probability J, bands as candidateProbability says: $length characters', ({ length, ngram }) => {
    const [draw, hasher, banding] = [random(3, 'curve', 0, length), new MinHasher(128), bandingFor(0.8, 128)]
    const [a, b] = [new Uint32Array(128), new Uint32Array(128)]
    let [agree, expectAgree, hits, expectHits, variance] = [0, 0, 0, 0, 0]
    const pairs = 2000
    for (let i = 0; i < pairs; i++) {
      const text = words.passage(i, length, draw)
      const other = editCharacters(text, draw.int(8) / 100, draw)
      hasher.sign(text, ngram, a)
      hasher.sign(other, ngram, b)
      const s = jaccard(text, other, ngram)
      agree += a.reduce((sum, x, k) => sum + (x === b[k] ? 1 : 0), 0) / 128
      expectAgree += s
      const keys = Array.from({ length: banding.bands }, (_, k) => bandKey(k, banding.rows, [a]) === bandKey(k, banding.rows, [b]))
      const p = candidateProbability(s, banding)
      hits += keys.includes(true) ? 1 : 0
      expectHits += p
      variance += p * (1 - p)
    }
    expect(Math.abs(agree - expectAgree) / pairs).toBeLessThan(5 * Math.sqrt(0.25 / pairs))
    expect(Math.abs(hits - expectHits)).toBeLessThan(5 * Math.sqrt(variance))
  })
})

describe('exact duplicates', () => {
  it('keeps the row of the highest priority, then of the smallest source and place', async () => {
    const rows = [
      rowOf('web', 'a:2', '什么是检索？', '检索是从语料里找出相关文本。'),
      rowOf('wiki', 'b:1', '什么是检索', '检索是从语料里找出相关文本'),
      rowOf('wiki', 'b:9', '什么是检索!', '检索是从语料里找出相关文本'),
      rowOf('web', 'a:1', '什么是检索', '另一段文字，与上面不同。'),
    ]
    const { places, exact, bySource, samples } = await run(rows, { near: false }, { priorities: { wiki: 1 } })
    expect(places).toEqual(['a:1', 'b:1'])
    expect(exact).toBe(2)
    expect(bySource).toEqual({ web: { read: 2, exact: 1, near: 0, kept: 1 }, wiki: { read: 2, exact: 1, near: 0, kept: 1 } })
    expect(samples.exact.map(({ dropped, kept }) => [dropped.at, kept.at]).sort()).toEqual([
      ['a:2', 'b:1'],
      ['b:9', 'b:1'],
    ])
    expect((await run(rows, { near: false }, { priorities: { web: 1 } })).places).toEqual(['a:1', 'a:2'])
    expect((await run(rows, { near: false, exact: false })).places).toEqual(['a:1', 'a:2', 'b:1', 'b:9'])
  })

  it('compares pairs with their negatives, queries or passages', async () => {
    const rows = [
      rowOf('s', '1', '问题甲', '答案甲'),
      rowOf('s', '2', '问题甲', '答案乙'),
      rowOf('s', '3', '问题乙', '答案甲'),
      rowOf('s', '4', '问题甲', '答案甲', ['难负例']),
      rowOf('s', '5', '问题丙', ['答案甲', '答案丙']),
      rowOf('s', '6', '问题丙', ['答案丙', '答案甲']),
    ]
    expect((await run(rows, { near: false })).places).toEqual(['1', '2', '3', '4', '5'])
    expect((await run(rows, { near: false, on: 'query' })).rows.map(({ query }) => query).sort()).toEqual(['问题丙', '问题乙', '问题甲'])
    expect((await run(rows, { near: false, on: 'passage' })).rows.map(({ pos }) => [...pos].sort().join()).sort()).toEqual([
      '答案丙,答案甲',
      '答案乙',
      '答案甲',
    ])
  })
})

describe('near-duplicates', () => {
  const draw = random(5, 'near')
  const base = Array.from({ length: 40 }, (_, i) => ({ query: words.title(i % 7, draw), pos: words.passage(i % 7, 200, draw) }))

  it('drops the planted near-duplicates and nothing else', async () => {
    const rows: Row[] = []
    const dropped: string[] = []
    for (const [i, { query, pos }] of base.entries()) {
      rows.push(rowOf('original', `original:${i}`, query, pos))
      const plant = (name: string, q: string, p: string, duplicate: boolean): void => {
        rows.push(rowOf('copies', `${name}:${i}`, q, p))
        if (duplicate) dropped.push(`${name}:${i}`)
      }
      plant('respelled', respell(query, draw), respell(pos, draw), true)
      plant('edit 1 %', query, editCharacters(pos, 0.01, draw), true)
      plant('edit 20 %', query, editCharacters(pos, 0.2, draw), false)
      plant('swap', query, swapSentences(pos, draw), true)
      plant('other question', words.title(i % 7, draw), pos, false)
      plant('same topic', words.title(i % 7, draw), words.passage(i % 7, 200, draw), false)
    }
    const { rows: kept, exact, near, samples, nearCounts } = await run(rows, {}, { priorities: { original: 1 } })
    const places = new Set(kept.map(({ at }) => at))
    expect(
      rows
        .map(({ at }) => at)
        .filter((at) => !places.has(at))
        .sort(),
    ).toEqual(dropped.sort())
    expect(exact + near).toBe(dropped.length)
    expect(nearCounts!.histogram.reduce((a, b) => a + b)).toBe(near)
    for (const { dropped, kept, similarity } of samples.near) {
      expect(dropped.at.split(':')[1]).toBe(kept.at.split(':')[1])
      expect(similarity).toBeGreaterThanOrEqual(0.8)
    }
  })

  it('compares queries by bigrams, passages, or both', async () => {
    const query = '二零二四年中国新能源汽车的销量一共是多少万辆'
    const [first, second] = base
    const rows = [
      rowOf('s', '1', query, first!.pos),
      rowOf('s', '2', query.replace('一共', '总共'), editCharacters(first!.pos, 0.01, draw)),
      rowOf('s', '3', query.replace('一共', '合共'), second!.pos),
      rowOf('s', '4', second!.query, editCharacters(first!.pos, 0.01, draw)),
    ]
    const left = async (on: DedupSettings['on']): Promise<string[]> => (await run(rows, { on }, { priorities: {} })).places
    expect(await left('pair')).toHaveLength(3)
    expect(await left('query')).toHaveLength(2)
    expect(await left('passage')).toHaveLength(2)
  })

  it('keeps a pair with a negative that the earlier one lacks', async () => {
    const { query, pos } = base[0]!
    const edited = editCharacters(pos, 0.01, draw)
    const rows = [rowOf('a', '1', query, pos, ['甲', '乙']), rowOf('b', '2', query, edited, ['甲']), rowOf('b', '3', query, edited, ['丙'])]
    expect((await run(rows, {}, { priorities: { a: 1 } })).places).toEqual(['1', '3'])
  })

  it('a chain A-B-C keeps C, which is unlike A', async () => {
    const text = words.passage(3, 300, draw)
    const step = 45 // of 300 characters: neighbours share 255/300, the ends 210/300 five-grams or so
    const long = text + words.passage(4, 300, draw)
    const [a, b, c] = [0, 1, 2].map((i) => long.slice(i * step * 0.6, i * step * 0.6 + 300))
    const rows = [rowOf('a', '1', '问', a!), rowOf('b', '2', '问', b!), rowOf('c', '3', '问', c!)]
    expect(jaccard(rows[0]!.pos[0]!, rows[1]!.pos[0]!, 5)).toBeGreaterThan(0.8)
    expect(jaccard(rows[0]!.pos[0]!, rows[2]!.pos[0]!, 5)).toBeLessThan(0.8)
    expect((await run(rows, { on: 'passage' }, { priorities: { a: 2, b: 1 } })).places).toEqual(['1', '3'])
    expect((await run(rows, { on: 'passage' }, { priorities: { a: 1, b: 2 } })).places).toEqual(['2'])
  })

  it('large groups: one row of each stays', async () => {
    const rows: Row[] = []
    for (let group = 0; group < 3; group++) {
      const pos = words.passage(group, 300, draw)
      for (let i = 0; i < 150; i++) rows.push(rowOf('s', `${group}:${i}`, `问题${group}`, `${pos}${i}`))
    }
    const { rows: kept, nearCounts } = await run(rows)
    expect(kept.map(({ query }) => query).sort()).toEqual(['问题0', '问题1', '问题2'])
    expect(nearCounts).toMatchObject({ largestBucket: 150, bands: 32, rows: 4 })
    expect(nearCounts!.oversized).toBeGreaterThan(0)
  })

  it('many groups in one template: the bucket holds them all, and one row of each group stays', async () => {
    const template = words.passage(8, 300, draw)
    const rows: Row[] = []
    for (let group = 0; group < 60; group++) {
      const own = words.passage(9 + group, 70, draw)
      for (let i = 0; i < 5; i++) rows.push(rowOf('s', `${group}:${i}`, '问', template + (i === 0 ? own : editCharacters(own, 0.01, draw))))
    }
    expect(jaccard(rows[0]!.pos[0]!, rows[5]!.pos[0]!, 5)).toBeGreaterThan(0.6)
    const { places, nearCounts } = await run(rows, { on: 'passage' })
    expect(nearCounts!.largestBucket).toBeGreaterThan(100)
    expect(places.map((at) => Number(at.split(':')[0])).sort((a, b) => a - b)).toEqual(Array.from({ length: 60 }, (_, i) => i))
  })
})

describe('the result is a function of the set of rows', () => {
  const draw = random(9, 'set')
  const rows: Row[] = []
  for (let i = 0; i < 400; i++) {
    const [query, pos] = [words.title(i % 5, draw) + words.title(i % 3, draw), words.passage(i % 5, passageLength(draw), draw)]
    for (let copy = 0; copy <= draw.int(4); copy++) {
      const text = [pos, respell(pos, draw), editCharacters(pos, 0.01, draw), editCharacters(pos, 0.03, draw)][draw.int(4)]!
      const askAs = [query, respell(query, draw), editCharacters(query, 0.01, draw)][draw.int(3)]!
      rows.push(rowOf(`source-${draw.int(4)}`, `file:${rows.length}`, askAs, text))
    }
  }
  const priorities = { 'source-2': 1, 'source-0': 1, 'source-3': -1 }
  it.each(['pair', 'query', 'passage'] as const)('on %s: any order, files and threads', async (on) => {
    const first = await run(rows, { on }, { priorities, shardRows: 100 })
    expect(first.exact).toBeGreaterThan(50)
    expect(first.near).toBeGreaterThan(20)
    expect(first.files).toHaveLength(Math.ceil(first.kept / 100))
    for (const [files, threads] of [
      [1, 1],
      [3, 2],
      [7, 4],
    ] as const) {
      const again = await run(draw.shuffle([...rows]), { on }, { priorities, shardRows: 100, threads }, files)
      expect(again).toEqual(first)
    }
    // Nothing is left to drop.
    expect(await run(first.rows, { on }, { priorities })).toMatchObject({ exact: 0, near: 0, text: first.text })
  })
})

describe('failures', () => {
  const good = rowOf('s', '1', '问题', '答案')
  it.each([
    ['not JSON', 'x', /:2: expected a curated row/],
    ['null', 'null', /:2: field source/],
    ['no pos', JSON.stringify({ ...good, pos: [], posIds: [] }), /:2: field pos expected at least one/],
    ['ids', JSON.stringify({ ...good, posIds: [] }), /:2: field posIds/],
    ['query id', JSON.stringify({ ...good, queryId: 'xyz' }), /:2: field queryId/],
  ])('%s', async (_name, line, message) => {
    const input = join(folder, 'bad.jsonl')
    const out = join(folder, 'bad')
    await writeFile(input, `${JSON.stringify(good)}\n${line}\n`)
    await expect(dedup([input], out, settings())).rejects.toMatchObject({ code: 'ERR_BGE_DATA', message: expect.stringMatching(message) })
    await expect(decontaminate([input], [{ task: 't', field: 'f', text: '一段评测文本' }], out, near)).rejects.toThrow(message)
    expect(await readdir(out)).toEqual([])
  })

  it('options', async () => {
    const bad = async (options: DedupOptions, changes: Partial<DedupSettings> = {}): Promise<unknown> =>
      dedup([], join(folder, 'bad'), settings(changes), options).catch((error: { code: string }) => error.code)
    expect(await bad({ memoryLimit: 'much' })).toBe('ERR_BGE_ARGUMENT')
    expect(await bad({ memoryLimit: '10MB' })).toBe('ERR_BGE_ARGUMENT')
    expect(await bad({ threads: 0 })).toBe('ERR_BGE_ARGUMENT')
    expect(await bad({ shardRows: 0 })).toBe('ERR_BGE_ARGUMENT')
    expect(await bad({}, { near: { ...near, threshold: 0 } })).toBe('ERR_BGE_ARGUMENT')
  })

  it('an abort ends the run and leaves nothing', async () => {
    const controller = new AbortController()
    const rows = Array.from({ length: 200 }, (_, i) => rowOf('s', `${i}`, `问题${i}`, `答案${i}`))
    const onProgress = (step: string): void => {
      if (step === 'bands') controller.abort()
    }
    await expect(run(rows, {}, { signal: controller.signal, onProgress })).rejects.toMatchObject({ name: 'AbortError' })
    expect(await readdir(join(folder, `run-${runs - 1}`))).toEqual([])
  })

  it('a missing DuckDB is said with the command that installs it', async () => {
    vi.resetModules()
    vi.doMock('@duckdb/node-api', () => {
      throw new Error('Cannot find package')
    })
    const store = await import('../lib/curate/store.js')
    const message = expect.stringMatching(/npm install @duckdb\/node-api/)
    await expect(store.openStore(join(folder, 'none'))).rejects.toMatchObject({ code: 'ERR_BGE_DEPENDENCY', message })
    vi.doUnmock('@duckdb/node-api')
    expect(await readdir(folder)).not.toContain('none')
  })

  it('no rows: an empty result', async () => {
    expect(await run([])).toMatchObject({ read: 0, kept: 0, files: [] })
  })

  it('the store refuses to write where it cannot', async () => {
    await writeFile(join(folder, 'a-file'), '')
    const below = openStore(join(folder, 'a-file', 'store'))
    await expect(below).rejects.toMatchObject({ code: 'ERR_BGE_FILE', message: expect.stringMatching(/cannot be written/) })
    await expect(openStore(join(folder, 'none'), { signal: AbortSignal.abort() })).rejects.toMatchObject({ name: 'AbortError' })
    expect(await readdir(folder)).not.toContain('none')
    const store = await openStore(join(folder, 'store'), { memoryLimit: '256MiB', threads: 1 })
    await store.run('CREATE TABLE t AS SELECT range AS x FROM range(10)')
    expect(await store.number('SELECT sum(x) FROM t')).toBe(45)
    await expect(store.run('SELECT nothing')).rejects.toMatchObject({ code: 'ERR_BGE_INTERNAL' })
    await expect(store.run('CREATE TABLE big AS SELECT list(range) AS x FROM range(200000000)')).rejects.toMatchObject({
      code: 'ERR_BGE_OOM',
    })
    await store.close()
    expect(await readdir(folder)).not.toContain('store')
  })
})

describe('decontamination', () => {
  const draw = random(21, 'decontaminate')
  const passage = words.passage(1, 200, draw)
  const other = words.passage(2, 200, draw)
  const evaluation: EvaluationText[] = [
    { task: 'Retrieval', field: 'corpus', text: passage },
    { task: 'Retrieval', field: 'queries', text: '北京到上海的高铁要多久' },
    { task: 'Reranking', field: 'query', text: '北京到上海的高铁要多久？' },
    { task: 'Sts', field: 'text1', text: '很好' },
  ]
  const rows = [
    rowOf('a', '1', '北京到上海的高铁，要多久', other),
    rowOf('a', '2', '北京到上海的高铁多久', other),
    rowOf('a', '3', '请问', editCharacters(passage, 0.01, draw)),
    rowOf('b', '4', '请问', `${words.passage(3, 150, draw)}${passage}${words.passage(4, 150, draw)}`),
    rowOf('b', '5', '请问', passage.slice(40, 100)),
    rowOf('b', '6', '请问', `${passage.slice(0, 20)}${words.passage(5, 200, draw)}`),
    rowOf('b', '7', '很好', words.passage(1, 200, draw)),
    rowOf('b', '8', '北京到南京的高铁要多久', words.passage(1, 200, draw)),
  ]

  it('drops equal, near and contained texts, by task', async () => {
    const input = join(folder, 'decontaminate.jsonl')
    await writeFile(input, rows.map((row) => `${JSON.stringify(row)}\n`).join(''))
    const out = join(folder, 'decontaminated')
    const report = await decontaminate([input], evaluation, out, { ngram: 13, threshold: 0.7 })
    const kept = (await readFile(report.files[0]!, 'utf8'))
      .split('\n')
      .filter(Boolean)
      .map((line) => (JSON.parse(line) as Row).at)
    expect(kept).toEqual(['6', '7', '8'])
    expect(report).toMatchObject({ read: 8, dropped: 5, kept: 3, bySource: { a: { read: 3, dropped: 3 }, b: { read: 5, dropped: 2 } } })
    expect(report.byTask).toMatchObject({
      Retrieval: { texts: 2, short: 0, rows: { equal: 1, near: 2, ngram: 2 } },
      Reranking: { texts: 1, short: 0, rows: { equal: 1, near: 1, ngram: 0 } },
      Sts: { texts: 0, short: 1, rows: { equal: 0, near: 0, ngram: 0 } },
    })
    expect(report.byTask['Reranking']!.samples[0]).toMatchObject({ at: '1', rule: 'equal', similarity: 1, field: 'query' })
  })

  it('an index of every eighth n-gram still finds what is contained, and nothing else', () => {
    const texts = Array.from({ length: 300 }, (_, i) => words.passage(i, 150, draw))
    const characters = texts.reduce((sum, text) => sum + text.length, 0)
    const index = new EvaluationIndex({ ngram: 13, threshold: 0.8 }, Math.ceil(characters / 6))
    for (const text of texts) index.add({ task: 'T', field: 'corpus', text })
    index.build()
    for (const [i, text] of texts.entries()) {
      const longer = words.passage(i, 200, draw) + text + words.passage(i, 200, draw)
      expect(index.find(longer)).toMatchObject([{ rule: 'ngram', evaluation: { text } }])
      expect(index.find(words.passage(i, 300, draw))).toEqual([])
    }
  })

  it('an evaluation set without a text is an error', async () => {
    await expect(decontaminate([], [], join(folder, 'none'), { ngram: 13, threshold: 0.8 })).rejects.toMatchObject({ code: 'ERR_BGE_DATA' })
  })
})

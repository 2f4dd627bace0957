import { type ChildProcess, spawn, spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { once as onceEvent } from 'node:events'
import { cpSync, existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as wait } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { asyncBufferFromFile, parquetReadObjects } from 'hyparquet'
import { compressors } from 'hyparquet-compressors'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { curate, type CurateOptions } from '../lib/curate/curate.js'
import { evaluationTasks, evaluationTexts } from '../lib/curate/evaluation_texts.js'
import { exclusively } from '../lib/data/lock.js'
import { publish } from '../lib/curate/publish.js'
import { readRecipe } from '../lib/curate/recipe.js'
import { type Row, textId } from '../lib/curate/row.js'
import { decide, scoredLines, scoreRows } from '../lib/curate/semantic.js'
import { createMeter } from '../lib/curate/stage.js'
import { once } from '../lib/data/once.js'
import { random } from '../lib/data/random.js'
import { readDataRows } from '../lib/data/rows.js'
import { BgeModel } from '../lib/model/model.js'
import { curationPage } from '../lib/report/curation.js'
import { histogram } from '../lib/report/histogram.js'
import { fakeModel } from './support/fake_model.js'

const root = mkdtempSync(join(tmpdir(), 'bge-curate-'))
afterAll(() => rmSync(root, { recursive: true, force: true }))
const tokenizer = fileURLToPath(new URL('../examples/quickstart/tokenizer', import.meta.url))
const jsonl = (rows: readonly unknown[]): string => rows.map((row) => JSON.stringify(row) + '\n').join('')
const rowsOf = (file: string): Record<string, unknown>[] =>
  readFileSync(file, 'utf8')
    .trimEnd()
    .split('\n')
    .filter(Boolean)
    .map((line) => JSON.parse(line) as Record<string, unknown>)

/** SHA-256 over names and bytes of everything in a folder but work/. */
function outputHash(out: string): string {
  const hash = createHash('sha256')
  const files = readdirSync(out, { recursive: true, encoding: 'utf8' }).filter(
    (name) => !name.startsWith('work') && statSync(join(out, name)).isFile(),
  )
  expect(files.length).toBeGreaterThan(3)
  for (const name of files.sort()) hash.update(`${name}\n`).update(readFileSync(join(out, name)))
  return hash.digest('hex')
}

const WORDS =
  '月亮 太阳 海水 山峰 铁路 米饭 牛奶 老师 医生 城市 冬天 春节 手机 电脑 汽车 飞机 音乐 电影 法律 历史 数学 物理 植物 动物'.split(' ')

/** A corpus of three files with duplicates, boilerplate and rows that repeat an evaluation text. */
function corpus(folder: string, rows: number): void {
  const draw = random(1, 'corpus')
  const words = (n: number): string => Array.from({ length: n }, () => WORDS[draw.int(WORDS.length)]).join('')
  const make = (i: number): { title: string; body: string } => ({ title: `${words(3)}第${i}篇`, body: `${words(8)}，${words(8)}${i}。` })
  const articles = Array.from({ length: rows }, (_, i) => make(i))
  mkdirSync(join(folder, 'raw'), { recursive: true })
  writeFileSync(join(folder, 'raw/a.jsonl'), jsonl([...articles, ...articles.slice(0, rows / 10), { title: '只有标题' }]))
  const qa = Array.from({ length: rows }, (_, i) => [`${words(4)}是什么${i}`, `<p>${words(10)}&amp;${i}</p>`])
  writeFileSync(join(folder, 'raw/qa-1.csv'), `q,a\n${qa.map((row) => row.join(',')).join('\n')}\n`)
  writeFileSync(
    join(folder, 'raw/qa-2.csv'),
    `q,a\n${qa
      .slice(0, 20)
      .map((row) => row.join(','))
      .join('\n')}\n`,
  )
  mkdirSync(join(folder, 'eval/sts'), { recursive: true })
  writeFileSync(
    join(folder, 'eval/sts/Own.jsonl'),
    jsonl([
      { text1: articles[5]!.body, text2: '毫无关系的另一句话', label: 1 },
      { text1: '甲乙丙丁戊己庚', text2: '子丑寅卯辰巳', label: 0 },
    ]),
  )
  const recipe = {
    name: 'test <set>',
    sources: [
      {
        name: 'articles',
        files: ['raw/a.jsonl'],
        extract: { type: 'title-body' },
        licence: 'CC-BY & co',
        expectedCount: rows,
        priority: 1,
      },
      {
        name: 'questions',
        files: ['raw/qa-*.csv'],
        extract: { type: 'question-answer', fields: { question: 'q', answer: 'a' } },
        licence: 'CC0',
      },
    ],
    decontaminate: { against: ['eval'] },
    output: { shardRows: 1000 },
  }
  writeFileSync(join(folder, 'recipe.json'), JSON.stringify(recipe))
}

let model: string
let small: string
beforeAll(async () => {
  small = join(root, 'small')
  corpus(small, 200)
  model = join(root, 'model')
  await using made = await BgeModel.createNew({ size: 'tiny', tokenizerDir: tokenizer, seed: 1, device: 'cpu', threads: 1 })
  await made.save(model)
})

async function run(folder: string, out: string, options: Partial<CurateOptions> = {}) {
  return curate(await readRecipe(join(folder, 'recipe.json')), {
    out,
    resources: { device: 'cpu', threads: 1, memoryLimit: '1GB' },
    ...options,
  })
}

describe('curate', () => {
  test('every row is accounted for, and the shards are what training reads', async () => {
    const out = join(root, 'all')
    const { summary, reused } = await run(small, out, { model, resources: { device: 'cpu', threads: 1 } })
    expect(reused).toEqual([])
    const [articles, questions] = summary.sources
    expect(articles!.rows).toMatchObject({ read: 221, extracted: 220, clean: 220, dedup: 200, decontaminated: 199 })
    expect(questions!.rows).toMatchObject({ read: 220, extracted: 220, clean: 220, dedup: 200, decontaminated: 200 })
    expect(questions!.tally.changed['html']!.count).toBe(220)
    expect(summary.decontamination!.byTask['sts/Own']!.rows).toEqual({ equal: 1, near: 0, ngram: 0 })
    expect(summary.semantic!.rows).toBe(399)
    expect(summary.output.rows).toBe(summary.semantic!.kept)
    expect(articles!.rows.written + questions!.rows.written).toBe(summary.output.rows)
    expect(summary.output.tokens!.rows).toBe(summary.output.rows)
    const rows = summary.output.files.flatMap(({ name }) => rowsOf(join(out, 'data', name)))
    expect(rows).toHaveLength(summary.output.rows)
    for (const row of rows) {
      expect(row['query_id']).toBe(textId(row['query'] as string))
      expect(row['score']).toBeGreaterThanOrEqual(0.43)
      expect(row['neg']).toEqual([])
    }
    for await (const row of readDataRows(join(out, 'data', summary.output.files[0]!.name), 'refuse')) expect(row.pos).toHaveLength(1)
    expect(JSON.parse(readFileSync(join(out, 'summary.json'), 'utf8'))).toEqual(summary)
    // Nothing that was written names this machine.
    for (const name of ['summary.json', 'data-card.md', 'report.html']) expect(readFileSync(join(out, name), 'utf8')).not.toContain(root)
  })

  test('a second call finds everything done; what changes is done again, and only that', async () => {
    const out = join(root, 'again')
    const folder = join(root, 'again-in')
    corpus(folder, 100)
    const first = await run(folder, out, { model })
    const before = outputHash(out)
    const second = await run(folder, out, { model })
    expect(second.reused).toEqual(['clean', 'dedup', 'decontaminate', 'score', 'output'])
    expect(second.summary).toEqual(first.summary)
    expect(outputHash(out)).toBe(before)

    rmSync(join(out, 'report.html'))
    expect((await run(folder, out, { model })).reused).toEqual(['clean', 'dedup', 'decontaminate', 'score'])
    expect(outputHash(out)).toBe(before)

    // Another threshold: the scores stay.
    const recipe = JSON.parse(readFileSync(join(folder, 'recipe.json'), 'utf8')) as Record<string, unknown>
    writeFileSync(join(folder, 'recipe.json'), JSON.stringify({ ...recipe, semantic: { model: '../model', keepRate: 0.5 } }))
    const scores = readdirSync(join(out, 'work/4-semantic'))
    const half = await run(folder, out)
    expect(half.reused).toEqual(['clean', 'dedup', 'decontaminate'])
    expect(readdirSync(join(out, 'work/4-semantic'))).toEqual(scores)
    const { rows, kept, ties } = half.summary.semantic!
    expect(half.summary.output.rows).toBe(kept)
    expect(kept).toBeGreaterThanOrEqual(Math.ceil(rows / 2))
    expect(kept - ties).toBeLessThan(Math.ceil(rows / 2))

    // One more file: only that one is cleaned.
    writeFileSync(join(folder, 'raw/qa-3.csv'), 'q,a\n新的问题是什么,新的答案在这里等着\n')
    const marker = join(out, 'work/1-clean', readdirSync(join(out, 'work/1-clean')).find((name) => /^articles.*done/.test(name))!)
    const { mtimeMs } = statSync(marker)
    const more = await run(folder, out)
    expect(more.reused).toEqual([])
    expect(statSync(marker).mtimeMs).toBe(mtimeMs)
    expect(more.summary.sources[1]!.files).toBe(3)
    expect(more.summary.semantic!.rows).toBe(half.summary.semantic!.rows + 1)
  })

  test('the order of files and sources and the number of threads change nothing but the order of the tables', async () => {
    const folder = join(root, 'order')
    corpus(folder, 100)
    const [a, b] = [join(root, 'order-a'), join(root, 'order-b')]
    await run(folder, a)
    renameSync(join(folder, 'raw/qa-1.csv'), join(folder, 'raw/qa-9.csv'))
    const recipe = JSON.parse(readFileSync(join(folder, 'recipe.json'), 'utf8')) as { sources: unknown[] }
    writeFileSync(join(folder, 'recipe.json'), JSON.stringify({ ...recipe, sources: recipe.sources.reverse() }))
    await run(folder, b, { resources: { threads: 2 } })
    for (const name of readdirSync(join(a, 'data')))
      expect(readFileSync(join(b, 'data', name))).toEqual(readFileSync(join(a, 'data', name)))
  })

  test('a signal stops it; the next call goes on to the same bytes', async () => {
    const out = join(root, 'stopped')
    for (const stage of ['clean', 'dedup', 'decontaminate', 'score', 'output'] as const) {
      const stop = new AbortController()
      const onProgress: CurateOptions['onProgress'] = (progress) => {
        if (progress.stage === stage) stop.abort()
      }
      await expect(run(small, out, { model, signal: stop.signal, onProgress })).rejects.toThrow(/abort/i)
      expect(existsSync(join(out, 'summary.json'))).toBe(false)
    }
    await run(small, out, { model })
    await run(small, join(root, 'whole'), { model })
    expect(outputHash(out)).toBe(outputHash(join(root, 'whole')))
  })

  test('when every row is dropped the report says why, and the call fails', async () => {
    const folder = join(root, 'nothing')
    mkdirSync(folder)
    writeFileSync(join(folder, 'a.jsonl'), jsonl([{ title: 'english only', body: 'nothing but English words in this body' }]))
    const source = { name: 'a', files: ['a.jsonl'], extract: { type: 'title-body' }, licence: 'x' }
    writeFileSync(join(folder, 'recipe.json'), JSON.stringify({ name: 'n', sources: [source] }))
    await expect(run(folder, join(folder, 'out'))).rejects.toMatchObject({
      code: 'ERR_BGE_DATA',
      message: expect.stringContaining('report.html'),
    })
    expect(readFileSync(join(folder, 'out/report.html'), 'utf8')).toContain('chineseShare')
    expect(readdirSync(join(folder, 'out/data'))).toEqual([])
  })

  test('parquet holds the same rows', async () => {
    const folder = join(root, 'parquet')
    corpus(folder, 100)
    const { summary } = await run(folder, join(root, 'as-jsonl'), { model })
    const recipe = JSON.parse(readFileSync(join(folder, 'recipe.json'), 'utf8')) as Record<string, unknown>
    writeFileSync(join(folder, 'recipe.json'), JSON.stringify({ ...recipe, output: { format: 'parquet', shardRows: 70 } }))
    const parquet = await run(folder, join(root, 'as-parquet'), { model })
    expect(parquet.summary.output.files.map(({ rows }) => rows)).toEqual([70, 70, summary.output.rows - 140])
    const found: Record<string, unknown>[] = []
    for (const { name, bytes } of parquet.summary.output.files) {
      const file = join(root, 'as-parquet/data', name)
      expect(statSync(file).size).toBe(bytes)
      found.push(...(await parquetReadObjects({ file: await asyncBufferFromFile(file), compressors })))
    }
    const expected = summary.output.files.flatMap(({ name }) => rowsOf(join(root, 'as-jsonl/data', name)))
    expect(found.map((row) => ({ ...row, score: Math.fround(row['score'] as number) }))).toEqual(
      expected.map((row) => ({ ...row, score: Math.fround(row['score'] as number) })),
    )
  })
})

/** Everything below a folder that another process is changing: one that vanishes while it is read has no names. */
function namesIn(folder: string): string[] {
  try {
    return readdirSync(folder, { recursive: true, encoding: 'utf8' }) as string[]
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return []
    throw error
  }
}

describe('after SIGKILL', () => {
  const main = fileURLToPath(new URL('../dist/cli/main.js', import.meta.url))
  const folder = join(root, 'killed-in')

  async function cli(out: string): Promise<ChildProcess> {
    const flags = ['--recipe', join(folder, 'recipe.json'), '--out', out, '--model', model, '--device', 'cpu', '--threads', '2']
    return spawn(process.execPath, [main, 'curate', ...flags], { stdio: 'ignore' })
  }
  async function finish(out: string): Promise<void> {
    const child = await cli(out)
    expect((await onceEvent(child, 'exit'))[0]).toBe(0)
  }
  /** Kills the command as soon as `reached` holds for what is on the disk; false where it had ended by then. */
  async function killWhen(out: string, reached: (names: string[]) => boolean): Promise<boolean> {
    const child = await cli(out)
    const exit = onceEvent(child, 'exit')
    while (child.exitCode === null && !reached(namesIn(out))) await wait(1)
    child.kill('SIGKILL')
    return (await exit)[1] === 'SIGKILL'
  }

  test('at any point, nothing is lost and nothing doubled', async () => {
    corpus(folder, 2100)
    const whole = join(root, 'killed-not')
    await finish(whole)
    // Its worker threads do what one thread in this process does.
    await run(folder, join(root, 'one-thread'), { model })
    expect(outputHash(join(root, 'one-thread'))).toBe(outputHash(whole))
    const out = join(root, 'killed')
    const has = (pattern: RegExp) => (names: string[]) => names.some((name) => pattern.test(name))
    const points = [
      has(/1-clean\/.*\.tmp$/), // in the middle of a file
      has(/1-clean\/.*done\.json$/), // between files
      has(/2-dedup\/dedup-store/), // in the database
      has(/2-dedup\/part.*\.tmp$/),
      has(/2-dedup\.done\.json$/),
      has(/3-decontaminate\.done\.json$/),
      has(/4-semantic\/.*0000\.i32$/), // between chunks of scores
      has(/4-semantic\/.*0001\.i32$/),
      has(/4-semantic\.done\.json$/),
      has(/5-output\/data\/part-00001/), // in the middle of the shards
      has(/5-output\/summary\.json/),
    ]
    let kills = 0
    for (const point of points) if (await killWhen(out, point)) kills++
    // The last points may be passed faster than they are seen.
    expect(kills).toBeGreaterThanOrEqual(8)
    await finish(out)
    expect(outputHash(out)).toBe(outputHash(whole))
    const left = (readdirSync(out, { recursive: true, encoding: 'utf8' }) as string[]).filter((name) => /tmp$|store|bge-join/.test(name))
    expect(left).toEqual([])

    // And at moments that nobody chose.
    const draw = random(7, 'kill')
    const later = join(root, 'killed-later')
    for (let i = 0; i < 3; i++) {
      const child = await cli(later)
      const exit = onceEvent(child, 'exit')
      await wait(300 + draw.int(1500))
      child.kill('SIGKILL')
      await exit
    }
    await finish(later)
    expect(outputHash(later)).toBe(outputHash(whole))
  }, 300_000)

  test('a folder that another process works in is refused, one that a dead process left is taken over', async () => {
    const folder = join(root, 'locked')
    const lock = join(folder, 'lock')
    await exclusively(folder, async () => {
      expect(JSON.parse(readFileSync(lock, 'utf8'))).toMatchObject({ pid: process.pid })
      await expect(exclusively(folder, async () => 1)).rejects.toMatchObject({ code: 'ERR_BGE_RESUME' })
    })
    expect(existsSync(lock)).toBe(false)
    const { pid } = spawnSync(process.execPath, ['--version'])
    for (const left of ['', '{"pid":', JSON.stringify({ pid, start: '1' }), JSON.stringify({ pid: process.pid, start: '1' })]) {
      writeFileSync(lock, left)
      expect(await exclusively(folder, async () => 2)).toBe(2)
    }
    await expect(exclusively(folder, () => Promise.reject(new Error('failed')))).rejects.toThrow('failed')
    expect(existsSync(lock)).toBe(false)
  })

  test('a fault in one file ends the threads of the others, and is the error', async () => {
    const broken = join(root, 'broken')
    corpus(broken, 2000)
    writeFileSync(join(broken, 'raw/z.jsonl'), '{"title":"开头","body":')
    const recipe = JSON.parse(readFileSync(join(broken, 'recipe.json'), 'utf8')) as { sources: Record<string, unknown>[] }
    const source = { name: 'z', files: ['raw/z.jsonl'], extract: { type: 'title-body' }, licence: 'x' }
    writeFileSync(join(broken, 'recipe.json'), JSON.stringify({ ...recipe, sources: [source, ...recipe.sources] }))
    const args = [main, 'curate', '--recipe', join(broken, 'recipe.json'), '--out', join(root, 'broken-out'), '--threads', '2']
    const { status, stderr } = spawnSync(process.execPath, args, { encoding: 'utf8' })
    expect(status).toBe(1)
    expect(stderr).toMatch(/error \[ERR_BGE_DATA\]: .*z\.jsonl:1: /)
    expect(existsSync(join(root, 'broken-out/summary.json'))).toBe(false)
  })

  test('publishing goes on from any half-way state', async () => {
    const out = join(root, 'published')
    await run(small, out)
    const { files } = (
      JSON.parse(readFileSync(join(out, 'summary.json'), 'utf8')) as { output: { files: { name: string; bytes: number }[] } }
    ).output
    const before = outputHash(out)
    const names = ['report.html', 'data-card.md', 'data', 'summary.json']
    for (let moved = 0; moved <= names.length; moved++) {
      const [place, target] = [join(root, `place-${moved}`), join(root, `target-${moved}`)]
      mkdirSync(place)
      mkdirSync(join(target, 'data'), { recursive: true })
      writeFileSync(join(target, 'data/old.jsonl'), 'old')
      writeFileSync(join(target, 'summary.json'), 'old')
      for (const [i, name] of names.entries()) {
        if (i < moved) rmSync(join(target, name), { recursive: true, force: true })
        cpSync(join(out, name), join(i < moved ? target : place, name), { recursive: true })
      }
      expect(await publish(place, target, files)).toBe(true)
      expect(outputHash(target)).toBe(before)
    }
    rmSync(join(root, 'target-0/data', files[0]!.name))
    expect(await publish(join(root, 'place-0'), join(root, 'target-0'), files)).toBe(false)
  })
})

describe('stages', () => {
  test('work is done once for a key, and again after a failure', async () => {
    const [marker, place] = [join(root, 'work.done.json'), join(root, 'work-place')]
    let runs = 0
    const work = async (): Promise<number> => {
      mkdirSync(place)
      return ++runs
    }
    expect(await once(marker, 'a', place, work)).toEqual({ result: 1, reused: false })
    expect(await once(marker, 'a', place, work)).toEqual({ result: 1, reused: true })
    expect(await once(marker, 'b', place, work)).toEqual({ result: 2, reused: false })
    await expect(once(marker, 'c', place, () => Promise.reject(new Error('stopped')))).rejects.toThrow('stopped')
    expect(existsSync(place)).toBe(false)
    expect(await once(marker, 'b', place, work)).toEqual({ result: 3, reused: false })
  })

  test('a meter starts at nothing, ends at all, and knows no speed of what it found', () => {
    const said: [number, number | null][] = []
    const meter = createMeter('score', 'rows', 10, ({ done, eta }) => said.push([done, eta]))
    meter.advance(4, 'found')
    meter.advance(6)
    expect(said.map(([done]) => done)).toEqual([0, 10])
    expect(said.every(([, eta]) => eta === null || eta === 0)).toBe(true)
  })
})

describe('the semantic filter', () => {
  const row = (i: number, query: string, pos: string): Row => ({
    source: 's', at: `f:${i}`, query, pos: [pos], neg: [], queryId: textId(query), posIds: [textId(pos)], negIds: [],
  }) // biome-ignore format: a row
  // Query q has the angle 0, passage p<i> the cosine i/100.
  const vectors: Record<string, number[]> = { q: [1, 0] }
  for (let i = 0; i <= 100; i++) vectors[`p${i}`] = [i / 100, Math.sqrt(1 - (i / 100) ** 2)]

  async function scored(cosines: readonly number[], settings: { threshold?: number; keepRate?: number }, name: string) {
    const [input, folder] = [join(root, `${name}.jsonl`), join(root, name)]
    writeFileSync(input, jsonl(cosines.map((value, i) => row(i, 'q', `p${value}`))))
    const model = fakeModel(vectors)
    await scoreRows([input], folder, async () => model, { meter: createMeter('score', 'rows', 0, undefined) })
    const report = await decide([input], folder, settings)
    const scores: number[] = []
    for await (const { score } of scoredLines([input], folder)) scores.push(score)
    return { report, scores, model, input, folder }
  }

  test('by value: at least the threshold; equal texts are encoded once a chunk', async () => {
    const { report, scores, model } = await scored([42, 43, 44, 43, 100, 0], { threshold: 0.43 }, 'by-value')
    expect(scores).toEqual([0.42, 0.43, 0.44, 0.43, 1, 0])
    expect(report).toMatchObject({ rows: 6, kept: 4, threshold: 0.43, keepRate: null, ties: 2 })
    expect(report.mean).toBeCloseTo(2.72 / 6, 12)
    expect(report.histogram[143]).toBe(2)
    expect(report.histogram[100]).toBe(1)
    expect(report.histogram[199]).toBe(1)
    expect(report.histogram.reduce((a, b) => a + b)).toBe(6)
    expect(model.calls.map(({ texts }) => [...texts].sort())).toEqual([['p0', 'p100', 'p42', 'p43', 'p44', 'q']])
    expect(report.dropped.map(({ score }) => score).sort()).toEqual([0, 0.42])
    const at = report.candidates.find(({ threshold }) => threshold === 0.43)!
    expect(at.samples.map(({ score }) => score)).toEqual([0.44, 0.43, 0.43, 0.42])
    for (const { threshold, kept } of report.candidates) expect(kept).toBe(scores.filter((score) => score >= threshold).length)
  })

  test('by rate: the score of rank ceil(r n), ties kept; the order of rows does not matter', async () => {
    const cosines = Array.from({ length: 100 }, (_, i) => i)
    expect((await scored(cosines, { keepRate: 0.25 }, 'rate-1')).report).toMatchObject({ threshold: 0.75, kept: 25, ties: 1 })
    expect((await scored(cosines.toReversed(), { keepRate: 0.251 }, 'rate-2')).report).toMatchObject({ threshold: 0.74, kept: 26 })
    expect((await scored(cosines, { keepRate: 1 }, 'rate-3')).report).toMatchObject({ threshold: 0, kept: 100 })
    const tied = [...Array.from({ length: 60 }, () => 50), ...Array.from({ length: 40 }, () => 90)]
    expect((await scored(tied, { keepRate: 0.5 }, 'rate-4')).report).toMatchObject({ threshold: 0.5, kept: 100, ties: 60 })
    expect((await scored([], { keepRate: 0.5 }, 'rate-5')).report).toMatchObject({ rows: 0, kept: 0 })
  })

  test('chunks that are on the disk are not computed again; half a set of scores is refused', async () => {
    const cosines = Array.from({ length: 5000 }, (_, i) => i % 101)
    const { scores, model, input, folder } = await scored(cosines, { threshold: 0.5 }, 'chunks')
    expect(model.calls).toHaveLength(3)
    expect(scores).toEqual(cosines.map((value) => value / 100))
    const names = readdirSync(folder).sort()
    rmSync(join(folder, names[1]!))
    writeFileSync(join(folder, `${names[1]}.tmp`), 'torn')
    await expect(decide([input], folder, { threshold: 0.5 })).rejects.toMatchObject({ code: 'ERR_BGE_RESUME' })
    const again = fakeModel(vectors)
    await scoreRows([input], folder, async () => again, { meter: createMeter('score', 'rows', 0, undefined) })
    expect(again.calls).toHaveLength(1)
    expect(readdirSync(folder).sort()).toEqual(names)
    expect((await decide([input], folder, { threshold: 0.5 })).kept).toBe(cosines.filter((value) => value >= 50).length)
  })
})

test('evaluation texts: queries and what is judged relevant, pairs, and no training half', async () => {
  const folder = join(root, 'tasks')
  for (const name of ['sts', 'retrieval/R', 'reranking', 'classification', 'clustering']) mkdirSync(join(folder, name), { recursive: true })
  const write = (name: string, rows: readonly unknown[]): void => writeFileSync(join(folder, name), jsonl(rows))
  write('sts/S.jsonl', [
    { text1: 'a1', text2: 'a2', label: 1 },
    { text1: 'a3', text2: 'a4', label: 2 },
  ])
  write('retrieval/R/corpus.jsonl', [
    { id: 1, text: 'd1' },
    { id: 2, text: 'd2' },
    { id: 3, text: 'd3' },
  ])
  write('retrieval/R/queries.jsonl', [{ id: 'q', text: 'q1' }])
  write('retrieval/R/qrels.jsonl', [
    { qid: 'q', did: 1, score: 1 },
    { qid: 'q', did: 2, score: 0 },
  ])
  write('reranking/K.jsonl', [{ query: 'k1', positive: ['k2'], negative: ['k3'] }])
  write('classification/C.test.jsonl', [
    { text: 'c1', label: 'x' },
    { text: 'c2', label: 'y' },
  ])
  write('classification/C.jsonl', [
    { text: 't1', label: 'x' },
    { text: 't2', label: 'y' },
  ])
  write('clustering/U.jsonl', [
    { text: 'u1', label: 'x' },
    { text: 'u2', label: 'y' },
  ])
  const found: string[] = []
  for await (const { task, field, text } of evaluationTexts(await evaluationTasks([folder]))) found.push(`${task} ${field} ${text}`)
  expect(found).toEqual([
    'sts/S text1 a1', 'sts/S text1 a3', 'sts/S text2 a2', 'sts/S text2 a4', 'retrieval/R queries q1', 'retrieval/R corpus d1',
    'reranking/K query k1', 'reranking/K positive k2', 'classification/C text c1', 'classification/C text c2', 'clustering/U text u1', 'clustering/U text u2',
  ]) // biome-ignore format: a list
  await expect(evaluationTasks([join(folder, 'sts')])).rejects.toMatchObject({ code: 'ERR_BGE_FILE' })
})

describe('the report', () => {
  test('stands alone, is well-formed, and its texts are texts', async () => {
    const { summary } = await run(small, join(root, 'report'))
    const page = curationPage(summary)
    expect(page).not.toMatch(/<script|<link|<img|@import|url\(|\b(?:src|href)=/i)
    expect(page).toContain("default-src 'none'")
    expect(page).toContain('test &lt;set&gt;')
    expect(page).toContain('CC-BY &amp; co')
    expect(page).toContain('Not counted: no tokenizer was given')
    const open: string[] = []
    for (const [, close, name, rest] of page
      .replace(/<!doctype html>/, '')
      .replace(/<style>[\s\S]*<\/style>/, '')
      .matchAll(/<(\/?)([a-z][a-z0-9]*)([^<>]*)>/g)) {
      if (rest!.endsWith('/') || ['meta', 'br'].includes(name!)) continue
      if (close) expect(open.pop()).toBe(name)
      else open.push(name!)
    }
    expect(open).toEqual([])
    const card = readFileSync(join(root, 'report/data-card.md'), 'utf8')
    expect(card).toContain('| articles | title-body | 221 | 220 | 220 | 200 | 199 | 199 | 90.5 % | 200 |')
    expect(card).toContain('| questions | CC0 |')
    expect(card).toContain('1 of 400 rows repeat a text that is evaluated')
  })

  test('a histogram: a bar for what is there, the mark where it belongs, nothing for nothing', () => {
    const bars = [0, 5, 10].map((count, i) => ({ count, title: `bin ${i}`, label: String(i), series: 's0' as const }))
    const svg = histogram(bars, { name: 'n', mark: { at: 1, label: '0.5' }, curve: [1, 1, 0.5, 0] })
    expect(svg.match(/<rect/g)).toHaveLength(2)
    expect(svg).toContain('<title>bin 2: 10</title>')
    expect(svg).toContain('points="52.0,10.0 228.0,10.0 404.0,96.0 580.0,182.0"')
    expect(
      histogram(
        bars.map((bar) => ({ ...bar, count: 0 })),
        { name: 'n' },
      ),
    ).toBe('')
  })
})

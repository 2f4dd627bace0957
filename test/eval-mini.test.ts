import { mkdtemp, rm, writeFile, mkdir } from 'node:fs/promises'
import { existsSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { MINI_LIMITS, MINI_TASKS } from '../lib/eval/cmteb/mini.js'
import { CMTEB_SETS, CMTEB_TYPES, cmtebTasks } from '../lib/eval/cmteb/tasks.js'
import { evaluate } from '../lib/eval/evaluate.js'
import { limitData, limitNote } from '../lib/eval/limit.js'
import { textTable } from '../lib/report/table.js'

const numbers = (n: number): number[] => Array.from({ length: n }, (_, i) => i)

describe('the mini set', () => {
  test('has twelve tasks of C-MTEB, of all six types', () => {
    expect(CMTEB_SETS.mini.map((task) => task.name).sort()).toEqual([...MINI_TASKS].sort())
    expect(CMTEB_SETS.mini).toHaveLength(12)
    expect(new Set(CMTEB_SETS.mini.map((task) => task.type))).toEqual(new Set(Object.keys(CMTEB_TYPES)))
    expect(CMTEB_SETS.mini.every((task) => CMTEB_SETS['cmn-31'].includes(task))).toBe(true)
    expect(cmtebTasks(['mini'])).toEqual(CMTEB_SETS.mini)
  })

  test('retrieval: 100 queries, their judged documents and others up to 20 a query, always the same', () => {
    const data = {
      type: 'retrieval' as const,
      corpus: new Map(numbers(9000).map((i) => [`d${i}`, `text ${i}`])),
      queries: new Map(numbers(400).map((i) => [`q${i}`, `query ${i}`])),
      qrels: new Map(numbers(400).map((i) => [`q${i}`, new Map([[`d${(i * 7919) % 9000}`, 1]])])),
    }
    const mini = limitData(data, 'mini')
    if (mini.type !== 'retrieval') throw new Error(mini.type)
    expect([...mini.queries.keys()]).toEqual(numbers(100).map((i) => `q${4 * i}`))
    expect([...mini.qrels.keys()]).toEqual([...mini.queries.keys()])
    expect(mini.corpus.size).toBe(2000)
    for (const judgments of mini.qrels.values()) for (const did of judgments.keys()) expect(mini.corpus.has(did)).toBe(true)
    expect(limitData(data, 'mini')).toEqual(mini)
  })

  test('a task that is smaller than its part is kept whole', () => {
    const pairs = { type: 'sts' as const, text1: ['a', 'b'], text2: ['c', 'd'], labels: [1, 2] }
    expect(limitData(pairs, 'mini')).toEqual(pairs)
  })

  test('clustering: one set of 2000 texts; classification: 500 texts, and 64 of each label to train on', () => {
    const set = { texts: numbers(5000).map(String), labels: numbers(5000).map((i) => `l${i % 3}`) }
    const clusters = limitData({ type: 'clustering', sets: [set, set] }, 'mini')
    if (clusters.type !== 'clustering') throw new Error(clusters.type)
    expect(clusters.sets.map(({ texts, labels }) => [texts.length, labels.length])).toEqual([[2000, 2000]])
    expect(clusters.sets[0]!.texts.slice(0, 3)).toEqual(['0', '2', '5'])

    const half = (n: number, labels: number[]) => ({ texts: numbers(n).map(String), labels })
    const train = half(300, [...Array(100).fill(0), ...Array(190).fill(1), ...Array(10).fill(2)])
    const kept = limitData(
      {
        type: 'classification',
        train,
        test: half(
          1000,
          numbers(1000).map((i) => i % 3),
        ),
        classes: [0, 1, 2],
      },
      'mini',
    )
    if (kept.type !== 'classification') throw new Error(kept.type)
    expect(kept.test.texts).toHaveLength(500)
    const count = (label: number): number => kept.train.labels.filter((each) => each === label).length
    expect([0, 1, 2].map(count)).toEqual([64, 64, 10])
    for (const [i, text] of kept.train.texts.entries()) expect(train.labels[Number(text)]).toBe(kept.train.labels[i])
    // A limit of a number leaves the training half as it is.
    const limited = limitData({ type: 'classification', train, test: half(9, [0, 1, 2, 0, 1, 2, 0, 1, 2]), classes: [0, 1, 2] }, 5)
    expect(limited.type === 'classification' && limited.train).toEqual(train)
  })

  test('every type has a part', () => {
    expect(Object.keys(MINI_LIMITS).sort()).toEqual(Object.keys(CMTEB_TYPES).sort())
  })
})

describe('a run', () => {
  let folder: string
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'bge-mini-'))
    await mkdir(join(folder, 'data/sts'), { recursive: true })
    const rows = numbers(1500).map((i) => JSON.stringify({ text1: `a${i}`, text2: `b${i}`, label: i % 5 }))
    await writeFile(join(folder, 'data/sts/Big.jsonl'), `${rows.join('\n')}\n`)
  })
  afterAll(() => rm(folder, { recursive: true }))

  const model = {
    dims: 2,
    fingerprint: async () => 'fixed',
    encode: async (texts: readonly string[]) => ({
      data: Float32Array.from(texts.flatMap((text) => [1, (Number(text.slice(1)) % 17) / 17 + (text.startsWith('a') ? 0.2 : 0)])),
    }),
  }

  test("limit 'mini' scores the part, says so, and is not taken for the whole", async () => {
    const out = join(folder, 'out')
    const mini = await evaluate(model, { data: join(folder, 'data'), out, rules: { limit: 'mini' } })
    expect(mini.tasks[0]).toMatchObject({ task_name: 'Big', n: { pairs: 1000 }, limit: 'mini' })
    expect(textTable(mini)).toContain(limitNote('mini'))
    expect(existsSync(join(out, 'results'))).toBe(false)
    const whole = await evaluate(model, { data: join(folder, 'data'), out })
    expect(whole.tasks[0]).toMatchObject({ n: { pairs: 1500 }, limit: null })
    expect(textTable(whole)).not.toContain('mini')
  })

  test('another word is refused', async () => {
    await expect(evaluate(model, { data: join(folder, 'data'), rules: { limit: 'tiny' as never } })).rejects.toThrow(
      /limit must be an integer of at least 1 or 'mini', but was "tiny"/,
    )
  })
})

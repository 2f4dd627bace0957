import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { afterAll, beforeEach, describe, expect, test } from 'vitest'
import { loadReranking, loadRetrieval, loadSts } from '../lib/eval/data.js'
import { evaluate } from '../lib/eval/evaluate.js'
import { listTasks, resultFiles, selectTasks } from '../lib/eval/tasks.js'
import { fakeModel } from './support/fake_model.js'

const root = mkdtempSync(join(tmpdir(), 'bge-eval-'))
afterAll(() => rmSync(root, { recursive: true, force: true }))

let folder = ''
let made = 0
beforeEach(() => {
  folder = join(root, String(made++))
})

/** Writes `{ 'sts/A.jsonl': [rows] }`; a string row is written as it is. */
function write(files: Record<string, readonly unknown[]>): string {
  for (const [name, rows] of Object.entries(files)) {
    mkdirSync(dirname(join(folder, name)), { recursive: true })
    writeFileSync(join(folder, name), rows.map((row) => (typeof row === 'string' ? row : JSON.stringify(row)) + '\n').join(''))
  }
  return folder
}

const sts = [
  { text1: '甲乙', text2: '甲乙', label: 5 },
  { text1: '甲乙', text2: '甲丙', label: 3 },
  { text1: '甲乙', text2: '丙丁', label: 0 },
]
const retrieval = {
  'retrieval/R/corpus.jsonl': [
    { id: 'd1', text: '春天' },
    { id: 'd2', title: '秋', text: '天' },
    { id: 'd3', text: '大海' },
  ],
  'retrieval/R/queries.jsonl': [
    { id: 'q1', text: '春天' },
    { id: 'q2', text: '海' },
  ],
  'retrieval/R/qrels.jsonl': [
    { qid: 'q1', did: 'd1', score: 1 },
    { qid: 'q2', did: 'd3', score: 2 },
  ],
}
const reranking = [
  { query: '海', positive: ['大海'], negative: ['春天', '冬天'] },
  { query: '海', positive: [], negative: ['春天'] },
]

describe('loaders', () => {
  test('sts: a bad label, invalid JSON and constant labels are named by place', async () => {
    write({ 'bad.jsonl': [sts[0], { text1: '甲', text2: '乙', label: '5' }], 'json.jsonl': ['{"text1":'], 'same.jsonl': [sts[0], sts[0]] })
    await expect(loadSts(join(folder, 'bad.jsonl'))).rejects.toThrow(/bad\.jsonl:2: field label expected a number, but was "5"/)
    await expect(loadSts(join(folder, 'json.jsonl'))).rejects.toThrow(/json\.jsonl:1: expected a JSON object on one line/)
    await expect(loadSts(join(folder, 'same.jsonl'))).rejects.toThrow(/two different labels/)
  })

  test('retrieval: title and text are joined and trimmed', async () => {
    const { corpus } = await loadRetrieval(join(write(retrieval), 'retrieval/R'))
    expect([...corpus]).toEqual([
      ['d1', '春天'],
      ['d2', '秋 天'],
      ['d3', '大海'],
    ])
  })

  test.each([
    ['an empty corpus', { 'retrieval/R/corpus.jsonl': [] }, /corpus\.jsonl: expected at least one row/],
    [
      'a duplicate id',
      { 'retrieval/R/corpus.jsonl': [...retrieval['retrieval/R/corpus.jsonl'], { id: 'd1', text: '冬' }] },
      /corpus\.jsonl:4: field id expected an id that no earlier row has, but was "d1"/,
    ],
    ['a query without qrels', { 'retrieval/R/qrels.jsonl': [{ qid: 'q1', did: 'd1', score: 1 }] }, /1 of 2 have none, the first is "q2"/],
    [
      'an unknown document',
      { 'retrieval/R/qrels.jsonl': [{ qid: 'q1', did: 'd9', score: 1 }] },
      /qrels\.jsonl:1: field did expected the id of a document/,
    ],
    [
      'an unknown query',
      { 'retrieval/R/qrels.jsonl': [{ qid: 'q9', did: 'd1', score: 1 }] },
      /qrels\.jsonl:1: field qid expected the id of a query/,
    ],
    [
      'a grade that is no integer',
      { 'retrieval/R/qrels.jsonl': [{ qid: 'q1', did: 'd1', score: 0.5 }] },
      /qrels\.jsonl:1: field score expected an integer/,
    ],
    [
      'two judgments',
      {
        'retrieval/R/qrels.jsonl': [
          { qid: 'q1', did: 'd1', score: 1 },
          { qid: 'q1', did: 'd1', score: 0 },
        ],
      },
      /qrels\.jsonl:2: field did expected one judgment/,
    ],
  ])('retrieval: %s', async (_, files, message) => {
    await expect(loadRetrieval(join(write({ ...retrieval, ...files }), 'retrieval/R'))).rejects.toThrow(message)
  })

  test('retrieval: a missing file is named', async () => {
    write({ 'retrieval/R/corpus.jsonl': [] })
    await expect(loadRetrieval(join(folder, 'retrieval/R'))).rejects.toThrow(/queries\.jsonl is not there/)
  })

  test('reranking: rows without a positive or negative are left out and counted', async () => {
    write({ 'a.jsonl': reranking, 'none.jsonl': [reranking[1]], 'bad.jsonl': [{ query: '海', positive: '大海', negative: [] }] })
    expect(await loadReranking(join(folder, 'a.jsonl'))).toMatchObject({ skipped: 1, samples: [reranking[0]] })
    await expect(loadReranking(join(folder, 'none.jsonl'))).rejects.toThrow(/it has none \(1 rows\)/)
    await expect(loadReranking(join(folder, 'bad.jsonl'))).rejects.toThrow(/bad\.jsonl:1: field positive expected an array of strings/)
  })
})

describe('task names', () => {
  test('all, types, names, and a name that two types have', async () => {
    const tasks = await listTasks(write({ ...retrieval, 'sts/S.jsonl': sts, 'reranking/R.jsonl': reranking }))
    const names = (...words: string[]): string[] => selectTasks(tasks, words).map((task) => `${task.type}/${task.name}`)
    expect(names('all')).toEqual(['sts/S', 'retrieval/R', 'reranking/R'])
    expect(names('reranking', 'S')).toEqual(['sts/S', 'reranking/R'])
    expect(names('R')).toEqual(['retrieval/R', 'reranking/R'])
    expect(names('retrieval/R', 'R', 'all').length).toBe(3)
    expect(() => names('T')).toThrow(/task "T" is not in the data folder; it has sts\/S, retrieval\/R, reranking\/R/)
    expect(resultFiles(tasks)).toEqual(['S.json', 'R.json', 'R-reranking.json'])
    expect(resultFiles(selectTasks(tasks, ['reranking/R']))).toEqual(['R.json'])
  })
  test('a folder without tasks', async () => {
    mkdirSync(folder)
    await expect(listTasks(folder)).rejects.toThrow(/holds none of them/)
  })
})

describe('evaluate', () => {
  test('scores, files, the instruction on queries only, and every text encoded once', async () => {
    const data = write({ ...retrieval, 'sts/S.jsonl': sts, 'reranking/R.jsonl': reranking })
    const model = fakeModel()
    const out = join(folder, 'out')
    const { tasks, averages } = await evaluate(model, { data, out, instruction: '问' })
    expect(
      tasks.map((task) => [
        task.task_name,
        'error' in task ? task.error : [task.main_metric, Number(task.main_score.toFixed(12))],
        task.file,
      ]),
    ).toEqual([
      ['S', ['cosine_spearman', 1], 'S.json'],
      ['R', ['ndcg_at_10', 1], 'R.json'],
      ['R', ['map', 1], 'R-reranking.json'],
    ])
    expect(averages).toEqual({ sts: expect.closeTo(1, 12), retrieval: 1, reranking: 1 })
    expect(readdirSync(out).sort()).toEqual(['R-reranking.json', 'R.json', 'S.json', 'summary.json'])
    expect(JSON.parse(readFileSync(join(out, 'R.json'), 'utf8'))).toMatchObject({
      task_name: 'R',
      type: 'retrieval',
      main_score: 1,
      instruction: '问',
      n: { queries: 2, documents: 3 },
      scores: { ndcg_at_10: 1, map_at_1000: 1, mrr_at_10: 1, recall_at_1: 1, precision_at_10: 0.1 },
    })
    expect(model.calls).toEqual([
      { texts: ['甲乙', '甲丙', '丙丁'], instruction: '' },
      { texts: ['大海', '秋 天', '春天'], instruction: '' },
      { texts: ['春天', '海'], instruction: '问' },
      { texts: ['冬天'], instruction: '' },
    ])
  })

  test("the model's own instruction is used unless '' says none", async () => {
    const data = write(retrieval)
    const model = Object.assign(fakeModel(), { instruction: '问' })
    await evaluate(model, { data })
    await evaluate(model, { data, instruction: '' })
    expect(model.calls.map((call) => call.instruction)).toEqual(['', '问', '', ''])
  })

  test('equal scores rank the larger id first', async () => {
    // All documents have the same vector: d3, d2, d1; the relevant ones are d1 (q1, rank 3) and d3 (q2, rank 1).
    const same = Object.fromEntries(['春天', '秋 天', '大海', '海'].map((text) => [text, [1, 0]]))
    const { tasks } = await evaluate(fakeModel(same), { data: write(retrieval) })
    expect(tasks[0]).toMatchObject({ scores: { mrr_at_10: (1 / 3 + 1) / 2 } })
  })

  test('vectors with NaN fail their task, the others go on', async () => {
    const data = write({ ...retrieval, 'sts/S.jsonl': sts, 'sts/T.jsonl': sts.map((row) => ({ ...row, text2: `${row.text2}坏` })) })
    const model = fakeModel()
    const broken = {
      ...model,
      encode: async (texts: readonly string[]) => {
        const result = await model.encode(texts)
        for (const [i, text] of texts.entries()) if (text.includes('坏')) result.data[i * model.dims] = Number.NaN
        return result
      },
    }
    const out = join(folder, 'out')
    const { tasks, averages } = await evaluate(broken, { data, out })
    expect(tasks.map((task) => ('error' in task ? task.error.code : 'ok'))).toEqual(['ok', 'ERR_BGE_NON_FINITE', 'ok'])
    expect(averages).toMatchObject({ sts: null, retrieval: 1 })
    expect(readdirSync(out).sort()).toEqual(['R.json', 'S.json', 'summary.json'])
  })

  test('a collapsed model has no correlation, and that is an error, not a number', async () => {
    const data = write({ 'sts/S.jsonl': sts })
    const { tasks } = await evaluate(fakeModel({ 甲乙: [1, 0], 甲丙: [1, 0], 丙丁: [1, 0] }), { data })
    expect(tasks[0]).toMatchObject({ error: { code: 'ERR_BGE_NON_FINITE', message: expect.stringContaining('same cosine') } })
  })

  test('an aborted signal stops', async () => {
    const data = write(retrieval)
    await expect(evaluate(fakeModel(), { data, signal: AbortSignal.abort() })).rejects.toThrow(
      expect.objectContaining({ name: 'AbortError' }),
    )
  })
})

import { cp, mkdir, mkdtemp, readdir, readFile, rm, truncate, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import { pullTasks } from '../lib/eval/cmteb/pull.js'
import type { TaskSource } from '../lib/eval/cmteb/repos.js'
import { cmtebTasks } from '../lib/eval/cmteb/tasks.js'
import { evaluateTasks } from '../lib/eval/evaluate.js'
import type { TaskOutcome } from '../lib/eval/evaluation.js'
import { benchmarkTask, localTask } from '../lib/eval/sources.js'
import { listTasks } from '../lib/eval/tasks.js'
import { hashModel } from './support/hash_model.js'
import { repository, sha256, startHub } from './support/hub_server.js'

// Every bad input of a task becomes one sentence with a stable code, in the summary and in a file of no task, and the other tasks have scores.

const HUB = fileURLToPath(new URL('./fixtures/cmteb/hub', import.meta.url))
let folder = ''
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'bge-bad-'))
  vi.stubEnv('HF_TOKEN', undefined)
  vi.stubEnv('HF_HUB_DISABLE_IMPLICIT_TOKEN', '1')
})
afterEach(async () => {
  vi.unstubAllEnvs()
  await rm(folder, { recursive: true, force: true })
})

async function put(files: Record<string, readonly unknown[] | string>): Promise<void> {
  for (const [path, rows] of Object.entries(files)) {
    const file = join(folder, 'data', path)
    await mkdir(dirname(file), { recursive: true })
    await writeFile(file, typeof rows === 'string' ? rows : rows.map((row) => `${JSON.stringify(row)}\n`).join(''))
  }
}

/** What became of each task; checks that nothing was written for the failed ones, and that a message is one sentence. */
async function outcomes(
  tasks: Parameters<typeof evaluateTasks>[1],
  model: Parameters<typeof evaluateTasks>[0] = hashModel(),
): Promise<TaskOutcome[]> {
  const out = join(folder, 'out')
  const evaluation = await evaluateTasks(model, tasks, { out, rules: { dialect: 'mteb2' }, benchmark: { set: 'cmn-31' } })
  const failed = evaluation.tasks.filter((task) => 'error' in task)
  expect(failed.every(({ file }) => file === null)).toBe(true)
  const written = await readdir(out, { recursive: true })
  for (const task of failed) {
    expect('error' in task && task.error.message).toMatch(/^[^\n]{20,}$/)
    expect(written.filter((file) => file.endsWith(`${task.task_name}.json`))).toEqual([])
  }
  expect(JSON.parse(await readFile(join(out, 'summary.json'), 'utf8'))).toMatchObject({
    tasks: evaluation.tasks.map(({ task_name }) => ({ task_name })),
  })
  expect(evaluation.benchmark).toMatchObject({ meanTask: null })
  return [...evaluation.tasks]
}

const benchmark = (names: readonly string[], source: TaskSource): Parameters<typeof evaluateTasks>[1] =>
  cmtebTasks(names).map((task) => benchmarkTask(task, 'mteb2', source))
const offline = (): TaskSource => ({ data: join(folder, 'data'), hub: { network: 'offline', cache: join(folder, 'nothing') } })

const good = { 'C-MTEB/LCQMC/test.jsonl': [0, 1, 2].map((score) => ({ sentence1: `天${score}`, sentence2: '地', score })) }
const ecom = {
  'C-MTEB/EcomRetrieval/corpus.jsonl': [
    { id: '1', text: '书包' },
    { id: '2', text: '铅笔' },
  ],
  'C-MTEB/EcomRetrieval/queries.jsonl': [
    { id: 'a', text: '包' },
    { id: 'b', text: '笔' },
  ],
  'C-MTEB/EcomRetrieval-qrels/dev.jsonl': [{ qid: 'a', pid: '1', score: 1 }],
}

describe("the hub's layout", () => {
  test.each<[string, string, Record<string, readonly unknown[] | string>, string, RegExp]>([
    ['a missing split', 'AFQMC', { 'C-MTEB/AFQMC/test.jsonl': [{}] }, 'ERR_BGE_DATA', /expected split validation .* but it has default: test$/],
    [
      'a wrong column',
      'AFQMC',
      { 'C-MTEB/AFQMC/validation.jsonl': [{ text1: 'a', text2: 'b', score: 1 }] },
      'ERR_BGE_DATA',
      /validation\.jsonl:1: expected column sentence1, but the columns are text1, text2, score$/,
    ],
    ['an empty corpus', 'EcomRetrieval', { ...ecom, 'C-MTEB/EcomRetrieval/corpus.jsonl': '' }, 'ERR_BGE_DATA', /corpus\.jsonl: expected at least one row, but it is empty$/],
    [
      'duplicate ids',
      'EcomRetrieval',
      { ...ecom, 'C-MTEB/EcomRetrieval/queries.jsonl': [{ id: 'a', text: '包' }, { id: 'a', text: '笔' }] },
      'ERR_BGE_DATA',
      /queries\.jsonl:2: field id expected an id that no earlier row has, but was "a"$/,
    ],
    [
      'no query with a judgment',
      'EcomRetrieval',
      { ...ecom, 'C-MTEB/EcomRetrieval-qrels/dev.jsonl': [{ qid: 'z', pid: '1', score: 1 }] },
      'ERR_BGE_DATA',
      /expected judgments of the 2 queries in .* but none of them has one$/,
    ],
    ['half a JSON line', 'AFQMC', { 'C-MTEB/AFQMC/validation.jsonl': '{"sentence1":"a","sent' }, 'ERR_BGE_DATA', /validation\.jsonl:1: expected a JSON object/],
    ['no data', 'AFQMC', {}, 'ERR_BGE_FILE', /data folder .* holds no C-MTEB\/AFQMC@b44c3b01, .* is not in the cache/],
  ])('%s', async (_, name, files, code, message) => {
    await put({ ...good, ...files })
    const results = await outcomes(benchmark([name, 'LCQMC'], offline()))
    expect(results.map((task) => ('error' in task ? task.error.code : task.task_name)).sort()).toEqual([code, 'LCQMC'].sort())
    expect(results.find((task) => 'error' in task)).toMatchObject({ error: { message: expect.stringMatching(message) } })
  }) // biome-ignore format: a table

  test('a query without qrels is left out, as mteb does, and noted', async () => {
    await put(ecom)
    const [result] = await outcomes(benchmark(['EcomRetrieval'], offline()))
    expect(result).toMatchObject({
      n: { queries: 1 },
      notes: [
        expect.stringMatching(/1 of 2 queries have no judgment and are left out, the first is "b"$/),
        expect.anything(),
        expect.anything(),
      ],
    })
  })

  test('half a parquet file', async () => {
    await cp(HUB, join(folder, 'data'), { recursive: true })
    const path = 'C-MTEB/OCNLI/data/validation-00000-of-00001-11c3f1a2b4d5e6f7.parquet'
    await truncate(join(folder, 'data', path), 700)
    const results = await outcomes(benchmark(['Ocnli', 'AFQMC', 'TNews'], offline()))
    expect(results.map((task) => 'error' in task && task.error.code)).toEqual(['ERR_BGE_DATA', false, false])
    expect(results[0]).toMatchObject({
      error: { message: expect.stringMatching(/expected a whole parquet file, .* was it downloaded only in part\?$/) },
    })
  })
})

describe('from a hub and in a bundle', () => {
  const rows = Buffer.from(good['C-MTEB/LCQMC/test.jsonl'].map((row) => `${JSON.stringify(row)}\n`).join(''))
  const large = Buffer.concat(Array.from({ length: 400 }, () => rows))

  test('a connection that keeps breaking, and a file with a wrong hash, are one sentence each; nothing of them is kept', async () => {
    const hub = await startHub()
    try {
      for (const name of ['AFQMC', 'LCQMC', 'BQ']) {
        const { current, splits } = cmtebTasks([name])[0]!
        const path = `data/${splits.mteb2[0]}-00000-of-00001.jsonl`
        hub.repositories.set(
          `datasets/${current.path}`,
          repository({ [path]: name === 'BQ' ? rows : large }, { commit: current.revision, lfs: [path] }),
        )
      }
      // AFQMC breaks off before the first byte, whenever it is asked for; BQ has other bytes than its name says.
      hub.cut = { after: 0, times: 0 }
      hub.beforeBody = async () => {
        const asked = hub.seen.filter(({ path, method }) => method === 'GET' && path.includes('/resolve/')).at(-1)!
        hub.cut = { after: 0, times: asked.path.includes('AFQMC') ? 1 : 0 }
        if (asked.path.includes('BQ')) hub.repositories.get('datasets/C-MTEB/BQ')!.files.get('data/test-00000-of-00001.jsonl')!.fill(0x20)
      }
      const source = { hub: { endpoint: hub.endpoint, cache: join(folder, 'cache') } }
      const results = await outcomes(benchmark(['LCQMC', 'AFQMC', 'BQ'], source))
      expect(results.map((task) => ('error' in task ? `${task.task_name} ${task.error.code}` : task.task_name))).toEqual([
        'LCQMC', 'AFQMC ERR_BGE_HUB', 'BQ ERR_BGE_HUB',
      ]) // biome-ignore format: a list
      expect(results[1]).toMatchObject({
        error: { message: expect.stringMatching(/AFQMC.* broke off at 0 of \d+ bytes .*; the next run goes on from there$/) },
      })
      expect(results[2]).toMatchObject({
        error: { message: expect.stringMatching(/BQ.* must have the hash [0-9a-f]{64}, but has [0-9a-f]{64}; it was thrown away$/) },
      })
      expect(await readdir(join(folder, 'cache/datasets--C-MTEB--BQ/blobs'))).toEqual([])
    } finally {
      await hub.close()
    }
  })

  test('a bundle whose file was cut or changed after the pull', async () => {
    const hub = await startHub()
    try {
      const names = ['AFQMC', 'LCQMC', 'BQ']
      for (const { current, splits } of cmtebTasks(names)) {
        const path = `${splits.mteb2[0]}.jsonl`
        hub.repositories.set(`datasets/${current.path}`, repository({ [path]: rows }, { commit: current.revision }))
      }
      const data = join(folder, 'bundle')
      const pulled = await pullTasks({ to: data, tasks: cmtebTasks(names), hub: { endpoint: hub.endpoint, cache: join(folder, 'cache') } })
      expect(pulled.failures).toEqual([])
      await truncate(join(data, 'C-MTEB/AFQMC/validation.jsonl'), 30)
      const changed = Buffer.from(rows)
      changed[changed.length - 3] = 0x39
      await writeFile(join(data, 'C-MTEB/BQ/test.jsonl'), changed)
      const results = await outcomes(benchmark(names, { data, hub: { network: 'offline', cache: join(folder, 'nothing') } }))
      const messages = Object.fromEntries(
        results.map((task) => [task.task_name, 'error' in task ? `${task.error.code} ${task.error.message}` : 'ok']),
      )
      expect(messages).toEqual({
        LCQMC: 'ok',
        AFQMC: expect.stringMatching(
          /^ERR_BGE_DATA .*validation\.jsonl: expected \d+ bytes as manifest\.json says, but it has 30; bge cmteb pull --to .* fetches it again$/,
        ),
        BQ: expect.stringMatching(
          new RegExp(`^ERR_BGE_DATA .*expected SHA-256 ${sha256(rows)} as manifest\\.json says, but it is ${sha256(changed)}; `),
        ),
      })
    } finally {
      await hub.close()
    }
  })
})

describe('a folder of own tasks', () => {
  const texts = [...'天地玄黄宇宙洪荒']
  const labelled = texts.map((text, i) => ({ text, label: i % 2 }))
  const every = {
    'sts/S.jsonl': texts.map((text, i) => ({ text1: text, text2: '日', label: i % 3 })),
    'pairclass/P.jsonl': texts.map((text, i) => ({ text1: text, text2: '日', label: i % 2 })),
    'clustering/C.jsonl': labelled,
    'classification/K.jsonl': labelled,
    'classification/K.test.jsonl': labelled,
    'reranking/R.jsonl': [{ query: '问', positive: ['天'], negative: ['地', '玄'] }],
    'retrieval/Q/corpus.jsonl': texts.map((text, i) => ({ id: `d${i}`, text })),
    'retrieval/Q/queries.jsonl': [{ id: 'q', text: '问' }],
    'retrieval/Q/qrels.jsonl': [{ qid: 'q', did: 'd3', score: 1 }],
  }
  const names = ['S', 'Q', 'R', 'K', 'C', 'P']

  test.each<[string, string, Record<string, readonly unknown[] | string>, string, RegExp]>([
    ['a wrong column', 'S', { 'sts/S.jsonl': [{ sentence1: 'a', text2: 'b', label: 1 }] }, 'ERR_BGE_DATA', /S\.jsonl:1: field text1 expected a string, but was missing$/],
    ['a wrong column', 'C', { 'clustering/C.jsonl': [{ sentence: 'a', label: 1 }] }, 'ERR_BGE_DATA', /C\.jsonl:1: field text expected a string/],
    ['an empty corpus', 'Q', { 'retrieval/Q/corpus.jsonl': '' }, 'ERR_BGE_DATA', /corpus\.jsonl: expected at least one row, but it is empty$/],
    ['duplicate ids', 'Q', { 'retrieval/Q/corpus.jsonl': [{ id: 1, text: 'a' }, { id: '1', text: 'b' }] }, 'ERR_BGE_DATA', /corpus\.jsonl:2: field id expected an id that no earlier row has/],
    ['a query without qrels', 'Q', { 'retrieval/Q/queries.jsonl': [{ id: 'q', text: '问' }, { id: 'r', text: '答' }] }, 'ERR_BGE_DATA', /every query needs a judgment in qrels\.jsonl, but 1 of 2 have none, the first is "r"$/],
    ['half a file', 'P', { 'pairclass/P.jsonl': '{"text1":"a","text2":"b","label":0}\n{"text1":"a","te' }, 'ERR_BGE_DATA', /P\.jsonl:2: expected a JSON object/],
    ['no training half', 'K', { 'classification/K.jsonl': '' }, 'ERR_BGE_DATA', /K\.jsonl: expected at least two different labels, but it has 0 rows and 0 labels$/],
  ])('%s in %s', async (_, name, files, code, message) => {
    await put({ ...every, ...files })
    const results = await outcomes((await listTasks(join(folder, 'data'))).map(localTask))
    expect(results.map((task) => ('error' in task ? task.error.code : task.task_name))).toEqual(names.map((each) => (each === name ? code : each)))
    expect(results.find((task) => 'error' in task)).toMatchObject({ error: { message: expect.stringMatching(message) } })
  }) // biome-ignore format: a table

  test('NaN in a vector: each type of task fails by itself', async () => {
    await put({ ...every, 'sts/Z.jsonl': texts.map((text, i) => ({ text1: `好${text}`, text2: '好', label: i % 3 })) })
    const model = hashModel()
    const encode: typeof model.encode = async (asked, options) => {
      const { data } = await model.encode(asked, options)
      for (const [i, text] of asked.entries()) if (!text.startsWith('好')) data[i * model.dims + 3] = Number.NaN
      return { data }
    }
    const results = await outcomes((await listTasks(join(folder, 'data'))).map(localTask), { ...model, encode })
    expect(results.map((task) => `${task.task_name} ${'error' in task ? task.error.code : 'ok'}`)).toEqual([
      'S ERR_BGE_NON_FINITE', 'Z ok', ...names.slice(1).map((name) => `${name} ERR_BGE_NON_FINITE`),
    ]) // biome-ignore format: a list
  })
})

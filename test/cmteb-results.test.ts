import { appendFileSync, existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { type CmtebSet, cmtebTasks, type Dialect } from '../lib/eval/cmteb/tasks.js'
import { evaluateBenchmark } from '../lib/eval/benchmark.js'
import { evaluateTasks, type RunOptions } from '../lib/eval/evaluate.js'
import type { Evaluation } from '../lib/eval/evaluation.js'
import { evaluateRetrieval, type EvaluationContext } from '../lib/eval/evaluators.js'
import { pythonRound } from '../lib/eval/ranking.js'
import { readBaseline } from '../lib/eval/results.js'
import { type RunSettings, writeRunSettings } from '../lib/eval/run_settings.js'
import { benchmarkTask, type EvalTask } from '../lib/eval/sources.js'
import { compare, published } from '../lib/report/comparison.js'
import { textTable } from '../lib/report/table.js'
import { fakeModel, plainDevice } from './support/fake_model.js'
import { hashModel } from './support/hash_model.js'

const HUB = fileURLToPath(new URL('./fixtures/cmteb/hub', import.meta.url))
const out = mkdtempSync(join(tmpdir(), 'bge-results-'))
afterAll(() => rmSync(out, { recursive: true, force: true }))

const tasksOf = (words: readonly string[], dialect: Dialect): EvalTask[] =>
  cmtebTasks(words).map((task) => benchmarkTask(task, dialect, { data: HUB, hub: { network: 'offline', cache: join(out, 'no-cache') } }))
const run = (words: readonly string[], options: RunOptions & { dialect?: Dialect; set?: CmtebSet } = {}): Promise<Evaluation> => {
  const { dialect = 'mteb2', set = 'cmn-31', ...rest } = options
  return evaluateTasks(hashModel(), tasksOf(words, dialect), {
    ...rest,
    rules: { dialect, ...rest.rules },
    benchmark: { set, ...rest.benchmark },
  })
}
const json = (...path: string[]): Record<string, unknown> => JSON.parse(readFileSync(join(...path), 'utf8')) as Record<string, unknown>

// One task of each type has data in the fixture.
const HELD = [
  'CovidRetrieval',
  'EcomRetrieval',
  'T2Reranking',
  'CMedQAv1-reranking',
  'Ocnli',
  'CLSClusteringS2S',
  'AFQMC',
  'TNews',
  'JDReview',
]

describe('a run of C-MTEB', () => {
  const folder = join(out, 'all')
  let evaluation: Evaluation
  beforeAll(async () => {
    evaluation = await run(['cmn-31'], { out: folder, benchmark: { meta: { name: 'org/some model', revision: 'r/1' } } })
  })

  test('tasks without data are a sentence each, the others have scores', () => {
    expect(evaluation.tasks).toHaveLength(31)
    const scored = evaluation.tasks.filter((task) => !('error' in task)).map((task) => task.task_name)
    expect(scored.sort()).toEqual([...HELD].sort())
    for (const task of evaluation.tasks) if ('error' in task) expect(task.error.message).toMatch(/^[^\n]{20,}$/)
  })

  test('a mean with holes is none, and the table names the set and what is missing', () => {
    expect(evaluation.benchmark).toMatchObject({
      set: 'cmn-31',
      tasks: 31,
      dialect: 'mteb2',
      sklearn: '1.9',
      meanTask: null,
      meanTaskType: null,
    })
    expect(evaluation.benchmark!.missing).toHaveLength(31 - HELD.length)
    const table = textTable(evaluation)
    expect(table).toMatch(/^Mean\(Task\) of cmn-31, 31 tasks +none$/m)
    expect(table).toMatch(/^set cmn-31, dialect mteb2, scikit-learn 1\.9$/m)
    expect(table).toMatch(/22 without a score: T2Retrieval, MMarcoRetrieval, /)
  })

  test('files are what mteb validates', () => {
    const results = join(folder, 'results/org__some_model/r__1')
    expect(readdirSync(results).sort()).toEqual([...HELD.map((name) => `${name}.json`), 'model_meta.json', 'run_settings.jsonl'].sort())
    for (const name of HELD) checkTaskResult(json(results, `${name}.json`), name)
    checkModelMeta(json(results, 'model_meta.json'))
    const afqmc = json(results, 'AFQMC.json') as { scores: { validation: Record<string, unknown>[] } }
    expect(Object.keys(afqmc.scores.validation[0]!)).toEqual([
      'pearson', 'spearman', 'cosine_pearson', 'cosine_spearman', 'manhattan_pearson', 'manhattan_spearman', 'euclidean_pearson', 'euclidean_spearman',
      'main_score', 'hf_subset', 'languages', 'mteb_version',
    ]) // biome-ignore format: a list
    const ocnli = json(results, 'Ocnli.json') as { scores: { validation: Record<string, unknown>[] } }
    for (const name of ['similarity', 'cosine', 'manhattan', 'euclidean', 'dot', 'max']) {
      for (const metric of ['accuracy', 'f1', 'precision', 'recall', 'ap'])
        expect(ocnli.scores.validation[0]).toHaveProperty(`${name}_${metric}`)
    }
    const covid = json(results, 'CovidRetrieval.json') as { scores: { dev: Record<string, unknown>[] } }
    for (const k of [1, 3, 5, 10, 20, 100, 1000])
      for (const name of ['ndcg', 'map', 'recall', 'precision', 'mrr', 'hit_rate'])
        expect(covid.scores.dev[0]).toHaveProperty(`${name}_at_${k}`)
    for (const task of ['CovidRetrieval', 'T2Reranking']) {
      const { scores } = json(results, `${task}.json`) as { scores: { dev: Record<string, unknown>[] } }
      const abstention = Object.keys(scores.dev[0]!).filter((name) => name.startsWith('nauc_'))
      expect(abstention).toHaveLength(5 * 7 * 3)
      expect(abstention).toContain('nauc_precision_at_1000_diff1')
    }
    expect(
      (json(results, 'TNews.json') as { scores: { validation: { scores_per_experiment: unknown[] }[] } }).scores.validation[0]!
        .scores_per_experiment,
    ).toHaveLength(10)
    expect(
      (json(results, 'CLSClusteringS2S.json') as { scores: { test: { v_measures: number[] }[] } }).scores.test[0]!.v_measures.length,
    ).toBeGreaterThan(0)
  })

  test('how they were run is written once for each task and split', async () => {
    const results = join(folder, 'results/org__some_model/r__1')
    const lines = (): RunSettings[] =>
      readFileSync(join(results, 'run_settings.jsonl'), 'utf8')
        .trim()
        .split('\n')
        .map((line) => JSON.parse(line) as RunSettings)
    expect(lines().map(({ task }) => task)).toEqual(evaluation.tasks.flatMap((task) => ('error' in task ? [] : [task.task_name])))
    const { version } = json('package.json') as { version: string }
    expect(lines()[0]).toEqual({
      task: 'CovidRetrieval',
      splits: ['dev'],
      version: {
        mteb: null, torch: null, 'sentence-transformers': null, 'flash-attn': null, transformers: null, 'bge-forge': version, 'scikit-learn rules': '1.9',
      }, // biome-ignore format: a list
      encode_kwargs: { instruction: '', max_length: null, dialect: 'mteb2' },
      subsets: ['default'],
    })
    // Another run of a task replaces its line; lines of mteb's older form and of other subsets stay; what is no JSON goes.
    const count = lines().length
    appendFileSync(join(results, 'run_settings.jsonl'), '{"task":"X","split":"test","subset":"en"}\n{"task":\n')
    const settings = { version: {}, encode_kwargs: { batch_size: 32 } }
    await writeRunSettings(results, { task: 'AFQMC', splits: ['validation'], subsets: ['default'], ...settings })
    await writeRunSettings(results, { task: 'X', splits: ['test', 'dev'], subsets: ['zh', 'de'], ...settings })
    expect(lines()).toHaveLength(count + 2)
    expect(lines().find(({ task }) => task === 'AFQMC')?.encode_kwargs).toEqual({ batch_size: 32 })
    expect(lines().slice(-2)).toEqual([
      { task: 'X', splits: ['test'], subsets: ['en'] },
      { task: 'X', splits: ['dev', 'test'], subsets: ['de', 'zh'], ...settings },
    ])
  })

  test('they read back as a baseline', async () => {
    const baseline = await readBaseline(join(folder, 'results/org__some_model/r__1'))
    expect(baseline.name).toBe('org/some model')
    expect([...baseline.scores.keys()].sort()).toEqual([...HELD].sort())
    const { rows } = compare(evaluation, [{ ...baseline, source: 'itself' }])
    for (const row of rows) if (row.score !== null) expect(Math.abs(row.score - row.others[0]!)).toBeLessThanOrEqual(0.00005 + 1e-9) // six decimals
    const summary = await readBaseline(folder)
    expect(summary.scores.get('AFQMC')).toBe(summary.scores.get('sts/AFQMC'))
  })

  test('the instruction goes before queries of retrieval and reranking, and nowhere else', async () => {
    const asked = hashModel()
    await evaluateTasks(asked, tasksOf(HELD, 'mteb2'), { instruction: 'zh' })
    const queries = new Set(asked.calls.filter((call) => call.instruction !== '').flatMap((call) => call.texts))
    expect(asked.calls.filter((call) => call.instruction !== '').every((call) => call.instruction.endsWith('：'))).toBe(true)
    expect(asked.calls.filter((call) => call.instruction !== '')).toHaveLength(4)
    expect(queries.size).toBeGreaterThan(0)
  })

  test('dialects differ in main scores, and cmteb2023 claims no version', async () => {
    const old = await run(['Ocnli', 'CMedQAv1-reranking'], { dialect: 'cmteb2023', out: join(out, 'old') })
    for (const task of old.tasks) if ('error' in task) throw new Error(task.error.message)
    expect(old.tasks.map((task) => 'main_metric' in task && [task.main_metric, task.sklearn])).toEqual([
      ['map', '1.8'],
      ['cosine_ap', '1.8'],
    ])
    expect(json(out, 'old/results/local__model', 'f'.repeat(12), 'Ocnli.json')).toMatchObject({ mteb_version: null })
  })

  test('the benchmark as a function of the library: the set, its dialect, nothing outside of it', async () => {
    const source = { data: HUB, hub: { network: 'offline', cache: join(out, 'no-cache') } } as const
    const { tasks, benchmark } = await evaluateBenchmark(hashModel(), { tasks: ['Ocnli', 'AFQMC'], source })
    expect(tasks.map((task) => 'main_metric' in task && task.main_metric)).toEqual(['max_accuracy', 'cosine_spearman'])
    expect(benchmark).toMatchObject({ set: 'cmn-31', dialect: 'mteb2', sklearn: '1.9', meanTask: null })
    const old = await evaluateBenchmark(hashModel(), { set: 'paper-35', tasks: ['STS22'], source }, { rules: { dialect: 'cmteb2023' } })
    expect(old.benchmark).toMatchObject({ set: 'paper-35', dialect: 'cmteb2023', sklearn: '1.8' })
    await expect(evaluateBenchmark(hashModel(), { tasks: ['STS22'] })).rejects.toThrow(/tasks must be tasks of cmn-31, but was "STS22"/)
  })

  test('a limited run writes no files of mteb', async () => {
    const limited = await run(['AFQMC', 'CLSClusteringS2S'], { out: join(out, 'limited'), rules: { limit: 5 } })
    expect(limited.tasks.every((task) => 'limit' in task && task.limit === 5)).toBe(true)
    expect(existsSync(join(out, 'limited/results'))).toBe(false)
    expect(textTable(limited)).toMatch(/limited to 5 queries, pairs or texts a task/)
  })

  test('published scores beside ours, in the dialect', () => {
    const table = textTable(evaluation, [published('bge-small-zh-v1.5', 'mteb2')])
    expect(table).toMatch(/score +bge-small-zh-v1\.5 +diff\n/)
    expect(table).toMatch(/sts\/AFQMC +cosine_spearman +-?\d+\.\d\d +33\.42 +[+-]\d/)
    expect(table).toMatch(/Mean\(Task\) of cmn-31, 31 tasks +none +57\.28/)
    expect(published('bge-small-zh-v1.5', 'cmteb2023').scores.get('Ocnli')).toBeCloseTo(0.6457, 10)
    expect(() => published('bge-tiny', 'mteb2')).toThrow(/--compare must be one of BAAI\/bge-small-zh, /)
  })
})

test('baselines of mteb 1.1 are read', async () => {
  const folder = mkdtempSync(join(out, 'legacy-'))
  const write = (name: string, content: unknown): void => writeFileSync(join(folder, `${name}.json`), JSON.stringify(content))
  write('LCQMC', {
    mteb_dataset_name: 'LCQMC',
    mteb_version: '1.1.0',
    test: { cos_sim: { pearson: 0.6, spearman: 0.72 }, evaluation_time: 5.9 },
  })
  write('Ocnli', {
    mteb_dataset_name: 'Ocnli',
    mteb_version: '1.1.0',
    validation: { cos_sim: { ap: 0.64, accuracy: 0.62 }, max: { ap: 0.65 } },
  })
  write('CMedQAv1', { mteb_dataset_name: 'CMedQAv1', mteb_version: '1.1.0', test: { map: 0.77, mrr: 0.8 } })
  expect([...(await readBaseline(folder)).scores]).toEqual([
    ['CMedQAv1-reranking', 0.77],
    ['LCQMC', 0.72],
    ['Ocnli', 0.64],
  ])
  // As Python writes what is no number.
  writeFileSync(
    join(folder, 'EcomRetrieval.json'),
    '{"task_name":"EcomRetrieval","scores":{"dev":[{"main_score":0.5,"nauc_map_at_1_max":NaN}]}}',
  )
  expect((await readBaseline(folder)).scores.get('EcomRetrieval')).toBe(0.5)
  write('broken', { task_name: 'X' })
  writeFileSync(join(folder, 'half.json'), '{"task_name":')
  await expect(readBaseline(folder)).rejects.toThrow(/half\.json must be a JSON file of results/)
  await expect(readBaseline(mkdtempSync(join(out, 'empty-')))).rejects.toThrow(
    /must hold summary\.json of bge eval or TASK\.json files of mteb/,
  )
})

// Printed by Python 3: round(x, digits).
test.each([
  [0.015625, 5, 0.01562], [0.046875, 5, 0.04688], [2.675, 2, 2.67], [0.5, 0, 0], [1.5, 0, 2], [0.1234565, 6, 0.123456], [0.0000005, 6, 0],
  [-0.015625, 5, -0.01562], [1 / 3, 5, 0.33333], [0.9999995, 6, 1], [1e-9, 6, 0], [2 ** -15, 14, 3.051757812e-5],
] as const)('round(%d, %d) is %d, as in Python', (x, digits, expected) => expect(pythonRound(x, digits)).toBeCloseTo(expected, 12)) // biome-ignore format: a table

describe('retrieval by the rules of mteb', () => {
  const context = (identicalIds: 'keep' | 'after' | 'during'): EvaluationContext => ({
    instruction: '',
    device: plainDevice(),
    encode: {},
    rules: { dialect: 'mteb2', sklearn: '1.9', identicalIds, experiments: 10, samplesPerLabel: 32 },
  })
  const flat = fakeModel(Object.fromEntries(['文', '问'].map((text) => [text, [1, 0]])))
  const documents = (n: number): Map<string, string> =>
    new Map(Array.from({ length: n }, (_, i) => [`d${String(i).padStart(4, '0')}`, '文']))

  test('of equal scores the larger ids stay among the 1000', async () => {
    const corpus = documents(1002)
    const recall = async (relevant: string): Promise<number> => {
      const data = { corpus, queries: new Map([['q', '问']]), qrels: new Map([['q', new Map([[relevant, 1]])]]) }
      return (await evaluateRetrieval(flat, data, context('keep'))).scores.recall_at_1000!
    }
    expect(await Promise.all(['d0000', 'd0001', 'd0002', 'd1001'].map(recall))).toEqual([0, 0, 1, 1])
  })

  test('a document with the id of the query: kept, taken out of the 1000, or never found', async () => {
    // All scores are equal: d1001 .. d0002 are the best 1000, d0001 the next.
    const data = {
      corpus: documents(1002),
      queries: new Map([['d1001', '问']]),
      qrels: new Map([
        [
          'd1001',
          new Map([
            ['d1000', 1],
            ['d0001', 1],
          ]),
        ],
      ]),
    }
    const scores = async (rule: 'keep' | 'after' | 'during'): Promise<(number | undefined)[]> => {
      const { scores } = await evaluateRetrieval(flat, data, context(rule))
      return [scores.mrr_at_10, scores.recall_at_1000]
    }
    expect(await scores('keep')).toEqual([0.5, 0.5])
    expect(await scores('after')).toEqual([1, 0.5])
    expect(await scores('during')).toEqual([1, 1])
  })

  test('trec_eval averages have five decimals, mrr has all', async () => {
    const corpus = new Map([
      ['a', '甲'],
      ['b', '乙'],
      ['c', '丙'],
    ])
    const queries = new Map([
      ['1', '甲'],
      ['2', '甲'],
      ['3', '甲'],
    ])
    const qrels = new Map([
      ['1', new Map([['a', 1]])],
      ['2', new Map([['b', 1]])],
      ['3', new Map([['b', 1]])],
    ])
    const { scores, examples } = await evaluateRetrieval(
      fakeModel({ 甲: [1, 0], 乙: [0.5, 0.5], 丙: [0, 1] }),
      { corpus, queries, qrels },
      context('keep'),
    )
    expect(scores).toMatchObject({ mrr_at_10: 2 / 3, map_at_10: 0.66667, accuracy: 0.33333, hit_rate_at_1: 0.33333, hit_rate_at_3: 1 })
    expect(examples[0]).toEqual({
      kind: 'ranking', query: '甲', score: 1 / Math.log2(3), expected: [{ text: '乙', rank: 2 }],
      retrieved: [{ text: '甲', relevant: false }, { text: '乙', relevant: true }, { text: '丙', relevant: false }],
    }) // biome-ignore format: one example
  })
})

/** The rules of mteb's TaskResult (pydantic, mteb 2.20): types, and what each entry of scores must hold. */
function checkTaskResult(file: Record<string, unknown>, name: string): void {
  const { dataset_revision, task_name, mteb_version, scores, evaluation_time, kg_co2_emissions, date } = file
  expect(task_name).toBe(name)
  expect(dataset_revision).toMatch(/^[0-9a-f]{40}$/)
  expect(mteb_version).toBe('2.20.0')
  expect(typeof evaluation_time).toBe('number')
  expect(kg_co2_emissions).toBeNull()
  expect(date).toBeGreaterThan(1.7e9)
  const entries = Object.values(scores as Record<string, Record<string, unknown>[]>).flat()
  expect(entries.length).toBeGreaterThan(0)
  for (const entry of entries) {
    expect(entry).toMatchObject({ main_score: expect.any(Number), hf_subset: expect.any(String), languages: expect.any(Array) })
    for (const value of Object.values(entry)) if (typeof value === 'number') expect(value).toBe(Number(value.toFixed(6)))
  }
}

/** The keys of mteb's ModelMeta (extra="forbid"): those without a default must be there. */
function checkModelMeta(meta: Record<string, unknown>): void {
  const required = [
    'loader', 'name', 'revision', 'release_date', 'languages', 'n_parameters', 'memory_usage_mb', 'max_tokens', 'embed_dim', 'license', 'open_weights',
    'public_training_code', 'public_training_data', 'framework', 'similarity_fn_name', 'use_instructions', 'training_datasets',
  ] // biome-ignore format: a list
  expect(Object.keys(meta).sort()).toEqual([...required, 'reference'].sort())
  expect(meta).toMatchObject({
    name: 'org/some model',
    revision: 'r/1',
    framework: ['PyTorch'],
    similarity_fn_name: 'cosine',
    embed_dim: 8,
  })
}

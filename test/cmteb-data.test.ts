import { appendFile, cp, mkdir, mkdtemp, readdir, readFile, rm, truncate, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { Command } from 'commander'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it, vi } from 'vitest'
import { register } from '../lib/cli/cmteb.js'
import { aggregate } from '../lib/eval/cmteb/aggregate.js'
import { readManifest } from '../lib/eval/cmteb/bundle.js'
import { repoConfigs } from '../lib/eval/cmteb/layout.js'
import { type CmtebData, type LoadedTask, loadTask } from '../lib/eval/cmteb/load.js'
import { PUBLISHED, publishedScores } from '../lib/eval/cmteb/published.js'
import { pullTasks } from '../lib/eval/cmteb/pull.js'
import { CMTEB_SETS, CMTEB_TASKS, CMTEB_TYPES, type CmtebTask, cmtebTasks } from '../lib/eval/cmteb/tasks.js'
import { type HubServer, repository, startHub } from './support/hub_server.js'

const HUB = fileURLToPath(new URL('./fixtures/cmteb/hub', import.meta.url))
const task = (name: string): CmtebTask => cmtebTasks([name])[0]!

/** The data of the one split, and its type. */
function only<T extends CmtebData['type']>(loaded: LoadedTask, type: T): Extract<CmtebData, { type: T }> {
  expect(loaded.splits.size).toBe(1)
  const data = [...loaded.splits.values()][0]!
  expect(data.type).toBe(type)
  return data as Extract<CmtebData, { type: T }>
}

describe('the table', () => {
  it('names 31 and 35 tasks, each once, with commits', () => {
    expect(CMTEB_SETS['cmn-31']).toHaveLength(31)
    expect(CMTEB_SETS['paper-35']).toHaveLength(35)
    expect(new Set(CMTEB_TASKS.map(({ name }) => name)).size).toBe(35)
    const counts = Object.fromEntries(
      Object.keys(CMTEB_TYPES).map((type) => [type, CMTEB_SETS['cmn-31'].filter((task) => task.type === type).length]),
    )
    expect(counts).toEqual({ retrieval: 8, reranking: 4, pairClassification: 2, clustering: 4, sts: 7, classification: 6 })
    const datasets = CMTEB_TASKS.flatMap((task) => [task.current, task.old, ...(task.oldQrels ? [task.oldQrels] : [])])
    // The one revision that nobody publishes is that of VideoRetrieval's judgments.
    expect(datasets.filter(({ revision }) => !/^[0-9a-f]{40}$/.test(revision)).map(({ path }) => path)).toEqual([
      'C-MTEB/VideoRetrieval-qrels',
    ])
    expect(task('IFlyTek')).toMatchObject({ experiments: 5, samplesPerLabel: 32 })
    expect(task('MassiveIntentClassification')).toMatchObject({ experiments: 10, samplesPerLabel: 8, subset: 'zh-CN' })
    expect(task('MultilingualSentiment').splits).toEqual({ mteb2: ['validation', 'test'], cmteb2023: ['validation'] })
  })

  it('chooses by name, type and set', () => {
    expect(cmtebTasks(['STS22', 'clustering', 'CLSClusteringP2P']).map(({ name }) => name)).toEqual([
      'CLSClusteringS2S', 'CLSClusteringP2P', 'ThuNewsClusteringS2S', 'ThuNewsClusteringP2P', 'STS22',
    ]) // biome-ignore format: one row
    expect(() => cmtebTasks(['T2Retrival'])).toThrow(/"T2Retrival" is no C-MTEB task, type or set; there are cmn-31, .*T2Retrieval/)
  })

  it('averages without holes, and gives the published means of published scores', () => {
    for (const published of PUBLISHED) {
      const scores = new Map(Object.entries(published.tasks))
      const averages = aggregate('cmn-31', scores)
      // Scores and mean are each rounded to 0.01: at most 0.005 + 0.005 apart.
      const gap = (mean: number | null, of: number): number => Math.abs(mean! - of)
      expect(gap(averages.meanTask, published.mean31.mteb2)).toBeLessThan(0.01)
      expect(gap(averages.meanTaskType, published.meanTaskType31)).toBeLessThan(0.01)
      const with2023 = aggregate('cmn-31', new Map([...scores, ...Object.entries(published.cosineAp)])).meanTask
      if (published.mean31.cmteb2023 !== undefined) expect(gap(with2023, published.mean31.cmteb2023)).toBeLessThan(0.01)
    }
    expect(PUBLISHED).toHaveLength(27)
    expect(new Set(PUBLISHED.map(({ model }) => model)).size).toBe(27)
    expect(PUBLISHED.filter(({ mean31 }) => mean31.cmteb2023 !== undefined)).toHaveLength(9)
    expect(publishedScores('Qwen3-Embedding-8B')).toMatchObject({
      tasks: { T2Retrieval: 88.99, MultilingualSentiment: 82.36 },
      cosineAp: { Cmnli: 91.52 },
    })
    expect(publishedScores('m3e-base')!.source).toContain('validation only')
    expect(publishedScores('Qwen/Qwen3-Embedding-8B')!.source).not.toContain('validation only')
    const scores = new Map(Object.entries(publishedScores('bge-small-zh-v1.5')!.tasks))
    expect(aggregate('paper-35', scores)).toMatchObject({
      meanTask: null,
      meanTaskType: null,
      missing: ['STS22', 'AmazonReviewsClassification', 'MassiveIntentClassification', 'MassiveScenarioClassification'],
      types: { sts: null, classification: null, clustering: expect.closeTo(44.18, 1) },
    })
  })
})

describe('layout', () => {
  it('reads the configs of a card: lists of paths, quotes, a pattern without splits', () => {
    const files = ['a/x.parquet', 'a/y.parquet', 'b/z.jsonl.gz', 'c/deep/w.json', 'notes.txt']
    const card =
      '---\nconfigs:\n- config_name: zh\n  default: true\n  data_files:\n  - split: test\n    path:\n    - a/x.parquet\n    - "b/*"\n  - path: a/y*\n    split: dev\n- config_name: all\n  data_files: \'**/*.json\'\ntags:\n- x\n---\n'
    expect(repoConfigs(files, card)).toEqual(
      new Map([
        [
          'zh',
          new Map([
            ['test', ['a/x.parquet', 'b/z.jsonl.gz']],
            ['dev', ['a/y.parquet']],
          ]),
        ],
        ['all', new Map([['train', ['c/deep/w.json']]])],
      ]),
    )
  })

  it('knows the conventions of repositories without configs', () => {
    const files = [
      'data/dev-00000-of-00002-ab12.parquet',
      'data/dev-00001-of-00002-cd34.parquet',
      'test.jsonl',
      'zh/train-00000-of-00001.parquet',
      'test/zh-CN.json.gz',
      'README.md',
    ]
    expect(repoConfigs(files, '# no card')).toEqual(
      new Map([
        [
          'default',
          new Map([
            ['dev', files.slice(0, 2)],
            ['test', ['test.jsonl']],
          ]),
        ],
        ['zh-CN', new Map([['test', ['test/zh-CN.json.gz']]])],
        ['zh', new Map([['train', ['zh/train-00000-of-00001.parquet']]])],
      ]),
    )
  })
})

describe("files in the hub's layout", () => {
  const load = (name: string, dialect: 'mteb2' | 'cmteb2023' = 'mteb2') =>
    loadTask(task(name), dialect, { data: HUB, hub: { network: 'offline' } })

  it('retrieval, new: configs, shards, _id, titles, float scores; what nobody judged is named', async () => {
    const loaded = await load('CovidRetrieval')
    const data = only(loaded, 'retrieval')
    expect([...data.corpus]).toEqual(
      [0, 1, 2, 3, 4, 5].map((i) => [`d${i}`, i % 2 ? `标题${i} 第${i}篇新闻的正文。` : `第${i}篇新闻的正文。`]),
    )
    expect([...data.queries]).toEqual([
      ['q0', ' 什么时候复工？'],
      ['q1', '口罩怎么戴'],
    ])
    expect(data.qrels).toEqual(
      new Map([
        [
          'q0',
          new Map([
            ['d0', 1],
            ['d3', 1],
          ]),
        ],
        ['q1', new Map([['d5', 2]])],
      ]),
    )
    expect(loaded.revision).toBe(task('CovidRetrieval').current.revision)
    expect(loaded.notes[0]).toBe(
      'mteb/CovidRetrieval/data/dev-00000-of-00001.parquet: 1 of 3 queries have no judgment and are left out, the first is "q2"',
    )
    expect(loaded.notes[1]).toContain('6 documents where the published scores stand on 100001')
  })

  it('retrieval, old: splits corpus and queries, judgments in a second repository', async () => {
    const loaded = await load('EcomRetrieval')
    const data = only(loaded, 'retrieval')
    expect([...data.corpus.keys()]).toEqual(['1', '2', '3'])
    expect(data.qrels).toEqual(
      new Map([
        ['100', new Map([['1', 1]])],
        ['200', new Map([['3', 1]])],
      ]),
    )
    expect(loaded.revision).toBe(task('EcomRetrieval').old.revision)
  })

  it('reranking, old: list cells, ids as mteb makes them, rows with nothing to rank left out', async () => {
    const loaded = await load('CMedQAv1-reranking')
    const data = only(loaded, 'reranking')
    expect(data.skipped).toBe(1)
    expect(data.samples[1]).toEqual({
      id: 'test_query1',
      query: '孩子发烧',
      positive: ['物理降温'],
      negative: ['看电影', '跑步', ''],
      positiveIds: ['apositive_test_query1_00000'],
      negativeIds: ['negative_test_query1_00000', 'negative_test_query1_00001', 'negative_test_query1_00002'],
    })
    expect(loaded.notes[0]).toContain('1 queries without a positive or without a negative')
  })

  it('reranking, new: candidates of top_ranked', async () => {
    const data = only(await load('T2Reranking'), 'reranking')
    expect(data.samples.map(({ query, positive, negative }) => ({ query, positive, negative }))).toEqual([
      { query: '首都是哪里', positive: ['北京'], negative: ['上海', '广州'] },
      { query: '最长的河', positive: ['长江'], negative: ['黄河'] },
    ])
    expect(data.samples[0]!.positiveIds).toEqual(['apositive_dev_query0_00000'])
  })

  it('pair classification: one row of lists, zstd', async () => {
    expect(only(await load('Ocnli'), 'pairClassification')).toMatchObject({
      text1: ['他在跑步', '天黑了', '门开着'],
      text2: ['他在运动', '太阳很大', '门没有关'],
      labels: [1, 0, 1],
    })
  })

  it('clustering: ten rows of 10,000', async () => {
    const loaded = await load('CLSClusteringS2S')
    const { sets } = only(loaded, 'clustering')
    expect(sets.map(({ texts, labels }) => [texts.length, labels.length])).toEqual(Array.from({ length: 10 }, () => [10_000, 10_000]))
    for (const i of [0, 499, 500, 9_999])
      expect([sets[7]!.texts[i], sets[7]!.labels[i]]).toEqual([`论文题目7之${Math.floor(i / 500)}`, `类别${Math.floor(i / 500) % 13}`])
    expect(loaded.notes).toEqual([]) // sets and texts as published
  })

  it('STS: float scores, gzip pages; a language of a gzipped file', async () => {
    expect(only(await load('AFQMC'), 'sts')).toMatchObject({
      text1: [0, 1, 2, 3, 4].map((i) => `validation花呗${i}`),
      labels: [0, 1, 0, 1, 0],
    })
    expect(only(await load('STS22'), 'sts')).toEqual({
      type: 'sts',
      text1: ['新闻一', '新闻三'],
      text2: ['新闻二', '新闻四'],
      labels: [1.5, 4],
    })
  })

  it('classification: integer labels, JSONL, a config per language with names as labels', async () => {
    expect(only(await load('TNews'), 'classification')).toMatchObject({
      classes: [0, 3],
      train: { labels: [0, 1, 0, 1] },
      test: { texts: ['validation新闻标题0', 'validation新闻标题1'], labels: [1, 0] },
    })
    expect(only(await load('JDReview'), 'classification')).toMatchObject({
      classes: [0, 1],
      test: { texts: ['很好用', '不值'], labels: [1, 0] },
    })
    const massive = await load('MassiveIntentClassification')
    expect([...massive.splits.keys()]).toEqual(['validation', 'test'])
    expect(massive.splits.get('test')).toMatchObject({
      classes: ['play_music', 'weather_query'],
      train: { texts: ['播放音乐', '明天天气'] },
      test: { labels: [0, 1] },
    })
    expect([...(await load('MassiveIntentClassification', 'cmteb2023')).splits.keys()]).toEqual(['test'])
  })
})

describe('bad data', () => {
  let data: string
  beforeEach(async () => {
    data = await mkdtemp(join(tmpdir(), 'bge-cmteb-'))
  })
  afterEach(() => rm(data, { recursive: true, force: true }))

  const fails = (name: string) => loadTask(task(name), 'mteb2', { data, hub: { network: 'offline', cache: join(data, 'no-cache') } })
  async function put(files: Record<string, unknown>): Promise<void> {
    for (const [path, rows] of Object.entries(files)) {
      const file = join(data, path)
      await mkdir(dirname(file), { recursive: true })
      await writeFile(file, Array.isArray(rows) ? rows.map((row) => `${JSON.stringify(row)}\n`).join('') : String(rows))
    }
  }
  const ecom = {
    'C-MTEB/EcomRetrieval/corpus.jsonl': [{ id: '1', text: '书包' }],
    'C-MTEB/EcomRetrieval/queries.jsonl': [{ id: 'a', text: '包' }],
    'C-MTEB/EcomRetrieval-qrels/dev.jsonl': [{ qid: 'a', pid: '1', score: 1 }],
  }

  it.each<[string, string, Record<string, unknown>, string | RegExp]>([
    [
      'nothing there',
      'AFQMC',
      {},
      /data folder .* holds no C-MTEB\/AFQMC@b44c3b01, and dataset C-MTEB\/AFQMC@b44c3b01 is not in the cache/,
    ],
    [
      'a missing split',
      'AFQMC',
      { 'C-MTEB/AFQMC/test.jsonl': [{}] },
      'C-MTEB/AFQMC@b44c3b01: expected split validation of config default, but it has default: test',
    ],
    ['no data files', 'AFQMC', { 'C-MTEB/AFQMC/data.csv': '' }, 'but it has no data files'],
    [
      'a wrong column',
      'AFQMC',
      { 'C-MTEB/AFQMC/validation.jsonl': [{ text1: 'a', text2: 'b', score: 1 }] },
      /validation\.jsonl:1: expected column sentence1, but the columns are text1, text2, score/,
    ],
    [
      'a wrong type',
      'AFQMC',
      { 'C-MTEB/AFQMC/validation.jsonl': [{ sentence1: 'a', sentence2: 'b', score: '1' }] },
      'field score expected a number, but was "1"',
    ],
    [
      'one score only',
      'AFQMC',
      { 'C-MTEB/AFQMC/validation.jsonl': [{ sentence1: 'a', sentence2: 'b', score: 1 }] },
      'expected at least two different scores',
    ],
    [
      'an empty file',
      'AFQMC',
      { 'C-MTEB/AFQMC/validation.jsonl': '' },
      'C-MTEB/AFQMC/validation.jsonl: expected at least one row, but it is empty',
    ],
    [
      'a language that is not there',
      'STS22',
      { 'mteb/sts22-crosslingual-sts/test.jsonl': [{ sentence1: 'a', sentence2: 'b', score: 1, lang: 'en' }] },
      'with lang zh, but there are 1 of other languages',
    ],
    [
      'an empty corpus',
      'EcomRetrieval',
      { ...ecom, 'C-MTEB/EcomRetrieval/corpus.jsonl': '' },
      'C-MTEB/EcomRetrieval/corpus.jsonl: expected at least one row',
    ],
    [
      'duplicate ids',
      'EcomRetrieval',
      {
        ...ecom,
        'C-MTEB/EcomRetrieval/corpus.jsonl': [
          { id: '1', text: 'a' },
          { id: '1', text: 'b' },
        ],
      },
      /corpus\.jsonl:2: field id expected an id that no earlier row has, but was "1"/,
    ],
    [
      'queries that nobody judged',
      'EcomRetrieval',
      { ...ecom, 'C-MTEB/EcomRetrieval-qrels/dev.jsonl': [{ qid: 'b', pid: '1', score: 1 }] },
      'C-MTEB/EcomRetrieval-qrels/dev.jsonl: expected judgments of the 1 queries in C-MTEB/EcomRetrieval/queries.jsonl, but none of them has one',
    ],
    [
      'no repository of judgments',
      'EcomRetrieval',
      { 'C-MTEB/EcomRetrieval/corpus.jsonl': [{}], 'C-MTEB/EcomRetrieval/queries.jsonl': [{}] },
      'expected the judgments of the old layout in C-MTEB/EcomRetrieval-qrels',
    ],
    [
      'lists of two lengths',
      'Ocnli',
      { 'C-MTEB/OCNLI/validation.jsonl': [{ sent1: ['a'], sent2: ['b', 'c'], labels: [1] }] },
      'must have one length, but have 1, 2 and 1',
    ],
    [
      'labels that are neither 0 nor 1',
      'Ocnli',
      { 'C-MTEB/OCNLI/validation.jsonl': [{ sent1: ['a'], sent2: ['b'], labels: [2] }] },
      'field labels[0] expected 0 or 1, but was 2',
    ],
    [
      'labels missing in a cluster',
      'CLSClusteringS2S',
      { 'C-MTEB/CLSClusteringS2S/test.jsonl': [{ sentences: ['a'], labels: [] }] },
      'sentences and labels must be lists of one length',
    ],
    [
      'a split without labels',
      'TNews',
      {
        'C-MTEB/TNews-classification/train.jsonl': [
          { text: 'a', label: 0 },
          { text: 'b', label: 1 },
        ],
        'C-MTEB/TNews-classification/validation.jsonl': [{ text: 'a', label: -1 }],
      },
      'have 1 (-1): the hub publishes this split without labels',
    ],
    [
      'half a JSON file',
      'JDReview',
      {
        'C-MTEB/JDReview-classification/train.jsonl': '{"text":"a","label":0}\n{"text":"b","la',
        'C-MTEB/JDReview-classification/test.jsonl': [{}],
      },
      /train\.jsonl:2: expected a JSON object on one line/,
    ],
  ])('%s', async (_, name, files, message) => {
    await put(files)
    await expect(fails(name)).rejects.toThrow(message)
    await expect(fails(name)).rejects.toMatchObject({ code: expect.stringMatching(/^ERR_BGE_(DATA|FILE)$/) })
  })

  it('notes judgments of what is not there, and repeated ones', async () => {
    await put({
      ...ecom,
      'C-MTEB/EcomRetrieval-qrels/dev.jsonl': [
        { qid: 'a', pid: '1', score: 1 },
        { qid: 'a', pid: '9', score: 1 },
        { qid: 'z', pid: '1', score: 1 },
        { qid: 'a', pid: '1', score: 2 },
      ],
    })
    const loaded = await fails('EcomRetrieval')
    expect(only(loaded, 'retrieval').qrels).toEqual(
      new Map([
        [
          'a',
          new Map([
            ['1', 2],
            ['9', 1],
          ]),
        ],
      ]),
    )
    expect(loaded.notes.slice(0, 3)).toEqual([
      expect.stringContaining('judgments of 1 queries that are not in'),
      expect.stringContaining('1 judged documents are not in'),
      expect.stringContaining('1 judgments repeat'),
    ])
  })

  it('half a parquet and half a gzip file', async () => {
    await cp(HUB, data, { recursive: true })
    const parquet = join(data, 'C-MTEB/OCNLI/data/validation-00000-of-00001-11c3f1a2b4d5e6f7.parquet')
    await truncate(parquet, 700)
    await expect(fails('Ocnli')).rejects.toThrow(
      /OCNLI\/data\/validation.*\.parquet: expected a whole parquet file, but it cannot be read \(.*\); was it downloaded only in part\?/,
    )
    await truncate(join(data, 'mteb/sts22-crosslingual-sts/data/test.jsonl.gz'), 60)
    await expect(fails('STS22')).rejects.toThrow(/test\.jsonl\.gz: expected a whole gzip file/)
  })
})

describe('an offline bundle', () => {
  let hub: HubServer
  let folder: string
  const tasks = ['EcomRetrieval', 'CovidRetrieval', 'Ocnli', 'TNews', 'MassiveIntentClassification'].map(task)

  beforeAll(async () => {
    hub = await startHub()
    const files = (await readdir(HUB, { recursive: true, withFileTypes: true })).filter((entry) => entry.isFile())
    const revisions = new Map(
      CMTEB_TASKS.flatMap((task) =>
        [task.current, task.old, ...(task.oldQrels ? [task.oldQrels] : [])].map(({ path, revision }) => [path, revision]),
      ),
    )
    for (const task of CMTEB_TASKS) revisions.set(task.current.path, task.current.revision)
    const repositories = new Map<string, Record<string, Buffer>>()
    for (const entry of files) {
      const path = join(entry.parentPath, entry.name).slice(HUB.length + 1)
      const name = path.split('/').slice(0, 2).join('/')
      const held = repositories.get(name) ?? {}
      held[path.slice(name.length + 1)] = await readFile(join(HUB, path))
      repositories.set(name, held)
    }
    for (const [name, held] of repositories) {
      hub.repositories.set(
        `datasets/${name}`,
        repository(held, { commit: revisions.get(name)!, lfs: Object.keys(held).filter((path) => path.endsWith('.parquet')) }),
      )
    }
    // A file that no task reads stays where it is.
    hub.repositories.get('datasets/C-MTEB/OCNLI')!.files.set('train.jsonl', Buffer.from('{}\n'))
    folder = await mkdtemp(join(tmpdir(), 'bge-bundle-'))
    vi.stubEnv('HF_TOKEN', 'hf_secret')
  })
  afterAll(async () => {
    vi.unstubAllEnvs()
    await hub.close()
    await rm(folder, { recursive: true, force: true })
  })

  it('is pulled from a mirror, with a list of hashes; what cannot be had does not stop the rest', async () => {
    const to = join(folder, 'bundle')
    const at = { endpoint: hub.endpoint, cache: join(folder, 'cache') }
    const result = await pullTasks({ to, tasks, hub: at })
    expect(result.failures.map(({ task, error }) => [task, error.code])).toEqual([['EcomRetrieval', 'ERR_BGE_HUB']]) // only its old layout is on this hub
    const old = await pullTasks({ to, tasks: [task('EcomRetrieval')], layout: 'old', hub: at })
    expect(old.failures).toEqual([])
    const manifest = (await readManifest(to))!
    expect(manifest.files).toHaveLength(old.files)
    expect(manifest.files.map(({ path }) => path)).not.toContain('C-MTEB/OCNLI/train.jsonl')
    expect(manifest.files.map(({ path }) => path)).not.toContain('mteb/amazon_massive_intent/test/en.json.gz')
    expect(hub.seen.filter(({ authorization }) => authorization !== undefined)).toEqual([])

    // Complete already: only the lists are asked for again.
    hub.seen.length = 0
    await pullTasks({ to, tasks: tasks.slice(1), hub: { ...at, cache: join(folder, 'cache') } })
    expect(hub.seen.filter(({ path }) => !path.startsWith('/api/'))).toEqual([])
  })

  it('is made by the command line, which names what failed', async () => {
    const said = { out: '', err: '' }
    vi.spyOn(process.stdout, 'write').mockImplementation((text) => (said.out += text) !== '')
    vi.spyOn(process.stderr, 'write').mockImplementation((text) => (said.err += text) !== '')
    vi.stubEnv('HF_HUB_CACHE', join(folder, 'cache'))
    const bge = async (...words: string[]): Promise<void> => {
      const program = new Command('bge')
      register(program)
      await program.parseAsync(['node', 'bge', 'cmteb', ...words])
    }
    try {
      await bge('list', '--tasks', 'reranking')
      expect(said.out).toMatch(/^T2Reranking +Reranking +dev +map_at_1000 \(2023: map\) +mteb\/T2Reranking@a34fe6bc\n/)
      await bge('pull', '--to', join(folder, 'by-command'), '--tasks', 'Ocnli,Cmnli', '--mirror', hub.endpoint)
      expect(said.err).toContain('Ocnli: 1 files\nerror [ERR_BGE_HUB]: Cmnli: ')
      expect(said.err).toContain('1 of 2 tasks; the bundle holds 1 files')
      expect(process.exitCode).toBe(1)
    } finally {
      process.exitCode = 0
      vi.restoreAllMocks()
    }
  })

  it('gives what the hub gives, without a network', async () => {
    hub.seen.length = 0
    for (const each of tasks) {
      const source = { data: join(folder, 'bundle'), hub: { network: 'offline', cache: join(folder, 'nothing') } } as const
      const direct = { data: HUB, hub: { network: 'offline' } } as const
      expect((await loadTask(each, 'mteb2', source)).splits).toEqual((await loadTask(each, 'mteb2', direct)).splits)
    }
    expect(hub.seen).toEqual([])
    // Without a bundle the cache that the pull filled does, the old layout too.
    for (const each of tasks) await loadTask(each, 'mteb2', { hub: { network: 'offline', cache: join(folder, 'cache') } })
  })

  it('is verified on reading', async () => {
    const broken = join(folder, 'broken')
    await cp(join(folder, 'bundle'), broken, { recursive: true })
    const source = { data: broken, hub: { network: 'offline', cache: join(folder, 'nothing') } } as const
    const file = join(broken, 'C-MTEB/OCNLI/data/validation-00000-of-00001-11c3f1a2b4d5e6f7.parquet')
    const bytes = await readFile(file)
    bytes[50]! ^= 1
    await writeFile(file, bytes)
    await expect(loadTask(task('Ocnli'), 'mteb2', source)).rejects.toThrow(
      /validation.*\.parquet: expected SHA-256 [0-9a-f]{64} as manifest\.json says, but it is .*bge cmteb pull --to .* fetches it again/,
    )
    await appendFile(file, 'x')
    await expect(loadTask(task('Ocnli'), 'mteb2', source)).rejects.toThrow(/expected 1483 bytes as manifest\.json says, but it has 1484/)
    await rm(file)
    await expect(loadTask(task('Ocnli'), 'mteb2', source)).rejects.toMatchObject({ code: 'ERR_BGE_FILE' })
    await writeFile(join(broken, 'manifest.json'), '{"format":"other"}')
    await expect(loadTask(task('Ocnli'), 'mteb2', source)).rejects.toThrow('must be the list of files that bge cmteb pull writes')
    // The next pull mends it.
    await cp(join(folder, 'bundle/manifest.json'), join(broken, 'manifest.json'))
    await pullTasks({ to: broken, tasks: [task('Ocnli')], hub: { endpoint: hub.endpoint, cache: join(folder, 'cache') } })
    expect(only(await loadTask(task('Ocnli'), 'mteb2', source), 'pairClassification').labels).toEqual([1, 0, 1])
  })
})

import { appendFileSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, truncateSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { afterAll, beforeEach, describe, expect, test } from 'vitest'
import { progressLine } from '../lib/cli/eval_progress.js'
import { evaluate, evaluateTasks } from '../lib/eval/evaluate.js'
import { limitData } from '../lib/eval/limit.js'
import { runEmbedder } from '../lib/eval/run_embedder.js'
import { type RunProgress, runMeter } from '../lib/eval/run_meter.js'
import { customPairs, customRetrieval, localTask, pairsTask } from '../lib/eval/sources.js'
import { listTasks } from '../lib/eval/tasks.js'
import { openVectorCache, textKey } from '../lib/model/vector_cache.js'
import { readKnownScores, verify } from '../lib/eval/verify.js'
import { plainDevice } from './support/fake_model.js'
import { hashModel } from './support/hash_model.js'

const root = mkdtempSync(join(tmpdir(), 'bge-reuse-'))
afterAll(() => rmSync(root, { recursive: true, force: true }))

let folder = ''
let made = 0
beforeEach(() => {
  folder = join(root, String(made++))
})

function write(name: string, rows: readonly unknown[]): string {
  const file = join(folder, name)
  mkdirSync(dirname(file), { recursive: true })
  writeFileSync(file, rows.map((row) => JSON.stringify(row) + '\n').join(''))
  return file
}

const characters = [...'天地玄黄宇宙洪荒日月盈昃辰宿列张']
const pairs = characters.slice(0, 8).map((text, i) => ({ text1: text, text2: characters[15 - i], label: i % 3 }))
const binary = pairs.map((row, i) => ({ ...row, label: i % 2 }))
const labelled = characters.map((text, i) => ({ text, label: i % 2 === 0 ? '甲' : '乙' }))

/** A data folder with a task of every type. */
function everyType(): string {
  write('sts/S.jsonl', pairs)
  write('pairclass/P.jsonl', binary)
  write('clustering/C.jsonl', labelled)
  write('classification/K.jsonl', labelled)
  write('classification/K.test.jsonl', labelled.slice(3))
  write('reranking/R.jsonl', [{ query: '问', positive: ['天'], negative: ['地', '玄'] }])
  write(
    'retrieval/Q/corpus.jsonl',
    characters.map((text, i) => ({ id: `d${i}`, text })),
  )
  write('retrieval/Q/queries.jsonl', [{ id: 'q', text: '问' }])
  write('retrieval/Q/qrels.jsonl', [{ qid: 'q', did: 'd3', score: 1 }])
  return folder
}

describe('all six types from local files', () => {
  test('have scores under their main metrics, and no text is encoded twice', async () => {
    const model = hashModel()
    const { tasks } = await evaluate(model, { data: everyType(), instruction: '指' })
    const results = tasks.map((task) => ('error' in task ? task.error.message : `${task.type} ${task.main_metric}`))
    expect(results).toEqual([
      'sts cosine_spearman',
      'retrieval ndcg_at_10',
      'reranking map',
      'classification accuracy',
      'clustering v_measure',
      'pairClassification cosine_ap',
    ])
    for (const task of tasks) if (!('error' in task)) expect(Number.isFinite(task.main_score)).toBe(true)
    const asked = model.calls.flatMap(({ texts, instruction }) => texts.map((text) => instruction + text))
    expect(asked.length).toBe(new Set(asked).size)
    expect(asked.filter((text) => text.startsWith('指'))).toEqual(['指问'])
  })

  test('a task without its training half fails alone', async () => {
    rmSync(join(everyType(), 'classification/K.jsonl'))
    const { tasks } = await evaluate(hashModel(), { data: folder })
    expect(tasks.filter((task) => 'error' in task)).toMatchObject([
      { task_name: 'K', error: { code: 'ERR_BGE_FILE', message: expect.stringContaining('needs its training half') } },
    ])
  })

  test('dialect mteb2 asks for other main scores', async () => {
    const { tasks } = await evaluate(hashModel(), { data: everyType(), rules: { dialect: 'mteb2' } })
    expect(tasks.map((task) => 'main_metric' in task && task.main_metric)).toEqual([
      'cosine_spearman',
      'ndcg_at_10',
      'map_at_1000',
      'accuracy',
      'v_measure',
      'max_accuracy',
    ])
  })
})

describe('finished results', () => {
  test('are kept for the same model, data and rules, and for nothing else', async () => {
    const data = everyType()
    const out = join(folder, 'out')
    const calls = async (options: object, fingerprint?: string): Promise<number> => {
      const model = hashModel(fingerprint)
      await evaluate(model, { data, out, ...options })
      return model.calls.length
    }
    expect(await calls({})).toBeGreaterThan(0)
    const before = readFileSync(join(out, 'summary.json'), 'utf8')
    expect(await calls({})).toBe(0)
    expect(readFileSync(join(out, 'summary.json'), 'utf8')).toBe(before)
    expect(await calls({ reuse: { results: 'never' } })).toBeGreaterThan(0)
    expect(await calls({ instruction: '指' })).toBeGreaterThan(0)
    expect(await calls({ rules: { limit: 4 } })).toBeGreaterThan(0)
    expect(await calls({}, 'e'.repeat(64))).toBeGreaterThan(0)
    expect(await calls({}, 'e'.repeat(64))).toBe(0)
    appendFileSync(join(data, 'reranking/R.jsonl'), '{"query":"又","positive":["月"],"negative":["日"]}\n')
    expect(await calls({ tasks: ['sts'] }, 'e'.repeat(64))).toBe(0)
    expect(await calls({ tasks: ['reranking'] }, 'e'.repeat(64))).toBe(2)
    truncateSync(join(out, 'S.json'), 40)
    expect(await calls({ tasks: ['sts'] }, 'e'.repeat(64))).toBe(1)
  })

  test('a model without a fingerprint keeps nothing', async () => {
    const data = everyType()
    const { fingerprint: _, ...nameless } = hashModel()
    await evaluate(nameless, { data, out: join(folder, 'out') })
    const asked = nameless.calls.length
    await evaluate(nameless, { data, out: join(folder, 'out') })
    expect(nameless.calls.length).toBe(2 * asked)
    await expect(evaluate(nameless, { data, reuse: { cache: join(folder, 'cache') } })).rejects.toThrow(
      /cache must be left out for a model without a fingerprint/,
    )
  })
})

describe('the vector cache', () => {
  const segments = (cache: string): string[] =>
    readdirSync(cache).flatMap((name) =>
      readdirSync(join(cache, name))
        .filter((file) => file.endsWith('.vec'))
        .map((file) => join(cache, name, file)),
    )
  const askedFor = async (cache: string, instruction = '', fingerprint?: string): Promise<string[]> => {
    const model = hashModel(fingerprint)
    const { tasks } = await evaluate(model, { data: folder, instruction, reuse: { cache } })
    expect(tasks.every((task) => !('error' in task))).toBe(true)
    return model.calls.flatMap(({ texts }) => texts)
  }

  test('answers for a whole second run, with the same scores; another model or instruction has its own', async () => {
    const cache = join(everyType(), 'cache')
    const first = await evaluate(hashModel(), { data: folder, reuse: { cache } })
    expect(await askedFor(cache)).toEqual([])
    const second = await evaluate(hashModel(), { data: folder, reuse: { cache } })
    expect(second.tasks.map((task) => 'scores' in task && task.scores)).toEqual(first.tasks.map((task) => 'scores' in task && task.scores))
    expect(await askedFor(cache, '指')).toEqual(['问'])
    expect((await askedFor(cache, '', 'e'.repeat(64))).length).toBe(characters.length + 1)
    const about = readdirSync(cache).map((name) => JSON.parse(readFileSync(join(cache, name, 'about.json'), 'utf8')) as unknown)
    expect(about).toContainEqual({ fingerprint: 'f'.repeat(64), device: 'other', instruction: '指', maxLength: null, dims: 8 })
  })

  test('a cut-off file loses its last vectors only, damage loses the damaged one, and a foreign file is passed over', async () => {
    const cache = join(everyType(), 'cache')
    await askedFor(cache)
    const files = segments(cache)
    expect(files).toHaveLength(1)
    const file = files[0]!
    const record = 16 + 4 * 8 + 4
    truncateSync(file, statSync(file).size - record - 5)
    expect((await askedFor(cache)).length).toBe(2)
    const bytes = readFileSync(file)
    bytes[16 + 16 + 3]! ^= 1
    writeFileSync(file, bytes)
    expect((await askedFor(cache)).length).toBe(1)
    writeFileSync(join(dirname(file), '0-0.vec'), 'not vectors')
    expect(await askedFor(cache)).toEqual([])
  })

  test('a folder that cannot be made is a sentence', async () => {
    write('file', [])
    await expect(
      openVectorCache(join(folder, 'file'), { fingerprint: 'f', device: 'cpu', instruction: '', maxLength: null }, 8),
    ).rejects.toThrow(/embedding cache .* cannot be used/)
  })

  test('keys are of whole texts', () => {
    expect(textKey('天').length).toBe(16)
    expect(textKey('天')).not.toBe(textKey('地'))
  })

  test('progress counts tokens up to their total', async () => {
    const seen: number[] = []
    const embedder = runEmbedder(hashModel(), { onProgress: ({ tokens, totalTokens }) => seen.push(tokens / totalTokens) })
    await embedder.encode(['天地', '玄'])
    await embedder.encode(['天地'])
    expect(seen).toEqual([1])
  })
})

describe('the progress of a run', () => {
  test('knows before the first text how many tokens every type of task will ask for', async () => {
    everyType()
    for (const task of (await listTasks(folder)).map(localTask)) {
      for (const limit of [undefined, 5]) {
        const asked = runEmbedder(hashModel())
        const totals = new Set<number>()
        const evaluation = await evaluateTasks({ ...asked, device: plainDevice() }, [task], {
          instruction: '指示：',
          rules: limit === undefined ? {} : { limit },
          onProgress: (_, { run }) => totals.add(run.totalTokens),
        })
        expect(evaluation.tasks[0]).not.toHaveProperty('error')
        expect([...totals], task.type).toEqual([asked.work.encoded])
      }
    }
  })

  test('counts finished tasks as nothing to do, and known texts as done', async () => {
    const out = join(everyType(), 'out')
    await evaluate(hashModel(), { data: folder, tasks: ['sts'], out })
    const seen: RunProgress[] = []
    await evaluate(hashModel(), { data: folder, out, onProgress: (_, { run }) => seen.push(run) })
    expect(seen[0]!.task).toBe(2)
    for (const [i, { tokens, totalTokens, secondsLeft }] of seen.entries()) {
      expect(totalTokens).toBe(seen[0]!.totalTokens)
      expect(tokens).toBeGreaterThan(i === 0 ? 0 : seen[i - 1]!.tokens)
      expect(secondsLeft).toBeGreaterThanOrEqual(0)
    }
    // The last two tasks have the same texts: nothing is encoded for them, so nothing is reported.
    expect(seen.at(-1)!.tokens).toBeLessThan(seen[0]!.totalTokens)
  })

  test('time left is that of the tokens left, at the speed of those encoded', () => {
    const work = { known: 0, encoded: 0, seconds: 0 }
    const meter = runMeter([100, 50, 200], work)
    meter.begin(0)
    expect(meter.progress()).toEqual({ tokens: 0, totalTokens: 350, secondsLeft: null, task: 1, tasks: 3 })
    Object.assign(work, { encoded: 50, seconds: 5 })
    expect(meter.progress()).toMatchObject({ tokens: 50, secondsLeft: 30 })
    // The first task stopped halfway; half of the second was known.
    meter.begin(1)
    Object.assign(work, { known: 25, encoded: 60, seconds: 6 })
    expect(meter.progress()).toMatchObject({ tokens: 135, secondsLeft: 21.5, task: 2 })
    meter.begin(2)
    expect(meter.progress()).toMatchObject({ tokens: 150, secondsLeft: 20 })
  })

  test('bad data is told of before the first text is encoded, once, and the others go on', async () => {
    everyType()
    write('clustering/C.jsonl', [{ text: '天', label: {} }])
    const told: string[] = []
    const model = hashModel()
    const { tasks } = await evaluate(model, {
      data: folder,
      onTask: (task, outcome) =>
        told.push(`${task.name} ${outcome === undefined ? 'starts' : 'error' in outcome ? outcome.error.code : 'ends'}`),
      onProgress: () => {},
    })
    expect(told[0]).toBe('C ERR_BGE_DATA')
    expect(told.filter((line) => line.startsWith('C '))).toHaveLength(1)
    expect(told).toContain('S starts')
    expect(tasks.map((task) => ('error' in task ? task.error.code : 'ok'))).toEqual(['ok', 'ok', 'ok', 'ok', 'ERR_BGE_DATA', 'ok'])
  })

  test('is one line, what matters most first', () => {
    const list = { tokens: 2_000, totalTokens: 10_000, texts: 100, totalTexts: 1_500, seconds: 4 }
    const run = { tokens: 30_000, totalTokens: 90_000, secondsLeft: 3_725, task: 3, tasks: 9 }
    expect(progressLine({ type: 'sts', name: 'BQ' }, { ...list, run })).toBe(
      '[3/9] 33% · ETA 1:02:05 · sts/BQ: 100 of 1,500 texts, 0:16 · 500 tokens/s',
    )
    expect(progressLine({ type: 'sts', name: 'BQ' }, { ...list, run: { ...run, tasks: 1 } })).toBe(
      'sts/BQ: 100 of 1,500 texts · ETA 0:16 · 500 tokens/s',
    )
  })
})

describe('tasks of one flag', () => {
  test('three files, and pair files of each kind', async () => {
    everyType()
    const [corpus, queries, qrels] = ['corpus', 'queries', 'qrels'].map((name) => join(folder, `retrieval/Q/${name}.jsonl`))
    const training = write('train.jsonl', [
      { query: '一', pos: ['天', '地'], neg: ['玄'] },
      { query: '二', pos: ['黄'] },
      { query: '一', pos: ['宇'] },
    ])
    const tasks = [
      customRetrieval(`mine=${corpus},${queries},${qrels}`),
      await customPairs(`sts=${write('graded.jsonl', pairs)}`),
      await customPairs(`pairs=${write('binary.jsonl', binary)}`),
      await customPairs(`train=${training}`),
    ]
    const evaluation = await evaluateTasks(hashModel(), tasks)
    expect(evaluation.tasks.map((task) => ('error' in task ? task.error.message : `${task.type} ${JSON.stringify(task.n)}`))).toEqual([
      'retrieval {"queries":1,"documents":16}',
      'sts {"pairs":8}',
      'pairClassification {"pairs":8}',
      'retrieval {"queries":2,"documents":5}',
    ])
  })

  test('what does not fit is said', async () => {
    const same = pairsTask('same', write('same.jsonl', pairs))
    await expect(evaluateTasks(hashModel(), [await same, await same])).rejects.toThrow(
      /tasks must be tasks of different names, but was "sts\/same"/,
    )
    await expect(pairsTask('a/b', join(folder, 'same.jsonl'))).rejects.toThrow(/the name of a task must be letters, digits/)
    expect(() => customRetrieval('mine=a,b')).toThrow(/--task-retrieval must be NAME=corpus\.jsonl,queries\.jsonl,qrels\.jsonl/)
    await expect(customPairs('LCQMC=a.jsonl')).rejects.toThrow(/a name that no task of C-MTEB has/)
    await expect(customPairs(`x=${write('empty.jsonl', [])}`)).rejects.toThrow(/at least one row/)
    const { tasks } = await evaluateTasks(hashModel(), [
      await customPairs(
        `x=${write('bad.jsonl', [
          { query: '一', pos: ['天'] },
          { query: 2, pos: ['天'] },
        ])}`,
      ),
    ])
    expect(tasks[0]).toMatchObject({ error: { code: 'ERR_BGE_DATA', message: expect.stringMatching(/bad\.jsonl:2: expected \{"query"/) } })
  })
})

test('a limit keeps evenly spread rows, and all judged documents', () => {
  const corpus = new Map(Array.from({ length: 200 }, (_, i) => [`d${i}`, `${i}`]))
  const queries = new Map(Array.from({ length: 10 }, (_, i) => [`q${i}`, `${i}`]))
  const qrels = new Map([...queries.keys()].map((qid, i) => [qid, new Map([[`d${i}`, 1]])]))
  const data = limitData({ type: 'retrieval', corpus, queries, qrels }, 2)
  if (data.type !== 'retrieval') throw new Error(data.type)
  expect([...data.queries.keys()]).toEqual(['q0', 'q5'])
  expect(data.corpus.size).toBe(20)
  expect([...data.corpus.keys()]).toEqual(expect.arrayContaining(['d0', 'd5']))
  expect(() => limitData({ type: 'sts', text1: ['a', 'b'], text2: ['a', 'b'], labels: [1, 1] }, 1)).toThrow(/one label only/)
})

describe('known scores', () => {
  test('are checked number by number; what did not run is a difference', async () => {
    const data = everyType()
    const out = join(folder, 'out')
    const evaluation = await evaluate(hashModel(), { data, out })
    const summary = await readKnownScores(join(out, 'summary.json'))
    expect(verify(summary, evaluation).map(({ ok }) => ok)).toEqual([true, true, true, true, true, true])
    const file = write('known.json', [
      { tolerance: 0.01, tasks: { S: { cosine_spearman: 5, main_score: 5 }, 'retrieval/Q': { recall_at_1000: 1 }, T: { map: 0 } } },
    ])
    expect(verify(await readKnownScores(file), evaluation)).toMatchObject([
      { task: 'S', metric: 'cosine_spearman', ok: false },
      { task: 'S', metric: 'main_score', ok: false },
      { task: 'retrieval/Q', metric: 'recall_at_1000', actual: 1, ok: true },
      { task: 'T', actual: null, ok: false },
    ])
    await expect(readKnownScores(write('bad.json', [{ tasks: { S: 1 } }]))).rejects.toThrow(/must be \{"tolerance"/)
    await expect(readKnownScores(join(folder, 'none.json'))).rejects.toThrow(/cannot be read/)
  })
})

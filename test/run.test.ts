import { spawn, spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { once as onceEvent } from 'node:events'
import { cpSync, existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, utimesSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as wait } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { random } from '../lib/data/random.js'
import { BgeModel } from '../lib/model/model.js'
import { readCorpus } from '../lib/quickstart/corpus.js'
import { comparePaired, describeComparison, type Pair, verdictSentence } from '../lib/run/compare.js'
import type { EvaluationResult } from '../lib/run/evaluate.js'
import { graphOf } from '../lib/run/graph.js'
import { readRunRecipe, shippedRecipes } from '../lib/run/recipe.js'
import { planRun, runRecipe, type StepState } from '../lib/run/run.js'
import { RUN_SCHEMA, runFileSchema } from '../lib/run/schema.js'
import { TRAIN_SCHEMA } from '../lib/train/config.js'

const root = mkdtempSync(join(tmpdir(), 'bge-run-'))
afterAll(() => rmSync(root, { recursive: true, force: true }))
const at = (...names: string[]): string => join(root, ...names)
const repo = fileURLToPath(new URL('..', import.meta.url))
const quickstart = join(repo, 'examples/quickstart')
const main = join(repo, 'dist/cli/main.js')
const jsonl = (rows: readonly unknown[]): string => rows.map((row) => `${JSON.stringify(row)}\n`).join('')

/** finetune-own-data on a part of the quickstart's questions, small enough for seconds. */
const SMALL = [
  'device=cpu',
  'threads=1',
  'steps.split.dev=0.25',
  'steps.mine.range=[2,12]',
  'steps.mine.negatives=2',
  'steps.mine.rules={"maxRelative":null}',
  'steps.finetune.epochs=1',
  'steps.finetune.batchSize=16',
  'steps.finetune.passageMaxLength=32',
  'steps.finetune.queryMaxLength=32',
]

beforeAll(async () => {
  if (!existsSync(main)) throw new Error('dist/ is not built: npm run build:ts')
  const { train } = await readCorpus(join(quickstart, 'corpus'))
  const rows = train.slice(0, 24).flatMap(({ text, questions }) => questions.map(({ q }) => ({ query: q, pos: [text] })))
  writeFileSync(at('rows.jsonl'), jsonl(rows))
  await using model = await BgeModel.createNew({
    size: 'tiny',
    tokenizerDir: join(quickstart, 'tokenizer'),
    seed: 1,
    device: 'cpu',
    threads: 1,
  })
  await model.save(at('model'))
})

const own = (set: readonly string[] = [], rows = 'rows.jsonl') =>
  readRunRecipe('finetune-own-data', { set: [...SMALL, ...set], inputs: { model: [at('model')], rows: [at(rows)] } })

async function states(out: string, set: readonly string[] = [], rows?: string): Promise<Record<string, string>> {
  const plan = await planRun(await own(set, rows), out)
  return Object.fromEntries(plan.map(({ name, state, reason }) => [name, reason === '' ? state : `${state}: ${reason}`]))
}

describe('finetune-own-data on the quickstart corpus', () => {
  test('scores the base model first, trains, compares, and says no more than the interval allows', async () => {
    const order: string[] = []
    const onStep = ({ name }: StepState, done?: unknown): void => void (done && order.push(name))
    const { summary, model, reused, report } = await runRecipe(await own(), { out: at('run'), hooks: { onStep } })
    expect(order).toEqual(['split', 'before', 'mine', 'finetune', 'evaluate'])
    expect(reused).toEqual([])
    const split = summary.steps[0]!.facts as { train: number; dev: number; groups: number }
    expect(split.train + split.dev).toBe(readFileSync(at('rows.jsonl'), 'utf8').trimEnd().split('\n').length)

    // No passage and no query is on both sides.
    const texts = (name: string): string[] =>
      readFileSync(at('run/steps/split', `${name}.jsonl`), 'utf8')
        .trimEnd()
        .split('\n')
        .flatMap((line) => {
          const { query, pos } = JSON.parse(line) as { query: string; pos: string[] }
          return [query, ...pos]
        })
    const train = new Set(texts('train'))
    expect(texts('dev').filter((text) => train.has(text))).toEqual([])

    const [before, after] = ['before', 'evaluate'].map(
      (name) => JSON.parse(readFileSync(at('run/steps', name, 'result.json'), 'utf8')) as EvaluationResult,
    ) as [EvaluationResult, EvaluationResult]
    const { comparison } = summary.comparisons[0]!
    // Three questions share a text, so there are fewer groups than queries; every passage is searched.
    expect(comparison).toMatchObject({ queries: split.dev, groups: split.dev / 3 })
    expect(before.own!.passages).toBe(24)
    const mean = (result: EvaluationResult): number => result.own!.queries.reduce((sum, { score }) => sum + score, 0) / split.dev
    expect(comparison.before).toBeCloseTo(mean(before), 12)
    expect(comparison.after).toBeCloseTo(mean(after), 12)
    expect(before.scores[0]!.score).toBeCloseTo(mean(before), 4)
    const [low, high] = comparison.interval!
    expect(comparison.verdict).toBe(low > 0 ? 'better' : high < 0 ? 'worse' : 'no difference shown')

    await using made = await BgeModel.load(model!, { device: 'cpu', threads: 1 })
    expect(made.instruction).toBe('')
    // The base model counts by the better of its two scores.
    expect(before.own!.tried.map(({ instruction }) => instruction)).toEqual(['', 'zh'])
    expect(before.scores[0]!.score).toBe(Math.max(...before.own!.tried.map(({ score }) => score)))
    expect(after.own!.tried).toHaveLength(1)
    const page = readFileSync(report, 'utf8')
    expect(page).toContain(comparison.verdict)
    for (const name of ['report.html', 'summary.json']) expect(readFileSync(at('run', name), 'utf8')).not.toContain(root)
  })

  test('a second call does nothing; touching the data changes nothing; what changes is done again, and what depends on it', async () => {
    const before = outcome(at('run'))
    const exactly = snapshot(at('run'))
    const all = ['split', 'before', 'mine', 'finetune', 'evaluate']
    expect((await runRecipe(await own(), { out: at('run') })).reused).toEqual(all)
    utimesSync(at('rows.jsonl'), new Date(), new Date(Date.now() - 60_000))
    expect((await runRecipe(await own(), { out: at('run') })).reused).toEqual(all)
    expect(outcome(at('run'))).toEqual(before)

    for (const name of ['report.html', 'summary.json', 'model/model.safetensors'])
      expect(snapshot(at('run')).get(name)!.split(' ')[1]).toBe(exactly.get(name)!.split(' ')[1])

    // What does not change the numbers is no change.
    expect(Object.values(await states(at('run'), ['steps.finetune.saveEvery=7', 'threads=2']))).toEqual(all.map(() => 'fresh'))
    expect(await states(at('run'), ['steps.finetune.epochs=2'])).toEqual({
      split: 'fresh',
      before: 'fresh',
      mine: 'fresh',
      finetune: 'run: epochs was 1, is 2',
      evaluate: 'depends: unless finetune gives what it gave before',
    })
    expect(await states(at('run'), ['steps.mine.seed=7'])).toMatchObject({ before: 'fresh', mine: 'run: seed was 42, is 7' })

    // A row more on one side: the split comes out anew, and with it everything.
    const rows = readFileSync(at('rows.jsonl'), 'utf8')
    writeFileSync(at('more.jsonl'), `${rows}${JSON.stringify({ query: '新的问题是什么', pos: ['新的答案在这里'] })}\n`)
    expect(await states(at('run'), [], 'more.jsonl')).toMatchObject({
      split: 'run: data (more.jsonl) has changed',
      before: 'depends: unless split gives what it gave before',
    })

    // An output that was removed or changed is made again; since it comes out the same, what depends on it rests.
    rmSync(at('run/steps/mine/mined.jsonl'))
    expect(await states(at('run'))).toMatchObject({ split: 'fresh', mine: 'run: its mined.jsonl was removed' })
    writeFileSync(at('run/steps/split/dev.jsonl'), '')
    expect((await runRecipe(await own(), { out: at('run') })).reused).toEqual(['before', 'finetune', 'evaluate'])
    expect(outcome(at('run'))).toEqual(before)

    const folder = snapshot(at('run'))
    await states(at('run'), ['steps.finetune.epochs=2'])
    expect(snapshot(at('run'))).toEqual(folder)
  })

  test('a changed setting runs what depends on it, and only that', async () => {
    cpSync(at('run'), at('changed'), { recursive: true })
    const { reused } = await runRecipe(await own(['steps.finetune.learningRate=1e-3']), { out: at('changed') })
    expect(reused).toEqual(['split', 'before', 'mine'])
    expect(readFileSync(at('changed/model/model.safetensors')).equals(readFileSync(at('run/model/model.safetensors')))).toBe(false)
  })
})

/** SHA-256 of what a run leaves, without how long it took. */
function outcome(folder: string): Record<string, string> {
  const timeless = (text: string): string =>
    text.replace(/"(trainSeconds|seconds)": [\d.e-]+/g, '').replace(/<td class="num">[\d.]+<\/td><\/tr>/g, '')
  const names = ['report.html', 'summary.json', 'model/model.safetensors', 'model/config_sentence_transformers.json']
  return Object.fromEntries(
    names.map((name) => [
      name,
      createHash('sha256')
        .update(timeless(readFileSync(join(folder, name), 'latin1')))
        .digest('hex'),
    ]),
  )
}

function sha256(content: Buffer): string {
  return createHash('sha256').update(content).digest('hex')
}

function snapshot(folder: string): Map<string, string> {
  const names = readdirSync(folder, { recursive: true, encoding: 'utf8' }).filter((name) => statSync(join(folder, name)).isFile())
  return new Map(names.sort().map((name) => [name, `${statSync(join(folder, name)).mtimeMs} ${sha256(readFileSync(join(folder, name)))}`]))
}

describe('after SIGKILL', () => {
  const set = [...SMALL, 'steps.finetune.epochs=6', 'steps.finetune.saveEvery=3', 'steps.finetune.batchSize=8']
  const args = (out: string): string[] => [
    'run',
    'finetune-own-data',
    '--out',
    out,
    '--input',
    `model=${at('model')}`,
    '--input',
    `rows=${at('rows.jsonl')}`,
    ...set.flatMap((one) => ['--set', one]),
  ]

  test('at any point the same command goes on to the same bytes', async () => {
    const whole = at('whole')
    expect(spawnSync(process.execPath, [main, ...args(whole)]).status).toBe(0)
    const out = at('killed')
    const has = (name: string) => (): boolean => existsSync(join(out, 'steps', name))
    const points = [
      has('split.started.json'),
      has('split.done.json'),
      has('before/result.json'),
      has('mine/mined.jsonl.work'),
      has('mine.done.json'),
      has('finetune/metrics.jsonl'),
      has('finetune/checkpoints/step-3'),
      has('finetune/checkpoints/step-9'),
      has('finetune/model'),
      has('evaluate.started.json'),
    ]
    let [kills, resumed] = [0, 0]
    for (const point of points) {
      const child = spawn(process.execPath, [main, ...args(out)], { stdio: 'ignore' })
      const exit = onceEvent(child, 'exit')
      while (child.exitCode === null && !point()) await wait(1)
      child.kill('SIGKILL')
      if ((await exit)[1] === 'SIGKILL') kills++
      const plan = await planRun(
        await readRunRecipe('finetune-own-data', { set, inputs: { model: [at('model')], rows: [at('rows.jsonl')] } }),
        out,
      )
      if (plan.some(({ name, state }) => name === 'finetune' && state === 'resume') && existsSync(join(out, 'steps/finetune/checkpoints')))
        resumed++
    }
    expect(kills).toBeGreaterThanOrEqual(8)
    expect(resumed).toBeGreaterThanOrEqual(1)
    const last = spawnSync(process.execPath, [main, ...args(out)], { encoding: 'utf8' })
    expect(last).toMatchObject({ status: 0, stdout: `${join(out, 'model')}\n${join(out, 'report.html')}\n` })
    expect(outcome(out)).toEqual(outcome(whole))
  })

  test('two at once: the second is refused', async () => {
    const out = at('twice')
    const child = spawn(process.execPath, [main, ...args(out)], { stdio: 'ignore' })
    const exit = onceEvent(child, 'exit')
    while (!existsSync(join(out, 'steps'))) await wait(1)
    const second = spawnSync(process.execPath, [main, ...args(out)], { encoding: 'utf8' })
    child.kill('SIGKILL')
    await exit
    expect(second.status).toBe(1)
    expect(second.stderr).toMatch(/^error \[ERR_BGE_RESUME\]: .*twice must not be in use, but process \d+ is working there/)
  })
})

describe('the whole chain', () => {
  test('a new model, three stages, mining, merge, evaluation on a folder of tasks', async () => {
    const recipe = {
      name: 'chain',
      device: 'cpu',
      threads: 1,
      inputs: { rows: 'rows.jsonl', texts: 'texts.jsonl' },
      steps: {
        split: { data: 'rows', dev: 6 },
        new: { size: 'tiny', tokenizer: join(quickstart, 'tokenizer') },
        pretrain: { data: 'texts', steps: 2, batchSize: 4, maxLength: 24 },
        contrastive: { data: 'split.train', dev: 'split.dev', steps: 4, saveEvery: 2, batchSize: 4, passageMaxLength: 24 },
        mine: { data: 'split.train', range: [1, 8], negatives: 1, rules: { maxRelative: null } },
        finetune: { data: 'mine', steps: 2, batchSize: 4, passageMaxLength: 24 },
        plain: { do: 'finetune', model: 'contrastive', data: 'mine', instruction: '', steps: 2, batchSize: 4, passageMaxLength: 24 },
        merge: { models: { finetune: 0.5, plain: 0.5 }, instruction: '' },
        evaluate: { data: 'split.dev', tasks: 'tasks', instruction: '' },
      },
    }
    const { train } = await readCorpus(join(quickstart, 'corpus'))
    writeFileSync(at('texts.jsonl'), jsonl(train.slice(0, 12).map(({ text }) => ({ text }))))
    mkdirSync(at('tasks/reranking'), { recursive: true })
    writeFileSync(at('tasks/reranking/R.jsonl'), jsonl([{ query: '春天', positive: ['春天的花开了'], negative: ['大海很蓝'] }]))
    writeFileSync(at('chain.json5'), `// a recipe\n${JSON.stringify(recipe, null, 2)}`)
    const { summary, model } = await runRecipe(await readRunRecipe(at('chain.json5')), { out: at('chain') })
    expect(summary.steps.map(({ name }) => name)).toEqual(Object.keys(recipe.steps))
    expect(summary.steps.find(({ name }) => name === 'plain')!.from).toEqual({ model: ['contrastive'], data: ['mine'] })
    expect(summary.steps.find(({ name }) => name === 'contrastive')!.facts).toMatchObject({ best: { step: expect.any(Number) } })
    expect((summary.steps.at(-1)!.facts['scores'] as { task: string }[]).map(({ task }) => task)).toEqual(['R', 'own-data'])
    await using made = await BgeModel.load(model!, { device: 'cpu', threads: 1 })
    expect(made.instruction).toBe('')
    expect((await runRecipe(await readRunRecipe(at('chain.json5')), { out: at('chain') })).reused).toEqual(Object.keys(recipe.steps))
  })
})

describe('curation as a step', () => {
  test('its rows train a model; a changed raw file is seen by name, size and time, an untouched one rests', async () => {
    const { train } = await readCorpus(join(quickstart, 'corpus'))
    mkdirSync(at('raw'))
    writeFileSync(at('raw/a.jsonl'), jsonl(train.slice(0, 20).map(({ title, text }) => ({ title, body: text }))))
    const source = { name: 'a', files: ['raw/*.jsonl'], extract: { type: 'title-body' }, licence: 'CC0' }
    writeFileSync(at('curation.json'), JSON.stringify({ name: 'c', sources: [source] }))
    const steps = {
      curate: { recipe: 'curation.json', tokenizer: 'model' },
      contrastive: { model: 'model', data: 'curate', steps: 1, batchSize: 4, passageMaxLength: 24 },
    }
    writeFileSync(at('curated.json5'), JSON.stringify({ name: 'curated', device: 'cpu', threads: 1, steps }))
    const go = async () => runRecipe(await readRunRecipe(at('curated.json5')), { out: at('curated') })
    const { summary } = await go()
    const { rows } = summary.steps[0]!.facts as { rows: number }
    expect(rows).toBeGreaterThan(10)
    expect(rows).toBeLessThanOrEqual(20)
    expect((await go()).reused).toEqual(['curate', 'contrastive'])
    writeFileSync(at('raw/b.jsonl'), jsonl(train.slice(20, 24).map(({ title, text }) => ({ title, body: text }))))
    expect(await planRun(await readRunRecipe(at('curated.json5')), at('curated'))).toMatchObject([
      { name: 'curate', state: 'run', reason: 'files has changed' },
      { name: 'contrastive', state: 'depends' },
    ])
    expect((await go()).reused).toEqual([])
  })
})

describe('reading a recipe', () => {
  const write = (recipe: unknown): string => {
    writeFileSync(at('bad.json5'), typeof recipe === 'string' ? recipe : JSON.stringify(recipe, null, 1))
    return at('bad.json5')
  }
  const split = { data: 'rows.jsonl' }
  test.each<[unknown, RegExp]>([
    [{ name: 'r', steps: { splt: split } }, /bad\.json5:4: steps\.splt\.do must be one of .*, but is missing; did you mean split\?/],
    [{ name: 'r', steps: { split: { ...split, devv: 1 } } }, /bad\.json5:6: "devv" is not a key of steps\.split; did you mean dev\?/],
    [
      { name: 'r', steps: { split: { ...split, dev: 0 } } },
      /bad\.json5:6: steps\.split\.dev must be a number greater than 0 .*, but was 0/,
    ],
    [
      { name: 'r', steps: { split, finetune: { data: 'split', model: 'model' } } },
      /finetune\.data must be rows, but "split" is a step that gives split\.train and split\.dev/,
    ],
    [
      { name: 'r', steps: { finetune: { data: 'mine', model: 'model' }, mine: { data: 'rows.jsonl', model: 'model' } } },
      /must come from an earlier step, but "mine" does not run before/,
    ],
    [
      { name: 'r', steps: { split, finetune: { data: 'splt.train', model: 'model' } } },
      /"splt\.train" is none; did you mean split\.train\?/,
    ],
    [{ name: 'r', steps: { finetune: { data: 'rows.jsonl' } } }, /finetune\.model must be given, because no step before makes a model/],
    [
      { name: 'r', inputs: { model: null }, steps: { finetune: { data: 'rows.jsonl' } } },
      /needs the input "model", which is not given: --input model=PATH/,
    ],
    [{ name: 'r', steps: { evaluate: { model: 'model' } } }, /evaluate must have data, tasks or cmteb/],
    [
      { name: 'r', steps: { merge: { models: { model: 0.5, 'model/': 0.6 } } } },
      /merge\.models must have weights that sum to 1, but they sum to 1\.1/,
    ],
    [
      { name: 'r', steps: { evaluate: { model: 'model', data: 'rows.jsonl', against: 'before' } } },
      /against must be an evaluate step before this one, but was "before"/,
    ],
    [{ name: 'r', steps: { finetune: { data: 'rows.jsonl', model: ['model'] } } }, /steps\.finetune\.model must be a string/],
    ['{ name: "r",\n steps: [ }', /bad\.json5:2:\d+: expected JSON, but invalid character '}'/],
    [{ extends: 'bad.json5', steps: {} }, /extends must not lead back/],
    ['[]', /must hold a JSON object, but the value was an array of 0/],
  ])('refuses %j', async (recipe, message) => {
    const read = async () => graphOf(await readRunRecipe(write(recipe)))
    await expect(read()).rejects.toMatchObject({ code: 'ERR_BGE_RECIPE', message: expect.stringMatching(message) })
  })

  test('extends another: key by key, null takes away, and places are those of the file that says it', async () => {
    writeFileSync(
      at('child.json5'),
      `{ extends: 'finetune-own-data',\n name: 'mine', inputs: { model: 'model', rows: 'rows.jsonl' },\n steps: { mine: null,\n  finetune: { epochs: 2, data: 'split.train', groupSize: 1 } } }`,
    )
    const recipe = await readRunRecipe(at('child.json5'))
    expect(recipe.steps.map(({ name }) => name)).toEqual(['split', 'before', 'finetune', 'evaluate'])
    expect(recipe.steps[2]!.settings).toMatchObject({ epochs: 2, groupSize: 1, batchSize: 32, instruction: '', seed: 42 })
    expect(recipe.inputs).toEqual({ model: [at('model')], rows: [at('rows.jsonl')] })
    expect(recipe.at('steps.finetune.epochs')).toBe(`${at('child.json5')}:4`)
    expect(recipe.at('steps.finetune.batchSize')).toMatch(/finetune-own-data\.json5:\d+$/)
  })

  test('.mjs, and --set goes last', async () => {
    writeFileSync(at('recipe.mjs'), `export default { name: 'm', steps: { split: { data: 'rows.jsonl', dev: 1 + 2 } } }`)
    const recipe = await readRunRecipe(at('recipe.mjs'), { set: ['steps.split.dev=7', 'seed=3'] })
    expect(recipe.steps).toEqual([{ name: 'split', do: 'split', settings: { data: 'rows.jsonl', dev: 7, seed: 3 } }])
    expect(recipe.at('steps.split.dev')).toBe('--set')
    expect(recipe.at('steps.split.data')).toBe(at('recipe.mjs'))
  })

  test('an evaluation against one of other data means nothing and is refused', async () => {
    const recipe = own(['steps.before.corpus=null'])
    await expect(recipe.then((read) => runRecipe(read, { out: at('other-corpus') }))).rejects.toThrow(
      /an evaluation against before must have its data and corpus/,
    )
  })

  test('a run folder of something else is left alone', async () => {
    mkdirSync(at('theirs'))
    writeFileSync(at('theirs/thesis.txt'), 'x')
    await expect(own().then((recipe) => runRecipe(recipe, { out: at('theirs') }))).rejects.toThrow(
      /must be new, empty, or of an earlier bge run, but holds "thesis.txt"/,
    )
    expect(readdirSync(at('theirs'))).toEqual(['thesis.txt'])
  })
})

describe('the recipes of this package', () => {
  test('every one reads, its inputs given, and every step finds what it reads', async () => {
    const names = await shippedRecipes()
    expect(names).toHaveLength(7)
    for (const name of names) {
      const { inputs: wanted } = await readRunRecipe(name)
      const inputs = Object.fromEntries(Object.keys(wanted).map((key) => [key, [at(key === 'model' ? 'model' : 'rows.jsonl')]]))
      expect(graphOf(await readRunRecipe(name, { inputs })).length, name).toBeGreaterThan(4)
    }
  })

  test('sizes and versions differ where the sources say', async () => {
    const settings = async (name: string, step: string) => (await readRunRecipe(name)).steps.find((one) => one.name === step)!.settings
    expect(await settings('bge-large-zh', 'pretrain')).toMatchObject({ learningRate: 5e-5, batchSize: 720 })
    expect(await settings('bge-base-zh', 'contrastive')).toMatchObject({ learningRate: 2e-5, temperature: 0.01, batchSize: 19200 })
    expect(await settings('bge-base-zh', 'contrastive')).not.toHaveProperty('instruction')
    for (const size of ['small', 'base', 'large']) {
      const [withIt, without] = [await settings(`bge-${size}-zh-v1.5`, 'finetune'), await settings(`bge-${size}-zh-v1.5`, 'plain')]
      expect({ ...withIt, model: 'contrastive', instruction: '' }).toEqual(without)
      expect(withIt).toMatchObject({ temperature: 0.02, instruction: 'zh' })
      expect(await settings(`bge-${size}-zh-v1.5`, 'merge')).toEqual({ models: { finetune: 0.5, plain: 0.5 }, instruction: '' })
    }
  })
})

test.each([
  ['train', TRAIN_SCHEMA],
  ['run', runFileSchema()],
])('schemas/%s.schema.json is what the validator goes by (BGE_WRITE_SCHEMAS=1 writes it)', (name, schema) => {
  const file = join(repo, 'schemas', `${name}.schema.json`)
  if (process.env['BGE_WRITE_SCHEMAS']) writeFileSync(file, `${JSON.stringify(schema, null, 2)}\n`)
  expect(JSON.parse(readFileSync(file, 'utf8'))).toEqual(JSON.parse(JSON.stringify(schema)))
  expect(RUN_SCHEMA.properties).toHaveProperty('steps')
})

describe('the paired bootstrap', () => {
  const pairs = (n: number, shift: number, seed: number, perGroup = 1): Pair[] => {
    const draw = random(seed, 'pairs')
    const uniform = (): number => draw.next() / 2 ** 32
    return Array.from({ length: n / perGroup }, (_, group) => {
      const noise = (uniform() + uniform() + uniform() - 1.5) * 0.4
      return Array.from({ length: perGroup }, () => ({ before: 0.5, after: 0.5 + shift + noise, group }))
    }).flat()
  }

  test('is the normal interval where that holds, and the same for the same seed', async () => {
    const sample = pairs(1000, 0.02, 1)
    const { difference, interval, before, after } = await comparePaired(sample, 42)
    const values = sample.map((pair) => pair.after - pair.before)
    const mean = values.reduce((a, b) => a + b, 0) / values.length
    const error = Math.sqrt(values.reduce((sum, x) => sum + (x - mean) ** 2, 0) / values.length / values.length)
    expect(difference).toBeCloseTo(mean, 12)
    expect(after - before).toBeCloseTo(mean, 12)
    // The end of an interval from 10,000 resamples has a standard error of about 2.7 % of that of the mean.
    expect(Math.abs(interval![0] - (mean - 1.96 * error))).toBeLessThan(0.12 * error)
    expect(Math.abs(interval![1] - (mean + 1.96 * error))).toBeLessThan(0.12 * error)
    expect((await comparePaired(sample, 42)).interval).toEqual(interval)
    expect((await comparePaired(sample, 43)).interval).not.toEqual(interval)
  })

  test('covers the truth about 95 times of 100, also for queries in groups', async () => {
    for (const perGroup of [1, 3]) {
      let covered = 0
      for (let seed = 0; seed < 100; seed++) {
        const { interval } = await comparePaired(pairs(150, 0.01, seed, perGroup), 7)
        if (interval![0] <= 0.01 && interval![1] >= 0.01) covered++
      }
      // Binomial(100, 0.95): below 87 or above 100 has a chance of about 0.001; small samples cover a little less.
      expect(covered).toBeGreaterThanOrEqual(87)
    }
  })

  test('claims nothing where the interval covers zero', async () => {
    const none = await comparePaired(pairs(60, 0, 3), 1)
    expect(none.verdict).toBe('no difference shown')
    expect(verdictSentence(none)).toMatch(/^no difference shown: the interval covers zero/)
    expect(describeComparison(none)).toMatch(
      /^nDCG@10 50\.00 -> \d+\.\d\d, [+-]?\d+\.\d\d \(95 % interval -\d+\.\d\d to \+\d+\.\d\d, 60 queries\)$/,
    )
    expect((await comparePaired(pairs(600, 0.05, 3), 1)).verdict).toBe('better')
    expect((await comparePaired(pairs(600, -0.05, 3), 1)).verdict).toBe('worse')
    // All alike: the interval is a point, zero.
    expect(
      (
        await comparePaired(
          pairs(60, 0, 3).map((pair) => ({ ...pair, after: pair.before })),
          1,
        )
      ).verdict,
    ).toBe('no difference shown')
    // One group says nothing of others, however large the difference.
    expect(
      await comparePaired(
        [
          { before: 0, after: 1, group: 0 },
          { before: 0, after: 1, group: 0 },
        ],
        1,
      ),
    ).toMatchObject({ interval: null, verdict: 'no difference shown' })
  })
})

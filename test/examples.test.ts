import { execFile } from 'node:child_process'
import { mkdir, mkdtemp, readdir, readFile, rm, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { transformWithOxc } from 'vite'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { presetConfig } from '../lib/model/config.js'
import { BgeModel } from '../lib/model/model.js'
import { readCorpus } from '../lib/quickstart/corpus.js'
import { prepare } from '../lib/quickstart/prepare.js'

// examples/*.ts as programs of a project that has this package installed (dist/, from `npm run build:ts`), on the quickstart's corpus, without a network.
const root = fileURLToPath(new URL('..', import.meta.url))
const examples = (await readdir(join(root, 'examples'))).filter((name) => name.endsWith('.ts'))
const packages = ['openai', '@langchain/core']
let folder = ''

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'bge-examples-'))
  await mkdir(join(folder, 'node_modules/@langchain'), { recursive: true })
  await symlink(root, join(folder, 'node_modules/bge-forge'))
  for (const name of packages) await symlink(join(root, 'node_modules', name), join(folder, 'node_modules', name))

  const tokenizerDir = join(root, 'examples/quickstart/tokenizer')
  const vocab = (await readFile(join(tokenizerDir, 'vocab.txt'), 'utf8')).trimEnd().split('\n').length
  const config = { ...presetConfig('tiny', vocab), layers: 1, hidden: 64, heads: 2, intermediate: 128 }
  const model = await BgeModel.createNew({ config, tokenizerDir, instruction: 'zh', device: 'cpu', threads: 1 })
  await model.save(join(folder, 'model'))
  model.dispose()

  const data = await prepare(await readCorpus(join(root, 'examples/quickstart/corpus')), join(folder, 'data'), 42)
  for (const [name, file] of [
    ['texts', data.pretrain],
    ['pairs', data.pairs],
    ['labeled', data.train],
  ] as const) {
    // biome-ignore format: one line
    const rows = (await readFile(file, 'utf8')).split('\n').slice(0, 300)
    await writeFile(join(folder, `${name}.jsonl`), `${rows.join('\n')}\n`)
  }
})
afterAll(() => rm(folder, { recursive: true, force: true }))

/** What an example prints, run with `args` in the project's folder. */
async function run(name: string, ...args: string[]): Promise<string> {
  const { code } = await transformWithOxc(await readFile(join(root, 'examples', name), 'utf8'), name, { target: 'es2022' })
  const program = join(folder, name.replace('.ts', '.mjs'))
  await writeFile(program, code)
  const environment = { ...process.env, HF_HUB_OFFLINE: '1', NODE_ENV: 'production' }
  const { stdout } = await promisify(execFile)(process.execPath, [program, ...args], { cwd: folder, env: environment })
  return stdout
}

/** Example -> arguments, and what it prints. */
const cases: Readonly<Record<string, { args: string[]; prints: RegExp[] }>> = {
  'search.ts': { args: ['model'], prints: [/^馒头为什么会变松软？ {2}-?\d\.\d{3} {2}\S+$/m, /^驼峰里有水吗？ {2}-?\d\.\d{3} {2}\S+$/m] },
  'serve.ts': { args: ['model'], prints: [/^-?\d\.\d{3} 月食只在满月时发生。$/m, /^\d+ tokens$/m] },
  'langchain.ts': { args: ['model'], prints: [/^(-?\d\.\d{3} \S+\n){2}$/] },
  'evaluate.ts': {
    args: ['data/eval', 'model'],
    prints: [/^sts quickstart -?\d+\.\d\d$/m, /^retrieval heldout \d/m, /^reranking heldout \d/m],
  },
  'recipe.ts': { args: ['model', 'texts.jsonl', 'pairs.jsonl', 'labeled.jsonl', 'out'], prints: [/^trained: out\/finetune\/model$/m] },
  'finetune.ts': {
    args: ['model', 'labeled.jsonl', 'own'],
    prints: [/^nDCG@10 0\.\d{4} -> 0\.\d{4}, interval .*: \S/m, /^64 Float32Array/m],
  },
}

test('every example is run here', () => expect(Object.keys(cases).sort()).toEqual(examples.toSorted()))

test.each(examples)('examples/%s', async (name) => {
  const lines = (await readFile(join(root, 'examples', name), 'utf8')).trimEnd().split('\n')
  expect(lines.length).toBeLessThanOrEqual(60)
  const { args, prints } = cases[name]!
  const printed = await run(name, ...args)
  for (const pattern of prints) expect(printed).toMatch(pattern)
})

test('without a model the evaluation example scores character counts', async () => {
  expect(await run('evaluate.ts', 'data/eval')).toMatch(/^retrieval heldout [1-9]/m)
})

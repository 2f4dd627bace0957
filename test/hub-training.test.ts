import { spawn } from 'node:child_process'
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { type HubServer, repository, startHub } from './support/hub_server.js'
import { newTinyModel, tinyData } from './support/tiny_run.js'

const main = fileURLToPath(new URL('../dist/cli/main.js', import.meta.url))
const folder = mkdtempSync(join(tmpdir(), 'bge-hub-training-'))
const at = (...names: string[]): string => join(folder, ...names)
const name = 'BAAI/bge-tiny-zh'
let hub: HubServer
let data: { texts: string; pairs: string }

beforeAll(async () => {
  if (!existsSync(main)) throw new Error('dist/ is not built: npm run build:ts')
  await newTinyModel(at('source'))
  data = await tinyData(folder)
  const files = readdirSync(at('source'), { recursive: true, withFileTypes: true }).filter((entry) => entry.isFile())
  const content = files.map(
    ({ parentPath, name }) => [join(parentPath, name).slice(at('source').length + 1), readFileSync(join(parentPath, name))] as const,
  )
  hub = await startHub()
  hub.repositories.set(name, repository(Object.fromEntries(content), { lfs: ['model.safetensors'] }))
})
afterAll(async () => {
  await hub?.close()
  rmSync(folder, { recursive: true, force: true })
})

/** Runs the command with the local hub alone in reach; `onTalk` gets what it says while it runs. */
async function bge(
  args: readonly string[],
  onTalk: (stderr: string) => void = () => {},
): Promise<{ status: number | null; stdout: string; stderr: string }> {
  const kept = Object.entries(process.env).filter(([key]) => !key.startsWith('HF_'))
  const env = { ...Object.fromEntries(kept), HF_ENDPOINT: hub.endpoint, HF_HOME: at('hf'), HF_HUB_DISABLE_IMPLICIT_TOKEN: '1' }
  const child = spawn(process.execPath, [main, ...args], { cwd: folder, env })
  let [stdout, stderr] = ['', '']
  child.stdout.on('data', (chunk) => (stdout += String(chunk)))
  child.stderr.on('data', (chunk) => {
    stderr += String(chunk)
    onTalk(stderr)
  })
  const status = await new Promise<number | null>((done) => child.once('close', done))
  return { status, stdout, stderr }
}
const weightsAsked = (): number => hub.seen.filter(({ host, method }) => host === 'storage' && method === 'GET').length

test.each([
  ['pretrain', () => data.texts, ['maxLength=16']],
  ['contrastive', () => data.pairs, ['queryMaxLength=16', 'passageMaxLength=16']],
  ['finetune', () => data.pairs, ['queryMaxLength=16', 'passageMaxLength=16']],
] as const)('bge %s --model takes a name on the hub, downloaded once', async (stage, file, lengths) => {
  const settings = ['steps=1', 'batchSize=4', 'saveEvery=0', 'device=cpu', 'threads=1', ...lengths].flatMap((text) => ['--set', text])
  const run = await bge([stage, '--model', name, '--data', file(), '--out', stage, ...settings])
  expect(run).toMatchObject({ status: 0, stdout: `${join(stage, 'model')}\n` })
  expect(existsSync(at(stage, 'model', 'model.safetensors'))).toBe(true)
  expect(weightsAsked()).toBe(1)
  const missing = await bge([stage, '--model', 'BAAI/missing', '--data', file(), '--out', `${stage}-missing`, ...settings])
  expect(missing).toMatchObject({
    status: 1,
    stderr: expect.stringMatching(/error \[ERR_BGE_HUB\]: there is no folder "BAAI\/missing" here, and as a name on the hub: /),
  })
  expect(existsSync(at(`${stage}-missing`))).toBe(false)
})

test('bge run --input model= takes one too; --live shows each training step in turn', async () => {
  const train = { model: 'model', data: 'pairs', steps: 40, batchSize: 4, queryMaxLength: 16, passageMaxLength: 16 }
  const steps = { first: { do: 'contrastive', ...train }, second: { do: 'finetune', ...train, model: 'first' } }
  writeFileSync(at('tiny.json'), JSON.stringify({ name: 'tiny', inputs: { model: null, pairs: null }, device: 'cpu', threads: 1, steps }))
  const args = ['run', 'tiny.json', '--input', `model=${name}`, '--input', 'pairs=pairs.jsonl', '--out', 'run']
  const pages = new Map<string, Promise<string>>()
  const run = await bge([...args, '--live', '0'], (stderr) => {
    for (const [, url] of stderr.matchAll(/live page: (http:\S+)\n/g))
      if (!pages.has(url!))
        pages.set(
          url!,
          fetch(url!)
            .then((answer) => answer.text())
            .catch((error: Error) => error.message),
        )
  })
  expect(run).toMatchObject({ status: 0, stdout: `${join('run', 'model')}\n${join('run', 'report.html')}\n` })
  const shown = await Promise.all(pages.values())
  expect(shown.map((page) => /<title>([^<]*)/.exec(page)?.[1])).toEqual([
    expect.stringContaining('first'),
    expect.stringContaining('second'),
  ])
  for (const url of pages.keys()) await expect(fetch(url)).rejects.toThrow() // closed with the run
  // Without the hub: the model is there already, and nothing has changed.
  const again = await bge([...args, '--dry-run'])
  expect(again.stdout).toMatch(/first +fresh\n +second +fresh\n/)
  expect(weightsAsked()).toBe(1)
}, 60_000)

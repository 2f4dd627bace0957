import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Command } from 'commander'
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest'
import { register as registerCalibrate } from '../lib/cli/calibrate.js'
import { register as registerEmbed } from '../lib/cli/embed.js'
import { register as registerSimilarity } from '../lib/cli/similarity.js'
import { BgeModel } from '../lib/model/model.js'
import { quantize } from '../lib/model/precision.js'
import { type Device, openDevice } from '../lib/native.js'
import { smallModel } from './support/model_folder.js'

const { texts } = JSON.parse(await readFile(new URL('./fixtures/tokenizer/ids.json', import.meta.url), 'utf8')) as { texts: string[] }
let root = ''
let folder = ''
let device: Device

beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), 'bge-serve-cli-'))
  folder = join(root, 'my-model')
  device = await openDevice({ device: 'cpu', threads: 1 })
  await (await smallModel(root, device)).save(folder)
})
afterAll(async () => {
  device?.dispose()
  await rm(root, { recursive: true, force: true })
})

async function bge(...args: string[]): Promise<{ out: string; err: string }> {
  const text = { out: '', err: '' }
  const out = vi.spyOn(process.stdout, 'write').mockImplementation((chunk) => Boolean((text.out += chunk)))
  const err = vi.spyOn(process.stderr, 'write').mockImplementation((chunk) => Boolean((text.err += chunk)))
  try {
    const program = new Command().exitOverride()
    for (const register of [registerCalibrate, registerEmbed, registerSimilarity]) register(program)
    await program.parseAsync([...args, '--device', 'cpu'], { from: 'user' })
    return text
  } finally {
    out.mockRestore()
    err.mockRestore()
  }
}

describe('bge similarity, bge calibrate, bge embed', () => {
  test('cosines, then a calibration in the folder, then probabilities and int8 vectors', async () => {
    const { out, err } = await bge('similarity', '--model', folder, texts[0]!, texts[3]!)
    const { cosine } = JSON.parse(out) as { cosine: number }
    const model = await BgeModel.load(folder, { device })
    expect(cosine).toBe((await model.similarity([texts[0]!], [texts[3]!])).cosines[0])
    expect(out).not.toContain('probability')
    expect(err).toContain('not calibrated')

    const pairs = join(root, 'pairs.jsonl')
    const row = (i: number): string => `${texts[(i * 7) % texts.length]}第${i}条`
    const lines = Array.from({ length: 50 }, (_, i) =>
      i % 2 === 0
        ? { text1: row(i), text2: `${row(i)}。`, label: 1 }
        : { query: row(i), pos: [`${row(i)}！`, `${row(i)}。`], neg: [row((i + 13) % 50)] },
    )
    await writeFile(pairs, `${lines.map((line) => JSON.stringify(line)).join('\n')}\n`)
    const calibrated = await bge('calibrate', '--model', folder, '--pairs', pairs, '--precision', '0.9')
    expect(calibrated.out).toBe(`${join(folder, 'bge_calibration.json')}\n`)
    expect(calibrated.err).toMatch(
      /^100 pairs, 75 of them belong together\ncosine from [01]\.\d{4}: (9\d|100)\.\d % right \(95 % interval /,
    )

    const scored = await bge('similarity', '--model', folder, '--pairs', pairs)
    const scores = scored.out
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line) as { cosine: number; probability: number })
    expect(scores).toHaveLength(100)
    expect(scores.every(({ probability }) => probability >= 0 && probability <= 1)).toBe(true)
    expect(scored.err).toBe('')

    const txt = join(root, 'in.txt')
    const npy = join(root, 'out.npy')
    await writeFile(txt, texts.slice(0, 5).join('\n'))
    const { data } = await model.encode(texts.slice(0, 5))
    const ranges = JSON.parse(await readFile(join(folder, 'bge_calibration.json'), 'utf8')).ranges
    for (const [precision, header, expected] of [
      ['int8', "'descr': '|i1', 'fortran_order': False, 'shape': (5, 64)", quantize(data, 64, 'int8', ranges)],
      ['ubinary', "'descr': '|u1', 'fortran_order': False, 'shape': (5, 8)", quantize(data, 64, 'ubinary')],
    ] as const) {
      await bge('embed', '--model', folder, '--input', txt, '--out', npy, '--precision', precision)
      const bytes = await readFile(npy)
      expect(bytes.toString('latin1')).toContain(header)
      expect(bytes.subarray(-expected.length).equals(Buffer.from(expected.buffer))).toBe(true)
    }
    await expect(
      bge('embed', '--model', folder, '--input', txt, '--out', npy, '--max-length', '5', '--truncation', 'error'),
    ).rejects.toThrow('must fit into 5 tokens')
  })

  test('bad pairs and arguments are named', async () => {
    const file = join(root, 'bad.jsonl')
    for (const [content, message] of [
      ['{"text1":"a","text2":"b"}\n', `${file}:1: field label expected 0 or 1, but was missing`],
      ['{"text1":"a","text2":"b","label":1}\n{"text1":"a","text2":"b"}\n', `${file}:2: field label expected 0 or 1, but was missing`],
      ['{"text1":"a","label":1}\n', `${file}:1: field text2 expected a string, but was missing`],
    ] as const) {
      await writeFile(file, content)
      await expect(bge('calibrate', '--model', folder, '--pairs', file)).rejects.toMatchObject({ code: 'ERR_BGE_DATA', message })
    }
    await writeFile(file, '{"text1":"a","text2":"b","label":1}\n')
    await expect(bge('calibrate', '--model', folder, '--pairs', file)).rejects.toThrow('labels must be some 0 and some 1')
    await expect(bge('similarity', '--model', folder, 'one')).rejects.toThrow(
      'must be given two texts, or else --pairs, but was given 1 texts',
    )
    await expect(bge('similarity', '--model', folder, 'a', 'b', '--pairs', file)).rejects.toMatchObject({ code: 'ERR_BGE_ARGUMENT' })
  })
})

describe('bge serve', () => {
  const key = 'sk-the-key-of-the-environment'
  const main = new URL('../dist/cli/main.js', import.meta.url).pathname

  async function start(...args: string[]): Promise<{ child: ChildProcess; url: string; err: () => string }> {
    const child = spawn(process.execPath, [main, 'serve', '--model', folder, '--port', '0', '--device', 'cpu', '--threads', '1', ...args], {
      env: { ...process.env, BGE_API_KEY: key },
    })
    let err = ''
    child.stderr!.on('data', (chunk) => (err += chunk))
    const failed = once(child, 'exit').then(([code]) => Promise.reject(new Error(`bge serve ended with ${code}: ${err}`)))
    failed.catch(() => {}) // later it ends because it was told to
    const [line] = (await Promise.race([once(child.stdout!, 'data'), failed])) as [Buffer]
    return { child, url: String(line).trim(), err: () => err }
  }

  test('SIGTERM finishes what is under way and leaves with 0; the key is never printed', async () => {
    const { child, url, err } = await start()
    const input = Array.from({ length: 2000 }, (_, i) => `${texts[i % texts.length]}第${i}条`)
    const work = fetch(`${url}/v1/embeddings`, {
      method: 'POST',
      headers: { 'content-type': 'application/json', authorization: `Bearer ${key}` },
      body: JSON.stringify({ input, encoding_format: 'base64' }),
    })
    // It is under way when there is a batch: ask until then.
    for (let batches = 0; batches === 0; ) {
      const metrics = await (await fetch(`${url}/metrics`, { headers: { authorization: `Bearer ${key}` } })).text()
      batches = Number(/^bge_batch_tokens_count (\d+)$/m.exec(metrics)?.[1])
    }
    expect((await fetch(`${url}/v1/models`)).status).toBe(401)
    const ended = once(child, 'exit')
    child.kill('SIGTERM')
    const response = await work
    expect(response.status).toBe(200)
    expect(((await response.json()) as { data: unknown[] }).data).toHaveLength(2000)
    expect(await ended).toEqual([0, null])
    expect(err()).toMatch(/POST \/v1\/embeddings 200 2000 texts/)
    expect(err()).not.toContain(key)
    expect(err()).not.toContain('Bearer')
  })
})

import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Command } from 'commander'
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest'
import { register as registerEmbed } from '../lib/cli/embed.js'
import { BgeModel } from '../lib/model/model.js'
import { arithmeticOf } from '../lib/model/vector_cache.js'
import type { TrainConfig } from '../lib/train/config.js'
import { train } from '../lib/train/loop.js'
import { stages } from '../lib/train/stages.js'
import { openDevice } from '../lib/native.js'
import { availableLowTypes } from './support/devices.js'
import { Golden, loadGoldenWeights } from './support/golden.js'
import { letters, metrics, newTinyModel, tinyData } from './support/tiny_run.js'

const lowTypes = await availableLowTypes()
let root: string
let model: string
let pairs: string
beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), 'bge-dtype-'))
  model = await newTinyModel(join(root, 'tiny'))
  pairs = (await tinyData(root)).pairs
})
afterAll(() => rm(root, { recursive: true, force: true }))

it('vectors of different arithmetic are kept apart', () => {
  expect(arithmeticOf({ kind: 'cpu', dtype: 'fp32' })).toBe('cpu')
  expect(arithmeticOf({ kind: 'cpu', dtype: 'bf16' })).toBe('cpu bf16')
  expect(arithmeticOf({ kind: 'cpu', dtype: 'int8' })).toBe('cpu int8')
  expect(arithmeticOf({ kind: 'cuda', dtype: 'bf16' })).toBe('cuda')
  expect(arithmeticOf(undefined)).toBe('other')
})

describe.each(lowTypes)('%s', (dtype) => {
  it('embeds by --dtype what the model gives in that type, which is not what fp32 gives', async () => {
    const texts = [letters, [...letters].reverse().join('')]
    const [input, out] = [join(root, `${dtype}.txt`), join(root, `${dtype}.npy`)]
    await writeFile(input, texts.join('\n'))
    const silence = [vi.spyOn(process.stdout, 'write'), vi.spyOn(process.stderr, 'write')].map((spy) => spy.mockReturnValue(true))
    try {
      const program = new Command().exitOverride()
      registerEmbed(program)
      await program.parseAsync(['embed', '--model', model, '--input', input, '--out', out, '--device', 'cpu', '--dtype', dtype], {
        from: 'user',
      })
    } finally {
      for (const spy of silence) spy.mockRestore()
    }
    const bytes = await readFile(out)
    const start = 10 + bytes.readUInt16LE(8)
    const written = new Float32Array(bytes.buffer.slice(bytes.byteOffset + start, bytes.byteOffset + bytes.length))
    const vectors = async (type: 'fp32' | typeof dtype): Promise<Float32Array> => {
      await using loaded = await BgeModel.load(model, { device: 'cpu', dtype: type })
      return (await loaded.encode(texts)).data
    }
    expect(written).toEqual(await vectors(dtype))
    expect(written).not.toEqual(await vectors('fp32'))
  })

  it('leaves every text a hundred times nearer to its exact vector than to that of any other', async () => {
    const golden = new Golden('encoder-cls.safetensors')
    const device = await openDevice({ device: 'cpu', threads: 2, dtype })
    const encoder = device.encoder(golden.meta.config)
    await loadGoldenWeights(encoder)
    const ours = await (await encoder.embed(golden.batch('ids'))).toArray()
    device.dispose()
    const exact = golden.floats('out.embeddings')
    const width = golden.meta.config.hidden
    const squared = (n: number, m: number): number => {
      let sum = 0
      for (let i = 0; i < width; i++) sum += (ours[n * width + i]! - exact[m * width + i]!) ** 2
      return sum
    }
    const rows = ours.length / width
    expect(rows).toBeGreaterThan(2)
    for (let n = 0; n < rows; n++) for (let m = 0; m < rows; m++) if (m !== n) expect(100 * squared(n, n)).toBeLessThan(squared(n, m))
  })
})

describe.runIf(lowTypes.includes('bf16'))('training in bf16', () => {
  const settings: Partial<TrainConfig> = {
    batchSize: 11,
    steps: 60,
    temperature: 0.05,
    learningRate: 1e-3,
    queryMaxLength: 32,
    passageMaxLength: 48,
    device: 'cpu',
    threads: 1,
  }
  const run = (out: string, config: Partial<TrainConfig>, more = {}) =>
    train(stages.contrastive, { model, data: [pairs], out, config: { ...settings, ...config }, ...more })

  it.each([0, 0.1])('learns, repeats bit for bit, and is not fp32, dropout %s', async (dropout) => {
    const losses: number[][] = []
    for (const [name, dtype] of [
      ['bf16', 'bf16'],
      ['bf16-again', 'bf16'],
      ['fp32', 'fp32'],
    ] as const) {
      const out = join(root, `${name}-${dropout}`)
      await run(out, { dtype, dropout })
      losses.push((await metrics(out)).map(({ loss }) => loss))
    }
    const [first, again, exact] = losses as [number[], number[], number[]]
    expect(first).toEqual(again)
    expect(first).not.toEqual(exact)
    // As in training.test.ts: 60 steps are meant for a model without dropout.
    if (dropout === 0) expect(first.at(-1)).toBeLessThan(first[0]! / 2)
    expect(JSON.parse(await readFile(join(root, `bf16-${dropout}`, 'config.json'), 'utf8'))).toMatchObject({ dtype: 'bf16' })
  })

  it('is not resumed in another type', async () => {
    const out = join(root, 'resumed')
    await run(out, { dtype: 'bf16', steps: 2 })
    await expect(run(out, { dtype: 'fp32' }, { resume: 'continue' })).rejects.toMatchObject({ message: expect.stringContaining('dtype') })
  })
})

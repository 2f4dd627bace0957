import { readdirSync, readFileSync } from 'node:fs'
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { BinaryReader, WireType } from '@bufbuild/protobuf/wire'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { loadMlmHead } from '../lib/model/model.js'
import { BgeModel } from '../lib/model/model.js'
import { initialiseParameters } from '../lib/model/parameters.js'
import { clsGain } from '../lib/train/cls_gain.js'
import type { RetroMaeBatch } from '../lib/train/collator.js'
import type { TrainConfig } from '../lib/train/config.js'
import { type TrainOptions, train } from '../lib/train/loop.js'
import type { MetricsRow } from '../lib/train/run_folder.js'
import type { Stage } from '../lib/train/stage.js'
import { stages } from '../lib/train/stages.js'
import { readSummary } from '../lib/train/summary.js'
import { crc32c, maskedCrc32c } from '../lib/train/tensorboard.js'
import { metrics, newTinyModel, tinyData } from './support/tiny_run.js'

let folder: string
let model: string
let texts: string
let pairs: string
let runs = 0
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'bge-watch-'))
  model = await newTinyModel(join(folder, 'model'))
  ;({ texts, pairs } = await tinyData(folder))
})
afterAll(() => rm(folder, { recursive: true, force: true }))

const common: Partial<TrainConfig> = {
  batchSize: 5,
  steps: 23,
  learningRate: 1e-3,
  microBatchTokens: 64,
  saveEvery: 7,
  device: 'cpu',
  threads: 1,
}
const out = (): string => join(folder, `run${runs++}`)
function start(stage: Stage, to: string, options: Partial<TrainOptions> = {}): ReturnType<typeof train> {
  const data = [stage.name === 'pretrain' ? texts : pairs]
  const lengths = { queryMaxLength: 32, passageMaxLength: 12, maxLength: 48 }
  return train(stage, { model, data, out: to, ...options, config: { ...lengths, ...common, ...options.config } })
}
async function stopped(stage: Stage, to: string, step: number): Promise<void> {
  const abort = new AbortController()
  const hooks = { onStep: (row: MetricsRow) => void (row.step === step && abort.abort()) }
  await expect(start(stage, to, { signal: abort.signal, hooks })).rejects.toMatchObject({ name: 'AbortError' })
}

describe('summary.json', () => {
  it('says what a finished run was fed with, and how a stopped one stands', async () => {
    const run = out()
    await stopped(stages.contrastive, run, 9)
    expect(await readSummary(run)).toMatchObject({ status: 'stopped', step: 9, totalSteps: 23, stepsPerEpoch: 4, rows: 22 })
    const scores = [0.25, 0.5, 0.125]
    const hooks = { onCheckpoint: async () => scores.shift() }
    await start(stages.contrastive, run, { resume: 'continue', hooks })
    const summary = (await readSummary(run))!
    expect(summary).toMatchObject({ stage: 'contrastive', status: 'done', step: 23, started: { model, data: [pairs], out: run } })
    expect(summary.scores).toEqual([14, 21, 23].map((step, i) => ({ step, score: [0.25, 0.5, 0.125][i] })))
    const { query, passage } = summary.texts
    expect(query).toMatchObject({ different: 22, tokenized: 22, truncated: 0, maxLength: 32, lengths: { mean: 7, p50: 7, p90: 7, max: 7 } })
    expect(passage!.truncated).toBe(0) // 8 letters, [CLS] and [SEP]
    expect(passage!.lengths.bins.reduce((a, b) => a + b)).toBe(passage!.tokenized)
  })

  it('names the error of a failed run', async () => {
    const run = out()
    const hooks = { onCheckpoint: async () => Number.NaN }
    await expect(start(stages.contrastive, run, { hooks })).rejects.toMatchObject({ code: 'ERR_BGE_NON_FINITE' })
    expect(await readSummary(run)).toMatchObject({ status: 'failed', step: 7, error: { code: 'ERR_BGE_NON_FINITE', message: /dev score/ } })
  })
})

describe('CLS gain', () => {
  it('is measured at the end and now and then, and changes nothing', async () => {
    const [plain, probed] = [out(), out()]
    const without: Stage = {
      ...stages.pretrain,
      open: async (context) => ({ ...(await stages.pretrain.open(context)), probe: async () => ({}) }),
    }
    await start(without, plain)
    await start(stages.pretrain, probed)
    const weights = (run: string): Promise<Buffer> => readFile(join(run, 'model/model.safetensors'))
    expect((await weights(probed)).equals(await weights(plain))).toBe(true)
    const rows = await metrics(probed)
    expect(rows.filter((row) => row.clsGain !== undefined && row.clsGainShuffled !== undefined).map(({ step }) => step)).toEqual([20, 23])
    expect((await metrics(plain)).some((row) => 'clsGain' in row)).toBe(false)
  })

  it('is 0 with the vector of the same text, not 0 without a vector, and leaves no gradient', async () => {
    await using bge = await BgeModel.load(model, { device: 'cpu', threads: 1 })
    const { device, encoder } = bge
    const head = await loadMlmHead(bge, 1)
    const decoder = device.enhancedDecoder(encoder, head)
    await initialiseParameters(decoder, 1)
    const { name } = decoder.parameters.list.find((parameter) => /query.weight$/.test(parameter.name))!
    await decoder.parameters.write(
      name,
      (await decoder.parameters.read(name)).map((value) => 30 * value),
    )
    const micro = (...sequences: number[][]): RetroMaeBatch => {
      const ids = Int32Array.from(sequences.flat())
      const cuSeqlens = Int32Array.from([0, ...sequences.map((_, i) => sequences.slice(0, i + 1).flat().length)])
      const labels = ids.map((id) => (id === 2 || id === 3 ? -100 : id))
      const decoderBatch = { ids, cuSeqlens, labels, maskBits: new BigUint64Array(1), maskChoice: new Int32Array(ids.length) }
      return { encoder: { ids, cuSeqlens, rows: new Int32Array(0) }, encoderLabels: new Int32Array(0), decoder: decoderBatch, decoderCount: labels.filter((label) => label >= 0).length }
    } // biome-ignore format: one line each
    const text = [2, 7, 8, 9, 10, 11, 3]
    const same = await clsGain(device, encoder, decoder, [micro(text, text, text)])
    expect(same.clsGainShuffled).toBe(0)
    expect(Math.abs(same.clsGain!)).toBeGreaterThan(1e-4)
    expect(Math.abs((await clsGain(device, encoder, decoder, [micro(text, [2, 20, 21, 22, 23, 24, 3])])).clsGainShuffled!)).toBeGreaterThan(
      1e-5,
    )
    expect(await clsGain(device, encoder, decoder, [micro(text)])).toEqual({}) // no other text
    for (const { parameters } of [encoder, head, decoder]) {
      for (const parameter of parameters.list) expect((await parameters.gradient(parameter.name)).every((value) => value === 0)).toBe(true)
    }
  })
})

interface Read {
  step: number
  wallTime: number
  version?: string
  values: Record<string, number>
}

/** An event file as its format says it is; every checksum is compared. */
function readEvents(bytes: Buffer): Read[] {
  const events: Read[] = []
  for (let at = 0; at < bytes.length; ) {
    const length = Number(bytes.readBigUInt64LE(at))
    expect(bytes.readUInt32LE(at + 8)).toBe(maskedCrc32c(bytes.subarray(at, at + 8)))
    const data = bytes.subarray(at + 12, at + 12 + length)
    expect(bytes.readUInt32LE(at + 12 + length)).toBe(maskedCrc32c(data))
    events.push(readEvent(data))
    at += 16 + length
  }
  return events
}

function readEvent(data: Uint8Array): Read {
  const event: Read = { step: 0, wallTime: 0, values: {} }
  const reader = new BinaryReader(data)
  while (reader.pos < reader.len) {
    const [field, type] = reader.tag()
    if (field === 1 && type === WireType.Bit64) event.wallTime = reader.double()
    else if (field === 2) event.step = Number(reader.int64())
    else if (field === 3) event.version = reader.string()
    else if (field === 5) {
      const summary = new BinaryReader(reader.bytes())
      while (summary.pos < summary.len) {
        expect(summary.tag()).toEqual([1, WireType.LengthDelimited])
        const value = new BinaryReader(summary.bytes())
        expect(value.tag()).toEqual([1, WireType.LengthDelimited])
        const tag = value.string()
        expect(value.tag()).toEqual([2, WireType.Bit32])
        event.values[tag] = value.float()
      }
    } else throw new Error(`field ${field} is none of ours`)
  }
  return event
}

describe('TensorBoard', () => {
  it('CRC-32C: the examples of RFC 3720, B.4; masked: the head of every event file of TensorFlow', () => {
    expect(crc32c(new Uint8Array(32))).toBe(0x8a9136aa)
    expect(crc32c(new Uint8Array(32).fill(0xff))).toBe(0x62a8ab43)
    expect(crc32c(Uint8Array.from({ length: 32 }, (_, i) => i))).toBe(0x46dd794e)
    expect(crc32c(Buffer.from('123456789'))).toBe(0xe3069283)
    expect(maskedCrc32c(Buffer.from('1800000000000000', 'hex'))).toBe(0x224b7fa3)
  })

  it('one event file that says what metrics.jsonl says, also after a stop and a kill', async () => {
    const run = out()
    await stopped(stages.finetune, run, 9)
    await rm(join(run, 'checkpoints/step-9'), { recursive: true }) // as a kill leaves it: rows beyond the last checkpoint
    await start(stages.finetune, run, { resume: 'continue' })
    const files = readdirSync(join(run, 'tensorboard'))
    expect(files).toHaveLength(1)
    expect(files[0]).toMatch(/^events\.out\.tfevents\.\d{10}\./)
    const [head, ...events] = readEvents(readFileSync(join(run, 'tensorboard', files[0]!)))
    expect(head).toMatchObject({ version: 'brain.Event:2', step: 0, values: {} })
    const rows = await metrics(run)
    expect(events.map(({ step }) => step)).toEqual(Array.from({ length: 23 }, (_, i) => i + 1))
    for (const [i, { step, ...values }] of rows.entries()) {
      const { loss, gradNorm, tokensPerSecond } = values
      expect(events[i]!.values).toMatchObject({
        'train/loss': Math.fround(loss),
        'train/gradNorm': Math.fround(gradNorm),
        'speed/tokensPerSecond': Math.fround(tokensPerSecond),
      })
      expect(Object.keys(events[i]!.values)).toHaveLength(Object.keys(values).length)
      expect(Math.abs(events[i]!.wallTime - Date.now() / 1000)).toBeLessThan(600)
    }
  })
})

it('metrics.jsonl: waiting for data is time of the step, and speeds are of rows and tokens', async () => {
  const run = out()
  const slow: Stage = {
    ...stages.contrastive,
    async open(context) {
      const inner = await stages.contrastive.open(context)
      const prepare: typeof inner.prepare = async (...args) => {
        await new Promise((done) => setTimeout(done, 60))
        return inner.prepare(...args)
      }
      return { ...inner, prepare }
    },
  }
  await start(slow, run, { config: { steps: 4, logEvery: 2 } })
  const rows = await metrics(run)
  expect(rows.map(({ step }) => step)).toEqual([2, 4])
  for (const { stallSeconds, rowsPerSecond, tokensPerSecond } of rows) {
    expect(stallSeconds).toBeGreaterThan(0)
    expect(stallSeconds).toBeLessThanOrEqual((2 * 5) / rowsPerSecond) // of the time since the row before
    expect(tokensPerSecond).toBeGreaterThan(rowsPerSecond)
  }
})

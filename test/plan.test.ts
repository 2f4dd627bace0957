import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { packBatches } from '../lib/data/batch.js'
import { epochBatches } from '../lib/data/plan.js'
import { random } from '../lib/data/random.js'
import { BgeModel } from '../lib/model/model.js'
import type { Device } from '../lib/native.js'
import type { StageName, TrainConfig } from '../lib/train/config.js'
import type { ContrastiveBatch } from '../lib/train/contrastive.js'
import { planRequest } from '../lib/train/loop.js'
import { bufferFloats, embeddingCache, exchanged, type MemoryPlan, opsOf, planMemory, weightCopies } from '../lib/train/plan.js'
import { type MicroShape, type ObjectiveShape, Replay } from '../lib/train/plan_replay.js'
import { stages } from '../lib/train/stages.js'
import { letters } from './support/tiny_run.js'

const vocabulary = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]', ...letters, ...Array.from({ length: 1500 }, (_, i) => `w${i}`)]
const rowCount = 40
let folder: string
const file = (name: string): string => join(folder, name)

/** Rows whose texts have `from` to `to` letters. */
async function writeRows(name: string, from: number, to: number): Promise<void> {
  const draw = random(7, name)
  const text = (): string => Array.from({ length: from + draw.int(to - from + 1) }, () => letters[draw.int(letters.length)]!).join('')
  const texts = Array.from({ length: rowCount }, () => JSON.stringify({ text: text() }))
  const pairs = Array.from({ length: rowCount }, () =>
    JSON.stringify({ query: text(), pos: [text(), text()], neg: [text(), text()], pos_scores: [1, 1], neg_scores: [0, 0] }),
  )
  await writeFile(file(`${name}-texts.jsonl`), texts.join('\n'))
  await writeFile(file(`${name}-pairs.jsonl`), pairs.join('\n'))
}

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'bge-plan-'))
  await mkdir(file('tokenizer'))
  await writeFile(file('tokenizer/vocab.txt'), vocabulary.join('\n'))
  await writeRows('long', 70, 80) // all are cut
  await writeRows('mixed', 1, 60)
})
afterAll(() => rm(folder, { recursive: true, force: true }))

interface Case {
  stage: StageName
  data: 'long' | 'mixed'
  pooling?: 'cls' | 'mean'
  dropout?: number
  threads?: number
  config: Partial<TrainConfig>
}

interface Measured {
  plan: MemoryPlan
  /** highest and last `allocated`, and the workspace's high-water mark, of three real steps */
  peak: number
  last: number
  workspacePeak: number
  /** the same, replayed from the shapes of the micro-batches */
  replayed: { peak: number; last: number; workspacePeak: number; total: number }
}

async function measure({ stage: name, data, pooling = 'cls', dropout = 0.1, threads = 2, config: given }: Case): Promise<Measured> {
  const stage = stages[name]
  const shape = { layers: 3, hidden: 128, heads: 2, intermediate: 512, maxPositions: 64, typeVocab: 2, layerNormEps: 1e-12 }
  const config: TrainConfig = {
    ...stage.defaults,
    learningRate: 1e-4,
    maxLength: 64,
    queryMaxLength: 48,
    passageMaxLength: 64,
    instruction: '',
    batchSize: rowCount,
    ...given,
  }
  const created = await BgeModel.createNew({
    config: { ...shape, vocab: vocabulary.length, hiddenDropout: dropout, attentionDropout: dropout, source: {} },
    tokenizerDir: file('tokenizer'),
    device: 'cpu',
    threads,
  })
  const model = file(`model-${random(1, JSON.stringify([name, data, pooling, given])).int(1 << 30)}`)
  await created.save(model)
  created.dispose()
  await using loaded = await BgeModel.load(model, { device: 'cpu', threads, dropout, pooling })
  const { device } = loaded
  const run = await stage.open({ model: loaded, files: [file(`${data}-${name === 'pretrain' ? 'texts' : 'pairs'}.jsonl`)], config })
  const adamW = device.adamW(Object.values(run.modules), { weightDecay: 0.01 })
  const request = planRequest(name, loaded, run, config)
  const plan = planMemory(request)
  const ops = opsOf(device, 'known')
  const replay = new Replay(loaded.encoder.config, ops)
  const floats = request.modules.map(bufferFloats)
  const width = loaded.encoder.config.hidden

  let peak = 0
  const watch = (): void => {
    peak = Math.max(peak, device.memory().allocated)
  }
  const objects: unknown[] = [device, ...Object.values(run.modules), adamW]
  for (const object of objects) watched(object as Record<string, unknown>, ['forward', 'embed', 'backward', 'step', 'contrastive'], watch)

  let between = 0
  let cache = 0
  for (let step = 1; step <= 3; step++) {
    const rows = epochBatches(run.sources, config.batchSize, 42, step)[0]!
    const batch = await run.prepare(rows, step)
    await run.step(batch, { seed: 1n, step })
    await adamW.step(1e-5, 1)
    let shapes: MicroShape[]
    if (name === 'pretrain') {
      shapes = (batch as PretrainBatch).microBatches.map(({ encoder, encoderLabels, decoder, decoderCount }) => ({
        ...shapeOf(lengthsOf(encoder.cuSeqlens)),
        labelled: encoderLabels.length,
        predicted: decoderCount,
        maskWords: decoder.maskBits.length,
      }))
      replay.retroMaeStep(shapes)
    } else {
      const { queries, passages, ids, teacher } = batch as ContrastiveBatch
      const lengths = [...queries, ...passages].map((sequence) => sequence.length)
      shapes = packBatches(lengths, config.microBatchTokens).map((indices) => shapeOf(indices.map((i) => lengths[i]!)))
      const objective: ObjectiveShape = {
        ...config,
        queries: queries.length,
        teacher: teacher !== undefined,
        positives: ids.positiveIds?.length ?? 'none',
      }
      replay.contrastiveStep(shapes, objective)
      cache = embeddingCache(objective, width)
    }
    replay.optimizer(floats)
    between = Math.max(between, ...shapes.map((micro) => exchanged(name, micro, width)))
  }
  await device.synchronize()
  const { allocated: last, workspacePeak } = device.memory()
  const fixed = 4 * plan.weights + weightCopies(request, ops)
  const replayedLast = fixed + replay.workspace.capacity + replay.activations.capacity
  return {
    plan,
    peak,
    last,
    workspacePeak,
    replayed: {
      last: replayedLast,
      peak: replayedLast + cache + between,
      workspacePeak: replay.workspace.peak,
      total: fixed + replay.workspace.need + replay.activations.need + cache + between,
    },
  }
}

interface PretrainBatch {
  microBatches: readonly {
    encoder: { cuSeqlens: Int32Array }
    encoderLabels: Int32Array
    decoder: { maskBits: BigUint64Array }
    decoderCount: number
  }[]
}

const lengthsOf = (cuSeqlens: Int32Array): number[] => Array.from(cuSeqlens.subarray(1), (end, n) => end - cuSeqlens[n]!)
const shapeOf = (lengths: readonly number[]): MicroShape => ({
  tokens: lengths.reduce((a, b) => a + b, 0),
  sequences: lengths.length,
  longest: Math.max(...lengths),
})

/** Calls `watch` whenever one of the object's calls is done. */
function watched(object: Record<string, unknown>, methods: readonly string[], watch: () => void): void {
  for (const method of methods) {
    const original = object[method]
    if (typeof original !== 'function') continue
    const value = async (...args: unknown[]): Promise<unknown> => {
      const result: unknown = await original.apply(object, args)
      watch()
      return result
    }
    Object.defineProperty(object, method, { value })
  }
}

const cases: Case[] = [
  { stage: 'pretrain', data: 'long', config: { microBatchTokens: 1024 } },
  { stage: 'pretrain', data: 'mixed', pooling: 'mean', config: { microBatchTokens: 300 } },
  { stage: 'pretrain', data: 'mixed', dropout: 0, threads: 1, config: { microBatchTokens: 4096 } },
  { stage: 'contrastive', data: 'long', config: { microBatchTokens: 1024 } },
  { stage: 'contrastive', data: 'mixed', pooling: 'mean', config: { microBatchTokens: 700, duplicates: 'keep' } },
  { stage: 'contrastive', data: 'mixed', dropout: 0, config: { microBatchTokens: 100000, matryoshka: [128, 32] } },
  { stage: 'finetune', data: 'long', config: { microBatchTokens: 2048, groupSize: 3, distillation: 'kl_div' } },
  { stage: 'finetune', data: 'mixed', pooling: 'mean', threads: 1, config: { microBatchTokens: 512, groupSize: 3, candidates: 'group' } },
]

describe.each(cases)('$stage, $data texts, $pooling pooling, $config', (one) => {
  let measured: Measured
  beforeAll(async () => {
    measured = await measure(one)
  })

  it('replays the device byte by byte', () => {
    const { peak, last, workspacePeak, replayed } = measured
    expect({ peak, last, workspacePeak }).toEqual({ peak: replayed.peak, last: replayed.last, workspacePeak: replayed.workspacePeak })
  })

  it('never exceeds the plan', () => {
    const { plan, peak, workspacePeak, replayed } = measured
    console.log(one.stage, one.data, replayed.total / 2**20, plan.total/2**20, plan.held/2**20, peak/2**20, workspacePeak/2**20, plan.workspaceHeld/2**20, plan.total/replayed.total)
    expect(replayed.total).toBeLessThanOrEqual(plan.total)
    expect(peak).toBeLessThanOrEqual(plan.held)
    expect(workspacePeak).toBeLessThanOrEqual(plan.workspaceHeld)
  })
})

import { existsSync } from 'node:fs'
import { appendFile, cp, mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { Encoder } from '../lib/native.js'
import type { TrainConfig } from '../lib/train/config.js'
import { type TrainOptions, train } from '../lib/train/loop.js'
import { createRunFolder, type MetricsRow, TIMED } from '../lib/train/run_folder.js'
import type { Stage } from '../lib/train/stage.js'
import { stages } from '../lib/train/stages.js'
import { metrics, newTinyModel, tinyData } from './support/tiny_run.js'

let folder: string
let model: string
let texts: string
let pairs: string
let runs = 0
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'bge-train-'))
  model = await newTinyModel(join(folder, 'model'))
  ;({ texts, pairs } = await tinyData(folder))
})
afterAll(() => rm(folder, { recursive: true, force: true }))

const common: Partial<TrainConfig> = {
  batchSize: 5,
  steps: 10,
  learningRate: 1e-3,
  microBatchTokens: 64,
  saveEvery: 3,
  device: 'cpu',
  threads: 1,
}
const lengths: Partial<TrainConfig> = { queryMaxLength: 32, passageMaxLength: 48, maxLength: 48 } // each stage takes what it uses
const out = (): string => join(folder, `run${runs++}`)

function start(stage: Stage, to: string, options: Partial<TrainOptions> = {}): ReturnType<typeof train> {
  const data = [stage.name === 'pretrain' ? texts : pairs]
  return train(stage, { model, data, out: to, ...options, config: { ...lengths, ...(options.config ?? common) } })
}
/** Everything of a row but the times. */
const values = (rows: MetricsRow[]): unknown[] => rows.map((row) => Object.entries(row).filter(([name]) => !TIMED.includes(name)))
const weights = (directory: string): Promise<Buffer> => readFile(join(directory, 'model.safetensors'))
async function expectSameRun(a: string, b: string): Promise<void> {
  expect(values(await metrics(a))).toEqual(values(await metrics(b)))
  expect((await weights(join(a, 'model'))).equals(await weights(join(b, 'model')))).toBe(true)
  const last = 'checkpoints/step-10'
  for (const name of (await readdir(join(a, last))).filter((file) => file.endsWith('.safetensors'))) {
    expect((await readFile(join(a, last, name))).equals(await readFile(join(b, last, name))), name).toBe(true)
  }
}
/** Runs until `step` is done, then aborts. */
async function interrupted(stage: Stage, to: string, step: number): Promise<void> {
  const abort = new AbortController()
  const hooks = { onStep: (row: MetricsRow) => void (row.step === step && abort.abort()) }
  await expect(start(stage, to, { signal: abort.signal, hooks })).rejects.toMatchObject({ name: 'AbortError' })
}

/** Aborts inside step `step`, after the backward pass of its first micro-batch. */
async function interruptedInside(stage: Stage, to: string, step: number): Promise<void> {
  const abort = new AbortController()
  const wrapped: Stage = {
    ...stage,
    async open(context) {
      const inner = await stage.open(context)
      const { encoder } = context.model
      const backward = encoder.backward.bind(encoder)
      return {
        ...inner,
        step(batch, key, signal) {
          const value = async (gradients: Parameters<Encoder['backward']>[0]): Promise<void> => {
            await backward(gradients)
            if (key.step === step) abort.abort()
          }
          Object.defineProperty(encoder, 'backward', { value, configurable: true })
          return inner.step(batch, key, signal)
        },
      }
    },
  }
  await expect(start(wrapped, to, { signal: abort.signal })).rejects.toMatchObject({ name: 'AbortError' })
}

describe.each([stages.pretrain, stages.contrastive, stages.finetune])('$name', (stage) => {
  it('resumes bit for bit after a stop in the middle of an epoch, and after a kill between two checkpoints', async () => {
    const whole = out()
    await start(stage, whole)
    expect((await readdir(join(whole, 'checkpoints'))).sort()).toEqual(['step-10', 'step-9']) // the last two are kept

    const stopped = out()
    await interrupted(stage, stopped, 5) // an epoch has 4 steps
    expect((await readdir(join(stopped, 'checkpoints'))).sort()).toEqual(['step-3', 'step-5'])
    expect(existsSync(join(stopped, 'model'))).toBe(false)
    const killed = out()
    await cp(stopped, killed, { recursive: true })
    await start(stage, stopped, { resume: 'continue' })
    await expectSameRun(stopped, whole)

    // As a kill leaves it: no checkpoint of step 5, metrics beyond the last checkpoint, a row cut off, a checkpoint half-written.
    await rm(join(killed, 'checkpoints', 'step-5'), { recursive: true })
    await appendFile(join(killed, 'metrics.jsonl'), '{"step":6,"lo')
    await cp(join(killed, 'checkpoints', 'step-3'), join(killed, 'checkpoints', '.step-6'), { recursive: true })
    await start(stage, killed, { resume: 'continue' })
    await expectSameRun(killed, whole)

    const inside = out()
    await interruptedInside(stage, inside, 6)
    expect((await readdir(join(inside, 'checkpoints'))).sort()).toEqual(['step-3', 'step-5'])
    await start(stage, inside, { resume: 'continue' })
    await expectSameRun(inside, whole)
  })

  it('writes a documented row per step and the effective configuration', async () => {
    const run = out()
    const result = await start(stage, run, { config: { ...common, logEvery: 4 } })
    const rows = await metrics(run)
    expect(rows.map(({ step }) => step)).toEqual([4, 8, 10])
    const own = stage.name === 'pretrain' ? ['encoderLoss', 'decoderLoss', 'encoderAccuracy', 'decoderAccuracy'] : ['accuracy', 'masked']
    const keys = ['step', 'epoch', 'loss', 'learningRate', 'gradNorm', 'tokens', ...TIMED, ...own]
    for (const row of rows) {
      const probed = stage.name === 'pretrain' && row.step === 10 ? ['clsGain', 'clsGainShuffled'] : []
      expect(Object.keys(row).sort()).toEqual([...keys, ...probed].sort())
      expect(Object.values(row).every(Number.isFinite)).toBe(true)
    }
    expect(rows[0]!.epoch).toBe(1)
    const config = JSON.parse(await readFile(join(run, 'config.json'), 'utf8')) as TrainConfig
    expect(config).toMatchObject({ ...common, logEvery: 4, seed: 42, dtype: 'fp32' })
    expect('encoderMaskRatio' in config).toBe(stage.name === 'pretrain')
    const trained = await readFile(join(run, 'model', 'config_sentence_transformers.json'), 'utf8')
    expect(trained.includes('为这个句子生成表示以用于检索相关文章：')).toBe(stage.name === 'finetune')
    expect(result).toMatchObject({ steps: 10, model: join(run, 'model') })
  })

  it('gives the same first loss whatever the size of the micro-batches, dropout on', async () => {
    const losses = []
    for (const microBatchTokens of [1, 64, 100_000]) {
      const run = out()
      await start(stage, run, { config: { ...common, steps: 1, microBatchTokens } })
      losses.push((await metrics(run))[0]!.loss)
    }
    // Contrastive losses see the same embeddings bit for bit; the sums of pretrain are added up in another order, in double precision.
    for (const loss of losses) expect(Math.abs(loss - losses[0]!) / losses[0]!).toBeLessThan(1e-7)
  })
})

describe('a run', () => {
  it('learns: the contrastive loss falls to less than half on pairs that share their characters', async () => {
    const run = out()
    await start(stages.contrastive, run, { config: { ...common, batchSize: 11, steps: 60, temperature: 0.05, saveEvery: 0, dropout: 0 } })
    const rows = await metrics(run)
    const mean = (part: MetricsRow[]): number => part.reduce((sum, row) => sum + row.loss, 0) / part.length
    expect(mean(rows.slice(-5))).toBeLessThan(mean(rows.slice(0, 5)) / 2)
  })

  it('trains with every objective option', async () => {
    for (const option of [
      { distillation: 'kl_div' },
      { distillation: 'm3_kd_loss' },
      { matryoshka: [32, 64] },
      { candidates: 'group' },
      { candidates: 'source' },
      { direction: 'symmetric' },
      { falseNegatives: 'in-batch' },
      { direction: 'symmetric', distillation: 'kl_div', candidates: 'source', falseNegatives: 'all', matryoshka: [32, 64] },
      { duplicates: 'keep' },
    ] as const) {
      const run = out()
      await start(stages.finetune, run, { config: { ...common, ...option, groupSize: 3, steps: 2 } })
      expect((await metrics(run)).length).toBe(2)
    }
  })

  it("candidates 'source': passages of another file are none", async () => {
    const [a, b] = [join(folder, 'a.jsonl'), join(folder, 'b.jsonl')]
    await writeFile(a, '{"query":"天","pos":["地"]}\n')
    await writeFile(b, '{"query":"玄","pos":["黄"]}\n')
    for (const candidates of ['batch', 'source'] as const) {
      const run = out()
      await start(stages.contrastive, run, { data: [a, b], config: { ...common, batchSize: 2, steps: 1, candidates } })
      const loss = (await metrics(run))[0]!.loss // of one candidate each: log 1
      if (candidates === 'source') expect(loss).toBe(0)
      else expect(loss).toBeGreaterThan(0)
    }
  })

  it('falseNegatives: counts what it removes, and a margin of -2 leaves the positive alone', async () => {
    const rows = async (config: Partial<TrainConfig>): Promise<MetricsRow> => {
      const run = out()
      await start(stages.finetune, run, { config: { ...common, groupSize: 3, steps: 1, duplicates: 'keep', ...config } })
      return (await metrics(run))[0]!
    }
    expect(await rows({ falseNegatives: 'all', falseNegativeMargin: -2 })).toMatchObject({ loss: 0, masked: 0, falseNegatives: 5 * 14 })
    const inBatch = await rows({ falseNegatives: 'in-batch', falseNegativeMargin: -2 })
    expect(inBatch.falseNegatives).toBe(5 * 12)
    expect(inBatch.loss).toBe((await rows({ candidates: 'group' })).loss)
    expect('falseNegatives' in (await rows({}))).toBe(false)
  })

  it('keeps the best checkpoint on the dev score, stops when it no longer improves, and makes it model/', async () => {
    const run = out()
    const scores = [0.1, 0.5, 0.2, 0.4, 0.9]
    const config = { ...common, saveEvery: 1, patience: 2 }
    const result = await start(stages.contrastive, run, { config, hooks: { onCheckpoint: async ({ step }) => scores[step - 1]! } })
    expect(result).toMatchObject({ steps: 4, best: { step: 2, score: 0.5 } })
    expect((await readdir(join(run, 'checkpoints'))).sort()).toEqual(['step-2', 'step-3', 'step-4'])
    const twoSteps = out()
    const abort = new AbortController()
    const hooks = { onStep: (row: MetricsRow) => void (row.step === 2 && abort.abort()) }
    await expect(start(stages.contrastive, twoSteps, { config, hooks, signal: abort.signal })).rejects.toThrow()
    const encoder = 'checkpoints/step-2/encoder.safetensors'
    expect((await readFile(join(run, encoder))).equals(await readFile(join(twoSteps, encoder)))).toBe(true)
  })

  it('stops at a loss that is not finite and keeps the last good checkpoint', async () => {
    const run = out()
    const poisoned: Stage = {
      ...stages.contrastive,
      async open(context) {
        const inner = await stages.contrastive.open(context)
        const { parameters } = context.model.encoder
        const name = 'encoder.layer.1.output.dense.bias'
        return {
          ...inner,
          async step(batch, key, signal) {
            if (key.step === 2) await parameters.write(name, new Float32Array(64).fill(Number.NaN))
            return inner.step(batch, key, signal)
          },
        }
      },
    }
    await expect(start(poisoned, run, { config: { ...common, saveEvery: 1 } })).rejects.toMatchObject({
      code: 'ERR_BGE_NON_FINITE',
      message: 'loss must be finite, but was NaN at step 2; the last good checkpoint is checkpoints/step-1',
    })
    expect(await readdir(join(run, 'checkpoints'))).toEqual(['step-1'])
    expect(existsSync(join(run, 'model'))).toBe(false)
    expect((await metrics(run)).length).toBe(1)
  })

  it('leaves nothing half-written when a checkpoint cannot be written, as on a full disk, and can be resumed', async () => {
    const run = out()
    const full: Stage = {
      ...stages.contrastive,
      async open(context) {
        const inner = await stages.contrastive.open(context)
        const { parameters } = context.model.encoder
        const read = parameters.read.bind(parameters)
        let reads = 0
        const value = (name: string): Promise<Float32Array> => {
          if (++reads > parameters.list.length + 5) throw new Error('ENOSPC: no space left on device, write') // inside the second checkpoint
          return read(name)
        }
        Object.defineProperty(parameters, 'read', { value })
        return inner
      },
    }
    await expect(start(full, run)).rejects.toMatchObject({
      code: 'ERR_BGE_SAVE',
      message: `checkpoint ${join(run, 'checkpoints', 'step-6')} could not be written: ENOSPC: no space left on device, write`,
    })
    expect(await readdir(join(run, 'checkpoints'))).toEqual(['step-3'])
    expect(existsSync(join(run, 'model'))).toBe(false)
    await start(stages.contrastive, run, { resume: 'continue' })
    const whole = out()
    await start(stages.contrastive, whole)
    await expectSameRun(run, whole)
  })

  it('refuses one candidate per query', async () => {
    for (const config of [{ batchSize: 1 }, { candidates: 'group' as const }]) {
      const run = out()
      await expect(start(stages.contrastive, run, { config: { ...common, ...config } })).rejects.toMatchObject({
        code: 'ERR_BGE_NOTHING_TO_LEARN',
        message: expect.stringContaining('1 candidate per query: nothing to learn'),
      })
      expect(existsSync(run)).toBe(false)
    }
  })

  it('refuses a vocabulary whose token 0 is not [PAD]: that row would never be trained', async () => {
    const shifted = await newTinyModel(join(folder, 'shifted'), 1, ['[UNK]', '[PAD]', '[CLS]', '[SEP]', '[MASK]'])
    const run = out()
    await expect(start(stages.contrastive, run, { model: shifted })).rejects.toMatchObject({
      code: 'ERR_BGE_MODEL_FORMAT',
      message: expect.stringContaining('[PAD] must be token 0 for training'),
    })
    expect(existsSync(run)).toBe(false)
  })

  it('refuses a run folder that holds something', async () => {
    await expect(start(stages.contrastive, folder)).rejects.toMatchObject({ code: 'ERR_BGE_RESUME' })
  })

  it('leaves nothing behind when data or configuration are wrong', async () => {
    const bad = join(folder, 'bad.jsonl')
    await writeFile(bad, '{"query":"天","pos":["地"]}\n{"query":"天","pos":[]}\n')
    const cases: [Partial<TrainOptions>, string][] = [
      [{ data: [bad] }, 'ERR_BGE_DATA'],
      [{ config: { ...common, batchSize: 100 } }, 'ERR_BGE_CONFIG'],
      [{ config: { ...common, queryMaxLength: 1000 } }, 'ERR_BGE_CONFIG'],
      [{ config: { ...common, matryoshka: [100_000] } }, 'ERR_BGE_CONFIG'],
      [{ config: { ...common, direction: 'symmetric', candidates: 'group' } }, 'ERR_BGE_CONFIG'],
      [{ config: { ...common, direction: 'symmetric', distillation: 'm3_kd_loss' } }, 'ERR_BGE_CONFIG'],
      [{ config: { ...common, falseNegatives: 'in-batch', candidates: 'group' } }, 'ERR_BGE_CONFIG'],
      [{ resume: 'continue' }, 'ERR_BGE_RESUME'],
    ]
    for (const [options, code] of cases) {
      const run = out()
      await expect(start(stages.contrastive, run, options)).rejects.toMatchObject({ code })
      expect(existsSync(run)).toBe(false)
    }
  })
})

it('a run folder that cannot be made whole is not left in part', async () => {
  const run = out()
  await mkdir(join(run, 'run.json'), { recursive: true }) // in the way of the last file
  const config = { ...stages.contrastive.defaults, learningRate: 1e-3 }
  await expect(createRunFolder(run, { stage: 'contrastive', model: '', pooling: 'folder', data: [] }, config)).rejects.toMatchObject({
    code: 'ERR_BGE_FILE',
  })
  expect(await readdir(run)).toEqual(['run.json'])
})

describe('resume', () => {
  let run: string
  beforeAll(async () => {
    run = out()
    await interrupted(stages.finetune, run, 5)
  })

  it('refuses another configuration, data, model or stage, naming it', async () => {
    const more = join(folder, 'more.jsonl')
    await cp(pairs, more)
    await appendFile(more, '\n{"query":"天","pos":["地"],"neg":["玄"]}')
    const other = await newTinyModel(join(folder, 'other'), 2)
    const cases: [Partial<TrainOptions>, string][] = [
      [{ config: { ...common, temperature: 0.5 } }, 'temperature must be 0.02 as in its config.json, but was 0.5'],
      [{ config: { ...common, steps: 12 } }, 'steps must be 10'],
      [{ data: [more] }, 'data must be pairs.jsonl as it was when the run was started, but was more.jsonl with other contents'],
      [{ data: [pairs, pairs] }, 'data must be 1 files'],
      [{ model: other }, 'model must be the folder that the run was started from'],
    ]
    for (const [options, message] of cases) {
      await expect(start(stages.finetune, run, { resume: 'continue', ...options })).rejects.toMatchObject({
        code: 'ERR_BGE_RESUME',
        message: expect.stringContaining(message),
      })
    }
    await expect(start(stages.contrastive, run, { resume: 'continue' })).rejects.toThrow('stage must be finetune, but was contrastive')
  })

  it('falls back to the checkpoint before a damaged one, and takes logEvery, saveEvery and threads anew', async () => {
    const file = join(run, 'checkpoints', 'step-5', 'encoder.safetensors')
    const bytes = await readFile(file)
    bytes[bytes.length - 3]! ^= 1
    await writeFile(file, bytes)
    const steps: number[] = []
    const config = { ...common, logEvery: 2, saveEvery: 0, threads: 2 }
    await start(stages.finetune, run, { resume: 'continue', config, hooks: { onStart: ({ step }) => void steps.push(step) } })
    expect(steps).toEqual([3])
    const whole = out()
    await start(stages.finetune, whole)
    expect((await weights(join(run, 'model'))).equals(await weights(join(whole, 'model')))).toBe(true)
  })

  it('refuses when every checkpoint is damaged', async () => {
    const broken = out()
    await interrupted(stages.contrastive, broken, 2)
    await writeFile(join(broken, 'checkpoints', 'step-2', 'state.json'), '{}')
    await expect(start(stages.contrastive, broken, { resume: 'continue' })).rejects.toMatchObject({ code: 'ERR_BGE_RESUME' })
  })

  it('starts at step 0 when the run was stopped before its first checkpoint, and needs nothing but the folder when the run is complete', async () => {
    const early = out()
    const abort = new AbortController()
    const hooks = { onStart: () => abort.abort() }
    await expect(start(stages.contrastive, early, { signal: abort.signal, hooks })).rejects.toThrow()
    await start(stages.contrastive, early, { resume: 'continue' })
    const whole = out()
    await start(stages.contrastive, whole)
    await expectSameRun(early, whole)
    const again = await start(stages.contrastive, whole, { resume: 'continue', config: {} })
    expect(again.steps).toBe(10)
  })
})

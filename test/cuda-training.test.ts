import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { train } from '../lib/train/loop.js'
import type { Stage } from '../lib/train/stage.js'
import { stages } from '../lib/train/stages.js'
import { curveFiles, judgeCurve, lossCurve, rootMeanSquare } from './support/curve.js'
import { cudaLibrary } from './support/devices.js'
import { metrics, newTinyModel, tinyData } from './support/tiny_run.js'

// The same configuration on the CPU and on CUDA, whose hidden states and weights are bf16 where they are multiplied. The yardstick is what
// bf16 weights alone do to the CPU's curve: each step computes its gradients at weights rounded to bf16 and updates the fp32 ones. It lacks
// the rounding of hidden states, which for RetroMAE's first steps is most of it: there PyTorch's bf16 run of the same batches is the measure
// (support/curve.ts; all stages and 50 steps: scripts/gpu-check --only curves).
const steps = 5
let folder: string
let model: string
let data: { pairs: string }
const library = process.env['BGE_CUDA_LIBRARY']
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'bge-curve-'))
  model = await newTinyModel(join(folder, 'model'))
  data = await tinyData(folder)
  if (cudaLibrary !== undefined) process.env['BGE_CUDA_LIBRARY'] = cudaLibrary
})
afterAll(async () => {
  if (library === undefined) delete process.env['BGE_CUDA_LIBRARY']
  else process.env['BGE_CUDA_LIBRARY'] = library
  await rm(folder, { recursive: true, force: true })
})

/** To 8 significant bits, to nearest even. */
function toBf16(values: Float32Array): Float32Array {
  const bits = new Uint32Array(values.slice().buffer)
  for (let i = 0; i < bits.length; i++) bits[i] = (bits[i]! + 0x7fff + ((bits[i]! >>> 16) & 1)) & 0xffff0000
  return new Float32Array(bits.buffer)
}

function withRoundedWeights<Batch>(stage: Stage<Batch>): Stage<Batch> {
  return {
    ...stage,
    async open(context) {
      const run = await stage.open(context)
      const parameters = Object.values(run.modules).map((module) => module.parameters)
      return {
        ...run,
        async step(...args) {
          const exact: (() => Promise<void>)[] = []
          for (const set of parameters) {
            for (const { name } of set.list) {
              const values = await set.read(name)
              exact.push(() => set.write(name, values))
              await set.write(name, toBf16(values))
            }
          }
          const result = await run.step(...args)
          for (const restore of exact) await restore()
          return result
        },
      }
    },
  }
}

async function losses(stage: Stage, name: string, device: 'cpu' | 'cuda'): Promise<number[]> {
  const out = join(folder, `${stage.name}-${name}`)
  const lengths = { queryMaxLength: 24, passageMaxLength: 32 }
  const config = { ...lengths, batchSize: 4, steps, learningRate: 1e-3, microBatchTokens: 64, saveEvery: 0, device, threads: 1 }
  await train(stage, { model, data: [data.pairs], out, config })
  return (await metrics(out)).map(({ loss }) => loss)
}

describe.skipIf(cudaLibrary === undefined)('the loss curve on CUDA (skipped without its library or the emulator)', () => {
  it.each([stages.contrastive, stages.finetune] as Stage[])('$name is as near to the CPU as bf16 weights leave it', async (stage) => {
    const cpu = await losses(stage, 'cpu', 'cpu')
    const rounded = await losses(withRoundedWeights(stage), 'rounded', 'cpu')
    const cuda = await losses(stage, 'cuda', 'cuda')
    const [ours, yardstick] = [rootMeanSquare(cuda, cpu), rootMeanSquare(rounded, cpu)]
    expect(yardstick).toBeGreaterThan(0)
    expect(ours).toBeGreaterThan(0) // another device did compute it
    expect(ours).toBeLessThanOrEqual(2 * yardstick)
  })

  it('pretrain is as near to the CPU as bf16 leaves PyTorch, and the CPU is where PyTorch is', async () => {
    const parts = await mkdtemp(join(folder, 'pretrain-'))
    const files = await curveFiles(parts)
    const cpu = await lossCurve(stages.pretrain, files, join(parts, 'cpu'), 'cpu', steps)
    const cuda = await lossCurve(stages.pretrain, files, join(parts, 'cuda'), 'cuda', steps)
    const verdict = judgeCurve('pretrain', cuda, cpu)
    expect(verdict.ok, JSON.stringify(verdict)).toBe(true)
  })
})

import { afterAll, describe, expect, it } from 'vitest'
import type { ContrastiveOptions } from '../lib/native.js'
import { Comparison, devices, Golden } from './support/golden.js'

interface LossCase {
  name: string
  groupSize: number
  temperature: number
  mask: boolean
  candidates: 'batch' | 'group'
  distillation: 'kl_div' | 'm3_kd_loss' | null
  matryoshka: number[]
  /** queries whose positive wins, and candidates removed; of the largest width */
  correct: number
  masked: number
}

const golden = new Golden('losses.safetensors')
const cases = golden.meta.cases as LossCase[]
const [B, D] = [7, 24]
const open = await devices()
afterAll(() => {
  for (const device of open.values()) device.dispose()
})

describe.each([...open])('contrastive objectives on %s against PyTorch', (_, device) => {
  it.each(cases)('$name: loss, gradients, hits and masked candidates', async (c) => {
    const { groupSize, temperature, candidates, distillation, matryoshka } = c
    const q = device.tensor(golden.floats('q'), B, D)
    const p = device.tensor(golden.floats(groupSize === 1 ? 'p1' : 'p3'), B * groupSize, D)
    const options: ContrastiveOptions = {
      temperature,
      groupSize,
      candidates,
      ...(distillation && { distillation, teacher: golden.floats('teacher') }),
      ...(matryoshka.length > 0 && { matryoshka }),
      ...(c.mask && {
        passageIds: golden.ints('passageIds'),
        queryIds: golden.ints('queryIds'),
        positiveOffsets: golden.ints('positiveOffsets'),
        positiveIds: golden.ints('positiveIds'),
      }),
    }
    const result = await device.contrastive(q, p, options)
    const comparison = new Comparison(golden)
    // One rounding of a score, divided by the temperature, is the floor.
    comparison.scalar(`${c.name}.loss`, result.loss, 2 ** -25 / temperature, 2)
    comparison.tensor(`${c.name}.dQ`, await result.dQ.toArray(), 3)
    comparison.tensor(`${c.name}.dP`, await result.dP.toArray(), 3)
    comparison.done()
    expect(result.accuracy).toBe(c.correct / B)
    expect(result.masked).toBe(c.masked)
  })
})

import { afterAll, describe, expect, it } from 'vitest'
import type { ContrastiveOptions } from '../lib/native.js'
import { Comparison, devices, Golden } from './support/golden.js'
import { Random } from './support/random.js'

interface LossCase {
  name: string
  groupSize: number
  temperature: number
  mask: boolean
  candidates: 'batch' | 'source' | 'group'
  direction: 'query-to-passage' | 'symmetric'
  falseNegatives: 'in-batch' | 'all' | null
  falseNegativeMargin: number | null
  distillation: 'kl_div' | 'm3_kd_loss' | null
  matryoshka: number[]
  /** queries whose positive wins, and candidates removed by identity and by score; of the largest width */
  correct: number
  masked: number
  removedByScore: number
}

const golden = new Golden('losses.safetensors')
const cases = golden.meta.cases as LossCase[]
const [B, D] = [7, 24]
// On CUDA with products to fp32 accuracy. Those in f16, and the CPU's in bf16, are held to their dtype in test/ops/objectives.ts (contrastive_pass).
const open = await devices({ similarity: 'f32' })
open.get('cpu bf16')?.dispose()
open.delete('cpu bf16')
afterAll(() => {
  for (const device of open.values()) device.dispose()
})

describe.each([...open])('contrastive objectives on %s against PyTorch', (_, device) => {
  it.each(cases)('$name: loss, gradients, hits and masked candidates', async (c) => {
    const { groupSize, temperature, candidates, direction, distillation, matryoshka, falseNegatives, falseNegativeMargin } = c
    const q = device.tensor(golden.floats('q'), B, D)
    const p = device.tensor(golden.floats(groupSize === 1 ? 'p1' : 'p3'), B * groupSize, D)
    const options: ContrastiveOptions = {
      temperature,
      groupSize,
      candidates,
      direction,
      ...(candidates === 'source' && { sourceIds: golden.ints('sourceIds') }),
      ...(falseNegatives !== null && falseNegativeMargin !== null && { falseNegatives, falseNegativeMargin }),
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
    expect(result.falseNegatives).toBe(c.removedByScore)
  })
})

describe.each([...open])('the symmetric loss on %s', (_, device) => {
  // B x B scores are 17.6 MB: two row blocks in each direction.
  const [many, width] = [2100, 4]
  const random = new Random(5)
  const unit = (near?: Float32Array): Float32Array => {
    const rows = random.floats(many * width, 0.5).map((x, i) => x + (near?.[i] ?? 0))
    for (let i = 0; i < many; i++) {
      const row = rows.subarray(i * width, (i + 1) * width)
      const norm = Math.hypot(...row)
      row.forEach((x, d) => {
        row[d] = x / norm
      })
    }
    return rows
  }

  // The emulator takes a minute for this; what it adds to the goldens, the row blocks, is the same code on every device.
  it.skipIf(device.description.includes('emulated'))(
    'is the mean of two passes with queries and passages exchanged, in the memory of one',
    async () => {
      const first = unit()
      const [q, p] = [device.tensor(first, many, width), device.tensor(unit(first), many, width)]
      const options: ContrastiveOptions = {
        temperature: 0.05,
        candidates: 'source',
        sourceIds: random.ints(many, 3),
        queryIds: random.ints(many, many / 2),
        falseNegatives: 'in-batch',
        falseNegativeMargin: 0.1,
      }
      const forward = await device.contrastive(q, p, options)
      const backward = await device.contrastive(p, q, options)
      const peak = device.memory().workspacePeak
      const both = await device.contrastive(q, p, { ...options, direction: 'symmetric' })
      expect(device.memory().workspacePeak - peak).toBeLessThan(4096) // a multiple of B would be seen
      expect(forward.masked).toBeGreaterThan(0)
      expect(forward.falseNegatives).toBeGreaterThan(0)
      expect([both.accuracy, both.masked, both.falseNegatives]).toEqual([forward.accuracy, forward.masked, forward.falseNegatives])
      expect(both.loss).toBeCloseTo((forward.loss + backward.loss) / 2, 12) // the same rows, added up in double precision
      for (const [ours, a, b] of [
        [both.dQ, forward.dQ, backward.dP],
        [both.dP, forward.dP, backward.dQ],
      ] as const) {
        const [sum, one, other] = await Promise.all([ours.toArray(), a.toArray(), b.toArray()])
        const norm = Math.hypot(...one) + Math.hypot(...other)
        const difference = Math.hypot(...sum.map((x, i) => x - (one[i]! + other[i]!) / 2))
        // Another order of n float32 additions changes a sum by at most about n * 2^-24.
        expect(difference / norm).toBeLessThan(many * 2 ** -24)
        expect(norm).toBeGreaterThan(0)
      }
    },
  )

  it('is refused where there is no second direction', async () => {
    const [q, p] = [device.tensor(unit(), many, width), device.tensor(unit(), many, width)]
    const twice = { temperature: 1, groupSize: 2, direction: 'symmetric' } as const
    const half = await q.gatherRows(Int32Array.from({ length: many / 2 }, (_, i) => i))
    await expect(device.contrastive(half, p, { ...twice, candidates: 'group' })).rejects.toMatchObject({
      code: 'ERR_BGE_ARGUMENT',
      message: expect.stringContaining('needs in-batch candidates'),
    })
    await expect(device.contrastive(half, p, { ...twice, infoNce: 0 })).rejects.toMatchObject({
      code: 'ERR_BGE_ARGUMENT',
      message: expect.stringContaining("that term's weight is 0"),
    })
  })
})

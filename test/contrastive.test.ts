import { afterAll, describe, expect, it } from 'vitest'
import { devices } from './support/golden.js'
import { Random } from './support/random.js'

const open = await devices()
afterAll(() => {
  for (const device of open.values()) device.dispose()
})

const unit = (values: Float32Array, width: number): Float32Array => {
  for (let start = 0; start < values.length; start += width) {
    const row = values.subarray(start, start + width)
    const norm = Math.hypot(...row)
    for (let i = 0; i < width; i++) row[i]! /= norm
  }
  return values
}

/** Unit rows; each passage leans towards its query so far that the positive's probability is about a half: a batch that still learns. */
function pairs(random: Random, batch: number, width: number, temperature: number): { q: Float32Array; p: Float32Array } {
  const q = unit(random.floats(batch * width), width)
  const p = unit(random.floats(batch * width), width)
  const cosine = temperature * (Math.log(batch) + 1 / (2 * width * temperature ** 2))
  for (let i = 0; i < p.length; i++) p[i] = cosine * q[i]! + Math.sqrt(1 - cosine ** 2) * p[i]!
  return { q, p: unit(p, width) }
}

/** Loss and gradients of InfoNCE in float64. */
function exact(q: Float32Array, p: Float32Array, width: number, temperature: number): { loss: number; dQ: Float64Array; dP: Float64Array } {
  const batch = q.length / width
  const [dQ, dP] = [new Float64Array(q.length), new Float64Array(p.length)]
  let loss = 0
  for (let i = 0; i < batch; i++) {
    const z = Float64Array.from({ length: batch }, (_, j) => {
      let sum = 0
      for (let d = 0; d < width; d++) sum += q[i * width + d]! * p[j * width + d]!
      return sum / temperature
    })
    const high = Math.max(...z)
    const total = z.reduce((sum, x) => sum + Math.exp(x - high), 0)
    loss += (high + Math.log(total) - z[i]!) / batch
    for (let j = 0; j < batch; j++) {
      const g = (Math.exp(z[j]! - high) / total - (i === j ? 1 : 0)) / (batch * temperature)
      for (let d = 0; d < width; d++) {
        dQ[i * width + d]! += g * p[j * width + d]!
        dP[j * width + d]! += g * q[i * width + d]!
      }
    }
  }
  return { loss, dQ, dP }
}

const relative = (found: Float32Array, truth: Float64Array): number =>
  Math.hypot(...truth.map((x, i) => x - found[i]!)) / Math.hypot(...truth)

describe.each([...open])('InfoNCE on %s', (name, device) => {
  // At temperature 0.01: fp32 and, on CUDA, f16 products, which have 2e-3 to keep to; those in bf16 are more than that off, as they have to be.
  it.each([384, 768])('at temperature 0.01 and a width of %i, gradients are as near to float64 as the dtype allows', async (width) => {
    const [batch, temperature] = [96, 0.01]
    const { q, p } = pairs(new Random(3), batch, width, temperature)
    const truth = exact(q, p, width, temperature)
    const result = await device.contrastive(device.tensor(q, batch, width), device.tensor(p, batch, width), { temperature })
    const errors = [relative(await result.dQ.toArray(), truth.dQ), relative(await result.dP.toArray(), truth.dP)]
    const error = Math.max(...errors)
    if (name === 'cpu bf16') expect(error).toBeGreaterThan(2e-3)
    expect(error).toBeLessThan(name === 'cpu bf16' ? 2e-2 : name === 'cuda' ? 2e-3 : 2e-5)
    expect(Math.abs(result.loss - truth.loss) / truth.loss).toBeLessThan(name === 'cpu bf16' ? 1e-2 : name === 'cuda' ? 1e-3 : 1e-6)
    expect(truth.loss).toBeGreaterThan(0.3)
  })

  // One row block's scores, not B x B: 4,200 x 4,200 fp32 scores alone would be 70 MB. The emulator would take minutes.
  it.skipIf(name.startsWith('cuda'))('takes no more memory for twice the batch', async () => {
    const width = 8
    const peakOf = async (batch: number): Promise<number> => {
      const { q, p } = pairs(new Random(4), batch, width, 0.3)
      const { dQ, dP } = await device.contrastive(device.tensor(q, batch, width), device.tensor(p, batch, width), { temperature: 0.3 })
      for (const tensor of [dQ, dP]) tensor.dispose()
      return device.memory().workspacePeak
    }
    const half = await peakOf(8400)
    expect(await peakOf(16800)).toBeLessThan(1.25 * half)
    expect(half).toBeLessThan(32 << 20)
  })
})

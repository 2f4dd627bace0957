import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, describe, expect, it } from 'vitest'
import type { AdamWOptions } from '../lib/native.js'
import { learningRateAt } from '../lib/train/schedule.js'
import { Comparison, devices, fixtures, Golden, loadGoldenWeights, storageOf } from './support/golden.js'

const open = await devices()
afterAll(() => {
  for (const device of open.values()) device.dispose()
})

// clip: the norm is some 700 times the limit in every step. free: no clipping, other moments, more decay.
describe.each([...open])('20 steps of AdamW on %s against torch.optim.AdamW', (_, device) => {
  it.each(['clip', 'free'])('%s: gradient norms, parameters and moments', async (name) => {
    const inputs = new Golden('encoder-cls.safetensors')
    const golden = new Golden(`optimizer-${name}.safetensors`)
    const { rates, norms, normErrors, bf16NormErrors, maxNorm, options } = golden.meta as unknown as {
      rates: number[]
      norms: number[]
      normErrors: number[]
      /** with gradients computed in bfloat16 from rounded weights; weights and moments float32 */
      bf16NormErrors: number[]
      maxNorm: number
      options: AdamWOptions
    }
    const encoder = device.encoder(golden.meta.config)
    await loadGoldenWeights(encoder)
    const adamW = device.adamW([encoder], options)
    const batch = inputs.batch('ids')
    const N = batch.cuSeqlens.length - 1
    const gradient = (output: string, rows: number) => device.tensor(inputs.floats(output), rows, golden.meta.config.hidden)
    const gradients = {
      dHidden: gradient('dHidden', batch.rows.length),
      dCls: gradient('dCls', N),
      dEmbeddings: gradient('dEmbeddings', N),
    }

    const comparison = new Comparison(golden, storageOf(device))
    const normError = Math.max(...(storageOf(device) === 'bf16' ? bf16NormErrors : normErrors)) // one number's error is luck, that of twenty is not
    for (const [step, rate] of rates.entries()) {
      await encoder.forward(batch)
      await encoder.backward(gradients)
      const norm = await adamW.step(rate, maxNorm)
      comparison.value(`gradient norm of step ${step}`, norm, norms[step]!, normError, norms[step]! * 2 ** -24, 3)
    }
    expect(adamW.steps).toBe(20)
    for (const { name: parameter } of encoder.parameters.list) {
      const values = await encoder.parameters.read(parameter)
      if (parameter.endsWith('self.key.bias')) {
        // Softmax ignores a shift of all scores of a row: this gradient is rounding noise around 0, which Adam blows up to whole steps.
        const start = new Golden('weights.safetensors').floats(parameter)
        const most = rates.reduce((sum, rate) => sum + rate, 0)
        expect(Math.max(...values.map((x, i) => Math.abs(x - start[i]!)))).toBeLessThan(most)
      } else {
        comparison.tensor(parameter, values, 3)
      }
    }
    for (const [which, letter] of [
      [0, 'm'],
      [1, 'v'],
    ] as const) {
      const moments = golden.names.filter((tensor) => tensor.startsWith(`${letter}.`))
      expect(moments).toHaveLength(3)
      for (const tensor of moments) comparison.tensor(tensor, await adamW.readMoment(0, which, tensor.slice(2)), 3)
    }
    comparison.done()
    adamW.dispose()
  })
})

describe('the learning rate', () => {
  interface Row {
    peak: number
    warmup: number
    total: number
    rates: Record<string, number>
  }
  const rows = JSON.parse(readFileSync(join(fixtures, 'schedule.json'), 'utf8')) as Row[]
  it.each(rows)('equals get_linear_schedule_with_warmup: peak $peak, $warmup of $total steps', ({ peak, warmup, total, rates }) => {
    for (const [step, rate] of Object.entries(rates)) {
      // The same formula in the same precision, multiplied in another order.
      expect(Math.abs(learningRateAt(Number(step), peak, warmup, total) - rate)).toBeLessThanOrEqual(2 * Number.EPSILON * rate)
    }
  })
})

import { afterAll, describe, expect, it } from 'vitest'
import { Comparison, compareGradients, devices, Golden, loadGoldenWeights, storageOf, weightNames } from './support/golden.js'

const open = await devices()
afterAll(() => {
  for (const device of open.values()) device.dispose()
})

describe.each([...open])('RetroMAE on %s against PyTorch', (_, device) => {
  it.each(['retromae', 'retromae-dropout'])('%s: both losses, hits and the gradients of all parameters', async (name) => {
    const golden = new Golden(`${name}.safetensors`)
    const encoder = device.encoder(golden.meta.config)
    const head = device.mlmHead(encoder)
    const decoder = device.enhancedDecoder(encoder, head)
    await loadGoldenWeights(encoder, head, decoder)
    const key = golden.dropoutKey
    const encoderLabels = golden.ints('encoderLabels')
    const labels = golden.ints('decoderLabels')
    const count = labels.filter((label) => label >= 0).length
    const { rows: __, ...clean } = golden.batch('cleanIds')

    const { hidden, cls } = await encoder.forward(golden.batch('encoderIds'), key)
    const mlm = await head.step(hidden, encoderLabels, 1 / encoderLabels.length)
    const batch = { ...clean, labels, maskBits: golden.words('maskBits'), maskChoice: golden.ints('maskChoice') }
    const mae = await decoder.step(cls, batch, key, 1 / count)
    await encoder.backward({ dHidden: mlm.dHidden, dCls: mae.dCls })

    const comparison = new Comparison(golden, storageOf(device))
    // A mean of float32 terms: one rounding of the loss is the floor.
    comparison.scalar('encoderLoss', mlm.loss / encoderLabels.length, 8 * 2 ** -24, 2)
    comparison.scalar('decoderLoss', mae.loss / count, 8 * 2 ** -24, 2)
    await compareGradients(comparison, encoder, head, decoder)
    comparison.done()
    expect([mlm.count, mae.count]).toEqual([encoderLabels.length, count])
    // Guesses that win by less than bf16 resolves may fall.
    if (storageOf(device) === 'f32') expect({ encoder: mlm.correct, decoder: mae.correct }).toEqual(golden.meta.correct)
    const names = [encoder, head, decoder].flatMap(({ parameters }) => parameters.list.map((parameter) => parameter.name))
    expect(names.sort()).toEqual([...weightNames].sort())
  })
})

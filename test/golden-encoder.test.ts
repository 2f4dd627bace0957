import { afterAll, describe, expect, it } from 'vitest'
import type { Encoder } from '../lib/native.js'
import { Comparison, compareGradients, devices, Golden, loadGoldenWeights, storageOf } from './support/golden.js'

const open = await devices()
afterAll(() => {
  for (const device of open.values()) device.dispose()
})

describe.each([...open])('encoder on %s against PyTorch', (_, device) => {
  // cls: every hidden row wanted. mean: mean pooling. dropout: CLS pooling, some rows, and the masks that Philox draws.
  describe.each(['cls', 'mean', 'dropout'])('%s', (name) => {
    const golden = new Golden(`encoder-${name}.safetensors`)
    const batch = golden.batch('ids')
    const { config } = golden.meta
    const N = batch.cuSeqlens.length - 1
    const key = golden.dropoutKey
    const encoder: Encoder = device.encoder(config)
    const gradientOf = (output: string, rows: number) => device.tensor(golden.floats(output), rows, config.hidden)

    it('gives its hidden states, CLS vectors and embeddings', async () => {
      await loadGoldenWeights(encoder)
      const { hidden, cls, embeddings } = await encoder.forward(batch, key)
      await encoder.discard()
      const comparison = new Comparison(golden, storageOf(device))
      comparison.tensor('out.hidden', await hidden.toArray(), 2)
      comparison.tensor('out.cls', await cls.toArray(), 2)
      comparison.tensor('out.embeddings', await embeddings.toArray(), 2)
      comparison.done()
    })

    it('gives the gradients of all its parameters', async () => {
      await loadGoldenWeights(encoder)
      await encoder.forward(batch, key)
      await encoder.backward({
        dHidden: gradientOf('dHidden', batch.rows.length),
        dCls: gradientOf('dCls', N),
        dEmbeddings: gradientOf('dEmbeddings', N),
      })
      const comparison = new Comparison(golden, storageOf(device))
      await compareGradients(comparison, encoder)
      const padding = await encoder.parameters.gradient('embeddings.word_embeddings.weight')
      await encoder.parameters.zeroGradients()
      comparison.done()
      expect(golden.names.filter((tensor) => tensor.startsWith('grad.'))).toHaveLength(encoder.parameters.list.length)
      expect(padding.subarray(0, config.hidden).every((x) => x === 0)).toBe(true)
      expect(padding.some((x) => x !== 0)).toBe(true)
    })

    it('gives the same embeddings without keeping activations', async () => {
      await loadGoldenWeights(encoder)
      const comparison = new Comparison(golden, storageOf(device))
      comparison.tensor('out.embeddings', await (await encoder.embed(batch, key)).toArray(), 2)
      comparison.done()
    })

    it('accumulates the same gradients when the batch comes one sequence at a time', async () => {
      await loadGoldenWeights(encoder)
      const { hidden: C } = config
      const dHidden = golden.floats('dHidden')
      let row = 0
      for (let n = 0; n < N; n++) {
        const [first, end] = [batch.cuSeqlens[n]!, batch.cuSeqlens[n + 1]!]
        const rows = batch.rows.filter((r) => r >= first && r < end).map((r) => r - first)
        await encoder.forward(
          { ids: batch.ids.slice(first, end), cuSeqlens: Int32Array.of(0, end - first), stream: batch.stream.slice(n, n + 1), rows },
          key,
        )
        const one = (name: string) => device.tensor(golden.floats(name).slice(n * C, (n + 1) * C), 1, C)
        const part = rows.length > 0 && { dHidden: device.tensor(dHidden.slice(row * C, (row + rows.length) * C), rows.length, C) }
        await encoder.backward({ ...part, dCls: one('dCls'), dEmbeddings: one('dEmbeddings') })
        row += rows.length
      }
      const comparison = new Comparison(golden, storageOf(device))
      await compareGradients(comparison, encoder)
      await encoder.parameters.zeroGradients()
      comparison.done()
    })
  })

  it('differs from the golden under another key, stream, or without dropout', async () => {
    const golden = new Golden('encoder-dropout.safetensors')
    const encoder = device.encoder(golden.meta.config)
    await loadGoldenWeights(encoder)
    const batch = golden.batch('ids')
    const key = golden.dropoutKey!
    const exact = golden.floats('out.embeddings')
    const { stream: _, ...numbered } = batch
    for (const [tokens, other] of [
      [batch, undefined],
      [batch, { ...key, step: key.step + 1 }],
      [batch, { ...key, seed: key.seed ^ (1n << 63n) }],
      [numbered, key],
    ] as const) {
      const ours = await (await encoder.embed(tokens, other)).toArray()
      expect(Math.max(...ours.map((x, i) => Math.abs(x - exact[i]!)))).toBeGreaterThan(0.01)
    }
  })
})

import { afterAll, describe, expect, it } from 'vitest'
import { initialiseParameters } from '../lib/model/parameters.js'
import type { TokenBatch } from '../lib/native.js'
import { devices } from './support/golden.js'

const open = await devices()
afterAll(() => {
  for (const device of open.values()) device.dispose()
})

// A device may record the kernels of a small batch and replay them for the next batch of the same shape (on CUDA: a graph).
describe.each([...open])('a small batch that comes again on %s', (_, device) => {
  const encoder = device.encoder({
    layers: 2,
    hidden: 64,
    heads: 1,
    intermediate: 96,
    vocab: 97,
    maxPositions: 64,
    typeVocab: 2,
    layerNormEps: 1e-12,
    hiddenDropout: 0.1,
    attentionDropout: 0.1,
    pooling: 'cls',
    normalize: true,
  })
  const batch = (lengths: readonly number[], seed: number): TokenBatch => {
    const cuSeqlens = Int32Array.from([0, ...lengths.map((_, n) => lengths.slice(0, n + 1).reduce((a, b) => a + b))])
    return { ids: Int32Array.from({ length: cuSeqlens[lengths.length]! }, (_, t) => 5 + ((t * 31 + seed * 17) % 90)), cuSeqlens }
  }
  const direct = async (tokens: TokenBatch): Promise<Float32Array> => {
    const { embeddings } = await encoder.forward(tokens)
    await encoder.discard()
    return embeddings.toArray()
  }

  it('gives the vectors of its own ids and lengths every time', async () => {
    await initialiseParameters(encoder, 1)
    // One text; then several whose number, sum and longest stay while the lengths are exchanged.
    for (const shapes of [
      [[7]],
      [
        [9, 30, 3],
        [3, 9, 30],
        [30, 3, 9],
      ],
    ]) {
      for (let round = 0; round < 6; round++) {
        const tokens = batch(shapes[round % shapes.length]!, round)
        expect(await (await encoder.embed(tokens)).toArray()).toEqual(await direct(tokens))
      }
    }
  })

  it('notices new weights', async () => {
    const tokens = batch([11, 5], 3)
    const before: Float32Array[] = []
    for (let i = 0; i < 4; i++) before.push(await (await encoder.embed(tokens)).toArray())
    await initialiseParameters(encoder, 2)
    const after = await (await encoder.embed(tokens)).toArray()
    expect(after).toEqual(await direct(tokens))
    expect(after).not.toEqual(before[0])
    for (const vectors of before) expect(vectors).toEqual(before[0])
  })
})

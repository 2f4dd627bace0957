import { afterAll, expect, test } from 'vitest'
import { buildTokenBatch } from '../lib/data/batch.js'
import { type Device, type EncoderConfig, openDevice, type TokenBatch } from '../lib/native.js'

const config: EncoderConfig = {
  layers: 2,
  hidden: 48,
  heads: 3,
  intermediate: 104,
  vocab: 97,
  maxPositions: 64,
  typeVocab: 2,
  layerNormEps: 1e-12,
  hiddenDropout: 0,
  attentionDropout: 0,
  pooling: 'cls',
  normalize: true,
}
const device: Device = await openDevice({ device: 'cpu', threads: 2 })
afterAll(() => device.dispose())

/** Sequences of 1 .. longest tokens, again and again. */
function batch(sequences: number, longest: number): TokenBatch {
  const ids = Array.from({ length: sequences }, (_, n) => Int32Array.from({ length: 1 + (n % longest) }, (_, t) => 1 + ((n + t) % 96)))
  return buildTokenBatch(ids, [...ids.keys()])
}

test('encoding takes no memory after the largest batch has been seen', async () => {
  const encoder = device.encoder(config)
  const embed = async (tokens: TokenBatch): Promise<void> => {
    const vectors = await encoder.embed(tokens)
    await vectors.toArray()
    vectors.dispose()
    await device.synchronize()
  }
  await device.synchronize()
  const before = device.memory()
  await embed(batch(61, 53))
  const warm = device.memory()
  expect(warm.allocated).toBeGreaterThan(before.allocated) // the canary: packed weights and the workspace are counted
  for (let i = 0; i < 3; i++) for (const tokens of [batch(61, 53), batch(1, 1), batch(7, 16)]) await embed(tokens)
  expect(device.memory()).toEqual(warm)
  encoder.dispose()
})

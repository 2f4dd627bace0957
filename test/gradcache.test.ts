import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { buildTokenBatch } from '../lib/data/batch.js'
import { random } from '../lib/data/random.js'
import { initialiseParameters } from '../lib/model/parameters.js'
import { type Device, type DropoutKey, type Encoder, openDevice, type Tensor } from '../lib/native.js'
import { gradCache } from '../lib/train/gradcache.js'

const groupSize = 2
const B = 6
const key: DropoutKey = { seed: 11n, step: 3 }
const draw = random(3, 'gradcache')
const sequence = (): Int32Array => Int32Array.from({ length: 3 + draw.int(12) }, () => 5 + draw.int(60))
const queries = Array.from({ length: B }, sequence)
const passages = Array.from({ length: B * groupSize }, sequence)
const tokens = [...queries, ...passages].reduce((sum, ids) => sum + ids.length, 0)

let device: Device
let encoder: Encoder
beforeAll(async () => {
  device = await openDevice({ device: 'cpu', threads: 2 })
  encoder = device.encoder({
    layers: 2,
    hidden: 64,
    heads: 2,
    intermediate: 128,
    vocab: 70,
    maxPositions: 32,
    typeVocab: 2,
    layerNormEps: 1e-12,
    hiddenDropout: 0.1,
    attentionDropout: 0.1,
    pooling: 'cls',
    normalize: true,
  })
  await initialiseParameters(encoder, 1)
})
afterAll(() => device?.dispose())

const contrast = async ([Q, P]: readonly Tensor[]) => {
  const { dQ, dP, ...result } = await device.contrastive(Q!, P!, { temperature: 0.05, groupSize })
  return { ...result, gradients: [dQ, dP] }
}

async function takeGradients(): Promise<Map<string, Float32Array>> {
  const gradients = new Map<string, Float32Array>()
  for (const { name } of encoder.parameters.list) gradients.set(name, await encoder.parameters.gradient(name))
  await encoder.parameters.zeroGradients()
  return gradients
}

/** The definition: one forward over the whole batch in its own order, the loss, one backward. */
async function fullBatch(): Promise<{ loss: number; gradients: Map<string, Float32Array> }> {
  const all = [...queries, ...passages]
  const order = all.map((_, i) => i)
  const { embeddings } = await encoder.forward(buildTokenBatch(all, order, Uint32Array.from(order)), key)
  const Q = await embeddings.gatherRows(Int32Array.from(queries.keys()))
  const P = await embeddings.gatherRows(Int32Array.from(passages.keys(), (i) => B + i))
  const { loss, dQ, dP } = await device.contrastive(Q, P, { temperature: 0.05, groupSize })
  const dEmbeddings = device.zeros(all.length, 64)
  await dEmbeddings.scatterRows(Int32Array.from(queries.keys()), dQ)
  await dEmbeddings.scatterRows(
    Int32Array.from(passages.keys(), (i) => B + i),
    dP,
  )
  await encoder.backward({ dEmbeddings })
  return { loss, gradients: await takeGradients() }
}

/** Largest over the parameters of |a - b| / |b|, Euclidean norms. */
function difference(a: Map<string, Float32Array>, b: Map<string, Float32Array>): number {
  let worst = 0
  for (const [name, expected] of b) {
    // The key biases shift all scores of a row alike: their true gradient is 0, what is there is rounding.
    if (name.endsWith('attention.self.key.bias')) continue
    const actual = a.get(name)!
    const norm = Math.hypot(...expected)
    if (norm === 0) {
      expect(Math.hypot(...actual)).toBe(0)
      continue
    }
    worst = Math.max(worst, Math.hypot(...expected.map((x, i) => x - actual[i]!)) / norm)
  }
  return worst
}

// A parameter's gradient is a sum over tokens; another order of n float32 additions changes it by at most about n * 2^-24.
const rounding = tokens * 2 ** -24

describe('gradCache', () => {
  it.each([
    ['one sequence', 1],
    ['three sequences', 40],
    ['everything', 1_000_000],
  ])('gives the gradient of the full batch with micro-batches of %s, dropout on', async (_, microBatchTokens) => {
    const expected = await fullBatch()
    const result = await gradCache(encoder, device, [queries, passages], contrast, { microBatchTokens, key })
    expect(result.loss).toBe(expected.loss)
    const gradients = await takeGradients()
    expect([...gradients.values()].some((values) => values.some((x) => x !== 0))).toBe(true)
    expect(difference(gradients, expected.gradients)).toBeLessThan(rounding)
  })

  it('is bit-repeatable, and a loss may be an optimizer-free function of any number of groups', async () => {
    const run = async (): Promise<Map<string, Float32Array>> => {
      await gradCache(encoder, device, [queries, passages], contrast, { microBatchTokens: 40, key })
      return takeGradients()
    }
    expect(await run()).toEqual(await run())
    const half = queries.slice(0, 3)
    await gradCache(encoder, device, [half], async ([E]) => ({ gradients: [await E!.gatherRows(Int32Array.of(0, 1, 2))] }), {
      microBatchTokens: 1,
    })
    expect((await takeGradients()).size).toBeGreaterThan(0)
  })

  it('differs under another dropout key', async () => {
    const expected = await fullBatch()
    await gradCache(encoder, device, [queries, passages], contrast, { microBatchTokens: 40, key: { ...key, step: 4 } })
    expect(difference(await takeGradients(), expected.gradients)).toBeGreaterThan(1000 * rounding)
  })

  it('differs when the second pass draws other masks than the first (the bug it must not have)', async () => {
    const expected = await fullBatch()
    let calls = 0
    const forgetful = Object.create(encoder, {
      config: { value: encoder.config },
      embed: { value: (batch: Parameters<Encoder['embed']>[0], k?: DropoutKey) => encoder.embed(batch, k) },
      forward: { value: (batch: Parameters<Encoder['forward']>[0]) => encoder.forward(batch, { ...key, step: 100 + calls++ }) },
      backward: { value: (gradients: Parameters<Encoder['backward']>[0]) => encoder.backward(gradients) },
    }) as Encoder
    await gradCache(forgetful, device, [queries, passages], contrast, { microBatchTokens: 40, key })
    expect(difference(await takeGradients(), expected.gradients)).toBeGreaterThan(1000 * rounding)
  })

  it('stops between micro-batches when aborted', async () => {
    const abort = new AbortController()
    abort.abort()
    const run = gradCache(encoder, device, [queries, passages], contrast, { microBatchTokens: 40, key, signal: abort.signal })
    await expect(run).rejects.toMatchObject({ name: 'AbortError' })
    await takeGradients()
  })
})

import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { buildTokenBatch } from '../lib/data/batch.js'
import { random } from '../lib/data/random.js'
import { initialiseParameters } from '../lib/model/parameters.js'
import { type Device, type DropoutKey, type Encoder, type EncoderConfig, openDevice, type Tensor, type TokenBatch } from '../lib/native.js'
import { gradCache } from '../lib/train/gradcache.js'
import { activationBytes } from '../lib/train/plan_replay.js'
import { cudaLibrary, openCuda } from './support/devices.js'

const groupSize = 2
const B = 6
const key: DropoutKey = { seed: 11n, step: 3 }
const draw = random(3, 'gradcache')
const sequence = (): Int32Array => Int32Array.from({ length: 3 + draw.int(12) }, () => 5 + draw.int(60))
const queries = Array.from({ length: B }, sequence)
const passages = Array.from({ length: B * groupSize }, sequence)
const tokens = [...queries, ...passages].reduce((sum, ids) => sum + ids.length, 0)

// The CPU, and where its library has been built the CUDA device or its emulator.
const open = new Map<string, Device>([['cpu', await openDevice({ device: 'cpu', threads: 2 })]])
if (cudaLibrary) open.set('cuda', await openCuda())
afterAll(() => {
  for (const device of open.values()) device.dispose()
})

describe.each([...open])('on %s', (_, device) => {
  let encoder: Encoder
  const config: EncoderConfig = {
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
  }
  beforeAll(async () => {
    encoder = device.encoder(config)
    await initialiseParameters(encoder, 1)
  })

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
        forward: {
          value: (batch: TokenBatch, _: DropoutKey, others: 'allowed') => encoder.forward(batch, { ...key, step: 100 + calls++ }, others),
        },
        discard: { value: () => encoder.discard() },
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

    // The forwards are counted and their embeddings recorded.
    const watched = () => {
      const embedded = new Map<string, Float32Array>()
      const forwarded = new Map<string, Float32Array>()
      const watch = Object.create(encoder, {
        config: { value: config },
        embed: {
          value: async (batch: TokenBatch, k?: DropoutKey) => {
            const part = await encoder.embed(batch, k)
            embedded.set(String(batch.stream), await part.toArray())
            return part
          },
        },
        forward: {
          value: async (batch: TokenBatch, k?: DropoutKey, others?: 'none' | 'allowed') => {
            const result = await encoder.forward(batch, k, others)
            forwarded.set(String(batch.stream), await result.embeddings.toArray())
            return result
          },
        },
        backward: { value: (gradients: Parameters<Encoder['backward']>[0]) => encoder.backward(gradients) },
        discard: { value: () => encoder.discard() },
      }) as Encoder
      return { watch, embedded, forwarded }
    }
    const kept = async (keepBytes: number) => {
      const { watch, embedded, forwarded } = watched()
      const { loss } = await gradCache(watch, device, [queries, passages], contrast, { microBatchTokens: 40, key, keepBytes })
      return { loss, gradients: await takeGradients(), embedded, forwarded }
    }

    it('computes the same embeddings in both passes, bit for bit', async () => {
      const { embedded, forwarded } = await kept(0)
      expect(forwarded.size).toBeGreaterThan(3)
      expect(embedded.size).toBe(forwarded.size - 1)
      for (const [name, values] of embedded) expect(forwarded.get(name), name).toEqual(values)
    })

    it('gives the same bits however many micro-batches keep their activations; all of them: a plain step, none: one forward more for each', async () => {
      const none = await kept(0)
      const n = none.forwarded.size
      const forwards = ({ embedded, forwarded }: typeof none): number => embedded.size + forwarded.size
      expect(forwards(none)).toBe(2 * n - 1) // with the backward's two: 4/3 of a plain step as n grows
      const micro = activationBytes(config, device, { tokens: 40, sequences: 13, longest: 14 })
      const some = await kept(3 * micro)
      expect(forwards(some)).toBeLessThan(2 * n - 2)
      expect(forwards(some)).toBeGreaterThan(n)
      const all = await kept(1e12)
      expect(forwards(all)).toBe(n)
      for (const other of [some, all]) {
        expect(other.loss).toBe(none.loss)
        expect(other.gradients).toEqual(none.gradients)
      }
    })

    it('holds what fits into its bytes and no more', async () => {
      const least = activationBytes(config, device, { tokens: 40, sequences: 13, longest: 14 })
      await encoder.reserve(3 * least)
      const before = device.memory().allocated
      await kept(3 * least)
      await device.synchronize()
      expect(device.memory().allocated).toBe(before)
      await encoder.reserve(0)
    })

    it('drops what is outstanding when the loss fails', async () => {
      const broken = gradCache(encoder, device, [queries, passages], () => Promise.reject(new Error('no loss')), {
        microBatchTokens: 40,
        key,
        keepBytes: 1e12,
      })
      await expect(broken).rejects.toThrow('no loss')
      await encoder.forward(buildTokenBatch(queries, [0]))
      await encoder.discard()
      await takeGradients()
    })
  })
})

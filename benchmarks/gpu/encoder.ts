// Our side of the sections about the encoder: inference, latency, training.
import { buildTokenBatch, packBatches } from '../../lib/data/batch.js'
import { random } from '../../lib/data/random.js'
import type { Device, Encoder, EncoderConfig, TokenBatch } from '../../lib/native.js'
import type { Sizes } from './cases.js'
import { eachVariant, noise, percentile, type Prepared, randomise, type Section, timed } from './support.js'

async function openEncoder(device: Device, config: EncoderConfig): Promise<Encoder> {
  const encoder = device.encoder(config)
  await randomise(encoder)
  return encoder
}

type Lengths = Extract<Sizes, { section: 'encode' | 'train' }>['lengths']

/** Lengths as peers.py draws them too: the k-th of n is a quantile, so both sides have the same multiset, in an order of their own. */
export function lengthsOf(lengths: Lengths): number[] {
  const { texts } = lengths
  const order = random(3, 'lengths').shuffle(Array.from({ length: texts }, (_, i) => (i + 0.5) / texts))
  if ('tokens' in lengths) return order.map(() => lengths.tokens)
  if ('from' in lengths) return order.map((u) => Math.round(lengths.from + u * (lengths.to - lengths.from)))
  // log-normal of standard deviation 0.8, [CLS] and [SEP] included
  return order.map((u) => Math.min(lengths.longest, Math.max(3, Math.round(lengths.median * Math.exp(0.8 * normalQuantile(u))))))
}

/** Acklam's rational approximation: relative error 1.2e-9. */
function normalQuantile(u: number): number {
  const a = [-3.969683028665376e1, 2.209460984245205e2, -2.759285104469687e2, 1.38357751867269e2, -3.066479806614716e1, 2.506628277459239]
  const b = [-5.447609879822406e1, 1.615858368580409e2, -1.556989798598866e2, 6.680131188771972e1, -1.328068155288572e1, 1]
  const c = [-7.784894002430293e-3, -3.223964580411365e-1, -2.400758277161838, -2.549732539343734, 4.374664141464968, 2.938163982698783]
  const d = [7.784695709041462e-3, 3.224671290700398e-1, 2.445134137142996, 3.754408661907416, 1]
  const poly = (p: readonly number[], x: number): number => p.reduce((sum, coefficient) => sum * x + coefficient, 0)
  const tail = (q: number): number => poly(c, q) / poly(d, q)
  if (u < 0.02425) return tail(Math.sqrt(-2 * Math.log(u)))
  if (u > 1 - 0.02425) return -tail(Math.sqrt(-2 * Math.log(1 - u)))
  const q = u - 0.5
  return (poly(a, q * q) * q) / poly(b, q * q)
}

export function textsOf(lengths: readonly number[], vocabulary: number): Int32Array[] {
  const draw = random(4, 'texts')
  return lengths.map((length) => Int32Array.from({ length }, () => 105 + draw.int(vocabulary - 105)))
}

const vectors = async (encoder: Encoder, batch: TokenBatch): Promise<Float32Array> => {
  const embeddings = await encoder.embed(batch)
  try {
    return await embeddings.toArray()
  } finally {
    embeddings.dispose()
  }
}

/** Ids on the host to vectors on the host: packing, every micro-batch queued at once, every vector downloaded. */
export const encode: Section<'encode'> = async (sizes, device): Promise<Prepared> => {
  const encoder = await openEncoder(device, sizes.config)
  const lengths = lengthsOf(sizes.lengths)
  const texts = textsOf(lengths, sizes.config.vocab)
  const run = (microBatchTokens: number) => () =>
    Promise.all(packBatches(lengths, microBatchTokens).map((indices) => vectors(encoder, buildTokenBatch(texts, indices))))
  return {
    measure: async () => {
      const answer = await eachVariant(
        Object.fromEntries(sizes.microBatchTokens.map((tokens) => [`ours ${tokens} tokens`, () => timed(device, sizes, run(tokens))])),
      )
      answer.facts = {
        memory: device.memory(),
        tokens: lengths.reduce((a, b) => a + b, 0),
        finite: finite((await run(sizes.microBatchTokens[0]!)())[0]!),
      }
      return answer
    },
    close: () => encoder.dispose(),
  }
}

const finite = (values: Float32Array): boolean => values.every((x) => Number.isFinite(x))

export const latency: Section<'latency'> = async (sizes, device): Promise<Prepared> => {
  const encoder = await openEncoder(device, sizes.config)
  const [ids] = textsOf([sizes.tokens], sizes.config.vocab)
  const batch = buildTokenBatch([ids!], [0])
  return {
    measure: () =>
      eachVariant({
        ours: async (facts) => {
          const seconds = await timed(device, sizes, () => vectors(encoder, batch))
          facts['p50'] = percentile(seconds, 0.5)
          facts['p99'] = percentile(seconds, 0.99)
          return seconds
        },
      }),
    close: () => encoder.dispose(),
  }
}

/** Forward with dropout, backward, clipping to norm 1, AdamW. */
export const train: Section<'train'> = async (sizes, device): Promise<Prepared> => {
  const encoder = await openEncoder(device, sizes.config)
  const adamW = device.adamW([encoder], { weightDecay: 0.01 })
  const lengths = lengthsOf(sizes.lengths)
  const texts = textsOf(lengths, sizes.config.vocab)
  const all = buildTokenBatch(texts, [...texts.keys()])
  const width = sizes.config.hidden
  const hidden = sizes.gradient === 'hidden'
  const batch: TokenBatch = hidden ? { ...all, rows: Int32Array.from(all.ids.keys()) } : all
  const count = hidden ? all.ids.length : texts.length
  const gradient = device.tensor(noise(count * width, 1e-3), count, width)
  let step = 0
  const norms: number[] = []
  const run = async (): Promise<void> => {
    const outputs = await encoder.forward(batch, { seed: 1n, step: step++ })
    await encoder.backward(hidden ? { dHidden: gradient } : { dEmbeddings: gradient })
    for (const tensor of Object.values(outputs)) tensor.dispose()
    norms.push(await adamW.step(1e-5, 1))
  }
  return {
    measure: () =>
      eachVariant({
        ours: async (facts) => {
          const seconds = await timed(device, sizes, run)
          Object.assign(facts, { tokens: all.ids.length, gradientNorm: norms.at(-1), memory: device.memory() })
          return seconds
        },
      }),
    close: () => {
      gradient.dispose()
      adamW.dispose()
      encoder.dispose()
    },
  }
}

import type { Device, Encoder, EnhancedDecoder } from '../native.js'
import type { RetroMaeBatch } from './collator.js'
import { addTo } from './stage.js'

/** Texts that a measurement is made on, about. */
const TEXTS = 64

/**
 * What [CLS] is worth to RetroMAE's decoder, in nats per token: its mean loss without the text's own vector minus that with it, on the same
 * tokens under the same masks, without dropout.
 * - clsGain: the vector is zeroed. 0 where the decoder makes no use of it. A zero vector is one that the decoder has never seen, so part of this
 *   gain may be surprise.
 * - clsGainShuffled: the vector is that of the next text of the micro-batch, which is about as long. What is lost then is what the vector says
 *   about its own text: the stricter of the two.
 * Micro-batches of one text are passed over; nothing to measure gives {}. No gradient is left behind: their scale is 0.
 */
export async function clsGain(
  device: Device,
  encoder: Encoder,
  decoder: EnhancedDecoder,
  microBatches: readonly RetroMaeBatch[],
  signal?: AbortSignal,
): Promise<{ clsGain?: number; clsGainShuffled?: number }> {
  const sums = { own: none(), zeroed: none(), shuffled: none() }
  let texts = 0
  for (const { encoder: batch, decoder: decoderBatch, decoderCount } of microBatches) {
    const n = batch.cuSeqlens.length - 1
    if (n < 2 || decoderCount === 0) continue
    if (texts >= TEXTS) break
    texts += n
    signal?.throwIfAborted()
    const { hidden, cls, embeddings } = await encoder.forward(batch)
    await encoder.discard()
    hidden.dispose()
    embeddings.dispose()
    const others = await cls.gatherRows(Int32Array.from({ length: n }, (_, i) => (i + 1) % n))
    const vectors = { own: cls, zeroed: device.zeros(n, encoder.config.hidden), shuffled: others }
    for (const kind of ['own', 'zeroed', 'shuffled'] as const) {
      const result = await decoder.step(vectors[kind], decoderBatch, undefined, 0)
      result.dCls.dispose()
      vectors[kind].dispose()
      addTo(sums[kind], result)
    }
  }
  const { own, zeroed, shuffled } = sums
  if (own.count === 0) return {}
  return { clsGain: (zeroed.loss - own.loss) / own.count, clsGainShuffled: (shuffled.loss - own.loss) / own.count }
}

function none(): { loss: number; correct: number; count: number } {
  return { loss: 0, correct: 0, count: 0 }
}

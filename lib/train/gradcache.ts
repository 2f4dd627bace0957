import { buildTokenBatch, packBatches } from '../data/batch.js'
import type { Device, DropoutKey, Encoder, Tensor, TokenBatch } from '../native.js'
import { activationBytes, type MicroShape } from './plan_replay.js'

/** Token ids of the sequences whose embeddings form one matrix, e.g. the queries of a batch. */
export type TokenizedGroup = readonly Int32Array[]

export interface GradCacheOptions {
  /** tokens of a micro-batch */
  microBatchTokens: number
  /**
   * Bytes of activations that pass 1 may keep for pass 2: those of as many of the last micro-batches as fit, always of the last one. Changes
   * memory and time, and no bit of the result. Default 0
   */
  keepBytes?: number
  /** names the dropout masks: both passes draw the same ones. Absent: no dropout */
  key?: DropoutKey
  /** looked at between micro-batches; an abort leaves incomplete gradients behind */
  signal?: AbortSignal
}

/**
 * The exact gradient of a loss over embeddings of a whole batch, with the activations of only some micro-batches in memory
 * (Gao et al. 2021, arXiv 2101.06983). Pass 1 embeds everything, `loss` gives the gradient with respect to the embeddings, pass 2
 * goes through the micro-batches from the last to the first and sends their rows of that gradient back. The last ones kept their
 * activations from pass 1 (`keepBytes`); the others are repeated under the same dropout. The order is the same however many are kept, and
 * with it every bit of the gradients. After an error the gradients are incomplete.
 *
 * @param groups sequences of each matrix; all are numbered through, and the number is the dropout stream
 * @param loss gets one (n, D) tensor per group and returns their gradients in the same order, which are disposed here
 * @returns what `loss` returned, the gradients disposed. Parameter gradients are accumulated in the encoder.
 */
export async function gradCache<R extends { gradients: readonly Tensor[] }>(
  encoder: Encoder,
  device: Device,
  groups: readonly TokenizedGroup[],
  loss: (embeddings: readonly Tensor[]) => Promise<R>,
  options: GradCacheOptions,
): Promise<R> {
  const { key, signal } = options
  const sequences = groups.flat()
  const lengths = Int32Array.from(sequences, (ids) => ids.length)
  const microBatches = packBatches(lengths, options.microBatchTokens).map((indices) => ({
    rows: Int32Array.from(indices),
    tokens: buildTokenBatch(sequences, indices, Uint32Array.from(indices)),
  }))
  const kept = keptFrom(
    microBatches.map(({ tokens }) => activationBytes(encoder.config, device, shapeOf(tokens))),
    options.keepBytes ?? 0,
  )
  const ranges = rangesOf(groups)
  const owned: Tensor[] = []
  const own = (tensor: Tensor): Tensor => {
    owned.push(tensor)
    return tensor
  }
  const forward = async (tokens: TokenBatch, use?: (part: Tensor) => Promise<void>): Promise<void> => {
    const { hidden, cls, embeddings } = await encoder.forward(tokens, key, 'allowed')
    await use?.(embeddings)
    for (const tensor of [hidden, cls, embeddings]) tensor.dispose()
  }
  const backward = async (gradients: Tensor, rows: Int32Array): Promise<void> => {
    const dEmbeddings = await gradients.gatherRows(rows)
    await encoder.backward({ dEmbeddings })
    dEmbeddings.dispose()
  }
  try {
    const E = own(device.zeros(sequences.length, encoder.config.hidden)) // (n, D)
    for (const [i, { tokens, rows }] of microBatches.entries()) {
      signal?.throwIfAborted()
      if (i >= kept) {
        await forward(tokens, (part) => E.scatterRows(rows, part))
        continue
      }
      const part = await encoder.embed(tokens, key)
      await E.scatterRows(rows, part)
      part.dispose()
    }

    const matrices: Tensor[] = []
    for (const range of ranges) matrices.push(own(await E.gatherRows(range)))
    const result = await loss(matrices)
    const dE = own(device.zeros(sequences.length, encoder.config.hidden)) // (n, D)
    for (const [g, gradient] of result.gradients.entries()) await dE.scatterRows(ranges[g]!, own(gradient))

    for (const [i, { tokens, rows }] of [...microBatches.entries()].reverse()) {
      signal?.throwIfAborted()
      if (i < kept) await forward(tokens)
      await backward(dE, rows)
    }
    return result
  } catch (error) {
    await encoder.discard().catch(() => {}) // a device that is closed has nothing left to drop; what went wrong before is what is told
    throw error
  } finally {
    for (const tensor of owned) tensor.dispose()
  }
}

/** The first of the last micro-batches whose activations fit into `bytes` together; at most the last one. */
function keptFrom(sizes: readonly number[], bytes: number): number {
  let first = sizes.length - 1
  for (let sum = sizes[first]!; first > 0 && sum + sizes[first - 1]! <= bytes; ) sum += sizes[--first]!
  return first
}

const shapeOf = ({ ids, cuSeqlens }: TokenBatch): MicroShape => ({
  tokens: ids.length,
  sequences: cuSeqlens.length - 1,
  longest: cuSeqlens.subarray(1).reduce((most, end, n) => Math.max(most, end - cuSeqlens[n]!), 0),
})

/** Row numbers of each group in the concatenation of all. */
function rangesOf(groups: readonly TokenizedGroup[]): Int32Array[] {
  let start = 0
  return groups.map((group) => {
    const rows = Int32Array.from(group, (_, i) => start + i)
    start += group.length
    return rows
  })
}

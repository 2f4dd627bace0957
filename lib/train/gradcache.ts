import { buildTokenBatch, packBatches } from '../data/batch.js'
import type { Device, DropoutKey, Encoder, Tensor, TokenBatch } from '../native.js'

/** Token ids of the sequences whose embeddings form one matrix, e.g. the queries of a batch. */
export type TokenizedGroup = readonly Int32Array[]

export interface GradCacheOptions {
  /** tokens of activations kept at a time */
  microBatchTokens: number
  /** names the dropout masks: both passes draw the same ones. Absent: no dropout */
  key?: DropoutKey
  /** looked at between micro-batches; an abort leaves incomplete gradients behind */
  signal?: AbortSignal
}

/**
 * The exact gradient of a loss over embeddings of a whole batch, with the activations of only one micro-batch in memory
 * (Gao et al. 2021, arXiv 2101.06983). Pass 1 embeds everything, `loss` gives the gradient with respect to the embeddings, pass 2
 * repeats each micro-batch under the same dropout and sends its rows of that gradient back. The last micro-batch keeps its activations
 * from pass 1, so a batch that fits in one is run once. After an error the gradients are incomplete and a forward may be outstanding.
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
  const last = microBatches.pop()!
  const ranges = rangesOf(groups)
  const owned: Tensor[] = []
  const own = (tensor: Tensor): Tensor => {
    owned.push(tensor)
    return tensor
  }
  const forward = async (tokens: TokenBatch, use?: (part: Tensor) => Promise<void>): Promise<void> => {
    const { hidden, cls, embeddings } = await encoder.forward(tokens, key)
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
    for (const { tokens, rows } of microBatches) {
      signal?.throwIfAborted()
      const part = await encoder.embed(tokens, key)
      await E.scatterRows(rows, part)
      part.dispose()
    }
    signal?.throwIfAborted()
    await forward(last.tokens, (part) => E.scatterRows(last.rows, part))

    const matrices: Tensor[] = []
    for (const range of ranges) matrices.push(own(await E.gatherRows(range)))
    const result = await loss(matrices)
    const dE = own(device.zeros(sequences.length, encoder.config.hidden)) // (n, D)
    for (const [g, gradient] of result.gradients.entries()) await dE.scatterRows(ranges[g]!, own(gradient))

    await backward(dE, last.rows)
    for (const { tokens, rows } of microBatches) {
      signal?.throwIfAborted()
      await forward(tokens)
      await backward(dE, rows)
    }
    return result
  } finally {
    for (const tensor of owned) tensor.dispose()
  }
}

/** Row numbers of each group in the concatenation of all. */
function rangesOf(groups: readonly TokenizedGroup[]): Int32Array[] {
  let start = 0
  return groups.map((group) => {
    const rows = Int32Array.from(group, (_, i) => start + i)
    start += group.length
    return rows
  })
}

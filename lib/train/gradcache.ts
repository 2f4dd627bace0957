import { buildTokenBatch, packBatches } from '../data/batch.js'
import type { Device, DropoutKey, Encoder, Tensor } from '../native.js'

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
 * from pass 1, so a batch that fits in one is run once.
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
  const microBatches = packBatches(Int32Array.from(sequences, (ids) => ids.length), options.microBatchTokens).map((indices) => ({
    indices: Int32Array.from(indices),
    tokens: buildTokenBatch(sequences, indices, Uint32Array.from(indices)),
  }))
  const last = microBatches.at(-1)!
  const ranges = rangesOf(groups)
  const scope = tensorScope()
  try {
    const embeddings = scope.own(device.zeros(sequences.length, encoder.config.hidden)) // (n, D)
    for (const micro of microBatches.slice(0, -1)) {
      signal?.throwIfAborted()
      const part = await encoder.embed(micro.tokens, key)
      await embeddings.scatterRows(micro.indices, part)
      part.dispose()
    }
    signal?.throwIfAborted()
    await forward(last.tokens, async (part) => embeddings.scatterRows(last.indices, part))

    const matrices: Tensor[] = []
    for (const rows of ranges) matrices.push(scope.own(await embeddings.gatherRows(rows)))
    const result = await loss(matrices)
    result.gradients.forEach(scope.own)
    const dEmbeddings = scope.own(device.zeros(sequences.length, encoder.config.hidden)) // (n, D)
    for (const [g, rows] of ranges.entries()) await dEmbeddings.scatterRows(rows, result.gradients[g]!)

    await backward(last.indices)
    for (const micro of microBatches.slice(0, -1)) {
      signal?.throwIfAborted()
      await forward(micro.tokens)
      await backward(micro.indices)
    }
    return result

    async function backward(indices: Int32Array): Promise<void> {
      const rows = await dEmbeddings.gatherRows(indices)
      await encoder.backward({ dEmbeddings: rows })
      rows.dispose()
    }
  } catch (error) {
    await encoder.discard().catch(() => {})
    throw error
  } finally {
    scope.dispose()
  }

  async function forward(tokens: ReturnType<typeof buildTokenBatch>, use?: (embeddings: Tensor) => Promise<void>): Promise<void> {
    const outputs = await encoder.forward(tokens, key)
    await use?.(outputs.embeddings)
    for (const tensor of Object.values(outputs)) tensor.dispose()
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

function tensorScope(): { own: <T extends Tensor>(tensor: T) => T; dispose(): void } {
  const owned: Tensor[] = []
  return {
    own: (tensor) => {
      owned.push(tensor)
      return tensor
    },
    dispose: () => {
      for (const tensor of owned) tensor.dispose()
    },
  }
}

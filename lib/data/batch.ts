import { invalidArgument } from '../errors.js'
import type { TokenBatch } from '../native.js'

/**
 * Splits sequences into micro-batches of at most `microBatchTokens` tokens. Longest first, equal lengths in their given order, so neighbours
 * have similar lengths and the greatest need for memory comes at once; a sequence longer than the budget is a micro-batch of its own.
 * Every index appears exactly once.
 */
export function packBatches(lengths: ArrayLike<number>, microBatchTokens: number): number[][] {
  if (!Number.isSafeInteger(microBatchTokens) || microBatchTokens < 1)
    throw invalidArgument('microBatchTokens', 'a positive integer', microBatchTokens)
  // By counting: a comparing sort of a window of many short texts would hold up the event loop.
  const sameLength: number[][] = []
  for (let i = 0; i < lengths.length; i++) (sameLength[lengths[i]!] ??= []).push(i)
  const batches: number[][] = []
  let tokens = Number.POSITIVE_INFINITY
  for (let length = sameLength.length - 1; length >= 0; length--) {
    for (const index of sameLength[length] ?? []) {
      tokens += length
      if (tokens > microBatchTokens) {
        batches.push([])
        tokens = length
      }
      batches.at(-1)!.push(index)
    }
  }
  return batches
}

/**
 * Packs ids[indices[0]], ids[indices[1]], ... one after the other.
 * @param stream (N) dropout stream of each packed sequence, in the order of `indices`; default 0 .. N-1
 */
export function buildTokenBatch(ids: readonly Int32Array[], indices: ArrayLike<number>, stream?: Uint32Array): TokenBatch {
  const cuSeqlens = new Int32Array(indices.length + 1)
  for (let n = 0; n < indices.length; n++) cuSeqlens[n + 1] = cuSeqlens[n]! + ids[indices[n]!]!.length
  const packed = new Int32Array(cuSeqlens[indices.length]!)
  for (let n = 0; n < indices.length; n++) packed.set(ids[indices[n]!]!, cuSeqlens[n]!)
  return { ids: packed, cuSeqlens, ...(stream && { stream }) }
}

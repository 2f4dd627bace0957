import type { SearchDevice } from '../model/search.js'
import type { TopK } from '../native.js'
import type { PassageVectors } from './vectors.js'

/** Passages on the device at a time. */
const BLOCK = 16_384

/**
 * The k best of the passages [0, size) for every query: exact inner products, equal scores by smaller number, -1 for empty slots. Vectors are read from
 * disk block by block, the next one while the device computes.
 * @param queries (B, D) @returns (B, k)
 */
export async function searchPool(
  device: SearchDevice,
  queries: Float32Array,
  passages: PassageVectors,
  options: { size: number; k: number; onProgress: (searched: number) => void; signal: AbortSignal | undefined },
): Promise<TopK> {
  const { size, k, onProgress, signal } = options
  const { dims } = passages.vectors
  const read = (first: number): Float32Array => {
    const places = passages.places.subarray(first, Math.min(size, first + BLOCK))
    const rows = new Float32Array(places.length * dims)
    passages.vectors.read(places, rows)
    return rows
  }
  const q = device.tensor(queries, queries.length / dims, dims)
  try {
    let best: TopK | undefined
    let rows = read(0)
    for (let first = 0; first < size; first += BLOCK) {
      signal?.throwIfAborted()
      const p = device.tensor(rows, rows.length / dims, dims)
      try {
        const searching = device.topK(q, p, k, { firstIndex: first, ...(best && { into: best }) })
        searching.catch(() => {}) // seen by the await below, also when the read fails first
        if (first + BLOCK < size) rows = read(first + BLOCK)
        best = await searching
      } finally {
        p.dispose()
      }
      onProgress(Math.min(size, first + BLOCK))
    }
    return best!
  } finally {
    q.dispose()
  }
}

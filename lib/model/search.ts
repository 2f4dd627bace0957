import type { Device, Tensor, TopK } from '../native.js'

/** The part of a device that exact search needs. */
export type SearchDevice = Pick<Device, 'tensor' | 'topK'>

/** Rows of one device tensor: bounds the copy made for an upload, not the size of the index. */
const BLOCK = 16_384

/** Exact inner-product search over vectors held on a device. */
export interface VectorIndex {
  /** number of vectors */
  readonly size: number
  /** queries (B, D) -> the k best of each, best first, equal scores by smaller index; k must not exceed size */
  search(queries: Float32Array, k: number): Promise<TopK>
  dispose(): void
}

/** @param vectors (N, D) row-major; N >= 1 @param dims D */
export function vectorIndex(device: SearchDevice, vectors: Float32Array, dims: number): VectorIndex {
  const size = vectors.length / dims
  const blocks: Tensor[] = []
  for (let first = 0; first < size; first += BLOCK) {
    const rows = Math.min(BLOCK, size - first)
    blocks.push(device.tensor(vectors.subarray(first * dims, (first + rows) * dims), rows, dims))
  }
  return {
    size,
    async search(queries, k) {
      const q = device.tensor(queries, queries.length / dims, dims)
      try {
        let best: TopK | undefined
        for (const [i, block] of blocks.entries())
          best = await device.topK(q, block, k, { firstIndex: i * BLOCK, ...(best && { into: best }) })
        return best!
      } finally {
        q.dispose()
      }
    },
    dispose() {
      for (const block of blocks) block.dispose()
    },
  }
}

import { BgeError } from '../errors.js'
import { random } from './random.js'

/** Rows of one source (a file); batches can be drawn from one source at a time. */
export interface Source {
  readonly name: string
  /** first row and one past the last */
  readonly start: number
  readonly end: number
}

/**
 * The batches of one epoch, known before its first step, a pure function of (seed, epoch). Rows are shuffled, cut into batches of exactly
 * `batchSize`, and the short tail is left out: the number of negatives never changes inside a run, and another epoch leaves out others.
 * With several sources every batch holds rows of one source only, and the order of the batches is shuffled as well (FlagEmbedding's
 * same_dataset_within_batch).
 */
export function epochBatches(sources: readonly Source[], batchSize: number, seed: number, epoch: number): Int32Array[] {
  const batches: Int32Array[] = []
  for (const [s, source] of sources.entries()) {
    const rows = Int32Array.from({ length: source.end - source.start }, (_, i) => source.start + i)
    random(seed, 'rows', epoch, s).shuffle(rows)
    for (let i = 0; i + batchSize <= rows.length; i += batchSize) batches.push(rows.subarray(i, i + batchSize))
  }
  return sources.length > 1 ? random(seed, 'batches', epoch).shuffle(batches) : batches
}

/** Number of batches of every epoch. Throws ERR_BGE_CONFIG when a source does not fill one batch. */
export function batchesPerEpoch(sources: readonly Source[], batchSize: number): number {
  let count = 0
  for (const source of sources) {
    const rows = source.end - source.start
    if (rows < batchSize) {
      throw new BgeError(
        'ERR_BGE_CONFIG',
        `batchSize must be at most ${rows}, the number of rows in ${source.name}, but was ${batchSize}`,
        {
          details: { key: 'batchSize', rows },
        },
      )
    }
    count += Math.floor(rows / batchSize)
  }
  return count
}

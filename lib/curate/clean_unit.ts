import { dirname, sep } from 'node:path'
import { createBufferedAtomic } from '../data/atomic.js'
import { cleanSource } from './clean.js'
import type { Source } from './recipe.js'
import type { Row } from './row.js'
import { emptyTally, type Tally } from './tally.js'

/** An input file, and where its rows go. Plain JSON: it travels to worker threads. */
export interface CleanJob {
  readonly source: Source
  readonly file: string
  /** JSONL of Row */
  readonly target: string
  /** of the recipe: places are named below it, so that the result does not depend on where it is */
  readonly root: string
}

/** Reads, extracts and cleans one file; the target appears whole or not at all. `onRows` is told now and then how many rows there are. */
export async function cleanUnit(job: CleanJob, onRows: (rows: number) => void, signal?: AbortSignal): Promise<Tally> {
  const { source, file, target, root } = job
  const tally = emptyTally()
  const below = (at: string): string => (at.startsWith(root + sep) ? at.slice(root.length + 1) : at)
  const out = await createBufferedAtomic(target)
  try {
    const sink = (row: Row): Promise<void> => {
      if (tally.kept % 1000 === 0) onRows(tally.kept)
      return out.write(JSON.stringify({ ...row, at: below(row.at) }) + '\n')
    }
    await cleanSource(source, file, source.clean, sink, tally, { root, tempDir: dirname(target), ...(signal && { signal }) })
    await out.commit()
  } finally {
    await out.discard()
  }
  for (const counts of [tally.dropped, tally.changed]) {
    for (const { samples } of Object.values(counts)) for (const sample of samples) sample.at = below(sample.at)
  }
  return tally
}

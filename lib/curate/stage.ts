import { readdir, rm, stat } from 'node:fs/promises'
import { join, relative } from 'node:path'
import { keyOf as contentKey } from '../data/once.js'
import { BgeError } from '../errors.js'

/** Raise it when a stage would give another result for the same settings: then finished work of older versions is done again. */
const VERSION = 1

/** SHA-256 of what decides a result. */
export function keyOf(...parts: readonly unknown[]): string {
  return contentKey(VERSION, ...parts)
}

/** Removes what writers that were killed left anywhere below a folder nobody else works in: files are written as `*.tmp` and then renamed. */
export async function sweepUnfinished(folder: string): Promise<void> {
  for (const entry of await readdir(folder, { recursive: true, withFileTypes: true })) {
    if (entry.isFile() && entry.name.endsWith('.tmp')) await rm(join(entry.parentPath, entry.name))
  }
}

/** How an input file is recognised: name below `root`, size and time of change, as make does it; its bytes are not read. */
export async function fileIdentity(file: string, root: string): Promise<[name: string, bytes: number, changed: number]> {
  const info = await stat(file).catch((cause: unknown) => {
    throw new BgeError('ERR_BGE_FILE', `${file} cannot be read: ${(cause as Error).message}`, { cause, details: { file } })
  })
  return [relative(root, file), info.size, info.mtimeMs]
}

/** Where a stage is. `done` and `total` count bytes of input files while cleaning, else rows; `total` 0: not known. */
export interface CurateProgress {
  readonly stage: 'clean' | 'dedup' | 'decontaminate' | 'score' | 'output'
  readonly done: number
  readonly total: number
  readonly unit: 'bytes' | 'rows' | 'steps'
  /** seconds left in this stage; null: not known */
  readonly eta: number | null
  /** what is being worked on: a step of de-duplication, a source */
  readonly note?: string
  /** while cleaning: rows that the file in hand has given so far */
  readonly rows?: number
}

/** Says at the start and then at most ten times a second how far a stage is and, after a second, how long it will take; work found done is no speed. */
export interface Meter {
  /** `found`: this part had been done before */
  advance(amount: number, found?: 'found', note?: string, rows?: number): void
}

export function createMeter(
  stage: CurateProgress['stage'],
  unit: CurateProgress['unit'],
  total: number,
  report: ((progress: CurateProgress) => void) | undefined,
  firstNote?: string,
): Meter {
  const start = performance.now()
  let [done, found, last] = [0, 0, 0]
  const say = (note?: string, rows?: number): void => {
    last = performance.now()
    const [worked, seconds] = [done - found, (last - start) / 1000]
    const eta = worked > 0 && total > 0 && seconds > 1 ? (seconds * Math.max(0, total - done)) / worked : null
    report?.({ stage, done, total, unit, eta, ...(note !== undefined && { note }), ...(rows !== undefined && { rows }) })
  }
  say(firstNote)
  return {
    advance(amount, how, note, rows) {
      done += amount
      if (how) found += amount
      if (done >= total || performance.now() - last > 100) say(note, rows)
    },
  }
}

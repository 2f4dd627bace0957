import { createHash } from 'node:crypto'
import { readdir, readFile, rm, stat } from 'node:fs/promises'
import { join, relative } from 'node:path'
import { writeFileAtomic } from '../data/atomic.js'
import { hashFile } from '../data/jsonl.js'
import { BgeError } from '../errors.js'

/** Raise it when a stage would give another result for the same settings: then finished work of older versions is done again. */
const VERSION = 1

/** SHA-256 of what decides a result. */
export function keyOf(...parts: readonly unknown[]): string {
  return createHash('sha256')
    .update(JSON.stringify([VERSION, ...parts]))
    .digest('hex')
}

/**
 * Work that is done once: `work` runs unless the marker file says that it has been done for the same key. A marker appears atomically and
 * last, so after a kill at any point the work has either been done or is done again. `place`, where its files go, is emptied first; without one
 * the work looks itself at what is there.
 */
export async function once<T>(
  marker: string,
  key: string,
  place: string | undefined,
  work: () => Promise<T>,
): Promise<{ result: T; reused: boolean }> {
  const found = await readMarker<T>(marker)
  if (found?.key === key) return { result: found.result, reused: true }
  await rm(marker, { force: true })
  if (place !== undefined) await rm(place, { recursive: true, force: true })
  const result = await work()
  await writeFileAtomic(marker, `${JSON.stringify({ key, result })}\n`)
  return { result, reused: false }
}

async function readMarker<T>(marker: string): Promise<{ key: string; result: T } | undefined> {
  let text: string
  try {
    text = await readFile(marker, 'utf8')
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === 'ENOENT') return undefined
    throw new BgeError('ERR_BGE_FILE', `${marker} cannot be read: ${(cause as Error).message}`, { cause })
  }
  return JSON.parse(text) as { key: string; result: T }
}

/** Removes what is in a folder but not in `keep` (names): the files of a killed run, or of other settings. */
export async function sweep(folder: string, keep: ReadonlySet<string>): Promise<void> {
  const names = await readdir(folder).catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return []
    throw error
  })
  for (const name of names) if (!keep.has(name)) await rm(join(folder, name), { recursive: true, force: true })
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

/** SHA-256 over the names and contents of a model folder's files. */
export async function folderHash(folder: string): Promise<string> {
  const entries = await readdir(folder, { recursive: true, withFileTypes: true }).catch((cause: unknown) => {
    throw new BgeError('ERR_BGE_FILE', `model folder ${folder} cannot be read: ${(cause as Error).message}`, { cause })
  })
  const files = entries.filter((entry) => entry.isFile()).map((entry) => join(entry.parentPath, entry.name))
  const parts: [string, string][] = []
  for (const file of files.sort()) parts.push([relative(folder, file), await hashFile(file)])
  return keyOf(parts)
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

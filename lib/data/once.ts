import { createHash } from 'node:crypto'
import { readdir, rm } from 'node:fs/promises'
import { join, relative } from 'node:path'
import { readIfThere } from './optional_file.js'
import { BgeError } from '../errors.js'
import { writeFileAtomic } from './atomic.js'
import { hashFile } from './jsonl.js'

/** SHA-256 of what decides a result. */
export function keyOf(...parts: readonly unknown[]): string {
  return createHash('sha256').update(JSON.stringify(parts)).digest('hex')
}

/** What a marker file says: the work of `key` has been done, and this came out. */
export interface Marker<T> {
  readonly key: string
  readonly result: T
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

/** The marker, undefined where there is none. Throws ERR_BGE_FILE. */
export async function readMarker<T>(marker: string): Promise<Marker<T> | undefined> {
  const text = await readIfThere(marker)
  if (text === undefined) return undefined
  return JSON.parse(text) as Marker<T>
}

/** Removes what is in a folder but not in `keep` (names): the files of a killed run, or of other settings. */
export async function sweep(folder: string, keep: ReadonlySet<string>): Promise<void> {
  const names = await readdir(folder).catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return []
    throw error
  })
  for (const name of names) if (!keep.has(name)) await rm(join(folder, name), { recursive: true, force: true })
}

/** SHA-256 over the names and contents of a folder's files; `hash` (default: hashFile) gives that of one. Throws ERR_BGE_FILE. */
export async function folderHash(folder: string, hash: (file: string) => Promise<string> = hashFile): Promise<string> {
  const entries = await readdir(folder, { recursive: true, withFileTypes: true }).catch((cause: unknown) => {
    throw new BgeError('ERR_BGE_FILE', `folder ${folder} cannot be read: ${(cause as Error).message}`, { cause })
  })
  const files = entries.filter((entry) => entry.isFile()).map((entry) => join(entry.parentPath, entry.name))
  const parts: [string, string][] = []
  for (const file of files.sort()) parts.push([relative(folder, file), await hash(file)])
  return keyOf(parts)
}

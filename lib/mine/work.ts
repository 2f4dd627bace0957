import { type FileHandle, mkdir, open, readFile, rename, rm, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { writeFileAtomic } from '../data/atomic.js'
import { BgeError } from '../errors.js'
import type { SavedTally } from './tally.js'

/** What a killed run has left: rows that are written and synced. */
export interface Progress {
  /** of settings, models and contents of the files */
  readonly key: string
  readonly rows: number
  readonly bytes: number
  readonly tally: SavedTally
}

/** The folder `OUT.work` of a run: the rows so far, how many there are, and scratch files. */
export interface Work {
  readonly folder: string
  /** of an earlier run with the same key */
  readonly found: Progress | undefined
  write(text: string): Promise<void>
  /** After it a kill costs nothing of what was written before. */
  checkpoint(rows: number, tally: SavedTally): Promise<void>
  /** The rows become `out`; the folder goes. */
  finish(): Promise<void>
  /** After a failure: 'keep' what a later run can use, or 'remove' the folder. Nothing after finish(). */
  close(what: 'keep' | 'remove'): Promise<void>
}

/** Takes up `OUT.work` if it is of the same key, else begins anew. Throws ERR_BGE_FILE. */
export async function openWork(out: string, key: string): Promise<Work> {
  const folder = `${out}.work`
  const rowsFile = join(folder, 'rows.jsonl')
  const progressFile = join(folder, 'progress.json')
  const checked = async <T>(work: () => Promise<T>): Promise<T> => {
    try {
      return await work()
    } catch (cause) {
      if (cause instanceof BgeError) throw cause
      throw new BgeError('ERR_BGE_FILE', `${out} cannot be written: ${(cause as Error).message}`, { cause, details: { file: out } })
    }
  }
  return checked(async () => {
    if ((await stat(out).catch(() => undefined))?.isDirectory()) throw new Error('it is a folder')
    await mkdir(folder, { recursive: true })
    const saved = await readProgress(progressFile)
    const there = (await stat(rowsFile).catch(() => undefined))?.size ?? 0
    const found = saved?.key === key && there >= saved.bytes ? saved : undefined
    if (found === undefined) await rm(progressFile, { force: true })
    const rows: FileHandle = await open(rowsFile, found ? 'r+' : 'w')
    let bytes = found?.bytes ?? 0
    let state: 'open' | 'closed' = 'open'
    await rows.truncate(bytes)
    return {
      folder,
      found,
      write: (text) =>
        checked(async () => {
          const block = Buffer.from(text)
          for (let done = 0; done < block.length; ) done += (await rows.write(block, done, block.length - done, bytes + done)).bytesWritten
          bytes += block.length
        }),
      checkpoint: (count, tally) =>
        checked(async () => {
          await rows.sync()
          await writeFileAtomic(progressFile, JSON.stringify({ key, rows: count, bytes, tally } satisfies Progress))
        }),
      finish: () =>
        checked(async () => {
          await rows.sync()
          await rows.close()
          state = 'closed'
          await rename(rowsFile, out)
          await rm(folder, { recursive: true, force: true })
        }),
      async close(what) {
        if (state === 'open') await rows.close().catch(() => {})
        if (state === 'open' && what === 'remove') await rm(folder, { recursive: true, force: true })
        state = 'closed'
      },
    }
  })
}

async function readProgress(file: string): Promise<Progress | undefined> {
  try {
    return JSON.parse(await readFile(file, 'utf8')) as Progress
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT' || error instanceof SyntaxError) return undefined
    throw error
  }
}

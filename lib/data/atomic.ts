import { mkdir, open, rename, rm } from 'node:fs/promises'
import { dirname } from 'node:path'
import { BgeError } from '../errors.js'

/** A file that appears complete or not at all. */
export interface AtomicFile {
  write(content: string | Uint8Array): Promise<void>
  /** Syncs and renames to the final name. */
  commit(): Promise<void>
  /** Removes what was written, unless it was committed. */
  discard(): Promise<void>
}

/** Writes beside `file` (its folder is made if needed). Throws ERR_BGE_FILE. */
export async function createAtomic(file: string): Promise<AtomicFile> {
  const temporary = `${file}.${process.pid}.tmp`
  const checked = async <T>(work: Promise<T>): Promise<T> => {
    try {
      return await work
    } catch (cause) {
      throw new BgeError('ERR_BGE_FILE', `${file} cannot be written: ${(cause as Error).message}`, { cause, details: { file } })
    }
  }
  await checked(mkdir(dirname(file), { recursive: true }))
  const handle = await checked(open(temporary, 'w'))
  let state: 'open' | 'closed' = 'open'
  return {
    async write(content) {
      await checked(handle.writeFile(content))
    },
    async commit() {
      await checked(handle.sync())
      await checked(handle.close())
      await checked(rename(temporary, file))
      state = 'closed'
    },
    async discard() {
      if (state === 'closed') return
      state = 'closed'
      await handle.close().catch(() => {})
      await rm(temporary, { force: true })
    },
  }
}

/** Writes a whole file at once, atomically. Throws ERR_BGE_FILE. */
export async function writeFileAtomic(file: string, text: string): Promise<void> {
  const target = await createAtomic(file)
  try {
    await target.write(text)
    await target.commit()
  } finally {
    await target.discard()
  }
}

/** An atomic file of text. */
export interface AtomicText extends Omit<AtomicFile, 'write'> {
  write(text: string): Promise<void>
}

/** As createAtomic, for many small pieces: they are written a megabyte at a time. */
export async function createBufferedAtomic(file: string): Promise<AtomicText> {
  const target = await createAtomic(file)
  let pieces: string[] = []
  let size = 0
  const flush = async (): Promise<void> => {
    const text = pieces.join('')
    pieces = []
    size = 0
    if (text !== '') await target.write(text)
  }
  return {
    async write(text) {
      pieces.push(text)
      size += text.length
      if (size > 1 << 20) await flush()
    },
    async commit() {
      await flush()
      await target.commit()
    },
    discard: () => target.discard(),
  }
}

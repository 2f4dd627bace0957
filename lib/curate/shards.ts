import { rm } from 'node:fs/promises'
import { join } from 'node:path'
import { type AtomicFile, createAtomic } from '../data/atomic.js'
import { invalidArgument } from '../errors.js'

/** Writes lines to part-00000.jsonl, part-00001.jsonl, ... of a folder; each file appears when it is complete. */
export interface ShardWriter {
  write(line: string): Promise<void>
  /** Completes the last file and returns all of them. */
  commit(): Promise<string[]>
  /** Removes every file of this writer; after commit() nothing. */
  discard(): Promise<void>
}

const BLOCK = 1 << 20

/** `rows` lines a file. Throws ERR_BGE_ARGUMENT, ERR_BGE_FILE. */
export function shardWriter(folder: string, rows: number): ShardWriter {
  if (!Number.isSafeInteger(rows) || rows < 1) throw invalidArgument('shardRows', 'an integer of at least 1', rows)
  let files: string[] = []
  let file: AtomicFile | undefined
  let block: string[] = []
  let [inBlock, inFile] = [0, 0]
  const flush = async (): Promise<void> => {
    await file?.write(block.join(''))
    ;[block, inBlock] = [[], 0]
  }
  const complete = async (): Promise<void> => {
    await flush()
    await file?.commit()
    ;[file, inFile] = [undefined, 0]
  }
  return {
    async write(line) {
      if (file === undefined) {
        const name = join(folder, `part-${String(files.length).padStart(5, '0')}.jsonl`)
        file = await createAtomic(name)
        files.push(name)
      }
      block.push(line, '\n')
      inBlock += line.length
      if (++inFile === rows) await complete()
      else if (inBlock >= BLOCK) await flush()
    },
    async commit() {
      await complete()
      const written = files
      files = []
      return written
    },
    async discard() {
      await file?.discard()
      for (const name of files) await rm(name, { force: true })
    },
  }
}

import { readFile } from 'node:fs/promises'
import { BgeError } from '../errors.js'

/** The text of a file, undefined where there is none. Errors: ERR_BGE_FILE for one that cannot be read. */
export async function readIfThere(file: string): Promise<string | undefined> {
  try {
    return await readFile(file, 'utf8')
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === 'ENOENT') return undefined
    throw new BgeError('ERR_BGE_FILE', `${file} cannot be read: ${(cause as Error).message}`, { cause })
  }
}

import { readFile, stat } from 'node:fs/promises'
import { writeFileAtomic } from '../data/atomic.js'
import { hashFile } from '../data/jsonl.js'
import { folderHash } from '../data/once.js'
import { BgeError } from '../errors.js'

/** A hash and the file it was taken of, as git's index knows a file. */
interface Known {
  readonly size: number
  readonly changed: number
  readonly sha256: string
}

/** A file that changed so recently may change again within the same tick of its file system's clock. */
const SETTLED_MS = 2000

/**
 * Contents of files and folders, by SHA-256. A file is read again only when its size or time of change differs from when it was read last: corpora have many
 * gigabytes. `touch` costs a reading and changes nothing.
 */
export class Hashes {
  readonly #file: string
  #known: Map<string, Known> | undefined
  #dirty = false

  /** @param file where hashes are kept between runs */
  constructor(file: string) {
    this.#file = file
  }

  /** Of a file or of a folder's files. Throws ERR_BGE_FILE. */
  async of(path: string): Promise<string> {
    const info = await stat(path).catch((cause: unknown) => {
      throw new BgeError('ERR_BGE_FILE', `${path} cannot be read: ${(cause as Error).message}`, { cause, details: { file: path } })
    })
    return info.isDirectory() ? folderHash(path, (file) => this.#ofFile(file)) : this.#ofFile(path)
  }

  /** Keeps what was learned. */
  async save(): Promise<void> {
    if (!this.#dirty) return
    await writeFileAtomic(this.#file, `${JSON.stringify(Object.fromEntries(this.#known!))}\n`)
    this.#dirty = false
  }

  async #ofFile(file: string): Promise<string> {
    this.#known ??= await this.#load()
    const { size, mtimeMs } = await stat(file)
    const known = this.#known.get(file)
    if (known?.size === size && known.changed === mtimeMs) return known.sha256
    const sha256 = await hashFile(file)
    if (Date.now() - mtimeMs > SETTLED_MS) {
      this.#known.set(file, { size, changed: mtimeMs, sha256 })
      this.#dirty = true
    }
    return sha256
  }

  async #load(): Promise<Map<string, Known>> {
    try {
      return new Map(Object.entries(JSON.parse(await readFile(this.#file, 'utf8')) as Record<string, Known>))
    } catch {
      return new Map() // nothing is lost: they are taken again
    }
  }
}

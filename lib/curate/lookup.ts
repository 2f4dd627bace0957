import { closeSync, mkdtempSync, openSync, readSync, rmSync, writeSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join as joinPath } from 'node:path'
import { BgeError } from '../errors.js'
import { getter } from './fields.js'
import { sourceFiles } from './files.js'
import { faultPolicy, readRecords } from './read/records.js'
import type { Join } from './recipe.js'
import { count, type Tally } from './tally.js'

/** The records of a join by their id. */
export interface Lookup {
  readonly rows: number
  /** the value of a field (its name in this file) of the record with this id */
  get(id: string, field: string): unknown
  close(): void
}

/**
 * Indexes the files of a join. Memory: 16 bytes for each slot of a table of at least 1024 slots that is never more than 3/4 full and doubles,
 * so 22 to 43 bytes a record, and up to 64 while it grows; the fields themselves are in a file under `tempDir`, removed by close.
 * Of two records with one id the first stays; the others are counted under `duplicate-id`.
 */
export async function openLookup(join: Join, root: string, tempDir: string = tmpdir(), tally: Tally): Promise<Lookup> {
  const folder = mkdtempSync(joinPath(tempDir, 'bge-join-'))
  const store = new Store(joinPath(folder, 'records.jsonl'))
  const close = (): void => {
    store.close()
    rmSync(folder, { recursive: true, force: true })
  }
  try {
    const key = getter(join.key)
    const fields = Object.keys(join.fields).map((name) => ({ name, get: getter(name) }))
    const columns = [join.key, ...fields.map(({ name }) => name)].map((path) => path.split(/[.[]/)[0]!)
    for (const file of await sourceFiles(join, root)) {
      for await (const records of readRecords(file, join, faultPolicy(join, file, tally), columns)) {
        for (const { line, value } of records) {
          const [id] = key(value)
          if (id === undefined)
            throw new BgeError(
              'ERR_BGE_DATA',
              `${file}:${line}: field ${join.key} expected an id, but was missing; the fields are ${Object.keys(value).join(', ')}`,
            )
          if (
            !store.add(
              String(id),
              fields.map(({ get }) => get(value)),
            )
          )
            count(tally.dropped, 'duplicate-id', `${file}:${line}`, String(id))
        }
      }
    }
    store.flush()
  } catch (error) {
    close()
    throw error
  }
  const names = new Map(Object.keys(join.fields).map((name, i) => [name, i]))
  return { rows: store.rows, get: (id, field) => store.find(id)?.[names.get(field)!], close }
}

const BUFFER = 1 << 20

/** An open-addressing table of (hash, place) over a file of JSON lines [id, [values of field 0], ...]. */
class Store {
  readonly #file: number
  #size = 0
  #pending: Buffer[] = []
  #pendingSize = 0
  #hash = new Uint32Array(1024)
  #length = new Uint32Array(1024) // 0: empty
  #offset = new Float64Array(1024)
  rows = 0
  #scratch = Buffer.alloc(BUFFER)

  constructor(file: string) {
    this.#file = openSync(file, 'wx+')
  }

  add(id: string, values: readonly unknown[][]): boolean {
    const hash = hashOf(id)
    if (this.#slotOf(id, hash).found) return false
    if (this.rows >= this.#length.length * 0.75) this.#grow()
    const { slot } = this.#slotOf(id, hash)
    const bytes = Buffer.from(JSON.stringify([id, ...values]))
    this.#hash[slot] = hash
    this.#length[slot] = bytes.length
    this.#offset[slot] = this.#size
    this.#size += bytes.length
    this.#pending.push(bytes)
    if ((this.#pendingSize += bytes.length) >= BUFFER) this.flush()
    this.rows++
    return true
  }

  find(id: string): unknown[][] | undefined {
    return this.#slotOf(id, hashOf(id)).found
  }

  /** The slot of the id, or the free one where it belongs. Only records with the same 32-bit hash are read. */
  #slotOf(id: string, hash: number): { slot: number; found?: unknown[][] } {
    const mask = this.#length.length - 1
    let slot = hash & mask
    for (; this.#length[slot] !== 0; slot = (slot + 1) & mask) {
      if (this.#hash[slot] !== hash) continue
      const [known, ...found] = this.#read(slot)
      if (known === id) return { slot, found: found as unknown[][] }
    }
    return { slot }
  }

  #read(slot: number): unknown[] {
    const [offset, length] = [this.#offset[slot]!, this.#length[slot]!]
    const start = this.#size - this.#pendingSize
    if (offset >= start) {
      let at = start
      for (const bytes of this.#pending) {
        if (at === offset) return JSON.parse(bytes.toString('utf8'))
        at += bytes.length
      }
    }
    if (this.#scratch.length < length) this.#scratch = Buffer.alloc(length * 2)
    readSync(this.#file, this.#scratch, 0, length, offset)
    return JSON.parse(this.#scratch.toString('utf8', 0, length))
  }

  #grow(): void {
    const [hashes, lengths, offsets] = [this.#hash, this.#length, this.#offset]
    const slots = hashes.length * 2
    this.#hash = new Uint32Array(slots)
    this.#length = new Uint32Array(slots)
    this.#offset = new Float64Array(slots)
    for (let i = 0; i < hashes.length; i++) {
      if (lengths[i] === 0) continue
      let slot = hashes[i]! & (slots - 1)
      while (this.#length[slot] !== 0) slot = (slot + 1) & (slots - 1)
      this.#hash[slot] = hashes[i]!
      this.#length[slot] = lengths[i]!
      this.#offset[slot] = offsets[i]!
    }
  }

  flush(): void {
    for (const bytes of this.#pending) writeSync(this.#file, bytes)
    this.#pending = []
    this.#pendingSize = 0
  }

  close(): void {
    closeSync(this.#file)
  }
}

/** FNV-1a over UTF-16 units, finished as in MurmurHash3 so that the low bits of near ids differ. */
function hashOf(text: string): number {
  let hash = 0x811c9dc5
  for (let i = 0; i < text.length; i++) hash = Math.imul(hash ^ text.charCodeAt(i), 0x01000193)
  hash = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b)
  hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35)
  return (hash ^ (hash >>> 16)) >>> 0
}

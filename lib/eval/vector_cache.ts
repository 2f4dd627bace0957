import { createHash } from 'node:crypto'
import { closeSync, openSync, readSync, writeSync } from 'node:fs'
import { mkdir, readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { crc32 } from 'node:zlib'
import { writeFileAtomic } from '../data/atomic.js'
import { BgeError } from '../errors.js'

/** Vectors by text. Keys are textKey()s; a vector is D numbers. */
export interface VectorStore {
  /** Copies the vector of a text to `out` (D); false where there is none. */
  get(key: string, out: Float32Array): boolean
  /** @param keys (N) @param vectors (N, D) */
  put(keys: readonly string[], vectors: Float32Array): void
  close(): void
}

/** What vectors depend on besides the text: stores of different keys are never mixed. */
export interface VectorSpace {
  /** of the model: weights, tokenizer, pooling, normalisation */
  readonly fingerprint: string
  /** 'cpu', 'cuda': they differ in the last bits */
  readonly device: string
  readonly instruction: string
  readonly maxLength: number | null
}

/** 16 bytes of SHA-256, as a string of 16 characters. */
export function textKey(text: string): string {
  return createHash('sha256').update(text).digest().toString('latin1', 0, KEY)
}

const MAGIC = 'BGEVEC01'
const HEADER = 16
const KEY = 16
const CRC = 4
/** What is read at once to find the keys of a file. */
const READ = 4 << 20

/**
 * A folder of vectors: `about.json` and files of fixed-size records (key, D float32, CRC-32). Every run appends to a file of its own, so two
 * runs may share a folder; a record that was cut off or damaged is as good as absent. Throws ERR_BGE_FILE.
 */
export async function openVectorCache(directory: string, space: VectorSpace, dims: number): Promise<VectorStore> {
  const name = createHash('sha256')
    .update(JSON.stringify([space.fingerprint, space.device, space.instruction, space.maxLength, dims]))
    .digest('hex')
  const folder = join(directory, name.slice(0, 16))
  const size = KEY + 4 * dims + CRC
  const places = new Map<string, { fd: number; at: number }>()
  const open: number[] = []
  const close = (): void => {
    for (const fd of open.splice(0)) closeSync(fd)
  }
  const own = `${Date.now()}-${process.pid}.vec`
  let writing: { fd: number; end: number } | undefined
  try {
    await mkdir(folder, { recursive: true })
    await writeFileAtomic(join(folder, 'about.json'), `${JSON.stringify({ ...space, dims }, null, 2)}\n`)
    for (const file of (await readdir(folder)).filter((entry) => entry.endsWith('.vec')).sort()) {
      const fd = openSync(join(folder, file), 'r')
      open.push(fd)
      for (const [key, at] of keysOf(fd, size, dims)) places.set(key, { fd, at })
    }
  } catch (cause) {
    close()
    throw fileError(directory, cause)
  }
  const record = Buffer.alloc(size)
  return {
    get(key, out) {
      const place = places.get(key)
      if (place === undefined) return false
      const whole = readSync(place.fd, record, 0, size, place.at) === size
      if (!whole || record.toString('latin1', 0, KEY) !== key || crc32(record.subarray(0, size - CRC)) !== record.readUInt32LE(size - CRC))
        return false
      for (let i = 0; i < dims; i++) out[i] = record.readFloatLE(KEY + 4 * i)
      return true
    },
    put(keys, vectors) {
      try {
        writing ??= create(join(folder, own), dims, open)
        const block = Buffer.alloc(keys.length * size)
        for (const [n, key] of keys.entries()) {
          const start = n * size
          block.write(key, start, 'latin1')
          for (let i = 0; i < dims; i++) block.writeFloatLE(vectors[n * dims + i]!, start + KEY + 4 * i)
          block.writeUInt32LE(crc32(block.subarray(start, start + size - CRC)), start + size - CRC)
        }
        for (let done = 0; done < block.length; ) done += writeSync(writing.fd, block, done, block.length - done, writing.end + done)
        for (const [n, key] of keys.entries()) places.set(key, { fd: writing.fd, at: writing.end + n * size })
        writing.end += block.length
      } catch (cause) {
        throw fileError(directory, cause)
      }
    },
    close,
  }
}

function create(file: string, dims: number, open: number[]): { fd: number; end: number } {
  const fd = openSync(file, 'wx+')
  open.push(fd)
  const header = Buffer.alloc(HEADER)
  header.write(MAGIC, 'latin1')
  header.writeUInt32LE(dims, 8)
  writeSync(fd, header, 0, HEADER, 0)
  return { fd, end: HEADER }
}

/** The keys of the whole records of a file; none for a file of another kind. */
function* keysOf(fd: number, size: number, dims: number): Generator<[key: string, at: number]> {
  const header = Buffer.alloc(HEADER)
  if (readSync(fd, header, 0, HEADER, 0) < HEADER || header.toString('latin1', 0, 8) !== MAGIC || header.readUInt32LE(8) !== dims) return
  const block = Buffer.alloc(size * Math.max(1, Math.floor(READ / size)))
  for (let at = HEADER; ; at += block.length) {
    const read = readSync(fd, block, 0, block.length, at)
    for (let start = 0; start + size <= read; start += size) yield [block.toString('latin1', start, start + KEY), at + start]
    if (read < block.length) return
  }
}

function fileError(directory: string, cause: unknown): BgeError {
  return new BgeError('ERR_BGE_FILE', `embedding cache ${directory} cannot be used: ${(cause as Error).message}`, { cause })
}

/** Vectors of one run in memory; once `bytes` are full the rest is not kept. */
export function memoryStore(dims: number, budget: { bytes: number }): VectorStore {
  const vectors = new Map<string, Float32Array>()
  return {
    get(key, out) {
      const vector = vectors.get(key)
      if (vector !== undefined) out.set(vector)
      return vector !== undefined
    },
    put(keys, data) {
      for (const [n, key] of keys.entries()) {
        if (budget.bytes < 4 * dims) return
        budget.bytes -= 4 * dims
        vectors.set(key, data.slice(n * dims, (n + 1) * dims))
      }
    },
    close() {
      vectors.clear()
    },
  }
}

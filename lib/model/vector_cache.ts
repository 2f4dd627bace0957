import { createHash, randomBytes } from 'node:crypto'
import { closeSync, openSync, readSync, writeSync } from 'node:fs'
import { mkdir, readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { crc32 } from 'node:zlib'
import { writeFileAtomic } from '../data/atomic.js'
import { createKeyTable } from '../data/key_table.js'
import { BgeError } from '../errors.js'
import type { Dtype } from '../native.js'

/** Vectors by text. Keys are textKey()s; a vector is D numbers. */
export interface VectorStore {
  /** Copies the vector of a text to `out` (D); false where there is none. */
  get(key: string, out: Float32Array): boolean
  /** @param keys (N) @param vectors (N, D) */
  put(keys: readonly string[], vectors: Float32Array): void
  close(): void
}

/** A store on disk, read in bulk by place. 16 to 32 bytes of memory a vector. */
export interface VectorCache extends VectorStore {
  /** where the vector of a text is, -1 where there is none; known by 64 bits of its key */
  place(key: string): number
  /** Copies the vectors at `places` (N) to `out` (N, D), neighbours on disk at once; returns which of them are damaged, as indices into `places`. */
  read(places: Int32Array, out: Float32Array): number[]
}

/** What vectors depend on besides the text: stores of different keys are never mixed. */
export interface VectorSpace {
  /** of the model: weights, tokenizer, pooling, normalisation */
  readonly fingerprint: string
  /** arithmeticOf() the model's device */
  readonly device: string
  readonly instruction: string
  readonly maxLength: number | null
  /** L2-normalised after the model. Default: as the model gives them */
  readonly scale?: 'unit'
}

/** What two devices must share to give the same vectors but for the last bits: 'cpu', 'cpu bf16', 'cpu int8', 'cuda'; 'other' without a device. */
export function arithmeticOf(device: { readonly kind?: string; readonly dtype?: Dtype } | undefined): string {
  const { kind, dtype = 'fp32' } = device ?? {}
  return kind === 'cpu' && dtype !== 'fp32' ? `cpu ${dtype}` : (kind ?? 'other')
}

/** 16 bytes of SHA-256, as a string of 16 characters. */
export function textKey(text: string): string {
  return createHash('sha256').update(text).digest().toString('latin1', 0, KEY)
}

const MAGIC = 'BGEVEC01'
const HEADER = 16
const KEY = 16
const CRC = 4
/** What is read at once. */
const READ = 4 << 20

/** Records are numbered through all files, in the order of the files: `first` is the number of a file's first one. */
interface Segment {
  readonly fd: number
  readonly first: number
  end: number
}

/**
 * A folder of vectors: `about.json` and files of fixed-size records (key, D float32, CRC-32). Every run appends to a file of its own, so two
 * runs may share a folder; a record that was cut off or damaged is as good as absent. Throws ERR_BGE_FILE.
 */
export async function openVectorCache(directory: string, space: VectorSpace, dims: number): Promise<VectorCache> {
  const { fingerprint, device, instruction, maxLength, scale } = space
  const name = createHash('sha256')
    .update(JSON.stringify([fingerprint, device, instruction, maxLength, dims, ...(scale ? [scale] : [])]))
    .digest('hex')
  const folder = join(directory, name.slice(0, 16))
  const size = KEY + 4 * dims + CRC
  const index = createKeyTable()
  const segments: Segment[] = []
  const close = (): void => {
    for (const { fd } of segments.splice(0)) closeSync(fd)
  }
  try {
    await mkdir(folder, { recursive: true })
    await writeFileAtomic(join(folder, 'about.json'), `${JSON.stringify({ ...space, dims }, null, 2)}\n`)
    for (const file of (await readdir(folder)).filter((entry) => entry.endsWith('.vec')).sort()) {
      const segment = { fd: openSync(join(folder, file), 'r'), first: segments.at(-1)?.end ?? 0, end: segments.at(-1)?.end ?? 0 }
      segments.push(segment)
      for (const [high, low] of keysOf(segment.fd, size, dims)) index.set(high, low, segment.end++)
    }
  } catch (cause) {
    close()
    throw fileError(directory, cause)
  }
  let own: Segment | undefined
  const place = (key: string): number => index.get(word(key, 0), word(key, 4))
  const perRead = Math.max(1, Math.floor(READ / size))
  const buffer = Buffer.alloc(perRead * size) // (perRead, key | vector | crc), all of them multiples of four bytes
  const numbers = new Float32Array(buffer.buffer, buffer.byteOffset, buffer.length / 4)
  /** Reads `count` records from number `from` on into the buffer, which then holds that many bytes. */
  const fill = (from: number, count: number): number => {
    const { fd, first } = segments.findLast((segment) => segment.first <= from)!
    return readSync(fd, buffer, 0, count * size, HEADER + (from - first) * size)
  }
  const copy = (start: number, bytes: number, out: Float32Array, at: number): boolean => {
    const end = start + size
    if (end > bytes || crc32(buffer.subarray(start, end - CRC)) !== buffer.readUInt32LE(end - CRC)) return false
    out.set(numbers.subarray((start + KEY) / 4, (start + KEY) / 4 + dims), at)
    return true
  }
  return {
    place,
    get(key, out) {
      const number = place(key)
      return number >= 0 && copy(0, fill(number, 1), out, 0) && buffer.toString('latin1', 0, KEY) === key
    },
    read(places, out) {
      const damaged: number[] = []
      for (let start = 0; start < places.length; ) {
        const from = places[start]!
        const last = segments.findLast((segment) => segment.first <= from)!.end
        let count = 1
        while (count < perRead && start + count < places.length && places[start + count] === from + count && from + count < last) count++
        const bytes = fill(from, count)
        for (let i = 0; i < count; i++) if (!copy(i * size, bytes, out, (start + i) * dims)) damaged.push(start + i)
        start += count
      }
      return damaged
    },
    put(keys, vectors) {
      try {
        own ??= create(join(folder, `${Date.now()}-${process.pid}-${randomBytes(4).toString('hex')}.vec`), dims, segments)
        const block = Buffer.alloc(keys.length * size)
        const floats = new Float32Array(block.buffer, block.byteOffset, block.length / 4)
        for (const [n, key] of keys.entries()) {
          const start = n * size
          block.write(key, start, 'latin1')
          floats.set(vectors.subarray(n * dims, (n + 1) * dims), (start + KEY) / 4)
          block.writeUInt32LE(crc32(block.subarray(start, start + size - CRC)), start + size - CRC)
        }
        const at = HEADER + (own.end - own.first) * size
        for (let done = 0; done < block.length; ) done += writeSync(own.fd, block, done, block.length - done, at + done)
        for (const key of keys) index.set(word(key, 0), word(key, 4), own.end++)
      } catch (cause) {
        throw fileError(directory, cause)
      }
    },
    close,
  }
}

function create(file: string, dims: number, segments: Segment[]): Segment {
  const first = segments.at(-1)?.end ?? 0
  const segment = { fd: openSync(file, 'wx+'), first, end: first }
  segments.push(segment)
  const header = Buffer.alloc(HEADER)
  header.write(MAGIC, 'latin1')
  header.writeUInt32LE(dims, 8)
  writeSync(segment.fd, header, 0, HEADER, 0)
  return segment
}

/** Four bytes of a key, as a little-endian number. */
function word(key: string, at: number): number {
  return (key.charCodeAt(at) | (key.charCodeAt(at + 1) << 8) | (key.charCodeAt(at + 2) << 16) | (key.charCodeAt(at + 3) << 24)) >>> 0
}

/** The first two words of the key of every whole record of a file; none for a file of another kind. */
function* keysOf(fd: number, size: number, dims: number): Generator<[high: number, low: number]> {
  const header = Buffer.alloc(HEADER)
  if (readSync(fd, header, 0, HEADER, 0) < HEADER || header.toString('latin1', 0, 8) !== MAGIC || header.readUInt32LE(8) !== dims) return
  const block = Buffer.alloc(size * Math.max(1, Math.floor(READ / size)))
  for (let at = HEADER; ; at += block.length) {
    const read = readSync(fd, block, 0, block.length, at)
    for (let start = 0; start + size <= read; start += size) yield [block.readUInt32LE(start), block.readUInt32LE(start + 4)]
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

import { type FileHandle, open } from 'node:fs/promises'
import { BgeError, show } from '../errors.js'
import { bytesOf, elements, type FloatType, readExactly, toFloat16, toFloat32, type WeightSource } from './weights.js'

/** A tensor to write. `read` is called once, when its turn comes. */
export interface TensorToWrite {
  name: string
  shape: readonly number[]
  read(): Promise<Float32Array> | Float32Array
}

/** What weights are written as. */
export type StoredType = 'F32' | 'F16'

interface Entry {
  type: string
  shape: number[]
  start: number
  end: number
}

const typeBytes: Readonly<Record<string, number>> = { ...bytesOf, I64: 8, U64: 8, I32: 4, U32: 4, I16: 2, U16: 2, I8: 1, U8: 1, BOOL: 1 }
const maxHeader = 100_000_000 // the reference implementation's own limit

/** Opens a .safetensors file and checks its header completely. Errors: ERR_BGE_MODEL_FORMAT, ERR_BGE_FILE. */
export async function openSafetensors(file: string): Promise<WeightSource> {
  const handle = await openFile(file)
  try {
    const { entries, dataStart } = await readHeader(handle, file)
    const tensors = new Map([...entries].filter(([, entry]) => entry.type in bytesOf))
    return {
      file,
      tensors,
      async read(name) {
        const entry = tensors.get(name)
        if (entry === undefined) throw new BgeError('ERR_BGE_MODEL_FORMAT', `${file}: tensor "${name}" is missing`)
        const bytes = await readExactly(handle, entry.end - entry.start, dataStart + entry.start, `${file}: tensor "${name}"`)
        return toFloat32(bytes, entry.type as FloatType)
      },
      close: () => handle.close(),
    }
  } catch (error) {
    await handle.close()
    throw error
  }
}

/** Opens a file of weights for reading. Errors: ERR_BGE_FILE. */
export async function openFile(file: string): Promise<FileHandle> {
  try {
    return await open(file, 'r')
  } catch (cause) {
    throw new BgeError('ERR_BGE_FILE', `${file} cannot be read: ${(cause as Error).message}`, { cause })
  }
}

async function readHeader(handle: FileHandle, file: string): Promise<{ entries: Map<string, Entry>; dataStart: number }> {
  const fail = (what: string): BgeError => new BgeError('ERR_BGE_MODEL_FORMAT', `${file}: ${what}`)
  const { size } = await handle.stat()
  if (size < 8) throw fail(`a safetensors file has at least 8 bytes, but this has ${size}`)
  const headerSize = Number(new DataView(await readExactly(handle, 8, 0, file)).getBigUint64(0, true))
  if (headerSize > maxHeader || 8 + headerSize > size)
    throw fail(`its header claims ${headerSize} bytes, but the file has ${size}: truncated, or not a safetensors file`)
  let header: unknown
  try {
    header = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(await readExactly(handle, headerSize, 8, file)))
  } catch (cause) {
    throw fail(`its header is not JSON: ${(cause as Error).message}`)
  }
  if (header === null || typeof header !== 'object' || Array.isArray(header))
    throw fail(`its header must be a JSON object, but is ${show(header)}`)
  const dataStart = 8 + headerSize
  const entries = new Map<string, Entry>()
  for (const [name, value] of Object.entries(header)) if (name !== '__metadata__') entries.set(name, checkEntry(name, value, fail))
  let expected = 0
  for (const [name, entry] of [...entries].sort(([, a], [, b]) => a.start - b.start || a.end - b.end)) {
    if (entry.start !== expected)
      throw fail(`tensor "${name}" starts at byte ${entry.start}, but the data before it ends at ${expected} (overlap or gap)`)
    expected = entry.end
  }
  if (dataStart + expected !== size)
    throw fail(
      `its tensors need ${dataStart + expected} bytes, but the file has ${size}${size < dataStart + expected ? ' (truncated)' : ''}`,
    )
  return { entries, dataStart }
}

function checkEntry(name: string, value: unknown, fail: (what: string) => BgeError): Entry {
  const { dtype, shape, data_offsets: offsets } = (value ?? {}) as { dtype?: unknown; shape?: unknown; data_offsets?: unknown }
  const natural = (x: unknown): x is number => Number.isSafeInteger(x) && (x as number) >= 0
  if (typeof dtype !== 'string' || !Object.hasOwn(typeBytes, dtype))
    throw fail(`tensor "${name}" must have a type of ${Object.keys(typeBytes).join(', ')}, but has ${show(dtype)}`)
  if (!Array.isArray(shape) || !shape.every(natural))
    throw fail(`tensor "${name}" must have a shape of sizes, but has ${JSON.stringify(shape)}`)
  if (!Array.isArray(offsets) || offsets.length !== 2 || !offsets.every(natural) || (offsets[0] as number) > (offsets[1] as number)) {
    throw fail(`tensor "${name}" must have data_offsets [start, end], but has ${JSON.stringify(offsets)}`)
  }
  const [start, end] = offsets as [number, number]
  const size = elements(shape) * (typeBytes[dtype] as number)
  if (end - start !== size)
    throw fail(`tensor "${name}" of type ${dtype} and shape [${shape.join(', ')}] needs ${size} bytes, but its offsets hold ${end - start}`)
  return { type: dtype, shape, start, end }
}

/** Writes tensors as float32 or, rounded, float16 (metadata `format: 'pt'`), one at a time, and syncs the file to disk. */
export async function writeSafetensors(file: string, tensors: readonly TensorToWrite[], type: StoredType = 'F32'): Promise<void> {
  const header: Record<string, unknown> = { __metadata__: { format: 'pt' } }
  let end = 0
  for (const { name, shape } of tensors) {
    if (Object.hasOwn(header, name)) throw new BgeError('ERR_BGE_INTERNAL', `tensor "${name}" would be written twice`)
    const start = end
    end += bytesOf[type] * elements(shape)
    header[name] = { dtype: type, shape, data_offsets: [start, end] }
  }
  const json = Buffer.from(JSON.stringify(header))
  // Padded with spaces so that the data is aligned to 8 bytes, as the reference writes it.
  const padded = Buffer.alloc(Math.ceil(json.length / 8) * 8, ' ')
  json.copy(padded)
  const length = Buffer.alloc(8)
  length.writeBigUInt64LE(BigInt(padded.length))
  const handle = await open(file, 'w')
  try {
    await writeAll(handle, length)
    await writeAll(handle, padded)
    for (const tensor of tensors) {
      const { name, shape } = tensor
      const values = await tensor.read()
      if (values.length !== elements(shape))
        throw new BgeError('ERR_BGE_INTERNAL', `tensor "${name}" has ${values.length} elements, but its shape is [${shape.join(', ')}]`)
      const stored = type === 'F16' ? toFloat16(values) : values
      await writeAll(handle, new Uint8Array(stored.buffer, stored.byteOffset, stored.byteLength))
    }
    await handle.sync()
  } finally {
    await handle.close()
  }
}

async function writeAll(handle: FileHandle, bytes: Uint8Array): Promise<void> {
  for (let done = 0; done < bytes.length; ) done += (await handle.write(bytes, done, Math.min(bytes.length - done, 2 ** 30))).bytesWritten
}

import { BgeError, show } from '../errors.js'
import type { FileHandle } from 'node:fs/promises'
import { PickledTensor, unpickle } from './pickle.js'
import { openFile } from './safetensors.js'
import { bytesOf, elements, type FloatType, readExactly, toFloat32, type WeightSource } from './weights.js'
import { readZipDirectory } from './zip.js'

/** Where the bytes of each storage lie. */
type Storages = ReadonlyMap<string, { start: number; size: number }>

const legacyMagic = 0x1950a86a20f9469cfc6cn
const legacyWindow = 2 ** 24 // the pickle of a state dict takes some 100 bytes a tensor

/** Opens a pytorch_model.bin: the zip form of torch.save, or the form before torch 1.6. Runs no code from it. Errors: ERR_BGE_MODEL_FORMAT, ERR_BGE_FILE. */
export async function openTorch(file: string): Promise<WeightSource> {
  const handle = await openFile(file)
  try {
    const { size } = await handle.stat()
    const start = Buffer.from(await readExactly(handle, Math.min(size, 4), 0, file))
    const { root, storages } = start.toString('latin1').startsWith('PK')
      ? await readZip(handle, file)
      : await readLegacy(handle, file, size)
    const tensors = checkStateDict(root, storages, file)
    return {
      file,
      tensors,
      async read(name) {
        const tensor = tensors.get(name)
        if (tensor === undefined) throw new BgeError('ERR_BGE_MODEL_FORMAT', `${file}: tensor "${name}" is missing`)
        return readTensor(handle, tensor, storages, `${file}: tensor "${name}"`)
      },
      close: () => handle.close(),
    }
  } catch (error) {
    await handle.close()
    throw error
  }
}

async function readZip(handle: FileHandle, file: string): Promise<{ root: unknown; storages: Storages }> {
  const fail = (what: string): BgeError => new BgeError('ERR_BGE_MODEL_FORMAT', `${file}: ${what}`)
  const entries = await readZipDirectory(handle, file)
  const pickleName = [...entries.keys()].find((name) => /^[^/]+\/data\.pkl$/.test(name))
  if (pickleName === undefined) throw fail('it holds no data.pkl: not a file of torch.save')
  const folder = pickleName.slice(0, -'data.pkl'.length)
  const bytes = async (name: string): Promise<Buffer | undefined> => {
    const entry = entries.get(folder + name)
    return entry && Buffer.from(await readExactly(handle, entry.size, entry.start, `${file}: ${folder}${name}`))
  }
  const byteOrder = String((await bytes('byteorder')) ?? 'little').trim()
  if (byteOrder !== 'little') throw fail(`its byte order must be little, but was ${show(byteOrder)}`)
  const storages = new Map<string, { start: number; size: number }>()
  for (const [name, entry] of entries) if (name.startsWith(`${folder}data/`)) storages.set(name.slice(folder.length + 5), entry)
  return { root: unpickle((await bytes('data.pkl')) as Buffer, file).value, storages }
}

/** Five pickles (magic, version, machine, state dict, storage keys), then per key the number of elements (int64) and the elements. */
async function readLegacy(handle: FileHandle, file: string, fileSize: number): Promise<{ root: unknown; storages: Storages }> {
  const fail = (what: string): BgeError => new BgeError('ERR_BGE_MODEL_FORMAT', `${file}: ${what}`)
  const head = Buffer.from(await readExactly(handle, Math.min(fileSize, legacyWindow), 0, file))
  let end = 0
  const next = (): unknown => {
    const result = unpickle(head, file, end)
    end = result.end
    return result.value
  }
  if (head[0] !== 0x80 || next() !== legacyMagic) throw fail('it is not a file of torch.save')
  next()
  const machine = next()
  if (!(machine instanceof Map) || machine.get('little_endian') !== true) throw fail('its byte order must be little')
  const root = next()
  const keys = next()
  if (!Array.isArray(keys) || !(root instanceof Map)) throw fail('it is not a state dict')
  const width = new Map<unknown, number>()
  for (const value of root.values()) if (value instanceof PickledTensor) width.set(value.storage.key, value.storage.bytes)
  const storages = new Map<string, { start: number; size: number }>()
  for (const key of keys) {
    const bytes = width.get(key)
    if (bytes === undefined) throw fail(`its storage ${show(key)} belongs to no tensor`)
    const count = Number(new DataView(await readExactly(handle, 8, end, file)).getBigInt64(0, true))
    const size = count * bytes
    if (count < 0 || end + 8 + size > fileSize)
      throw fail(`its storage ${show(key)} of ${count} elements ends after the file does (truncated?)`)
    storages.set(String(key), { start: end + 8, size })
    end += 8 + size
  }
  return { root, storages }
}

function checkStateDict(root: unknown, storages: Storages, file: string): Map<string, PickledTensor> {
  const fail = (what: string): BgeError => new BgeError('ERR_BGE_MODEL_FORMAT', `${file}: ${what}`)
  if (!(root instanceof Map)) throw fail(`it must hold a state dict (name to tensor), but holds ${show(root)}`)
  const tensors = new Map<string, PickledTensor>()
  for (const [name, value] of root) {
    if (typeof name !== 'string' || !(value instanceof PickledTensor)) throw fail(`${show(name)} must be a tensor, but was ${show(value)}`)
    const { storage } = value
    const place = storages.get(storage.key)
    if (place === undefined) throw fail(`tensor "${name}" has no data in the file`)
    if (place.size < storage.elements * storage.bytes) {
      throw fail(`tensor "${name}" needs a storage of ${storage.elements * storage.bytes} bytes, but the file holds ${place.size}`)
    }
    if (storage.type in bytesOf) tensors.set(name, value)
  }
  return tensors
}

async function readTensor(handle: FileHandle, tensor: PickledTensor, storages: Storages, what: string): Promise<Float32Array> {
  const { storage, shape, strides, offset } = tensor
  const count = elements(shape)
  if (count === 0) return new Float32Array(0)
  const span = shape.reduce((sum, size, i) => sum + (size - 1) * (strides[i] as number), 1)
  const { start } = storages.get(storage.key) as { start: number }
  const bytes = await readExactly(handle, span * storage.bytes, start + offset * storage.bytes, what)
  const values = toFloat32(bytes, storage.type as FloatType)
  let contiguous = 1
  const packed = shape.every((_, i) => {
    const axis = shape.length - 1 - i
    const fits = shape[axis] === 1 || strides[axis] === contiguous
    contiguous *= shape[axis] as number
    return fits
  })
  if (packed) return values
  const result = new Float32Array(count)
  const index = new Array<number>(shape.length).fill(0)
  let from = 0
  for (let to = 0; to < count; to++) {
    result[to] = values[from] as number
    for (let axis = shape.length - 1; axis >= 0; axis--) {
      from += strides[axis] as number
      if (++(index[axis] as number) < (shape[axis] as number)) break
      from -= (shape[axis] as number) * (strides[axis] as number)
      index[axis] = 0
    }
  }
  return result
}

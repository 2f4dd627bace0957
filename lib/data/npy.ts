import { mkdir, open, rename, rm } from 'node:fs/promises'
import { dirname } from 'node:path'
import { BgeError } from '../errors.js'

/** Writes a matrix as NumPy's .npy (float32, int8 or uint8), format 1.0, C order: complete or not at all. Errors: ERR_BGE_FILE. */
export async function writeNpy(
  file: string,
  data: Float32Array | Int8Array | Uint8Array,
  shape: readonly [rows: number, cols: number],
): Promise<void> {
  const temporary = `${file}.${process.pid}.tmp`
  try {
    await mkdir(dirname(file), { recursive: true })
    const handle = await open(temporary, 'w')
    try {
      await handle.writeFile(npyHeader(data instanceof Float32Array ? '<f4' : data instanceof Int8Array ? '|i1' : '|u1', shape))
      await handle.writeFile(new Uint8Array(data.buffer, data.byteOffset, data.byteLength))
      await handle.sync()
    } finally {
      await handle.close()
    }
    await rename(temporary, file)
  } catch (cause) {
    await rm(temporary, { force: true }).catch(() => {})
    throw new BgeError('ERR_BGE_FILE', `${file} cannot be written: ${(cause as Error).message}`, { cause })
  }
}

/** Magic, version, length, then a Python dictionary padded with spaces so that the data starts at a multiple of 64 bytes. */
function npyHeader(type: string, [rows, cols]: readonly [number, number]): Buffer {
  const dictionary = `{'descr': '${type}', 'fortran_order': False, 'shape': (${rows}, ${cols}), }`
  const size = Math.ceil((10 + dictionary.length + 1) / 64) * 64
  const header = Buffer.alloc(size, ' ')
  header.write('\x93NUMPY\x01\x00', 'latin1')
  header.writeUInt16LE(size - 10, 8)
  header.write(dictionary, 10)
  header.write('\n', size - 1)
  return header
}

import type { FileHandle } from 'node:fs/promises'
import { BgeError } from '../errors.js'
import { readExactly } from './weights.js'

/** Where the bytes of a stored (uncompressed) entry lie in the file. */
export interface ZipEntry {
  start: number
  size: number
}

/** The entries of a zip archive as torch.save writes it: stored, zip64 where needed. Errors: ERR_BGE_MODEL_FORMAT. */
export async function readZipDirectory(handle: FileHandle, file: string): Promise<Map<string, ZipEntry>> {
  const fail = (what: string): BgeError => new BgeError('ERR_BGE_MODEL_FORMAT', `${file}: ${what}`)
  const { size: fileSize } = await handle.stat()
  const read = async (position: number, size: number): Promise<DataView> => {
    if (position < 0 || position + size > fileSize) throw fail('its zip directory points outside the file (truncated?)')
    return new DataView(await readExactly(handle, size, position, file))
  }
  const tailSize = Math.min(fileSize, 22 + 0xffff)
  const tailStart = fileSize - tailSize
  const tail = await read(tailStart, tailSize)
  let end = tailSize - 22
  while (end >= 0 && tail.getUint32(end, true) !== 0x06054b50) end--
  if (end < 0) throw fail('it has no zip directory at its end (truncated, or not written by torch.save)')
  let count = tail.getUint16(end + 10, true)
  let directorySize = tail.getUint32(end + 12, true)
  let directoryStart = tail.getUint32(end + 16, true)
  if (count === 0xffff || directorySize === 0xffffffff || directoryStart === 0xffffffff) {
    const locator = await read(tailStart + end - 20, 20)
    if (locator.getUint32(0, true) !== 0x07064b50) throw fail('its zip64 directory is missing')
    const record = await read(Number(locator.getBigUint64(8, true)), 56)
    if (record.getUint32(0, true) !== 0x06064b50) throw fail('its zip64 directory is damaged')
    count = Number(record.getBigUint64(32, true))
    directorySize = Number(record.getBigUint64(40, true))
    directoryStart = Number(record.getBigUint64(48, true))
  }
  const directory = await read(directoryStart, directorySize)
  const entries = new Map<string, ZipEntry>()
  let at = 0
  for (let i = 0; i < count; i++) {
    if (at + 46 > directorySize || directory.getUint32(at, true) !== 0x02014b50) throw fail('its zip directory is damaged')
    const method = directory.getUint16(at + 10, true)
    const nameSize = directory.getUint16(at + 28, true)
    const extraSize = directory.getUint16(at + 30, true)
    const next = at + 46 + nameSize + extraSize + directory.getUint16(at + 32, true)
    if (next > directorySize) throw fail('its zip directory is damaged')
    const name = Buffer.from(directory.buffer, at + 46, nameSize).toString()
    const stored = zip64Fields(directory, at, at + 46 + nameSize, extraSize)
    if (stored === undefined) throw fail(`its zip entry "${name}" is damaged`)
    if (method !== 0) throw fail(`its zip entry "${name}" is compressed, but torch.save stores entries as they are`)
    const local = await read(stored.header, 30)
    if (local.getUint32(0, true) !== 0x04034b50) throw fail(`its zip entry "${name}" is damaged`)
    const start = stored.header + 30 + local.getUint16(26, true) + local.getUint16(28, true)
    if (start + stored.size > fileSize) throw fail(`its zip entry "${name}" ends after the file does (truncated?)`)
    entries.set(name, { start, size: stored.size })
    at = next
  }
  return entries
}

/** Size and local header position of a directory entry; 64-bit values are in extra field 1, only those that do not fit, in this order. */
function zip64Fields(view: DataView, at: number, extra: number, extraSize: number): { size: number; header: number } | undefined {
  let [packed, size, header] = [view.getUint32(at + 20, true), view.getUint32(at + 24, true), view.getUint32(at + 42, true)]
  if (packed === 0xffffffff || size === 0xffffffff || header === 0xffffffff) {
    let field = extra
    const extraEnd = extra + extraSize
    while (field + 4 <= extraEnd && view.getUint16(field, true) !== 1) field += 4 + view.getUint16(field + 2, true)
    if (field + 4 > extraEnd) return undefined
    let value = field + 4
    const fieldEnd = Math.min(extraEnd, value + view.getUint16(field + 2, true))
    const take = (): number => {
      value += 8
      return value <= fieldEnd ? Number(view.getBigUint64(value - 8, true)) : Number.NaN
    }
    if (size === 0xffffffff) size = take()
    if (packed === 0xffffffff) packed = take()
    if (header === 0xffffffff) header = take()
  }
  return packed === size && Number.isSafeInteger(size) && Number.isSafeInteger(header) ? { size, header } : undefined
}

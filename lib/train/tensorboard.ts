import { mkdir, open, readdir, rm } from 'node:fs/promises'
import { hostname } from 'node:os'
import { join } from 'node:path'
import { BinaryWriter, WireType } from '@bufbuild/protobuf/wire'
import { BgeError } from '../errors.js'
import type { MetricsRow } from './run_folder.js'

/** The run's values for TensorBoard: `tensorboard --logdir OUT`. */
export interface EventFile {
  append(row: MetricsRow): Promise<void>
  close(): Promise<void>
}

/**
 * Starts `OUT/tensorboard/events.out.tfevents.*` with the rows that the run already has, in place of any earlier event file there: what TensorBoard
 * shows is what metrics.jsonl holds. Throws ERR_BGE_FILE, as `append` does.
 *
 * Format: records of length (u64), masked CRC-32C of it, a tensorflow.Event, masked CRC-32C of that; all little-endian.
 */
export async function openEventFile(out: string, rows: readonly MetricsRow[]): Promise<EventFile> {
  const folder = join(out, 'tensorboard')
  const now = Date.now() / 1000
  const file = join(folder, `events.out.tfevents.${Math.floor(now)}.${hostname()}.${process.pid}`)
  const checked = async <T>(work: Promise<T>): Promise<T> => {
    try {
      return await work
    } catch (cause) {
      throw new BgeError('ERR_BGE_FILE', `${file} cannot be written: ${(cause as Error).message}`, { cause })
    }
  }
  await checked(mkdir(folder, { recursive: true }))
  const earlier = (await checked(readdir(folder))).filter((name) => name.startsWith('events.out.tfevents.'))
  for (const name of earlier) await checked(rm(join(folder, name), { force: true }))
  const handle = await checked(open(file, 'wx'))
  // Interruptions are left out: the last row that the run has was written just now.
  const before = now - (rows.at(-1)?.seconds ?? 0)
  const head = event({ wallTime: before, fileVersion: 'brain.Event:2' })
  await checked(handle.write(Buffer.concat([head, ...rows.map((row) => scalars(row, before + row.seconds))])))
  return {
    append: async (row) => void (await checked(handle.write(scalars(row, Date.now() / 1000)))),
    close: () => checked(handle.close()),
  }
}

/** Tags by chart group: losses and what comes from the model first, then speed. */
function tag(name: string): string {
  return /PerSecond$|^(seconds|stallSeconds|tokens)$/.test(name) ? `speed/${name}` : `train/${name}`
}

function scalars({ step, ...values }: MetricsRow, wallTime: number): Buffer {
  const summary = new BinaryWriter()
  for (const [name, value] of Object.entries(values)) {
    summary.tag(1, WireType.LengthDelimited).fork() // Summary.Value
    summary.tag(1, WireType.LengthDelimited).string(tag(name))
    summary.tag(2, WireType.Bit32).float(value)
    summary.join()
  }
  return event({ wallTime, step, summary: summary.finish() })
}

interface Event {
  /** seconds since 1970 */
  wallTime: number
  step?: number
  fileVersion?: string
  summary?: Uint8Array
}

function event({ wallTime, step, fileVersion, summary }: Event): Buffer {
  const message = new BinaryWriter()
  message.tag(1, WireType.Bit64).double(wallTime)
  if (step !== undefined) message.tag(2, WireType.Varint).int64(step)
  if (fileVersion !== undefined) message.tag(3, WireType.LengthDelimited).string(fileVersion)
  if (summary !== undefined) message.tag(5, WireType.LengthDelimited).bytes(summary)
  return record(message.finish())
}

function record(data: Uint8Array): Buffer {
  const framed = Buffer.alloc(16 + data.length)
  framed.writeBigUInt64LE(BigInt(data.length), 0)
  framed.writeUInt32LE(maskedCrc32c(framed.subarray(0, 8)), 8)
  framed.set(data, 12)
  framed.writeUInt32LE(maskedCrc32c(data), 12 + data.length)
  return framed
}

/** Of the Castagnoli polynomial, reflected: 0x82f63b78. */
const TABLE: Uint32Array = Uint32Array.from({ length: 256 }, (_, byte) => {
  let crc = byte
  for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ 0x82f63b78 : crc >>> 1
  return crc
})

/** CRC-32C (RFC 3720, appendix B.4). */
export function crc32c(data: Uint8Array): number {
  let crc = 0xffffffff
  for (const byte of data) crc = (crc >>> 8) ^ TABLE[(crc ^ byte) & 0xff]!
  return ~crc >>> 0
}

/** As TFRecord stores it: rotated right by 15 bits, plus a constant, so that a CRC over data that holds CRCs stays one. */
export function maskedCrc32c(data: Uint8Array): number {
  const crc = crc32c(data)
  return (((crc >>> 15) | (crc << 17)) + 0xa282ead8) >>> 0
}

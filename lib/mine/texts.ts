import { closeSync, openSync, readSync, writeSync } from 'node:fs'
import { BgeError } from '../errors.js'
import { growing } from '../data/growing.js'

/** Texts by number, on disk: 8 bytes of memory each. */
export interface TextStore {
  readonly size: number
  /** Numbers the text: 0, 1, 2, ... */
  push(text: string): void
  at(number: number): string
  /** the texts [first, end) */
  slice(first: number, end: number): string[]
  close(): void
}

const BLOCK = 1 << 20

/** Makes the file, or empties it. Throws ERR_BGE_FILE. */
export function openTextStore(file: string): TextStore {
  const checked = <T>(work: () => T): T => {
    try {
      return work()
    } catch (cause) {
      throw new BgeError('ERR_BGE_FILE', `${file} cannot be written and read again: ${(cause as Error).message}`, {
        cause,
        details: { file },
      })
    }
  }
  const fd = checked(() => openSync(file, 'w+'))
  const ends = growing((length) => new Float64Array(length))
  let waiting: Buffer[] = []
  let [waitingBytes, written] = [0, 0]
  const flush = (): void => {
    if (waitingBytes === 0) return
    const block = Buffer.concat(waiting)
    for (let done = 0; done < block.length; ) done += writeSync(fd, block, done, block.length - done, written + done)
    written += block.length
    ;[waiting, waitingBytes] = [[], 0]
  }
  const read = (start: number, end: number): Buffer => {
    flush()
    const bytes = Buffer.allocUnsafe(end - start)
    for (let done = 0; done < bytes.length; ) {
      const count = readSync(fd, bytes, done, bytes.length - done, start + done)
      if (count === 0) throw new Error('it has been cut off')
      done += count
    }
    return bytes
  }
  const startOf = (number: number): number => (number === 0 ? 0 : ends.at(number - 1)!)
  return {
    get size() {
      return ends.length
    },
    push(text) {
      const bytes = Buffer.from(text)
      waiting.push(bytes)
      waitingBytes += bytes.length
      ends.push(written + waitingBytes)
      if (waitingBytes >= BLOCK) checked(flush)
    },
    at: (number) => checked(() => read(startOf(number), ends.at(number)!)).toString(),
    slice(first, end) {
      if (first >= end) return []
      const start = startOf(first)
      const bytes = checked(() => read(start, ends.at(end - 1)!))
      return Array.from({ length: end - first }, (_, i) => bytes.toString('utf8', startOf(first + i) - start, ends.at(first + i)! - start))
    },
    close: () => closeSync(fd),
  }
}

import { BgeError } from '../../errors.js'
import { fileBytes } from './bytes.js'
import type { Fault } from './records.js'

/** The longest line, JSON value or page that is held in memory: 64 MiB. Longer ones stop the run. */
export const LONGEST: number = 64 << 20

/** Some consecutive lines without their LF or CRLF. */
export interface Lines {
  /** 1-based number of the first */
  readonly first: number
  /** null where a line was not UTF-8 and was reported to `fault` */
  readonly lines: readonly (string | null)[]
}

/**
 * The lines of a UTF-8 file, about a MiB at a time. A byte-order mark is skipped. Not node:readline: that also breaks lines at U+2028.
 * Errors: those of fileBytes, ERR_BGE_DATA for a line over 64 MiB or a file in UTF-16, and what `fault` throws for a line that is not UTF-8.
 */
export async function* readLines(file: string, fault: Fault): AsyncGenerator<Lines> {
  let first = 1
  let rest: Buffer[] = []
  let held = 0
  const block = (bytes: Buffer): Lines => {
    const lines = decodeLines(file, first === 1 ? withoutMark(file, bytes) : bytes, first, fault)
    const found = { first, lines }
    first += lines.length
    return found
  }
  for await (const chunk of fileBytes(file)) {
    const end = chunk.lastIndexOf(0x0a)
    if (end < 0) {
      held += chunk.length
      if (held > LONGEST) throw tooLong(file, first, 'line')
      rest.push(chunk)
      continue
    }
    // The last LF belongs to no line: split('\n') of the whole would end with an empty one.
    const whole = chunk.subarray(0, end)
    yield block(rest.length === 0 ? whole : Buffer.concat([...rest, whole]))
    rest = end + 1 < chunk.length ? [chunk.subarray(end + 1)] : []
    held = chunk.length - end - 1
  }
  if (rest.length > 0) yield block(Buffer.concat(rest))
}

/** @param what 'line', 'JSON value', ... */
export function tooLong(file: string, line: number, what: string): BgeError {
  return new BgeError('ERR_BGE_DATA', `${file}:${line}: expected a ${what} of at most ${LONGEST >> 20} MiB, but it is longer`)
}

/** The whole text of a UTF-8 file of at most 64 MiB. */
export async function readText(file: string): Promise<string> {
  const bytes = withoutMark(file, await readWhole(file))
  try {
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes)
  } catch {
    let line = 0
    for (const part of splitBytes(bytes)) {
      line++
      if (decode(part) === undefined) break
    }
    throw notUtf8(file, line)
  }
}

export async function readWhole(file: string): Promise<Buffer> {
  const chunks: Buffer[] = []
  let size = 0
  for await (const chunk of fileBytes(file)) {
    chunks.push(chunk)
    if ((size += chunk.length) > LONGEST) throw tooLong(file, 1, 'document')
  }
  return Buffer.concat(chunks)
}

export function notUtf8(file: string, line: number): BgeError {
  return new BgeError('ERR_BGE_DATA', `${file}:${line}: expected UTF-8 text, but was something else`, { details: { file, line } })
}

/** Without the byte-order mark of UTF-8; that of UTF-16 is an error. */
export function withoutMark(file: string, bytes: Buffer): Buffer {
  if (bytes[0] === 0xef && bytes[1] === 0xbb && bytes[2] === 0xbf) return bytes.subarray(3)
  if ((bytes[0] === 0xff && bytes[1] === 0xfe) || (bytes[0] === 0xfe && bytes[1] === 0xff))
    throw new BgeError('ERR_BGE_DATA', `${file}:1: expected UTF-8 text, but its byte-order mark says UTF-16`, { details: { file } })
  return bytes
}

const decoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })

function decode(bytes: Uint8Array): string | undefined {
  try {
    return decoder.decode(bytes)
  } catch {
    return undefined
  }
}

/** A block at once; line by line only where it is not all UTF-8. */
function decodeLines(file: string, bytes: Buffer, first: number, fault: Fault): (string | null)[] {
  const text = decode(bytes)
  if (text !== undefined) return withoutReturns(text.split('\n'))
  return splitBytes(bytes).map((part, i) => {
    const line = decode(part.at(-1) === 0x0d ? part.subarray(0, -1) : part)
    if (line === undefined) fault(first + i, notUtf8(file, first + i), part.toString('utf8'))
    return line ?? null
  })
}

function withoutReturns(lines: string[]): string[] {
  return lines.some((line) => line.endsWith('\r')) ? lines.map((line) => (line.endsWith('\r') ? line.slice(0, -1) : line)) : lines
}

function splitBytes(bytes: Buffer): Buffer[] {
  const parts: Buffer[] = []
  let start = 0
  for (let end = bytes.indexOf(0x0a); end >= 0; end = bytes.indexOf(0x0a, start)) {
    parts.push(bytes.subarray(start, end))
    start = end + 1
  }
  parts.push(bytes.subarray(start))
  return parts
}

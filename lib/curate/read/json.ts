import { BgeError, show } from '../../errors.js'
import { fileBytes } from './bytes.js'
import { LONGEST, notUtf8, readLines, tooLong, withoutMark } from './lines.js'
import type { Fault, SourceRecord } from './records.js'

/** One JSON object a line; blank lines are skipped. */
export async function* readJsonLines(file: string, fault: Fault): AsyncGenerator<SourceRecord[]> {
  for await (const { first, lines } of readLines(file, fault)) {
    const records: SourceRecord[] = []
    for (const [i, text] of lines.entries()) {
      if (text === null || text === '' || text.trim() === '') continue
      const record = parse(file, first + i, text, 'on one line', fault)
      if (record) records.push(record)
    }
    yield records
  }
}

/**
 * The records of a JSON file without reading it whole: the entries of the list that is the file, or of the list under `path` (`data`,
 * `result.rows`), or, where the file begins with an object and no path is given, one object after the other.
 */
export async function* readJson(file: string, path: string | undefined, fault: Fault): AsyncGenerator<SourceRecord[]> {
  const splitter = new Splitter(file, path)
  for await (const chunk of fileBytes(file)) {
    const values = splitter.push(chunk)
    if (values.length > 0) yield records(file, values, fault)
  }
  splitter.end()
}

interface Value {
  readonly line: number
  readonly bytes: Buffer
}

function records(file: string, values: readonly Value[], fault: Fault): SourceRecord[] {
  const found: SourceRecord[] = []
  for (const { line, bytes } of values) {
    let text: string
    try {
      text = decoder.decode(bytes)
    } catch {
      fault(line, notUtf8(file, line), bytes.toString('utf8'))
      continue
    }
    const record = parse(file, line, text, 'here', fault)
    if (record) found.push(record)
  }
  return found
}

const decoder = new TextDecoder('utf-8', { fatal: true })

function parse(file: string, line: number, text: string, where: string, fault: Fault): SourceRecord | undefined {
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch (cause) {
    const error = new BgeError(
      'ERR_BGE_DATA',
      `${file}:${line}: expected a JSON object ${where}, but was ${show(text)} (${(cause as Error).message})`,
      { cause, details: { file, line } },
    )
    fault(line, error, text)
    return undefined
  }
  if (value !== null && typeof value === 'object' && !Array.isArray(value)) return { line, value: value as Record<string, unknown> }
  fault(line, new BgeError('ERR_BGE_DATA', `${file}:${line}: expected a JSON object ${where}, but was ${show(value)}`), text)
  return undefined
}

const QUOTE = 0x22
const BACKSLASH = 0x5c
const LF = 0x0a

/**
 * Cuts the wanted values out of a stream of JSON by brackets and strings alone; JSON.parse says what is wrong inside of them. `level` is the
 * depth of brackets at which a wanted value stands: 0 for one after the other, 1 inside a list, deeper under a path.
 */
class Splitter {
  readonly #file: string
  readonly #path: readonly string[]
  #line = 1
  #depth = 0
  /** keys of the path that were entered */
  #matched = 0
  #level = -1
  #inString = false
  /** the string being read stands for a key, and its bytes so far */
  #key: Buffer[] | undefined
  /** bytes of the key before a value of an object at depth #matched + 1 */
  #lastKey = ''
  #afterKey = false
  /** the wanted value being read */
  #parts: Buffer[] | undefined
  #size = 0
  #valueLine = 1
  #started = false
  #done = false
  /** backslashes at the end of the previous chunk, inside a string: odd or even */
  #escaped = false

  constructor(file: string, path: string | undefined) {
    this.#file = file
    this.#path = path === undefined ? [] : path.split('.')
  }

  push(chunk: Buffer): Value[] {
    const bytes = this.#started ? chunk : withoutMark(this.#file, chunk)
    const found: Value[] = []
    let start = this.#parts ? 0 : -1
    let i = 0
    while (i < bytes.length) {
      if (this.#inString) {
        const end = this.#endOfString(bytes, i)
        if (this.#key && this.#key.length < 64) this.#key.push(bytes.subarray(i, end))
        i = end
        if (i === bytes.length) break
        this.#inString = false
        if (this.#key) this.#lastKey = Buffer.concat(this.#key).toString('utf8')
        this.#key = undefined
        i++
        continue
      }
      const byte = bytes[i]!
      if (byte === LF) this.#line++
      else if (byte > 0x20) {
        if (!this.#started) this.#begin(byte)
        if (byte === QUOTE) {
          if (!this.#parts && this.#depth === this.#level && !this.#done) throw this.#unexpected(bytes, i)
          this.#inString = true
          if (!this.#parts && !this.#afterKey && this.#depth === this.#matched + 1) this.#key = []
        } else if (byte === 0x7b || byte === 0x5b) {
          if (this.#done && this.#depth === 0) throw this.#unexpected(bytes, i, 'the end of the file')
          if (!this.#parts && this.#depth === this.#level && !this.#done) {
            this.#parts = []
            this.#size = 0
            this.#valueLine = this.#line
            start = i
          } else if (!this.#parts) this.#enter(byte)
          this.#depth++
        } else if (byte === 0x7d || byte === 0x5d) {
          this.#depth--
          if (this.#parts && this.#depth === this.#level) {
            this.#parts.push(bytes.subarray(start, i + 1))
            found.push({ line: this.#valueLine, bytes: this.#parts.length === 1 ? this.#parts[0]! : Buffer.concat(this.#parts) })
            this.#parts = undefined
            start = -1
          } else if (!this.#parts && this.#level > 0 && this.#depth === this.#level - 1) this.#done = true
        } else if (this.#parts) {
          // Inside of a wanted value only brackets and strings matter.
        } else if (byte === 0x3a) this.#afterKey = true
        else if (byte === 0x2c) this.#afterKey = false
        else if (this.#depth === this.#level && !this.#done) throw this.#unexpected(bytes, i)
      }
      i++
    }
    if (this.#parts) {
      this.#parts.push(bytes.subarray(start))
      if ((this.#size += bytes.length - start) > LONGEST) throw tooLong(this.#file, this.#valueLine, 'JSON value')
    }
    return found
  }

  end(): void {
    if (this.#parts || this.#inString || this.#depth !== 0) {
      throw new BgeError(
        'ERR_BGE_DATA',
        `${this.#file}:${this.#parts ? this.#valueLine : this.#line}: expected the JSON to be closed, but the file ends; was it cut off?`,
      )
    }
    if (this.#path.length > 0 && this.#level < 0) {
      throw new BgeError('ERR_BGE_DATA', `${this.#file}: expected a list under the key ${this.#path.join('.')}, but there is none`)
    }
  }

  /** The first byte tells what the file is. */
  #begin(byte: number): void {
    this.#started = true
    if (this.#path.length > 0) {
      if (byte !== 0x7b) throw this.#unexpectedStart(`an object with the key ${this.#path.join('.')}`, byte)
    } else if (byte === 0x5b) this.#level = 1
    else if (byte === 0x7b) this.#level = 0
    else throw this.#unexpectedStart('a list of objects, or an object', byte)
  }

  /** A bracket opens outside of wanted values: perhaps the next step of the path. */
  #enter(byte: number): void {
    const onPath = this.#depth === this.#matched + 1 && this.#afterKey && this.#level < 0
    if (onPath && this.#lastKey === this.#path[this.#matched]) {
      this.#matched++
      if (this.#matched === this.#path.length && byte === 0x5b) this.#level = this.#depth + 1
    }
    this.#afterKey = false
  }

  /** Index of the closing quote at or after `from`, or the length where the string goes on in the next chunk. */
  #endOfString(bytes: Buffer, from: number): number {
    let at = from
    if (this.#escaped) {
      this.#escaped = false
      at++
    }
    for (;;) {
      const quote = bytes.indexOf(QUOTE, at)
      const end = quote < 0 ? bytes.length : quote
      let slashes = 0
      while (end - slashes > at && bytes[end - slashes - 1] === BACKSLASH) slashes++
      const odd = slashes % 2 === 1
      if (quote < 0) {
        this.#escaped = odd
        return end
      }
      if (!odd) return quote
      at = quote + 1
    }
  }

  #unexpectedStart(expected: string, byte: number): BgeError {
    return new BgeError(
      'ERR_BGE_DATA',
      `${this.#file}:${this.#line}: expected ${expected}, but the file begins with ${show(String.fromCharCode(byte))}`,
    )
  }

  #unexpected(bytes: Buffer, at: number, expected = 'a JSON object'): BgeError {
    const text = bytes.subarray(at, at + 40).toString('utf8')
    return new BgeError('ERR_BGE_DATA', `${this.#file}:${this.#line}: expected ${expected}, but was ${show(text)}`)
  }
}

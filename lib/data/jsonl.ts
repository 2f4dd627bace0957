import { createHash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { readdir, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { BgeError, show } from '../errors.js'

/** One JSON object of a JSONL file, with the place it came from. */
export interface JsonlRow {
  readonly file: string
  /** 1-based */
  readonly line: number
  readonly value: Readonly<Record<string, unknown>>
}

/** A training row for stage 1: `{"text": string}`; other fields are ignored. */
export interface TextRow {
  readonly text: string
}

/** A training row for stages 2 and 3, in the JSONL format of FlagEmbedding (recipe.md 3.4); other fields are ignored. */
export interface PairRow {
  readonly query: string
  /** at least one */
  readonly pos: readonly string[]
  /** `neg` may be missing: then empty. Needed only when groupSize > 1 */
  readonly neg: readonly string[]
  /** teacher scores, one per entry of pos / neg */
  readonly posScores?: readonly number[]
  readonly negScores?: readonly number[]
  /** replaces the run's instruction for this query */
  readonly prompt?: string
  readonly type?: string
  readonly file: string
  readonly line: number
}

/** Files and folders (their `*.jsonl` and `*.json` files, by name, not recursive) as a list of files. */
export async function dataFiles(paths: readonly string[]): Promise<string[]> {
  const files: string[] = []
  for (const path of paths) {
    const info = await stat(path).catch((cause: unknown) => {
      throw new BgeError('ERR_BGE_FILE', `data file ${path} cannot be read: ${reason(cause)}`, { cause })
    })
    if (!info.isDirectory()) {
      files.push(path)
      continue
    }
    const names = (await readdir(path)).filter((name) => /\.jsonl?$/.test(name)).sort()
    if (names.length === 0) throw new BgeError('ERR_BGE_FILE', `data folder ${path} holds no .jsonl file`)
    files.push(...names.map((name) => join(path, name)))
  }
  return files
}

/**
 * Streams a JSONL file: UTF-8 (a byte-order mark is skipped), LF or CRLF, blank lines skipped. Every row must be an object.
 * Throws ERR_BGE_DATA `file:line: ...` and ERR_BGE_FILE.
 */
export async function* readJsonl(file: string): AsyncGenerator<JsonlRow> {
  for await (const { line, value } of readJsonLines(file, 'a JSON object')) {
    if (value === null || typeof value !== 'object' || Array.isArray(value)) {
      throw new BgeError('ERR_BGE_DATA', `${file}:${line}: expected a JSON object, but was ${show(value)}`)
    }
    yield { file, line, value: value as Record<string, unknown> }
  }
}

/** As readJsonl, for rows that may be any JSON value; `expected` says in messages what they should be. */
export async function* readJsonLines(file: string, expected: string): AsyncGenerator<{ line: number; value: unknown }> {
  let line = 0
  for await (const text of readLines(file)) {
    line++
    if (text.trim() === '') continue
    let value: unknown
    try {
      value = JSON.parse(text)
    } catch (cause) {
      throw new BgeError('ERR_BGE_DATA', `${file}:${line}: expected ${expected} on one line, but was ${show(text)} (${reason(cause)})`, {
        cause,
      })
    }
    yield { line, value }
  }
}

/** SHA-256 of one file, hex. */
export async function hashFile(file: string): Promise<string> {
  const hash = createHash('sha256')
  for await (const chunk of bytes(file)) hash.update(chunk)
  return hash.digest('hex')
}

/** Checks a row of stage 1. */
export function textRow(row: JsonlRow): TextRow {
  return { text: nonEmptyString(row, 'text', row.value.text) }
}

/** Checks a row of stages 2 and 3. */
export function pairRow(row: JsonlRow): PairRow {
  const { value, file, line } = row
  const query = nonEmptyString(row, 'query', value.query)
  const pos = strings(row, 'pos', value.pos)
  if (pos.length === 0) throw fieldError(row, 'pos', 'at least one positive text', value.pos)
  const neg = value.neg === undefined || value.neg === null ? [] : strings(row, 'neg', value.neg)
  const posScores = scores(row, 'pos_scores', value.pos_scores, pos.length)
  const negScores = scores(row, 'neg_scores', value.neg_scores, neg.length)
  const prompt = optionalString(row, 'prompt', value.prompt)
  const type = optionalString(row, 'type', value.type)
  return {
    query,
    pos,
    neg,
    file,
    line,
    ...(posScores && { posScores }),
    ...(negScores && { negScores }),
    ...(prompt !== undefined && { prompt }),
    ...(type !== undefined && { type }),
  }
}

/** `file:line: field NAME expected ..., but was ...` */
export function fieldError(row: { file: string; line: number }, field: string, expected: string, actual: unknown): BgeError {
  return new BgeError(
    'ERR_BGE_DATA',
    `${row.file}:${row.line}: field ${field} expected ${expected}, but was ${actual === undefined ? 'missing' : show(actual)}`,
    {
      details: { file: row.file, line: row.line, field },
    },
  )
}

/** A data file without a row. */
export function emptyFile(file: string): BgeError {
  return new BgeError('ERR_BGE_DATA', `${file}: expected at least one row, but was empty`, { details: { file } })
}

function nonEmptyString(row: JsonlRow, field: string, value: unknown): string {
  if (typeof value !== 'string') throw fieldError(row, field, 'a string', value)
  if (value.trim() === '') throw fieldError(row, field, 'a text that is not empty', value)
  return value
}

function optionalString(row: JsonlRow, field: string, value: unknown): string | undefined {
  if (value === undefined || value === null) return undefined
  if (typeof value !== 'string') throw fieldError(row, field, 'a string', value)
  return value
}

function strings(row: JsonlRow, field: string, value: unknown): string[] {
  if (!Array.isArray(value)) throw fieldError(row, field, 'an array of strings', value)
  return value.map((text, i) => nonEmptyString(row, `${field}[${i}]`, text))
}

function scores(row: JsonlRow, field: string, value: unknown, count: number): number[] | undefined {
  if (value === undefined || value === null) return undefined
  if (!Array.isArray(value)) throw fieldError(row, field, 'an array of numbers', value)
  if (value.length !== count) throw fieldError(row, field, `${count} scores, one per text`, value)
  for (const [i, score] of value.entries()) {
    if (typeof score !== 'number' || !Number.isFinite(score)) throw fieldError(row, `${field}[${i}]`, 'a number', score)
  }
  return value as number[]
}

async function* bytes(file: string): AsyncGenerator<Buffer> {
  try {
    for await (const chunk of createReadStream(file, { highWaterMark: 1 << 20 })) yield chunk as Buffer
  } catch (cause) {
    throw new BgeError('ERR_BGE_FILE', `${file} cannot be read: ${reason(cause)}`, { cause, details: { file } })
  }
}

/**
 * The lines of a UTF-8 file without their LF or CRLF. Not node:readline: that also breaks lines at U+2028 and U+2029, which JSON allows
 * inside a string. Throws ERR_BGE_DATA `file:line: ...` and ERR_BGE_FILE.
 */
export async function* readLines(file: string): AsyncGenerator<string> {
  const decoder = new TextDecoder('utf-8', { fatal: true })
  let number = 0
  for await (const line of readRawLines(file)) {
    number++
    let text: string
    try {
      text = decoder.decode(line)
    } catch (cause) {
      throw new BgeError('ERR_BGE_DATA', `${file}:${number}: expected UTF-8 text, but was something else`, { cause })
    }
    yield text
  }
}

/** As readLines, but bytes that nobody has decoded yet. Throws ERR_BGE_FILE. */
export async function* readRawLines(file: string): AsyncGenerator<Buffer> {
  const withoutReturn = (line: Buffer): Buffer => (line.at(-1) === 0x0d ? line.subarray(0, -1) : line)
  let rest: Buffer[] = []
  for await (const chunk of bytes(file)) {
    let start = 0
    for (let end = chunk.indexOf(0x0a); end >= 0; end = chunk.indexOf(0x0a, start)) {
      const line = chunk.subarray(start, end)
      yield withoutReturn(rest.length === 0 ? line : Buffer.concat([...rest, line]))
      rest = []
      start = end + 1
    }
    if (start < chunk.length) rest.push(chunk.subarray(start))
  }
  if (rest.length > 0) yield withoutReturn(Buffer.concat(rest))
}

function reason(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}

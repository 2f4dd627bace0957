import { readFile } from 'node:fs/promises'
import { promisify } from 'node:util'
import { gunzip } from 'node:zlib'
import { asyncBufferFromFile, parquetMetadataAsync, parquetReadObjects } from 'hyparquet'
import { compressors } from 'hyparquet-compressors'
import { type JsonlRow, readJsonl } from '../../data/jsonl.js'
import { BgeError, show } from '../../errors.js'

/** The rows of a parquet, JSONL, JSON or gzipped JSON file; `line` of a parquet file is the row, from 1. Throws ERR_BGE_DATA and ERR_BGE_FILE. */
export function readRows(file: string): AsyncGenerator<JsonlRow> {
  if (file.endsWith('.parquet')) return parquetRows(file)
  return file.endsWith('.jsonl') ? readJsonl(file) : jsonRows(file)
}

async function* parquetRows(file: string): AsyncGenerator<JsonlRow> {
  let line = 0
  const whole = async <T>(work: () => Promise<T>): Promise<T> => {
    try {
      return await work()
    } catch (cause) {
      const { code, message } = cause as NodeJS.ErrnoException
      if (code !== undefined) throw new BgeError('ERR_BGE_FILE', `${file} cannot be read: ${message}`, { cause })
      throw new BgeError(
        'ERR_BGE_DATA',
        `${file}: expected a whole parquet file, but it cannot be read (${message}); was it downloaded only in part?`,
        { cause },
      )
    }
  }
  const buffer = await whole(() => asyncBufferFromFile(file))
  const metadata = await whole(() => parquetMetadataAsync(buffer))
  // A row group at a time: a smaller range would decode the group's pages again for every piece of it.
  let start = 0
  for (const group of metadata.row_groups) {
    const end = start + Number(group.num_rows)
    const rows = await whole(() => parquetReadObjects({ file: buffer, metadata, compressors, rowStart: start, rowEnd: end }))
    for (const row of rows) yield { file, line: ++line, value: plain(row) as Record<string, unknown> }
    start = end
  }
}

/** 64-bit integers as numbers; those that do not fit stay what they are and fail the column's check. */
function plain(value: unknown): unknown {
  if (typeof value === 'bigint') return Number.isSafeInteger(Number(value)) ? Number(value) : value
  if (ArrayBuffer.isView(value)) return Array.from(value as unknown as ArrayLike<unknown>, plain)
  if (Array.isArray(value)) return value.map(plain)
  if (value !== null && typeof value === 'object' && Object.getPrototypeOf(value) === Object.prototype) {
    return Object.fromEntries(Object.entries(value).map(([key, entry]) => [key, plain(entry)]))
  }
  return value
}

/** `.json` is JSON lines on the hub; an array of objects is read too. */
async function* jsonRows(file: string): AsyncGenerator<JsonlRow> {
  const bytes = await readFile(file).catch((cause: unknown) => {
    throw new BgeError('ERR_BGE_FILE', `${file} cannot be read: ${(cause as Error).message}`, { cause })
  })
  const unpacked = file.endsWith('.gz')
    ? await promisify(gunzip)(bytes).catch((cause: unknown) => {
        throw new BgeError(
          'ERR_BGE_DATA',
          `${file}: expected a whole gzip file, but it cannot be read (${(cause as Error).message}); was it downloaded only in part?`,
          { cause },
        )
      })
    : bytes
  let text: string
  try {
    text = new TextDecoder('utf-8', { fatal: true }).decode(unpacked)
  } catch (cause) {
    throw new BgeError('ERR_BGE_DATA', `${file}: expected UTF-8 text, but was something else`, { cause })
  }
  if (text.trimStart().startsWith('[')) {
    for (const [i, value] of (parse(text, file, 1) as unknown[]).entries()) yield { file, line: i + 1, value: object(value, file, i + 1) }
    return
  }
  for (const [i, line] of text.split('\n').entries()) {
    if (line.trim() !== '') yield { file, line: i + 1, value: object(parse(line, file, i + 1), file, i + 1) }
  }
}

function parse(text: string, file: string, line: number): unknown {
  try {
    return JSON.parse(text)
  } catch (cause) {
    throw new BgeError('ERR_BGE_DATA', `${file}:${line}: expected JSON, but was ${show(text)} (${(cause as Error).message})`, { cause })
  }
}

function object(value: unknown, file: string, line: number): Record<string, unknown> {
  if (value !== null && typeof value === 'object' && !Array.isArray(value)) return value as Record<string, unknown>
  throw new BgeError('ERR_BGE_DATA', `${file}:${line}: expected a JSON object, but was ${show(value)}`)
}

import { asyncBufferFromFile, parquetMetadataAsync, parquetReadObjects, parquetSchema } from 'hyparquet'
import { compressors } from 'hyparquet-compressors'
import { BgeError } from '../../errors.js'
import type { SourceRecord } from './records.js'

/** A row group at a time, only the columns that are needed. `line` is the number of the row, from 1. */
export async function* readParquet(file: string, columns: readonly string[] | undefined): AsyncGenerator<SourceRecord[]> {
  const buffer = await told(file, () => asyncBufferFromFile(file))
  const metadata = await told(file, () => parquetMetadataAsync(buffer))
  const present = parquetSchema(metadata).children.map(({ element }) => element.name)
  const wanted = columns && present.filter((name) => columns.includes(name))
  let start = 0
  for (const group of metadata.row_groups) {
    const end = start + Number(group.num_rows)
    const rows = await told(file, () =>
      parquetReadObjects({ file: buffer, metadata, compressors, rowStart: start, rowEnd: end, ...(wanted && { columns: wanted }) }),
    )
    const first = start + 1
    yield rows.map((row, i) => ({ line: first + i, value: plain(row) as Record<string, unknown> }))
    start = end
  }
}

async function told<T>(file: string, work: () => Promise<T>): Promise<T> {
  try {
    return await work()
  } catch (cause) {
    const { code, message } = cause as NodeJS.ErrnoException
    if (code !== undefined) throw new BgeError('ERR_BGE_FILE', `${file} cannot be read: ${message}`, { cause, details: { file } })
    throw new BgeError('ERR_BGE_DATA', `${file}: expected a whole parquet file, but it cannot be read (${message}); was it cut off?`, {
      cause,
    })
  }
}

/** 64-bit integers as numbers where they fit, otherwise as text: they are ids. */
function plain(value: unknown): unknown {
  if (typeof value === 'bigint') return Number.isSafeInteger(Number(value)) ? Number(value) : String(value)
  if (Array.isArray(value)) return value.map(plain)
  if (value !== null && typeof value === 'object' && Object.getPrototypeOf(value) === Object.prototype) {
    return Object.fromEntries(Object.entries(value).map(([key, entry]) => [key, plain(entry)]))
  }
  return value
}

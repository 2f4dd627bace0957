import { Readable } from 'node:stream'
import { type CsvError, type Info, parse } from 'csv-parse'
import { BgeError, show } from '../../errors.js'
import type { Reading } from '../recipe.js'
import { readLines } from './lines.js'
import type { Fault, SourceRecord } from './records.js'

/** Rows of a table in which quotes are text: one row a line, columns by the delimiter alone (default: a tab). */
export async function* readTsv(file: string, reading: Reading, fault: Fault): AsyncGenerator<SourceRecord[]> {
  const delimiter = reading.delimiter ?? (reading.format === 'csv' ? ',' : '\t')
  let columns = reading.columns
  let skip = columns !== undefined && reading.header === 'skip'
  for await (const { first, lines } of readLines(file, fault)) {
    const records: SourceRecord[] = []
    for (const [i, text] of lines.entries()) {
      if (text === null || text === '') continue
      if (skip) {
        skip = false
        continue
      }
      const cells = text.split(delimiter)
      if (columns === undefined) {
        columns = cells
        continue
      }
      const line = first + i
      if (cells.length !== columns.length) fault(line, wrongWidth(file, line, columns, cells.length), text)
      else records.push({ line, value: row(columns, cells) })
    }
    yield records
  }
}

function row(columns: readonly string[], cells: readonly string[]): Record<string, string> {
  const value: Record<string, string> = {}
  for (let c = 0; c < columns.length; c++) value[columns[c]!] = cells[c]!
  return value
}

/**
 * Rows of a table with "quoted" cells, which may hold the delimiter and line breaks; `line` is the last line of the row. A line that is
 * not UTF-8 always stops the run: without it, the quotes around it would pair up wrongly.
 */
export async function* readCsv(file: string, reading: Reading, fault: Fault): AsyncGenerator<SourceRecord[]> {
  const delimiter = reading.delimiter ?? (reading.format === 'tsv' ? '\t' : ',')
  const parser = parse({
    delimiter,
    columns: reading.columns ? [...reading.columns] : true,
    info: true,
    skip_empty_lines: true,
    from: reading.columns && reading.header === 'skip' ? 2 : 1,
    skip_records_with_error: true,
    on_skip: (error: CsvError | undefined) => {
      if (!error) return undefined
      const line = error['lines'] as number
      const columns = reading.columns ?? (error['columns'] as readonly { name: string }[]).map(({ name }) => name)
      const cells = error['record'] as readonly string[] | undefined
      const told = cells
        ? wrongWidth(file, line, columns, cells.length)
        : new BgeError('ERR_BGE_DATA', `${file}:${line}: expected a row of CSV, but ${error.message}`, { cause: error })
      try {
        fault(line, told, cells?.join(delimiter) ?? error.message)
      } catch (stop) {
        parser.destroy(stop as Error)
      }
      return undefined
    },
  })
  const source = Readable.from(withBreaks(file))
  source.on('error', (error) => parser.destroy(error))
  source.pipe(parser)
  try {
    let records: SourceRecord[] = []
    for await (const { record, info } of parser as AsyncIterable<Item>) {
      records.push({ line: info.lines, value: record })
      if (records.length === 1000) {
        yield records
        records = []
      }
    }
    yield records
  } catch (cause) {
    if (cause instanceof BgeError) throw cause
    throw new BgeError('ERR_BGE_DATA', `${file}: expected CSV, but ${(cause as Error).message}`, { cause })
  } finally {
    source.destroy()
    parser.destroy()
  }
}

async function* withBreaks(file: string): AsyncGenerator<string> {
  const stop: Fault = (_, error) => {
    throw error
  }
  for await (const { lines } of readLines(file, stop)) yield `${lines.join('\n')}\n`
}

interface Item {
  readonly record: Record<string, string>
  readonly info: Info
}

function wrongWidth(file: string, line: number, columns: readonly string[], width: number): BgeError {
  return new BgeError(
    'ERR_BGE_DATA',
    `${file}:${line}: expected ${columns.length} columns (${show(columns.join(', '))}), but the row has ${width}`,
    { details: { file, line } },
  )
}

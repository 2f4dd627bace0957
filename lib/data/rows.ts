import { BgeError } from '../errors.js'
import { detectForm, type FormColumns, readRawRows } from './forms.js'
import { checkRow, type RowFinding } from './row_check.js'

/** A training row of any form, its parts by name. A row of stage 1 has a text only. */
export interface DataRow {
  readonly line: number
  /** the query, or the text of stage 1 */
  readonly query: string
  /** empty for stage 1 */
  readonly pos: readonly string[]
  readonly neg: readonly string[]
  /** the row as FlagEmbedding writes it, other fields kept */
  readonly value: Readonly<Record<string, unknown>>
  /** what validation would say */
  readonly faults: number
}

/**
 * Streams the rows of a file in any form of forms.ts. 'skip' leaves out rows that cannot be mended and tells `onLost`, 'refuse' throws
 * ERR_BGE_DATA at the first row that is not right as it stands.
 */
export async function* readDataRows(file: string, faulty: 'skip' | 'refuse', onLost?: () => void): AsyncGenerator<DataRow> {
  let first: FormColumns | undefined
  for await (const raw of readRawRows(file)) {
    const columns = 'value' in raw ? detectForm(raw.value) : undefined
    const fits = columns !== undefined && columns !== 'labelled' && (first === undefined || first.query === columns.query)
    const { row, findings } = fits && 'value' in raw ? checkRow(raw.value, columns) : { findings: [unfit(raw)] }
    if (faulty === 'refuse' && findings[0]) throw faultyRow(file, raw.line, findings[0])
    if (!row || !fits) {
      onLost?.()
      continue
    }
    first ??= columns
    const parts = row as { query?: string; text?: string; pos?: string[]; neg?: string[] }
    yield {
      line: raw.line,
      query: parts.query ?? parts.text!,
      pos: parts.pos ?? [],
      neg: parts.neg ?? [],
      value: row,
      faults: findings.length,
    }
  }
}

function unfit(raw: { problem?: { expected: string; actual: string } } | object): RowFinding {
  if ('problem' in raw && raw.problem) return { ...raw.problem, fix: 'row dropped' }
  return { expected: 'a training row of the form of the first', actual: 'another one', fix: 'row dropped' }
}

function faultyRow(file: string, line: number, { field, expected, actual }: RowFinding): BgeError {
  const what = field === undefined ? '' : `field ${field} `
  return new BgeError(
    'ERR_BGE_DATA',
    `${file}:${line}: ${what}expected ${expected}, but was ${actual}; bge data validate ${file} --fix lists and mends such rows`,
    { details: { file, line } },
  )
}

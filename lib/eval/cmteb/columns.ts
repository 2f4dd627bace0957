import { fieldError, type JsonlRow } from '../../data/jsonl.js'
import { BgeError } from '../../errors.js'

/** The first of these columns that the row has. */
export function column(row: JsonlRow, ...names: string[]): string {
  const found = names.find((name) => row.value[name] !== undefined)
  if (found !== undefined) return found
  throw new BgeError(
    'ERR_BGE_DATA',
    `${row.file}:${row.line}: expected column ${names.join(' or ')}, but the columns are ${Object.keys(row.value).join(', ')}`,
  )
}

/** A text may be empty: leaving rows out would change the scores. */
export function text(row: JsonlRow, name: string): string {
  const value = row.value[column(row, name)]
  if (typeof value !== 'string') throw fieldError(row, name, 'a string', value)
  return value
}

export function id(row: JsonlRow, ...names: string[]): string {
  const name = column(row, ...names)
  const value = row.value[name]
  if (typeof value === 'string' && value !== '') return value
  if (Number.isSafeInteger(value)) return String(value)
  throw fieldError(row, name, 'an id (a string or an integer)', value)
}

export function strings(row: JsonlRow, name: string): string[] {
  return list(row, name, (value) => typeof value === 'string', 'a string') as string[]
}

export function list(row: JsonlRow, name: string, fits: (value: unknown) => boolean, what: string): unknown[] {
  const value = row.value[column(row, name)]
  if (!Array.isArray(value)) throw fieldError(row, name, 'a list', value)
  const wrong = value.findIndex((entry) => !fits(entry))
  if (wrong >= 0) throw fieldError(row, `${name}[${wrong}]`, what, value[wrong])
  return value
}

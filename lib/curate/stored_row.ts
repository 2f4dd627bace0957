import { hash } from 'node:crypto'
import { BgeError, show } from '../errors.js'
import { SEPARATOR } from './near.js'
import { normaliseForIdentity, type Row } from './row.js'

/** A line of a file of rows, checked. Throws ERR_BGE_DATA `file:line: ...`. */
export function parseRow(line: string, file: string, number: number): Row {
  let row: Partial<Row> | null
  try {
    row = JSON.parse(line) as Partial<Row> | null
  } catch (cause) {
    throw new BgeError('ERR_BGE_DATA', `${file}:${number}: expected a curated row as a JSON object, but was ${show(line)}`, { cause })
  }
  const expect = (holds: boolean, field: keyof Row, expected: string): void => {
    if (!holds) throw new BgeError('ERR_BGE_DATA', `${file}:${number}: field ${field} expected ${expected}, but was ${show(row?.[field])}`)
  }
  for (const field of ['source', 'at', 'query'] as const) expect(typeof row?.[field] === 'string', field, 'a string')
  for (const field of ['pos', 'neg'] as const) expect(isList(row?.[field], isString), field, 'an array of strings')
  expect(row!.pos!.length > 0, 'pos', 'at least one text')
  expect(isId(row!.queryId), 'queryId', '16 hex digits')
  expect(isList(row!.posIds, isId) && row!.posIds.length === row!.pos!.length, 'posIds', 'an id of 16 hex digits for each pos')
  expect(isList(row!.negIds, isId) && row!.negIds.length === row!.neg!.length, 'negIds', 'an id of 16 hex digits for each neg')
  return row as Row
}

const isString = (value: unknown): value is string => typeof value === 'string'
const isId = (value: unknown): value is string => typeof value === 'string' && /^[0-9a-f]{16}$/.test(value)
const isList = <T>(value: unknown, is: (entry: unknown) => entry is T): value is T[] => Array.isArray(value) && value.every(is)

/** A set of ids as 64 bits; 0 for none. */
export function idKey(ids: readonly string[]): bigint {
  if (ids.length === 0) return 0n
  return hexKey(ids.length === 1 ? ids[0]! : hash('sha256', [...new Set(ids)].sort().join(), 'hex'))
}

/** The first 16 hex digits as a number. */
export function hexKey(hex: string): bigint {
  return BigInt(`0x${hex.slice(0, 16)}`)
}

/** Which texts of a row are compared, and by n-grams of how many characters. */
export interface Field {
  readonly name: 'query' | 'passage'
  readonly ngram: number
}

/** The text of a field as n-grams are taken from it: normalised as for ids; several positives in one set. */
export function fieldText(row: Pick<Row, 'query' | 'pos'>, { name }: Field): string {
  return name === 'query' ? normaliseForIdentity(row.query) : row.pos.map(normaliseForIdentity).join(SEPARATOR)
}

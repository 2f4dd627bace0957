import { toUSVString } from 'node:util'
import { show } from '../errors.js'
import { FORM_EXAMPLES, type FormColumns } from './forms.js'

export interface RowFinding {
  /** 1-based, for broken JSON */
  readonly column?: number
  /** 'pos[1]'; undefined where the whole row is meant */
  readonly field?: string
  readonly expected: string
  readonly actual: string
  /** what mending does, in words */
  readonly fix: string
}

/** A FlagEmbedding row, or one of stage 1; other fields of the input are kept. */
export type FixedRow = Readonly<Record<string, unknown>> & ({ readonly query: string } | { readonly text: string })

/**
 * Looks at every field of a row and mends what is safe: a number becomes its text, a lone text becomes a list, empty and repeated entries are
 * dropped, and so is a negative that is also a positive or the query. `row` is undefined where nothing safe is left.
 */
export function checkRow(value: Readonly<Record<string, unknown>>, columns: FormColumns): { row?: FixedRow; findings: RowFinding[] } {
  const findings: RowFinding[] = []
  const say = (field: string, expected: string, actual: unknown, fix: string): void => {
    findings.push({ field, expected, actual: actual === undefined ? 'missing' : show(actual), fix })
  }
  const text = readText(say, columns.query, value[columns.query])
  if (columns.form === 'text') return text === undefined ? { findings } : { row: { ...value, text }, findings }

  const isArray = columns.query === '0'
  const pos = readTexts(say, columns, columns.pos, value[columns.pos], 'needed')
  const given = columns.neg === undefined ? undefined : isArray ? arrayTail(value) : value[columns.neg]
  const neg = given === undefined ? [] : readTexts(say, columns, columns.neg!, given, 'optional')
  if (text === undefined || pos === undefined || neg === undefined) return { findings }
  if (pos.length === 0) {
    say(columns.pos, 'at least one text', value[columns.pos], 'row dropped')
    return { findings }
  }
  const forbidden = new Set([text, ...pos.map((entry) => entry.text)])
  const kept = neg.filter((entry) => {
    if (!forbidden.has(entry.text)) return true
    say(at(columns.neg!, entry.index), 'a text that is neither the query nor a positive', entry.text, 'entry dropped')
    return false
  })
  const scores = readScores(say, value, { pos, neg: kept })
  const rest = isArray ? {} : without(value, [columns.query, columns.pos, columns.neg ?? '', 'neg', 'pos_scores', 'neg_scores'])
  const negatives = columns.neg === undefined || given === undefined ? {} : { neg: kept.map((entry) => entry.text) }
  return { row: { query: text, pos: pos.map((entry) => entry.text), ...negatives, ...scores, ...rest }, findings }
}

type Say = (field: string, expected: string, actual: unknown, fix: string) => void

/** A text of a list, and its place there. */
interface Entry {
  readonly text: string
  readonly index: number
}

const at = (field: string, index: number): string => `${field}[${index}]`

/** undefined: the row is lost */
function readText(say: Say, field: string, value: unknown): string | undefined {
  if (typeof value === 'number') {
    say(field, 'a string', value, 'written as text')
    return String(value)
  }
  if (typeof value !== 'string') say(field, 'a string', value, 'row dropped')
  else if (value.trim() === '') say(field, 'a text that is not empty', value, 'row dropped')
  else return wellFormed(say, field, value)
  return undefined
}

function readTexts(say: Say, columns: FormColumns, field: string, value: unknown, need: 'needed' | 'optional'): Entry[] | undefined {
  if (value === null && need === 'optional') {
    say(field, 'an array of strings, or no such field', value, 'an empty array instead')
    return []
  }
  if (typeof value === 'string' || typeof value === 'number') {
    if (columns.form === 'flagembedding')
      say(field, `an array of strings, as in ${FORM_EXAMPLES.flagembedding}`, value, 'put into an array')
    if (typeof value === 'string' && value.trim() === '') {
      if (need === 'optional') return []
      say(field, 'a text that is not empty', value, 'row dropped')
      return undefined
    }
    return [{ text: wellFormed(say, field, String(value)), index: 0 }]
  }
  if (!Array.isArray(value)) {
    say(field, columns.form === 'flagembedding' ? 'an array of strings' : 'a string', value, 'row dropped')
    return undefined
  }
  const entries: Entry[] = []
  const seen = new Set<string>()
  for (const [index, entry] of value.entries()) {
    const place = at(field, index)
    if (entry === null || (typeof entry === 'string' && entry.trim() === '')) {
      say(place, 'a text that is not empty', entry, 'entry dropped')
    } else if (typeof entry !== 'string' && typeof entry !== 'number') {
      say(place, 'a string', entry, 'row dropped')
      return undefined
    } else {
      if (typeof entry === 'number') say(place, 'a string', entry, 'written as text')
      const text = wellFormed(say, place, String(entry))
      if (seen.has(text)) say(place, 'a text that the list does not hold already', text, 'entry dropped')
      else entries.push({ text, index })
      seen.add(text)
    }
  }
  return entries
}

function wellFormed(say: Say, field: string, text: string): string {
  const mended = toUSVString(text)
  if (mended !== text) say(field, 'well-formed Unicode', mended, 'half pairs become U+FFFD')
  return mended
}

/** Teacher scores of the entries that were kept. Scores that do not fit their texts are worthless, so they go, both lists. */
function readScores(
  say: Say,
  value: Readonly<Record<string, unknown>>,
  kept: { pos: readonly Entry[]; neg: readonly Entry[] },
): { pos_scores?: number[]; neg_scores?: number[] } {
  const scores: { pos_scores?: number[]; neg_scores?: number[] } = {}
  for (const [field, texts, entries] of [
    ['pos_scores', value.pos, kept.pos],
    ['neg_scores', value.neg, kept.neg],
  ] as const) {
    const given = value[field]
    if (given === undefined || given === null) continue
    const count = Array.isArray(texts) ? texts.length : entries.length
    const fits =
      Array.isArray(given) && given.length === count && given.every((score) => typeof score === 'number' && Number.isFinite(score))
    if (!fits) {
      say(field, `${count} numbers, one per text`, given, 'all scores of the row dropped')
      return {}
    }
    scores[field] = entries.map((entry) => given[entry.index] as number)
  }
  return scores
}

/** ['q', 'p', 'n1', 'n2'] -> ['n1', 'n2'] */
function arrayTail(value: Readonly<Record<string, unknown>>): unknown[] {
  return Object.keys(value)
    .filter((key) => Number(key) >= 2)
    .map((key) => value[key])
}

function without(value: Readonly<Record<string, unknown>>, names: readonly string[]): Record<string, unknown> {
  return Object.fromEntries(Object.entries(value).filter(([name]) => !names.includes(name)))
}

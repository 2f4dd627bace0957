import { createReadStream } from 'node:fs'
import { type CsvError, parse } from 'csv-parse'
import { BgeError } from '../errors.js'
import { readRawLines } from './jsonl.js'

/**
 * The forms in which people keep training rows: FlagEmbedding's lists, sentence-transformers' triplets and pairs, and the texts of stage 1.
 * A row is a JSON object, a JSON array [query, positive, negative...] or a line of a CSV or TSV file with a header.
 */
export type RowForm = 'flagembedding' | 'triplet' | 'pair' | 'text'

/** Where a form keeps its parts. Array rows have the columns '0', '1', ...; their negatives are all from '2' on. */
export interface FormColumns {
  readonly form: RowForm
  readonly query: string
  /** '' for the form 'text' */
  readonly pos: string
  /** a row may lack it */
  readonly neg?: string
}

/** A right row of each form, for messages. */
export const FORM_EXAMPLES: Readonly<Record<RowForm, string>> = {
  flagembedding: '{"query": "...", "pos": ["..."], "neg": ["..."]} ("neg" may be missing)',
  triplet: '{"anchor": "...", "positive": "...", "negative": "..."}',
  pair: '{"anchor": "...", "positive": "..."}',
  text: '{"text": "..."}',
}

const PAIR_NAMES: readonly (readonly [query: string, pos: string])[] = [
  ['anchor', 'positive'],
  ['query', 'positive'],
  ['query', 'passage'],
  ['query', 'answer'],
  ['question', 'answer'],
  ['text1', 'text2'],
  ['text_a', 'text_b'],
  ['sentence1', 'sentence2'],
  ['sentence_a', 'sentence_b'],
]

/** The form of a row by the names it has; undefined where they fit none. 'labelled': a pair with a label, which is no training row as it is. */
export function detectForm(row: Readonly<Record<string, unknown>>): FormColumns | 'labelled' | undefined {
  if ('query' in row && 'pos' in row) return { form: 'flagembedding', query: 'query', pos: 'pos', neg: 'neg' }
  if (isArrayRow(row)) {
    if ('2' in row) return { form: 'triplet', query: '0', pos: '1', neg: '2' }
    return '1' in row ? { form: 'pair', query: '0', pos: '1' } : undefined
  }
  for (const [query, pos] of PAIR_NAMES) {
    if (!(query in row && pos in row)) continue
    if ('label' in row || 'score' in row) return 'labelled'
    return 'negative' in row ? { form: 'triplet', query, pos, neg: 'negative' } : { form: 'pair', query, pos }
  }
  return 'text' in row ? { form: 'text', query: 'text', pos: '' } : undefined
}

function isArrayRow(row: Readonly<Record<string, unknown>>): boolean {
  return '0' in row
}

/** A row before anybody has looked at its fields, or why there is none. */
export type RawRow =
  | { readonly line: number; readonly value: Readonly<Record<string, unknown>> }
  | { readonly line: number; readonly problem: Problem }

export interface Problem {
  /** 1-based, in UTF-16 units */
  readonly column?: number
  readonly expected: string
  readonly actual: string
  /** nothing after this can be read */
  readonly fatal?: true
}

/** Streams the rows of a .jsonl, .json (a row per line), .csv or .tsv file; blank lines are skipped. Throws ERR_BGE_FILE. */
export function readRawRows(file: string): AsyncGenerator<RawRow> {
  if (/\.csv$/i.test(file)) return readTable(file, ',')
  if (/\.tsv$/i.test(file)) return readTable(file, '\t')
  return readJsonRows(file)
}

async function* readJsonRows(file: string): AsyncGenerator<RawRow> {
  const decoder = new TextDecoder('utf-8', { fatal: true })
  let line = 0
  for await (const bytes of readRawLines(file)) {
    line++
    let text: string
    try {
      text = decoder.decode(bytes)
    } catch {
      yield { line, problem: { expected: 'UTF-8 text', actual: 'something else (GBK files: convert with iconv -f GB18030 -t UTF-8)' } }
      continue
    }
    if (text.trim() === '') continue
    if (line === 1 && text.trim() === '[') {
      yield { line, problem: { expected: 'a JSON object per line', actual: 'one JSON array over many lines', fatal: true } }
      return
    }
    yield { line, ...jsonRow(text) }
  }
}

function jsonRow(text: string): { value: Record<string, unknown> } | { problem: Problem } {
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch (error) {
    const { message } = error as Error
    const at = /position (\d+)/.exec(message)?.[1]
    return {
      problem: {
        column: at === undefined ? text.length + 1 : Number(at) + 1,
        expected: 'a JSON object',
        actual: `broken JSON (${message})`,
      },
    }
  }
  if (value === null || typeof value !== 'object') {
    return { problem: { column: 1, expected: 'a JSON object', actual: JSON.stringify(value).slice(0, 60) } }
  }
  // An array's entries have the names '0', '1', ...
  return { value: Array.isArray(value) ? { ...value } : (value as Record<string, unknown>) }
}

interface TableRow {
  readonly record: Readonly<Record<string, string>>
  readonly info: { readonly lines: number; readonly empty_lines: number; readonly error?: CsvError }
}

async function* readTable(file: string, delimiter: string): AsyncGenerator<RawRow> {
  const source = createReadStream(file)
  const quote = delimiter === ',' ? '"' : null
  const parser = parse({ bom: true, columns: true, info: true, delimiter, skip_empty_lines: true, relax_column_count: true, quote })
  source.on('error', (error) => parser.destroy(error))
  let before = { lines: 1, empty_lines: 0 }
  try {
    for await (const { record, info } of source.pipe(parser) as AsyncIterable<TableRow>) {
      // csv-parse counts the lines up to the end of a record; it began behind the one before it and the blank lines between.
      const line = before.lines + 1 + info.empty_lines - before.empty_lines
      before = { lines: info.lines, empty_lines: info.empty_lines }
      if (info.error) yield { line, problem: { expected: 'as many cells as the header has', actual: info.error.message } }
      else yield { line, value: record }
    }
  } catch (error) {
    const { code, message } = error as Error & { code?: string }
    if (code === undefined || !code.startsWith('CSV_')) {
      throw new BgeError('ERR_BGE_FILE', `${file} cannot be read: ${message}`, { cause: error, details: { file } })
    }
    yield { line: before.lines + 1, problem: { expected: 'a table row', actual: message, fatal: true } }
  } finally {
    source.destroy()
  }
}

import type { BgeError } from '../../errors.js'
import type { Reading } from '../recipe.js'
import { count, type Tally } from '../tally.js'
import { readCsv, readTsv } from './csv.js'
import { readHtml } from './html.js'
import { readJson, readJsonLines } from './json.js'
import { readMarkdown } from './markdown.js'
import { readParquet } from './parquet.js'
import { readParagraphs } from './text.js'
import { readWikiExtract } from './wikiextract.js'

/** One record of a file: the object of a JSON line, a row of a table, a page. */
export interface SourceRecord {
  /** 1-based line where it begins; parquet: number of the row */
  readonly line: number
  readonly value: Readonly<Record<string, unknown>>
}

/** Told of a record that cannot be read: throws the error, or counts it and lets the reading go on. `raw`: what was there. */
export type Fault = (line: number, error: BgeError, raw: string) => void

/** What `reading.malformed` asks for. `shown`: the file's name in samples. */
export function faultPolicy(reading: Reading, shown: string, tally: Tally): Fault {
  return (line, error, raw) => {
    if (reading.malformed === 'stop') throw error
    count(tally.dropped, 'malformed', `${shown}:${line}`, raw)
  }
}

/**
 * Streams the records of a file, many at a time. Memory: a few MiB, a record (at most 64 MiB), and for parquet the needed columns of a row
 * group.
 * @param columns names of the top-level fields that are needed: parquet reads no others; undefined: all
 * Errors: ERR_BGE_FILE, ERR_BGE_DATA `file:line: ...`.
 */
export function readRecords(file: string, reading: Reading, fault: Fault, columns?: readonly string[]): AsyncGenerator<SourceRecord[]> {
  switch (reading.format) {
    case 'jsonl':
      return readJsonLines(file, fault)
    case 'json':
      return readJson(file, reading.records, fault)
    case 'wudao':
      return readWudao(file, fault)
    case 'csv':
    case 'tsv':
      return reading.quotes === 'none' ? readTsv(file, reading, fault) : readCsv(file, reading, fault)
    case 'parquet':
      return readParquet(file, columns)
    case 'text':
      return readParagraphs(file, reading.unit, fault)
    case 'markdown':
      return readMarkdown(file)
    case 'html':
      return readHtml(file)
    case 'wikiextract':
      return readWikiExtract(file, fault)
  }
}

/** WuDaoCorpora: a list of {"title", "content", "dataType", ...}, or one a line; `text` is the content. */
async function* readWudao(file: string, fault: Fault): AsyncGenerator<SourceRecord[]> {
  for await (const records of readJson(file, undefined, fault)) {
    yield records.map(({ line, value }) => ({ line, value: { ...value, text: value['content'] } }))
  }
}

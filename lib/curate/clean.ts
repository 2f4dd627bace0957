import { relative, resolve } from 'node:path'
import { rowCleaner } from './clean/rows.js'
import { extraction } from './extract.js'
import { type Lookup, openLookup } from './lookup.js'
import { faultPolicy, readRecords } from './read/records.js'
import type { CleanSettings, Source } from './recipe.js'
import { type Row, textId } from './row.js'
import { count, countLength, type Tally } from './tally.js'

export interface CleanOptions {
  /** what join files and lists of blocked words are relative to; default: the current folder */
  readonly root?: string
  /** where joins keep their texts while they run; default: the system's folder for temporary files */
  readonly tempDir?: string
  readonly signal?: AbortSignal
}

/**
 * Stage 1 of a curation: reads one file of a source, extracts pairs and cleans them. Streams: a row is given to `sink`, and awaited, before
 * more is read; rows come in the order of the file (of the first record of a group). Memory: a few MiB, the largest record, and for a source
 * with joins up to 64 bytes a joined record; with `group: 'all'` the mapped fields of the file.
 * @param clean settings, with defaults: source.clean
 * Errors: ERR_BGE_FILE, ERR_BGE_DATA `file:line: ...`; what `sink` throws; the signal's AbortError.
 */
export async function cleanSource(
  source: Source,
  file: string,
  clean: CleanSettings,
  sink: (row: Row) => void | Promise<void>,
  tally: Tally,
  options: CleanOptions = {},
): Promise<void> {
  const { root = '.', signal } = options
  // Rows are the same wherever the data lies.
  const inside = relative(resolve(root), resolve(file)).replaceAll('\\', '/')
  const shown = inside.startsWith('..') ? file : inside
  const cleanRow = await rowCleaner(clean, root)
  const lookups: Lookup[] = []
  try {
    for (const join of source.join) lookups.push(await openLookup(join, root, options.tempDir, tally))
    const fault = faultPolicy(source, shown, tally)
    const extract = extraction(source, file, shown, lookups, tally, fault)
    const pass = async (rows: ReturnType<typeof extract.push>): Promise<void> => {
      for (const extracted of rows) {
        const at = `${shown}:${extracted.line}`
        const cleaned = cleanRow(extracted, at, tally)
        if (!cleaned) continue
        const row = identified(source, at, cleaned, tally)
        tally.kept++
        countLength(tally.lengths.query, row.query.length)
        for (const text of row.pos) countLength(tally.lengths.passage, text.length)
        const wait = sink(row)
        if (wait) await wait
      }
    }
    for await (const records of readRecords(file, source, fault, extract.columns)) {
      signal?.throwIfAborted()
      await pass(extract.push(records))
    }
    await pass(extract.end())
  } finally {
    for (const lookup of lookups) lookup.close()
  }
}

/** With ids; each passage once, and no negative that is a positive or the query. */
function identified(source: Source, at: string, texts: { query: string; pos: string[]; neg: string[] }, tally: Tally): Row {
  const queryId = textId(texts.query)
  const seen = new Set<string>()
  const distinct = (passages: readonly string[]): { texts: string[]; ids: string[] } => {
    const found = { texts: [] as string[], ids: [] as string[] }
    for (const text of passages) {
      const id = textId(text)
      if (seen.has(id)) continue
      seen.add(id)
      found.texts.push(text)
      found.ids.push(id)
    }
    return found
  }
  const pos = distinct(texts.pos)
  seen.add(queryId)
  const neg = distinct(texts.neg)
  if (pos.texts.length < texts.pos.length || neg.texts.length < texts.neg.length)
    count(tally.changed, 'repeatedPassages', at, texts.query, `${pos.texts.length} positives, ${neg.texts.length} negatives`)
  return {
    source: source.name,
    at,
    query: texts.query,
    pos: pos.texts,
    neg: neg.texts,
    queryId,
    posIds: pos.ids,
    negIds: neg.ids,
    type: source.extract.type,
  }
}

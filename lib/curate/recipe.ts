import { basename, dirname, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { BgeError, show } from '../errors.js'
import { check, withDefaults } from '../data/check.js'
import { assign, readSettings } from '../data/config_file.js'
import { RECIPE_SCHEMA } from './schema.js'

export type SourceFormat = 'jsonl' | 'json' | 'csv' | 'tsv' | 'parquet' | 'text' | 'markdown' | 'html' | 'wikiextract' | 'wudao'

export type ExtractType =
  | 'title-body'
  | 'subtitle-passage'
  | 'question-answer'
  | 'question-question'
  | 'title-summary'
  | 'title-abstract'
  | 'sentence-edited'
  | 'query-context'
  | 'query-passage'
  | 'nli'

/** Where a text is in a record: a name, `a.b` inside objects, `a[]` for every entry of a list, `a[0]` for one. */
export type FieldPath = string

/** A value that a record must have in a field: one of some values, or a range, or (`not`) none of some. */
export type Condition =
  | string
  | number
  | boolean
  | null
  | readonly (string | number | boolean | null)[]
  | {
      readonly min?: number
      readonly max?: number
      readonly in?: readonly (string | number | boolean | null)[]
      readonly not?: readonly (string | number | boolean | null)[]
    }

/** Which records are read: every field must meet its condition. A record that does not is counted under the rule `where`. */
export type Where = Readonly<Record<FieldPath, Condition>>

/** How records become rows. What each type needs, and from which fields when none are given: EXTRACTORS in extractors.ts. */
export interface Extract {
  readonly type: ExtractType
  /** the role of the type (title, body, question, ...) -> where it is in the record; default: the field of the role's name */
  readonly fields: Readonly<Record<string, FieldPath>>
  /** the field whose value says whether the passage is a positive or a negative of the query; absent: all are positives */
  readonly label?: FieldPath
  readonly positive?: Condition
  readonly negative?: Condition
  /** records with an equal value here become one row: its positives and negatives together */
  readonly groupBy?: FieldPath
  /** 'adjacent' streams records that follow each other; 'all' holds the mapped fields of the whole file in memory */
  readonly group: 'adjacent' | 'all'
}

/** How the bytes of a file become records. */
export interface Reading {
  readonly format: SourceFormat
  /** names of the columns of csv or tsv, in order; default: those in its first line */
  readonly columns?: readonly string[]
  /** csv and tsv with `columns`: whether the first line is a header, to be passed over */
  readonly header: 'none' | 'skip'
  /** csv and tsv: 'csv' reads "quoted" fields, 'none' takes quotes as text (default: csv 'csv', tsv 'none') */
  readonly quotes: 'csv' | 'none'
  /** csv and tsv: between columns, where it is neither `,` nor a tab */
  readonly delimiter?: string
  /** json: the key of the list of records, dotted; default: the file is the list, or holds one record after the other */
  readonly records?: string
  /** lists inside lists of a record, outermost first: each entry becomes a record that also has the fields around it */
  readonly unnest: readonly FieldPath[]
  /** text: what one record is */
  readonly unit: 'line' | 'paragraph' | 'file'
  /** what a record that is not UTF-8 or not of the format does: it stops the run, or is dropped and counted */
  readonly malformed: 'stop' | 'drop'
}

/** Another file whose records complete those of the source: the text of an id. */
export interface Join extends Reading {
  readonly files: readonly string[]
  /** the field of this file that holds the id */
  readonly key: FieldPath
  /** the field of the source that holds the id */
  readonly on: FieldPath
  /** field of this file -> name that the record gets */
  readonly fields: Readonly<Record<FieldPath, string>>
}

/** Where hard negatives come from: the paper's policy (recipe.md 3.1). */
export type NegativePolicy = 'none' | 'given' | 'label0' | 'random' | 'mined'

export interface Source extends Reading {
  readonly name: string
  /** globs, relative to the recipe's root */
  readonly files: readonly string[]
  readonly join: readonly Join[]
  readonly where: Where
  readonly extract: Extract
  readonly licence: string
  readonly homepage?: string
  readonly expectedCount?: number
  /** which of two copies de-duplicate keeps: the one of the higher priority */
  readonly priority: number
  readonly negatives: NegativePolicy
  readonly notes?: string
  /** the recipe's, with what the source sets itself */
  readonly clean: CleanSettings
}

export interface Range {
  readonly min: number
  readonly max: number
}

/** The rules of cleaning, in the order in which they run. Defaults: schema.ts. */
export interface CleanSettings {
  readonly unicode: 'nfc' | 'nfkc' | 'keep'
  readonly controls: 'remove' | 'keep'
  readonly html: 'strip' | 'drop' | 'keep'
  readonly fullWidth: 'fold' | 'keep'
  readonly script: 'simplified' | 'keep'
  readonly boilerplate: 'remove' | 'keep'
  /** regular expressions for whole lines that are boilerplate too */
  readonly boilerplateLines: readonly string[]
  readonly personal: 'mask' | 'drop' | 'keep'
  readonly blockedWords: readonly string[]
  /** files of one word a line, relative to the recipe's root */
  readonly blockedFiles: readonly string[]
  /** characters; a longer passage is cut at the end of a sentence, a longer query is dropped */
  readonly queryLength: Range
  readonly passageLength: Range
  readonly tooLong: 'cut' | 'drop'
  /** share of letters and digits among the characters that are not white space, at least */
  readonly textShare: number
  /** share of Chinese characters among the words of query and passage (a character, or a run of other letters, is a word), at least */
  readonly chineseShare: number
  /** share of characters in lines that occurred before, at most */
  readonly repeatedLines: number
  /** share of characters in runs of 10 characters that occurred before, at most */
  readonly repeatedNgrams: number
  /** what happens to a passage that is the query ('equal'), or holds it ('contained') */
  readonly queryInPassage: 'keep' | 'drop-equal' | 'drop-contained'
}

export interface NearSettings {
  /** Jaccard similarity of the sets of character n-grams, at least */
  readonly threshold: number
  readonly ngram: number
  readonly hashes: number
}

export interface DedupSettings {
  readonly exact: boolean
  readonly near: NearSettings | false
  readonly on: 'pair' | 'query' | 'passage'
}

export interface DecontaminateSettings {
  /** 'cmteb' or folders of evaluation data */
  readonly against: readonly string[]
  readonly ngram: number
  /** Jaccard similarity of the sets of character n-grams, at least */
  readonly threshold: number
}

/** Exactly one of threshold and keepRate. */
export interface SemanticSettings {
  readonly model: string
  readonly threshold?: number
  readonly keepRate?: number
}

export interface OutputSettings {
  readonly format: 'jsonl' | 'parquet'
  readonly shardRows: number
}

/** A checked curation recipe with its defaults; its keys: schemas/curation-recipe.schema.json. */
export interface Recipe {
  readonly name: string
  readonly description?: string
  /** at least one, names differ */
  readonly sources: readonly Source[]
  readonly clean: CleanSettings
  readonly dedup: DedupSettings
  readonly decontaminate?: DecontaminateSettings
  readonly semantic?: SemanticSettings
  readonly output: OutputSettings
  /** absolute: what the files of the recipe are relative to */
  readonly root: string
  /** the recipe's own file, as given */
  readonly file: string
}

/** A recipe file as it is written: what the schema knows, defaults not yet filled in. */
interface Written extends Readonly<Record<string, unknown>> {
  readonly name: string
  readonly root?: string
  readonly include?: readonly string[]
  readonly sources?: readonly Record<string, unknown>[]
  readonly clean?: Settings
}
type Settings = Readonly<Record<string, unknown>>

/** The recipes of this package: `include: ["cmtp:ocnli"]`. */
const PUBLISHED: string = fileURLToPath(new URL('../../recipes/cmtp/', import.meta.url))

/**
 * Reads a recipe (JSON, JSON5 or .mjs) with those it includes, and fills in every default.
 * @param options.set `a.b=value` for keys of this file, in the order in which they are put in
 * @param options.root what the files of the sources are relative to; default: the recipe's `root`, then its own folder
 * Errors: ERR_BGE_RECIPE `file: key must be ..., but was ...`, ERR_BGE_FILE.
 */
export async function readRecipe(
  file: string,
  options: { readonly root?: string; readonly set?: readonly string[] } = {},
): Promise<Recipe> {
  const written = await readWritten(file, options.set)
  const root = resolve(options.root ?? resolve(dirname(file), written.root ?? '.'))
  const sources = await sourcesOf(file, written, {}, [])
  if (sources.length === 0) throw fault(file, 'sources must be a list that is not empty, or include must name recipes that have some')
  const names = new Map<string, string>()
  for (const { source, origin } of sources) {
    const first = names.get(source.name)
    if (first !== undefined) throw fault(origin, `two sources are named ${show(source.name)}; the other is in ${first}`)
    names.set(source.name, origin)
  }
  const { include: _include, $schema: _schema, ...rest } = withDefaults(RECIPE_SCHEMA, RECIPE_SCHEMA, written) as Recipe & Written
  const semantic = rest.semantic
  return {
    ...rest,
    ...(semantic && { semantic: semantic.keepRate === undefined ? { ...semantic, threshold: semantic.threshold ?? 0.43 } : semantic }),
    sources: sources.map(({ source }) => source),
    clean: checkedClean(file, 'clean', written.clean ?? {}),
    root,
    file,
  }
}

async function readWritten(file: string, set: readonly string[] = []): Promise<Written> {
  let settings = await readSettings(file, 'ERR_BGE_RECIPE')
  for (const assignment of set) settings = assign(settings, assignment, 'ERR_BGE_RECIPE')
  check(RECIPE_SCHEMA, settings.values, { code: 'ERR_BGE_RECIPE', what: 'a recipe', at: settings.at })
  return settings.values as unknown as Written
}

interface Found {
  readonly source: Source
  /** the recipe file that has it */
  readonly origin: string
}

/** The sources of a recipe and of those it includes. `around`: cleaning set by the recipe that includes this one. */
async function sourcesOf(file: string, written: Written, around: Settings, path: readonly string[]): Promise<Found[]> {
  if (path.includes(resolve(file))) throw fault(file, 'include must not lead back to the recipe itself')
  const outer = merged(around, written.clean ?? {})
  const found = (written.sources ?? []).map((source, i) => ({ source: completeSource(file, i, source, outer), origin: file }))
  for (const name of written.include ?? []) {
    const included = name.startsWith('cmtp:') ? resolve(PUBLISHED, `${basename(name.slice(5))}.json`) : resolve(dirname(file), name)
    found.push(...(await sourcesOf(included, await readWritten(included), outer, [...path, resolve(file)])))
  }
  return found
}

function completeSource(file: string, index: number, written: Settings, outer: Settings): Source {
  const source = withDefaults(RECIPE_SCHEMA, { $ref: '#/$defs/source' }, written) as unknown as Source
  const where = `sources[${index}]`
  const joined = new Set(source.join.flatMap(({ fields }) => Object.values(fields)))
  const late = Object.keys(source.where).find((path) => joined.has(path))
  if (late !== undefined) throw fault(file, `${where}.where must name fields of the source's own files, but ${late} comes from a join`)
  if (source.extract.label !== undefined && source.extract.fields['negative'] !== undefined)
    throw fault(file, `${where}.extract must have either label or fields.negative, but has both`)
  return {
    ...source,
    ...reading(file, where, source),
    join: source.join.map((join, i) => ({ ...join, ...reading(file, `${where}.join[${i}]`, join) })),
    clean: checkedClean(file, `${where}.clean`, merged(outer, (written['clean'] as Settings | undefined) ?? {})),
  }
}

const ENDINGS: Readonly<Record<string, SourceFormat>> = {
  jsonl: 'jsonl',
  ndjson: 'jsonl',
  json: 'json',
  csv: 'csv',
  tsv: 'tsv',
  parquet: 'parquet',
  txt: 'text',
  md: 'markdown',
  markdown: 'markdown',
  html: 'html',
  htm: 'html',
}

/** The format by the names of the files where none is given, and the quotes that go with it. */
function reading(
  file: string,
  where: string,
  given: Partial<Reading> & { readonly files: readonly string[] },
): { format: SourceFormat; quotes: 'csv' | 'none' } {
  const byName = given.files.map((name) => ENDINGS[/\.(\w+)(\.(gz|zst|zstd))?$/.exec(name)?.[1]?.toLowerCase() ?? ''])
  const format = given.format ?? byName[0]
  if (format === undefined || (given.format === undefined && byName.some((one) => one !== format)))
    throw fault(file, `${where}.format must be given, because ${show(given.files.join(', '))} does not tell one`)
  return { format, quotes: given.quotes ?? (format === 'tsv' ? 'none' : 'csv') }
}

/** Later settings win; ranges are merged bound by bound. */
function merged(before: Settings, after: Settings): Settings {
  const both: Record<string, unknown> = { ...before, ...after }
  for (const key of ['queryLength', 'passageLength']) {
    if (before[key] && after[key]) both[key] = { ...before[key], ...after[key] }
  }
  return both
}

/** Cleaning settings with defaults, and what the schema cannot say about them. */
function checkedClean(file: string, where: string, settings: Settings): CleanSettings {
  const clean = withDefaults(RECIPE_SCHEMA, { $ref: '#/$defs/clean' }, settings) as unknown as CleanSettings
  for (const key of ['queryLength', 'passageLength'] as const) {
    const { min, max } = clean[key]
    if (min > max) throw fault(file, `${where}.${key}.min must be at most its max, but ${min} is greater than ${max}`)
  }
  clean.boilerplateLines.forEach((pattern, i) => {
    try {
      new RegExp(pattern, 'u')
    } catch (cause) {
      throw fault(file, `${where}.boilerplateLines[${i}] must be a regular expression, but ${(cause as Error).message}`)
    }
  })
  return clean
}

function fault(file: string, sentence: string): BgeError {
  return new BgeError('ERR_BGE_RECIPE', `${file}: ${sentence}`, { details: { file } })
}

import { access } from 'node:fs/promises'
import { join } from 'node:path'
import { fieldError, type JsonlRow, readJsonl } from '../data/jsonl.js'
import { BgeError } from '../errors.js'
import type { Judgments } from './metrics.js'

/** Pairs of texts with a graded similarity, `{"text1","text2","label"}`. */
export interface StsData {
  readonly text1: readonly string[]
  readonly text2: readonly string[]
  readonly labels: readonly number[]
}

/** `corpus.jsonl {"id","text"[,"title"]}`, `queries.jsonl {"id","text"}`, `qrels.jsonl {"qid","did","score"}` of one folder. */
export interface RetrievalData {
  /** id -> `title + " " + text`, trimmed */
  readonly corpus: ReadonlyMap<string, string>
  /** id -> text, as it is */
  readonly queries: ReadonlyMap<string, string>
  /** query id -> judgments; every query has at least one */
  readonly qrels: ReadonlyMap<string, Judgments>
}

/** `{"query","positive":[...],"negative":[...]}`. */
export interface RerankingData {
  readonly samples: readonly RerankingSample[]
  /** rows without a positive or without a negative: nothing to rank, so they are left out, as in C_MTEB */
  readonly skipped: number
}

export interface RerankingSample {
  readonly query: string
  readonly positive: readonly string[]
  readonly negative: readonly string[]
}

/** Throws ERR_BGE_DATA `file:line: ...`, also where all labels are equal (a correlation would be undefined). */
export async function loadSts(file: string): Promise<StsData> {
  const data = { text1: [] as string[], text2: [] as string[], labels: [] as number[] }
  for await (const row of readJsonl(file)) {
    data.text1.push(text(row, 'text1'))
    data.text2.push(text(row, 'text2'))
    const label = row.value.label
    if (typeof label !== 'number' || !Number.isFinite(label)) throw fieldError(row, 'label', 'a number', label)
    data.labels.push(label)
  }
  if (new Set(data.labels).size < 2) {
    throw new BgeError(
      'ERR_BGE_DATA',
      `${file}: expected at least two different labels, but it has ${data.labels.length} rows and ${new Set(data.labels).size} labels`,
    )
  }
  return data
}

/** The three files of a retrieval task. */
export interface RetrievalFiles {
  readonly corpus: string
  readonly queries: string
  readonly qrels: string
}

/** `loadRetrievalFiles` of corpus.jsonl, queries.jsonl and qrels.jsonl in a folder. */
export async function loadRetrieval(folder: string): Promise<RetrievalData> {
  const files = { corpus: join(folder, 'corpus.jsonl'), queries: join(folder, 'queries.jsonl'), qrels: join(folder, 'qrels.jsonl') }
  for (const file of Object.values(files)) {
    await access(file).catch(() => {
      throw new BgeError(
        'ERR_BGE_FILE',
        `retrieval task ${folder} must hold corpus.jsonl, queries.jsonl and qrels.jsonl, but ${file} is not there`,
      )
    })
  }
  return loadRetrievalFiles(files)
}

/** Throws ERR_BGE_DATA `file:line: ...` for duplicate ids, unknown ids, duplicate judgments, queries without one, and empty files. */
export async function loadRetrievalFiles(files: RetrievalFiles): Promise<RetrievalData> {
  const { corpus: corpusFile, queries: queriesFile, qrels: qrelsFile } = files
  const corpus = await texts(corpusFile, (row) => {
    const title = row.value.title === undefined || row.value.title === null ? '' : text(row, 'title')
    return `${title} ${text(row, 'text')}`.trim()
  })
  const queries = await texts(queriesFile, (row) => text(row, 'text'))
  const qrels = new Map<string, Map<string, number>>()
  for await (const row of readJsonl(qrelsFile)) {
    const qid = id(row, 'qid')
    const did = id(row, 'did')
    const { score } = row.value
    if (!Number.isSafeInteger(score) || (score as number) < 0) throw fieldError(row, 'score', 'an integer of at least 0', score)
    if (!queries.has(qid)) throw fieldError(row, 'qid', 'the id of a query in queries.jsonl', qid)
    if (!corpus.has(did)) throw fieldError(row, 'did', 'the id of a document in corpus.jsonl', did)
    const judgments = qrels.get(qid) ?? new Map<string, number>()
    if (judgments.has(did)) throw fieldError(row, 'did', `one judgment for query ${qid}`, did)
    qrels.set(qid, judgments.set(did, score as number))
  }
  const unjudged = [...queries.keys()].filter((qid) => !qrels.has(qid))
  if (unjudged.length > 0) {
    throw new BgeError(
      'ERR_BGE_DATA',
      `${queriesFile}: every query needs a judgment in qrels.jsonl, but ${unjudged.length} of ${queries.size} have none, the first is "${unjudged[0]}"`,
    )
  }
  return { corpus, queries, qrels }
}

/** Throws ERR_BGE_DATA `file:line: ...`. */
export async function loadReranking(file: string): Promise<RerankingData> {
  const samples: RerankingSample[] = []
  let skipped = 0
  for await (const row of readJsonl(file)) {
    const sample = { query: text(row, 'query'), positive: list(row, 'positive'), negative: list(row, 'negative') }
    if (sample.positive.length === 0 || sample.negative.length === 0) skipped++
    else samples.push(sample)
  }
  if (samples.length === 0) {
    throw new BgeError(
      'ERR_BGE_DATA',
      `${file}: expected rows with at least one positive and one negative text, but it has none (${skipped} rows)`,
    )
  }
  return { samples, skipped }
}

async function texts(file: string, read: (row: JsonlRow) => string): Promise<Map<string, string>> {
  const byId = new Map<string, string>()
  for await (const row of readJsonl(file)) {
    const key = id(row, 'id')
    if (byId.has(key)) throw fieldError(row, 'id', 'an id that no earlier row has', key)
    byId.set(key, read(row))
  }
  if (byId.size === 0) throw new BgeError('ERR_BGE_DATA', `${file}: expected at least one row, but it is empty`)
  return byId
}

/** A text of a benchmark may be empty: leaving rows out would change the scores. */
function text(row: JsonlRow, field: string): string {
  const value = row.value[field]
  if (typeof value !== 'string') throw fieldError(row, field, 'a string', value)
  return value
}

function id(row: JsonlRow, field: string): string {
  const value = row.value[field]
  if (typeof value === 'string' && value !== '') return value
  if (Number.isSafeInteger(value)) return String(value)
  throw fieldError(row, field, 'an id (a string or an integer)', value)
}

function list(row: JsonlRow, field: string): string[] {
  const value = row.value[field]
  if (!Array.isArray(value)) throw fieldError(row, field, 'an array of strings', value)
  const wrong = value.findIndex((entry) => typeof entry !== 'string')
  if (wrong >= 0) throw fieldError(row, `${field}[${wrong}]`, 'a string', value[wrong])
  return value as string[]
}

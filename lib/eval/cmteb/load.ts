import { fieldError, type JsonlRow } from '../../data/jsonl.js'
import { BgeError } from '../../errors.js'
import type { RerankingData, RetrievalData, StsData } from '../data.js'
import { column, id, list, strings, text } from './columns.js'
import { findPart, type Part, rolesOf } from './parts.js'
import { openRepos, type TaskRepos, type TaskSource } from './repos.js'
import { rerankingOfRows, rerankingOfTables, type CmtebReranking } from './reranking.js'
import { readRows } from './rows.js'
import type { CmtebTask, Dialect } from './tasks.js'

/** Two texts of a row and whether they belong together: labels are 0 or 1. */
export interface PairClassificationData {
  readonly text1: readonly string[]
  readonly text2: readonly string[]
  readonly labels: readonly number[]
}

export interface ClusteringData {
  readonly sets: readonly { readonly texts: readonly string[]; readonly labels: readonly string[] }[]
}

export interface LabeledTexts {
  readonly texts: readonly string[]
  /** indexes into `classes` */
  readonly labels: readonly number[]
}

export interface ClassificationData {
  readonly train: LabeledTexts
  readonly test: LabeledTexts
  /** sorted as numpy sorts them: numbers by value, strings by code point */
  readonly classes: readonly (number | string)[]
}

/** The data of one split, by task type. */
export type CmtebData =
  | ({ readonly type: 'retrieval' } & RetrievalData)
  | ({ readonly type: 'reranking' } & RerankingData & CmtebReranking)
  | ({ readonly type: 'sts' } & StsData)
  | ({ readonly type: 'pairClassification' } & PairClassificationData)
  | ({ readonly type: 'clustering' } & ClusteringData)
  | ({ readonly type: 'classification' } & ClassificationData)

export interface LoadedTask {
  readonly task: CmtebTask
  /** the commit the data is of, for result files */
  readonly revision: string
  /** split -> its data, in the order in which mteb evaluates them */
  readonly splits: ReadonlyMap<string, CmtebData>
  /** what was left out or differs from the published data, a sentence each: worth a line beside the score */
  readonly notes: readonly string[]
}

/**
 * Reads a task of C-MTEB in the layout that is there, for the splits of a dialect. Throws ERR_BGE_DATA (a sentence with the file: a missing split or column, an empty
 * corpus, duplicate ids, nothing judged, half a file), ERR_BGE_FILE and ERR_BGE_HUB.
 */
export async function loadTask(task: CmtebTask, dialect: Dialect, source: TaskSource = {}): Promise<LoadedTask> {
  const repos = await openRepos(task, source)
  const notes: string[] = []
  const splits = new Map<string, CmtebData>()
  const train = task.type === 'classification' ? await labeledTexts(findPart(task, repos, 'rows', 'train')) : undefined
  for (const split of task.splits[dialect]) splits.set(split, await loadSplit(task, repos, split, notes, train))
  return { task, revision: repos.main.dataset.revision, splits, notes }
}

async function loadSplit(task: CmtebTask, repos: TaskRepos, split: string, notes: string[], train?: Labeled): Promise<CmtebData> {
  const part = (role: 'corpus' | 'queries' | 'qrels' | 'topRanked' | 'rows'): Part => findPart(task, repos, role, split)
  const count = (name: string, actual: number): void => {
    const expected = task.counts[name]
    if (expected !== undefined && actual !== expected)
      notes.push(`${task.name}: ${actual} ${name} where the published scores stand on ${expected}: the scores are not comparable`)
  }
  switch (task.type) {
    case 'retrieval': {
      const data = await retrieval(part('corpus'), part('queries'), part('qrels'), notes)
      count('documents', data.corpus.size)
      count('queries', data.queries.size)
      return { type: 'retrieval', ...data }
    }
    case 'reranking': {
      const tables = rolesOf(task, repos).includes('corpus')
      const data = tables
        ? rerankingOfTables(
            await retrieval(part('corpus'), part('queries'), part('qrels'), notes),
            await candidates(part('topRanked')),
            nameOf(part('topRanked')),
          )
        : rerankingOfRows(await samples(part('rows')), split, nameOf(part('rows')))
      if (data.skipped > 0)
        notes.push(`${task.name}: ${data.skipped} queries without a positive or without a negative candidate are left out`)
      count('queries', data.samples.length)
      count(
        'candidates',
        data.samples.reduce((sum, { positive, negative }) => sum + positive.length + negative.length, 0),
      )
      return { type: 'reranking', ...data }
    }
    case 'sts': {
      const data = await sts(part('rows'))
      count('pairs', data.labels.length)
      return { type: 'sts', ...data }
    }
    case 'pairClassification': {
      const data = await labeledPairs(part('rows'))
      count('pairs', data.labels.length)
      return { type: 'pairClassification', ...data }
    }
    case 'clustering': {
      const data = await clustering(part('rows'))
      count('sets', data.sets.length)
      count(
        'texts',
        data.sets.reduce((sum, set) => sum + set.texts.length, 0),
      )
      return { type: 'clustering', ...data }
    }
    case 'classification': {
      const data = classification(train!, await labeledTexts(part('rows')))
      count('train', data.train.texts.length)
      count(split, data.test.texts.length)
      return { type: 'classification', ...data }
    }
  }
}

async function retrieval(corpusPart: Part, queriesPart: Part, qrelsPart: Part, notes: string[]): Promise<RetrievalData> {
  const corpus = await texts(corpusPart, (row) => {
    const title = row.value.title === undefined || row.value.title === null ? '' : text(row, 'title')
    return `${title} ${text(row, 'text')}`.trim()
  })
  const queries = await texts(queriesPart, (row) => text(row, 'text'))
  const qrels = new Map<string, Map<string, number>>()
  const strange = { queries: new Set<string>(), documents: new Set<string>(), repeated: 0 }
  for await (const row of rowsOf(qrelsPart)) {
    const qid = id(row, 'query-id', 'qid')
    const did = id(row, 'corpus-id', 'pid')
    const { score } = row.value
    if (typeof score !== 'number' || !Number.isInteger(score)) throw fieldError(row, 'score', 'an integer', score)
    if (!queries.has(qid)) strange.queries.add(qid)
    if (!corpus.has(did)) strange.documents.add(did)
    const judgments = qrels.get(qid) ?? new Map<string, number>()
    if (judgments.has(did)) strange.repeated++
    qrels.set(qid, judgments.set(did, score))
  }
  for (const qid of strange.queries) qrels.delete(qid)
  const judged = new Map([...queries].filter(([qid]) => qrels.has(qid)))
  const file = nameOf(qrelsPart)
  if (judged.size === 0)
    throw new BgeError(
      'ERR_BGE_DATA',
      `${file}: expected judgments of the ${queries.size} queries in ${nameOf(queriesPart)}, but none of them has one`,
    )
  const unjudged = [...queries.keys()].filter((qid) => !qrels.has(qid))
  // As mteb does it; a user who does not expect it sees why.
  if (unjudged.length > 0)
    notes.push(`${file}: ${unjudged.length} of ${queries.size} queries have no judgment and are left out, the first is "${unjudged[0]}"`)
  if (strange.queries.size > 0)
    notes.push(
      `${file}: judgments of ${strange.queries.size} queries that are not in ${nameOf(queriesPart)} are left out, the first is "${[...strange.queries][0]}"`,
    )
  if (strange.documents.size > 0)
    notes.push(
      `${file}: ${strange.documents.size} judged documents are not in ${nameOf(corpusPart)} and count as not found, the first is "${[...strange.documents][0]}"`,
    )
  if (strange.repeated > 0) notes.push(`${file}: ${strange.repeated} judgments repeat a query and document; the last one counts`)
  return { corpus, queries: judged, qrels }
}

async function candidates(part: Part): Promise<Map<string, string[]>> {
  const byQuery = new Map<string, string[]>()
  for await (const row of rowsOf(part)) {
    const qid = id(row, 'query-id')
    if (byQuery.has(qid)) throw fieldError(row, 'query-id', 'an id that no earlier row has', qid)
    byQuery.set(qid, list(row, 'corpus-ids', (value) => typeof value === 'string' || Number.isSafeInteger(value), 'an id').map(String))
  }
  return byQuery
}

async function samples(part: Part): Promise<{ query: string; positive: string[]; negative: string[] }[]> {
  const result = []
  for await (const row of rowsOf(part))
    result.push({ query: text(row, 'query'), positive: strings(row, 'positive'), negative: strings(row, 'negative') })
  return result
}

async function sts(part: Part): Promise<StsData> {
  const data = { text1: [] as string[], text2: [] as string[], labels: [] as number[] }
  for await (const row of rowsOf(part)) {
    data.text1.push(text(row, 'sentence1'))
    data.text2.push(text(row, 'sentence2'))
    const { score } = row.value
    if (typeof score !== 'number' || !Number.isFinite(score)) throw fieldError(row, 'score', 'a number', score)
    data.labels.push(score)
  }
  if (new Set(data.labels).size < 2)
    throw new BgeError(
      'ERR_BGE_DATA',
      `${nameOf(part)}: expected at least two different scores, but its ${data.labels.length} rows have one`,
    )
  return data
}

/** One row whose cells are lists, as the hub has it, or a row per pair. */
async function labeledPairs(part: Part): Promise<PairClassificationData> {
  const data = { text1: [] as string[], text2: [] as string[], labels: [] as number[] }
  for await (const row of rowsOf(part)) {
    const [column1, column2, label] = [column(row, 'sent1', 'sentence1'), column(row, 'sent2', 'sentence2'), column(row, 'labels', 'label')]
    const cell = (name: string): unknown[] => (Array.isArray(row.value[name]) ? (row.value[name] as unknown[]) : [row.value[name]])
    const [first, second, labels] = [cell(column1), cell(column2), cell(label)]
    if (first.length !== second.length || first.length !== labels.length) {
      throw new BgeError(
        'ERR_BGE_DATA',
        `${row.file}:${row.line}: lists ${column1}, ${column2} and ${label} must have one length, but have ${first.length}, ${second.length} and ${labels.length}`,
      )
    }
    for (const [i, value] of labels.entries()) {
      if (value !== 0 && value !== 1) throw fieldError(row, `${label}[${i}]`, '0 or 1', value)
      if (typeof first[i] !== 'string') throw fieldError(row, `${column1}[${i}]`, 'a string', first[i])
      if (typeof second[i] !== 'string') throw fieldError(row, `${column2}[${i}]`, 'a string', second[i])
      data.text1.push(first[i])
      data.text2.push(second[i])
      data.labels.push(value)
    }
  }
  if (new Set(data.labels).size < 2)
    throw new BgeError(
      'ERR_BGE_DATA',
      `${nameOf(part)}: expected pairs of both labels, 0 and 1, but its ${data.labels.length} pairs have one`,
    )
  return data
}

async function clustering(part: Part): Promise<ClusteringData> {
  const sets = []
  for await (const row of rowsOf(part)) {
    const [texts, labels] = [
      strings(row, 'sentences'),
      list(row, 'labels', (value) => typeof value === 'string' || Number.isSafeInteger(value), 'a label').map(String),
    ]
    if (texts.length !== labels.length || texts.length === 0) {
      throw new BgeError(
        'ERR_BGE_DATA',
        `${row.file}:${row.line}: sentences and labels must be lists of one length, not empty, but have ${texts.length} and ${labels.length}`,
      )
    }
    sets.push({ texts, labels })
  }
  return { sets }
}

export interface Labeled {
  readonly texts: string[]
  readonly labels: (number | string)[]
}

async function labeledTexts(part: Part): Promise<Labeled> {
  const data: Labeled = { texts: [], labels: [] }
  for await (const row of rowsOf(part)) {
    data.texts.push(text(row, 'text'))
    const { label } = row.value
    if (typeof label !== 'string' && !Number.isSafeInteger(label)) throw fieldError(row, 'label', 'an integer or a string', label)
    data.labels.push(label as number | string)
  }
  const distinct = new Set(data.labels)
  if (distinct.size < 2) {
    const hint = distinct.has(-1) ? ': the hub publishes this split without labels' : ''
    throw new BgeError(
      'ERR_BGE_DATA',
      `${nameOf(part)}: expected texts of at least two labels, but its ${data.texts.length} rows have ${distinct.size} (${[...distinct].join(', ')})${hint}`,
    )
  }
  return data
}

export function classification(train: Labeled, test: Labeled): ClassificationData {
  const distinct = [...new Set([...train.labels, ...test.labels])]
  const byCodePoint = (a: string, b: string): number => Buffer.compare(Buffer.from(a), Buffer.from(b))
  const classes = distinct.every((label) => typeof label === 'number')
    ? distinct.sort((a, b) => a - b)
    : distinct.map(String).sort(byCodePoint)
  const index = new Map(classes.map((label, i) => [String(label), i]))
  const indexed = ({ texts, labels }: Labeled): LabeledTexts => ({ texts, labels: labels.map((label) => index.get(String(label))!) })
  return { train: indexed(train), test: indexed(test), classes }
}

async function* rowsOf(part: Part): AsyncGenerator<JsonlRow> {
  let [rows, other] = [0, 0]
  for (const path of part.files) {
    for await (const row of readRows(await part.tree.open(path))) {
      if (part.lang !== undefined && row.value[column(row, 'lang', 'language')] !== part.lang) other++
      else {
        rows++
        yield row
      }
    }
  }
  if (rows === 0)
    throw new BgeError(
      'ERR_BGE_DATA',
      `${nameOf(part)}: expected at least one row${part.lang === undefined ? ', but it is empty' : ` with lang ${part.lang}, but there are ${other} of other languages`}`,
    )
}

async function texts(part: Part, read: (row: JsonlRow) => string): Promise<Map<string, string>> {
  const byId = new Map<string, string>()
  for await (const row of rowsOf(part)) {
    const key = id(row, 'id', '_id')
    if (byId.has(key)) throw fieldError(row, 'id', 'an id that no earlier row has', key)
    byId.set(key, read(row))
  }
  return byId
}

function nameOf({ tree, files }: Part): string {
  return `${tree.dataset.path}/${files.join(', ')}`
}

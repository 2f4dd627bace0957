import { createHash } from 'node:crypto'
import { basename, join } from 'node:path'
import { hashFile, readJsonl } from '../data/jsonl.js'
import { BgeError, invalidArgument } from '../errors.js'
import { type CmtebData, loadTask } from './cmteb/load.js'
import type { TaskSource } from './cmteb/repos.js'
import { rerankingOfRows } from './cmteb/reranking.js'
import { type CmtebTask, CMTEB_TASKS, type Dialect } from './cmteb/tasks.js'
import { loadReranking, loadRetrieval, loadRetrievalFiles, loadSts, type RetrievalFiles } from './data.js'
import { loadClassification, loadClustering, loadPairs, trainFile } from './labelled_data.js'
import type { Task, TaskType } from './tasks.js'

/** The data of a task, split by split. */
export interface TaskData {
  /** of the dataset, for result files; null for local files */
  readonly revision: string | null
  readonly splits: ReadonlyMap<string, CmtebData>
  /** what was left out or differs from the published data, a sentence each */
  readonly notes: readonly string[]
}

/** A task that can be evaluated, wherever its data is. */
export interface EvalTask {
  readonly name: string
  readonly type: TaskType
  /** its row where it is one of C-MTEB */
  readonly benchmark?: CmtebTask
  /** changes when the data does */
  identity(): Promise<string>
  load(): Promise<TaskData>
}

/** A task of a data folder; its split is called test. */
export function localTask({ name, type, path }: Task): EvalTask {
  const load = (): Promise<CmtebData> => loadLocal(type, path)
  return { name, type, identity: async () => hashFiles(await filesOf(type, path)), load: () => oneSplit(load) }
}

async function loadLocal(type: TaskType, path: string): Promise<CmtebData> {
  switch (type) {
    case 'sts':
      return { type, ...(await loadSts(path)) }
    case 'retrieval':
      return { type, ...(await loadRetrieval(path)) }
    case 'reranking': {
      const { samples, skipped } = await loadReranking(path)
      return { type, ...rerankingOfRows(samples, 'test', path), skipped }
    }
    case 'pairClassification':
      return { type, ...(await loadPairs(path)) }
    case 'clustering':
      return { type, ...(await loadClustering(path)) }
    case 'classification':
      return { type, ...(await loadClassification(path)) }
  }
}

async function filesOf(type: TaskType, path: string): Promise<string[]> {
  if (type === 'retrieval') return ['corpus.jsonl', 'queries.jsonl', 'qrels.jsonl'].map((name) => join(path, name))
  return type === 'classification' ? [path, await trainFile(path)] : [path]
}

/** A task of C-MTEB, from a folder, the hub's cache or the hub (cmteb.md 1). */
export function benchmarkTask(benchmark: CmtebTask, dialect: Dialect, source: TaskSource): EvalTask {
  const { name, type } = benchmark
  return {
    name,
    type,
    benchmark,
    identity: async () => JSON.stringify([benchmark.current, benchmark.old, benchmark.splits[dialect], source.data ?? null]),
    load: () => loadTask(benchmark, dialect, source),
  }
}

/** A retrieval task of three files (loadRetrievalFiles says what they hold). Throws ERR_BGE_ARGUMENT for a name that is none or C-MTEB's. */
export function retrievalTask(name: string, files: RetrievalFiles): EvalTask {
  const { corpus, queries, qrels } = files
  return {
    name: ownName(name),
    type: 'retrieval',
    identity: () => hashFiles([corpus, queries, qrels]),
    load: () => oneSplit(async () => ({ type: 'retrieval', ...(await loadRetrievalFiles(files)) })),
  }
}

/**
 * A task of one pair file, by what its rows are: `{"query","pos"[,"neg"]}` is retrieval over all its texts; `{"text1","text2","label"}` is pair
 * classification where every label is 0 or 1, else STS. Throws ERR_BGE_ARGUMENT, ERR_BGE_FILE and ERR_BGE_DATA.
 */
export async function pairsTask(name: string, file: string): Promise<EvalTask> {
  const type = await pairKind(file)
  const load = (): Promise<CmtebData> => (type === 'retrieval' ? pairRetrieval(file) : loadLocal(type, file))
  return { name: ownName(name), type, identity: () => hashFiles([file]), load: () => oneSplit(load) }
}

/** `NAME=corpus.jsonl,queries.jsonl,qrels.jsonl`: a retrievalTask. Throws ERR_BGE_ARGUMENT. */
export function customRetrieval(argument: string): EvalTask {
  const { name, files } = named('--task-retrieval', argument, 3, 'NAME=corpus.jsonl,queries.jsonl,qrels.jsonl')
  const [corpus, queries, qrels] = files as [string, string, string]
  return retrievalTask(name, { corpus, queries, qrels })
}

/** `NAME=pairs.jsonl`: a pairsTask. Throws ERR_BGE_ARGUMENT, ERR_BGE_FILE and ERR_BGE_DATA. */
export async function customPairs(argument: string): Promise<EvalTask> {
  const { name, files } = named('--task-pairs', argument, 1, 'NAME=pairs.jsonl')
  return pairsTask(ownName(name), files[0]!)
}

async function pairKind(file: string): Promise<'retrieval' | 'sts' | 'pairClassification'> {
  let kind: 'pairClassification' | undefined
  for await (const { value } of readJsonl(file)) {
    if (Array.isArray(value.pos)) return 'retrieval'
    if (!['0', '1'].includes(String(value.label))) return 'sts'
    kind = 'pairClassification'
  }
  if (kind === undefined) throw new BgeError('ERR_BGE_DATA', `${file}: expected at least one row, but it is empty`)
  return kind
}

/** Every distinct `pos` and `neg` is a document; the relevant ones of a query are the `pos` of all its rows. */
async function pairRetrieval(file: string): Promise<CmtebData> {
  const ids = new Map<string, string>()
  const idOf = (text: string): string => {
    const id = ids.get(text) ?? `d${String(ids.size).padStart(8, '0')}`
    ids.set(text, id)
    return id
  }
  const judged = new Map<string, Map<string, number>>()
  for await (const { value, line } of readJsonl(file)) {
    const { query, pos, neg = [] } = value
    const texts = [pos, neg].every((side) => Array.isArray(side) && side.every((text) => typeof text === 'string'))
    if (typeof query !== 'string' || !texts || (pos as string[]).length === 0) {
      throw new BgeError(
        'ERR_BGE_DATA',
        `${file}:${line}: expected {"query": text, "pos": [text, ...]} with "neg" as a list where there is one`,
      )
    }
    const judgments = judged.get(query) ?? new Map<string, number>()
    judged.set(query, judgments)
    for (const text of pos as string[]) judgments.set(idOf(text), 1)
    for (const text of neg as string[]) idOf(text)
  }
  const qids = new Map([...judged.keys()].map((query, i) => [query, `q${i}`]))
  return {
    type: 'retrieval',
    corpus: new Map([...ids].map(([text, id]) => [id, text.trim()])),
    queries: new Map([...qids].map(([query, qid]) => [qid, query])),
    qrels: new Map([...judged].map(([query, judgments]) => [qids.get(query)!, judgments])),
  }
}

function named(flag: string, argument: string, count: number, form: string): { name: string; files: string[] } {
  const at = argument.indexOf('=')
  const name = argument.slice(0, Math.max(0, at))
  const files = argument.slice(at + 1).split(',')
  if (name === '' || files.length !== count || files.some((file) => file === '')) throw invalidArgument(flag, form, argument)
  return { name, files }
}

/** The name of a task of one's own, which is also that of its result file. */
function ownName(name: string): string {
  if (!/^[\w-][\w.-]*$/.test(name)) throw invalidArgument('the name of a task', 'letters, digits, ".", "_" and "-"', name)
  if (CMTEB_TASKS.some((task) => task.name === name)) throw invalidArgument('the name of a task', 'a name that no task of C-MTEB has', name)
  return name
}

async function oneSplit(load: () => Promise<CmtebData>): Promise<TaskData> {
  return { revision: null, splits: new Map([['test', await load()]]), notes: [] }
}

async function hashFiles(files: readonly string[]): Promise<string> {
  const hash = createHash('sha256')
  for (const file of files) hash.update(`${basename(file)} ${await hashFile(file)}\n`)
  return hash.digest('hex')
}

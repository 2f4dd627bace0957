import { readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { BgeError, invalidArgument } from '../errors.js'

export const TASK_TYPES = ['sts', 'retrieval', 'reranking', 'classification', 'clustering', 'pairClassification'] as const
/** Kinds of tasks; each has its own main score. */
export type TaskType = (typeof TASK_TYPES)[number]

/** Where a data folder keeps the tasks of a type, and what a file of one is called. */
const LAYOUT: Readonly<Record<TaskType, { folder: string; suffix: string }>> = {
  sts: { folder: 'sts', suffix: '.jsonl' },
  retrieval: { folder: 'retrieval', suffix: '/' },
  reranking: { folder: 'reranking', suffix: '.jsonl' },
  classification: { folder: 'classification', suffix: '.test.jsonl' },
  clustering: { folder: 'clustering', suffix: '.jsonl' },
  pairClassification: { folder: 'pairclass', suffix: '.jsonl' },
}
const PATTERNS = Object.values(LAYOUT).map(({ folder, suffix }) => `${folder}/${suffix === '/' ? 'NAME/' : `*${suffix}`}`)

/** A task of a data folder, such as `sts/NAME.jsonl`, `retrieval/NAME/` or `classification/NAME.test.jsonl`. */
export interface Task {
  readonly name: string
  readonly type: TaskType
  /** the file, or the folder of a retrieval task */
  readonly path: string
}

/** The tasks that a data folder holds, by type, then by name. Throws ERR_BGE_FILE where it holds none. */
export async function listTasks(data: string): Promise<Task[]> {
  const tasks: Task[] = []
  for (const type of TASK_TYPES) {
    const { folder: name, suffix } = LAYOUT[type]
    const folder = join(data, name)
    const entries = await readdir(folder, { withFileTypes: true }).catch((error: NodeJS.ErrnoException) => {
      if (error.code === 'ENOENT') return []
      throw new BgeError('ERR_BGE_FILE', `data folder ${folder} cannot be read: ${error.message}`, { cause: error })
    })
    const names = entries.flatMap((entry) => {
      if (suffix === '/') return entry.isFile() ? [] : [entry.name]
      return entry.name.endsWith(suffix) ? [entry.name.slice(0, -suffix.length)] : []
    })
    for (const task of names.sort()) tasks.push({ name: task, type, path: join(folder, suffix === '/' ? task : `${task}${suffix}`) })
  }
  if (tasks.length === 0) throw new BgeError('ERR_BGE_FILE', `data folder ${data} must hold ${PATTERNS.join(', ')}, but holds none of them`)
  return tasks
}

/**
 * Chooses tasks by word: `all`, a type (`sts`), `TYPE/NAME`, or `NAME`, which means every task of that name (CMedQA may be both a retrieval and
 * a reranking task). The result keeps the order of `available` and names each task once. Throws ERR_BGE_ARGUMENT for a word that fits nothing.
 */
export function selectTasks<T extends Pick<Task, 'name' | 'type'>>(available: readonly T[], words: readonly string[]): T[] {
  const chosen = new Set<T>()
  for (const word of words) {
    const fits = available.filter(({ name, type }) => {
      const { folder } = LAYOUT[type]
      return ['all', name, type, folder, `${type}/${name}`, `${folder}/${name}`].includes(word)
    })
    if (fits.length === 0) {
      const known = available.map((task) => `${task.type}/${task.name}`).join(', ')
      throw new BgeError(
        'ERR_BGE_ARGUMENT',
        `task "${word}" is not in the data folder; it has ${known} (also: all, ${TASK_TYPES.join(', ')})`,
        {
          details: { task: word },
        },
      )
    }
    for (const task of fits) chosen.add(task)
  }
  return available.filter((task) => chosen.has(task))
}

/**
 * The result file of each task: NAME.json. Where two of the tasks share a name, the first in the order of TASK_TYPES keeps it and the others are
 * NAME-TYPE.json, as in `CMedQA.json` (retrieval) and `CMedQA-reranking.json`. Throws ERR_BGE_ARGUMENT for two tasks of one type and name.
 */
export function resultFiles(tasks: readonly Pick<Task, 'name' | 'type'>[]): string[] {
  const taken = new Set<string>()
  const seen = new Set<string>()
  return tasks.map((task) => {
    const key = `${task.type}/${task.name}`
    if (seen.has(key)) throw invalidArgument('tasks', 'tasks of different names', key)
    seen.add(key)
    const file = taken.has(task.name) ? `${task.name}-${task.type}.json` : `${task.name}.json`
    taken.add(task.name)
    return file
  })
}

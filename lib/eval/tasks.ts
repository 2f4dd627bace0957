import { readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { BgeError } from '../errors.js'

export const TASK_TYPES = ['sts', 'retrieval', 'reranking'] as const
export type TaskType = (typeof TASK_TYPES)[number]

/** A task of a data folder: `sts/NAME.jsonl`, `retrieval/NAME/` or `reranking/NAME.jsonl`. */
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
    const folder = join(data, type)
    const entries = await readdir(folder, { withFileTypes: true }).catch((error: NodeJS.ErrnoException) => {
      if (error.code === 'ENOENT') return []
      throw new BgeError('ERR_BGE_FILE', `data folder ${folder} cannot be read: ${error.message}`, { cause: error })
    })
    const names = entries.flatMap((entry) => {
      if (type === 'retrieval') return entry.isFile() ? [] : [entry.name]
      return entry.name.endsWith('.jsonl') ? [entry.name.slice(0, -'.jsonl'.length)] : []
    })
    for (const name of names.sort()) tasks.push({ name, type, path: join(folder, type === 'retrieval' ? name : `${name}.jsonl`) })
  }
  if (tasks.length === 0) {
    throw new BgeError(
      'ERR_BGE_FILE',
      `data folder ${data} must hold sts/*.jsonl, retrieval/NAME/ or reranking/*.jsonl, but holds none of them`,
    )
  }
  return tasks
}

/**
 * Chooses tasks by word: `all`, a type (`sts`), `TYPE/NAME`, or `NAME`, which means every task of that name (CMedQA may be both a retrieval and
 * a reranking task). The result keeps the order of `available` and names each task once. Throws ERR_BGE_ARGUMENT for a word that fits nothing.
 */
export function selectTasks(available: readonly Task[], words: readonly string[]): Task[] {
  const chosen = new Set<Task>()
  for (const word of words) {
    const fits = available.filter(
      (task) => word === 'all' || word === task.type || word === task.name || word === `${task.type}/${task.name}`,
    )
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
 * NAME-TYPE.json, as in `CMedQA.json` (retrieval) and `CMedQA-reranking.json`.
 */
export function resultFiles(tasks: readonly Task[]): string[] {
  const taken = new Set<string>()
  return tasks.map((task) => {
    const file = taken.has(task.name) ? `${task.name}-${task.type}.json` : `${task.name}.json`
    taken.add(task.name)
    return file
  })
}

import { readManifest } from '../eval/cmteb/bundle.js'
import type { CmtebData } from '../eval/cmteb/load.js'
import { CMTEB_SETS } from '../eval/cmteb/tasks.js'
import { benchmarkTask, type EvalTask, localTask } from '../eval/sources.js'
import { listTasks } from '../eval/tasks.js'
import type { EvaluationText } from './evaluation_index.js'

/**
 * The tasks whose texts a training set must not repeat. `against` names 'cmteb' (the 35 tasks of the paper, from the hub or its cache), folders that
 * bge cmteb pull made (those of the 35 that are in it), and folders of tasks as bge eval --data reads them.
 * Errors: ERR_BGE_FILE for a folder without a task.
 */
export async function evaluationTasks(against: readonly string[]): Promise<EvalTask[]> {
  const tasks: EvalTask[] = []
  for (const name of against) {
    const manifest = name === 'cmteb' ? undefined : await readManifest(name)
    if (name === 'cmteb') tasks.push(...CMTEB_SETS['paper-35'].map((task) => benchmarkTask(task, 'mteb2', {})))
    else if (manifest) {
      const repos = new Set(manifest.files.map(({ repo }) => repo))
      const there = CMTEB_SETS['paper-35'].filter((task) => repos.has(task.current.path) || repos.has(task.old.path))
      tasks.push(...there.map((task) => benchmarkTask(task, 'mteb2', { data: name })))
    } else tasks.push(...(await listTasks(name)).map(localTask))
  }
  return tasks
}

/**
 * The texts that scores are computed from, task by task: queries, the documents and candidates judged relevant, both texts of a pair, the texts of
 * clustering and the test half of classification. Documents that nobody judged relevant and training halves are left out: to have seen
 * them tells nothing about an answer. Holds one task at a time.
 */
export async function* evaluationTexts(tasks: readonly EvalTask[], signal?: AbortSignal): AsyncGenerator<EvaluationText> {
  for (const { name, type, load } of tasks) {
    signal?.throwIfAborted()
    const task = `${type}/${name}`
    for (const data of (await load()).splits.values()) {
      for (const [field, texts] of textsOf(data)) for (const text of texts) yield { task, field, text }
    }
  }
}

function* textsOf(data: CmtebData): Generator<[field: string, texts: Iterable<string>]> {
  switch (data.type) {
    case 'retrieval': {
      yield ['queries', data.queries.values()]
      const relevant = new Set<string>()
      for (const judgments of data.qrels.values()) for (const [id, score] of judgments) if (score > 0) relevant.add(id)
      yield ['corpus', [...relevant].map((id) => data.corpus.get(id)!)]
      return
    }
    case 'reranking':
      yield ['query', data.samples.map(({ query }) => query)]
      yield ['positive', data.samples.flatMap(({ positive }) => positive)]
      return
    case 'sts':
    case 'pairClassification':
      yield ['text1', data.text1]
      yield ['text2', data.text2]
      return
    case 'clustering':
      yield ['text', data.sets.flatMap(({ texts }) => texts)]
      return
    case 'classification':
      yield ['text', data.test.texts]
  }
}

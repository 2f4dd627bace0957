import { createHash } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { trainingSets } from './classification.js'
import type { CmtebData } from './cmteb/load.js'
import { CMTEB_TYPES } from './cmteb/tasks.js'
import type { TaskOutcome, TaskResult } from './evaluation.js'
import type { Rules } from './evaluators.js'
import { contextOf, limited, lowType, orFailure, type Run } from './run.js'
import { estimatedTokens } from './run_embedder.js'
import type { EvalTask } from './sources.js'

/** The lists of texts that a task's evaluator encodes. */
function textLists(data: CmtebData, { experiments, samplesPerLabel }: Rules): { texts: readonly string[]; of: 'queries' | 'texts' }[] {
  switch (data.type) {
    case 'sts':
    case 'pairClassification':
      return [{ texts: [...data.text1, ...data.text2], of: 'texts' }]
    case 'retrieval':
      return [
        { texts: [...data.corpus.values()], of: 'texts' },
        { texts: [...data.queries.values()], of: 'queries' },
      ]
    case 'reranking':
      return [
        { texts: data.samples.flatMap(({ positive, negative }) => [...positive, ...negative]), of: 'texts' },
        { texts: data.samples.map(({ query }) => query), of: 'queries' },
      ]
    case 'clustering':
      return data.sets.map(({ texts }) => ({ texts, of: 'texts' }))
    case 'classification': {
      const { train, test } = data
      const chosen = new Set(trainingSets(train.labels, experiments, samplesPerLabel).flatMap((rows) => [...rows]))
      return [{ texts: [...test.texts, ...[...chosen].map((row) => train.texts[row]!)], of: 'texts' }]
    }
  }
}

/** Tokens (estimated from characters) that the evaluator of this data asks for: of the distinct texts of each list. */
export function tokensOf(data: CmtebData, rules: Rules, instruction: string, maxLength: number | undefined): number {
  let sum = 0
  for (const { texts, of } of textLists(data, rules)) {
    const isQuery = of === 'queries' && CMTEB_TYPES[data.type].instruction === 'query'
    for (const tokens of estimatedTokens([...new Set(texts)], { instruction: isQuery ? instruction : '', maxLength })) sum += tokens
  }
  return sum
}

/** What is known of a task before it is evaluated. */
export interface Plan {
  /** of the result; null where none can be kept */
  readonly key: string | null
  /** a finished result, or why there can be none */
  readonly outcome?: TaskOutcome
  /** to encode */
  readonly tokens: number
}

/** Reads all data, one task after the other; bad data is told of before the first text is encoded. */
export async function planTasks(run: Run, tasks: readonly EvalTask[], files: readonly string[]): Promise<Plan[]> {
  const plans: Plan[] = []
  for (const [i, task] of tasks.entries()) {
    run.options.signal?.throwIfAborted()
    const plan = await planTask(run, task, files[i]!, 'tokens')
    if (plan.outcome !== undefined && 'error' in plan.outcome) run.options.onTask?.(task, plan.outcome)
    plans.push(plan)
  }
  return plans
}

/** @param count 'nothing' where nobody asks for progress: the data is not read then */
export async function planTask(run: Run, task: EvalTask, file: string, count: 'tokens' | 'nothing'): Promise<Plan> {
  const { options, settings, fingerprint, model } = run
  const { out, reuse } = options
  return orFailure<Plan>(
    task,
    async () => {
      const key = fingerprint === null || out === undefined ? null : await resultKey(run, task)
      const outcome = key === null || reuse?.results === 'never' ? undefined : await finishedResult(join(out!, file), key)
      if (outcome !== undefined || count === 'nothing') return { key, tokens: 0, ...(outcome && { outcome }) }
      const { rules } = contextOf(run, task)
      const maxLength = settings.maxLength ?? model.maxLength
      const parts = [...(await task.load()).splits.values()].map((part) => limited(run, part))
      return { key, tokens: parts.reduce((sum, part) => sum + tokensOf(part, rules, settings.instruction, maxLength), 0) }
    },
    (outcome) => ({ key: null, tokens: 0, outcome }),
  )
}

async function resultKey({ fingerprint, settings, model }: Run, task: EvalTask): Promise<string> {
  const low = lowType(model)
  const parts = [RESULT_FORMAT, fingerprint, settings, task.type, task.name, await task.identity(), ...(low ? [low] : [])]
  return createHash('sha256').update(JSON.stringify(parts)).digest('hex')
}

/** Counted up when an evaluator changes its numbers, so that no older result is taken for finished. */
const RESULT_FORMAT = 2

/** A result file that is whole and has the key; anything else there is written anew. */
async function finishedResult(file: string, key: string): Promise<TaskResult | undefined> {
  try {
    const result = JSON.parse(await readFile(file, 'utf8')) as TaskResult
    return result.key === key ? result : undefined
  } catch {
    return undefined
  }
}

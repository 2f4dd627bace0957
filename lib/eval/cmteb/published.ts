import { COSINE_AP, MEANS, MEANS_2023, MODELS, SCORES, SENTIMENT } from './published_scores.js'

/** What `--compare` shows: published scores x100, with two decimals as published. */
export interface PublishedScores {
  readonly model: string
  /** task name -> main score x100 in dialect mteb2 */
  readonly tasks: Readonly<Record<string, number>>
  /** cosine average precision x100 of the pair tasks: their main score in dialect cmteb2023 */
  readonly cosineAp: Readonly<Record<string, number>>
  /** Mean(Task) over the 31 tasks, x100: dialect mteb2, and with cosine AP for the pair tasks (cmteb2023) where that is published */
  readonly mean31: Readonly<{ mteb2: number; cmteb2023?: number }>
  readonly meanTaskType31: number
  readonly source: string
}

const SOURCE = 'github.com/embeddings-benchmark/results at f4cc6c8b (2026-08-20), re-averaged by the rules of MTEB(cmn, v1)'

/** The BGE models of 2023 and others of the public results repository. */
export const PUBLISHED: readonly PublishedScores[] = MODELS.map((model, i) => ({
  model,
  tasks: column(SCORES, i),
  cosineAp: column(COSINE_AP, i),
  mean31: { mteb2: MEANS.task[i]!, ...(model in MEANS_2023 && { cmteb2023: MEANS_2023[model]! }) },
  meanTaskType31: MEANS.taskType[i]!,
  source: SENTIMENT[i] === 'both' ? SOURCE : `${SOURCE}; MultilingualSentiment: validation only, as run in 2023`,
}))

/** The published scores of a model by its name, with or without the organisation; undefined where there are none. */
export function publishedScores(model: string): PublishedScores | undefined {
  return PUBLISHED.find((scores) => scores.model === model || scores.model.endsWith(`/${model}`))
}

function column(table: Readonly<Record<string, readonly number[]>>, index: number): Record<string, number> {
  return Object.fromEntries(Object.entries(table).map(([name, scores]) => [name, scores[index]!]))
}

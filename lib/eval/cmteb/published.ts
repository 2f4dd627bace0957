/** What `--compare` shows: published scores x100, with two decimals as published. */
export interface PublishedScores {
  readonly model: string
  /** task name -> main score x100 in dialect mteb2 */
  readonly tasks: Readonly<Record<string, number>>
  /** cosine average precision x100 of the pair tasks: their main score in dialect cmteb2023 */
  readonly cosineAp: Readonly<Record<string, number>>
  /** Mean(Task) over the 31 tasks, x100: dialect mteb2, and with cosine AP for the pair tasks (cmteb2023) */
  readonly mean31: Readonly<Record<'mteb2' | 'cmteb2023', number>>
  readonly meanTaskType31: number
  readonly source: string
}

const MODELS = [
  'BAAI/bge-small-zh',
  'BAAI/bge-base-zh',
  'BAAI/bge-large-zh',
  'BAAI/bge-small-zh-v1.5',
  'BAAI/bge-base-zh-v1.5',
  'BAAI/bge-large-zh-v1.5',
] as const

const SOURCE =
  'github.com/embeddings-benchmark/results at f4cc6c8b (2026-08-20), re-averaged by the rules of MTEB(cmn, v1); MultilingualSentiment: validation only, as run in 2023'

/** task -> scores in the order of MODELS */
// biome-ignore format: a table
const SCORES: Readonly<Record<string, readonly number[]>> = {
  T2Retrieval: [77.59, 83.35, 84.82, 76.44, 83.71, 83.99],
  MMarcoRetrieval: [67.56, 79.11, 81.28, 63.48, 77.69, 79.23],
  DuRetrieval: [77.89, 86.02, 86.94, 77.28, 85.07, 86.32],
  CovidRetrieval: [68.95, 72.07, 74.06, 70.14, 74.7, 73.35],
  CmedqaRetrieval: [35.18, 41.77, 42.4, 35.11, 41.61, 42.57],
  EcomRetrieval: [58.17, 63.53, 66.12, 55.71, 64.25, 65.33],
  MedicalRetrieval: [49.9, 56.64, 59.39, 49.8, 56.51, 59.59],
  VideoRetrieval: [69.33, 73.76, 77.19, 66.19, 72.35, 73.32],
  T2Reranking: [66.2, 66.49, 66.19, 65.9, 66.49, 65.74],
  MMarcoReranking: [22.82, 28.24, 26.23, 20.5, 29.74, 28.74],
  'CMedQAv1-reranking': [77.08, 80.12, 83.01, 77.4, 80.47, 83.45],
  'CMedQAv2-reranking': [79.82, 84.78, 85.01, 79.86, 84.88, 85.44],
  Ocnli: [62.7, 69.79, 72.6, 62.05, 70.98, 74.34],
  Cmnli: [68.01, 73.33, 73.24, 69.03, 75.37, 76.08],
  CLSClusteringS2S: [34.34, 36.59, 38.05, 35.14, 37.63, 38.33],
  CLSClusteringP2P: [38.23, 38.79, 40.92, 38.14, 39.91, 41.44],
  ThuNewsClusteringS2S: [51.84, 56.16, 58.79, 49.22, 54.12, 56.58],
  ThuNewsClusteringP2P: [55.95, 59, 55.79, 54.22, 58.45, 59.61],
  LCQMC: [72.61, 74.98, 75.45, 72.19, 74.45, 74.33],
  PAWSX: [9.97, 20.65, 22.45, 9.26, 20.4, 33.92],
  AFQMC: [33.93, 42.53, 44.57, 33.42, 42.4, 44.36],
  QBQTC: [36.45, 38.01, 38.92, 35.29, 36.22, 37.29],
  ATEC: [43.17, 48.28, 49.75, 43.01, 48.17, 49.54],
  BQ: [55.47, 61.21, 62.93, 55.22, 61.78, 62.94],
  STSB: [76.48, 78.66, 78.51, 76.73, 78.31, 78.7],
  TNews: [47.67, 49.97, 50.84, 48.16, 51.08, 52.1],
  IFlyTek: [42.07, 44.54, 45.09, 45.49, 48.62, 48.74],
  Waimai: [83.8, 85.46, 86.54, 83.18, 85.36, 86.9],
  OnlineShopping: [87.4, 91.38, 91.6, 85.05, 91.26, 91.43],
  JDReview: [80.64, 83.92, 85.08, 80.04, 83.62, 85.14],
  MultilingualSentiment: [65.07, 70.63, 74.41, 63.06, 70.67, 72.97],
}

const COSINE_AP: Readonly<Record<string, readonly number[]>> = {
  Ocnli: [65.25, 73.32, 75.75, 64.57, 75.41, 77.94],
  Cmnli: [75.46, 81.69, 82.12, 76.24, 84.1, 85.27],
}

// biome-ignore format: a table
const MEANS: Readonly<Record<'mteb2' | 'cmteb2023' | 'taskType', readonly number[]>> = {
  mteb2: [57.94, 62.57, 63.81, 57.28, 62.78, 64.25],
  cmteb2023: [58.27, 62.96, 64.2, 57.59, 63.21, 64.66],
  taskType: [58.27, 62.78, 63.91, 57.72, 63.17, 64.64],
}

/** The six Chinese BGE models of 2023 in the public results repository. */
export const PUBLISHED: readonly PublishedScores[] = MODELS.map((model, i) => ({
  model,
  tasks: column(SCORES, i),
  cosineAp: column(COSINE_AP, i),
  mean31: { mteb2: MEANS.mteb2[i]!, cmteb2023: MEANS.cmteb2023[i]! },
  meanTaskType31: MEANS.taskType[i]!,
  source: SOURCE,
}))

/** The published scores of a model by its name, with or without the organisation; undefined where there are none. */
export function publishedScores(model: string): PublishedScores | undefined {
  return PUBLISHED.find((scores) => scores.model === model || scores.model.endsWith(`/${model}`))
}

function column(table: Readonly<Record<string, readonly number[]>>, index: number): Record<string, number> {
  return Object.fromEntries(Object.entries(table).map(([name, scores]) => [name, scores[index]!]))
}

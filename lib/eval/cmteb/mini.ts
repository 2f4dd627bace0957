import type { Limits } from '../limit.js'
import type { CmtebTaskType } from './tasks.js'

/**
 * The mini set: twelve tasks of all six types, a part of each, minutes on a processor. For a look between checkpoints of a training run, not for reports:
 * its scores are not those of the tasks, only their order among models is close to that of the whole (docs/cmteb.md has the correlation).
 */
export const MINI_TASKS: readonly string[] = [
  'DuRetrieval',
  'CmedqaRetrieval',
  'CMedQAv2-reranking',
  'Ocnli',
  'CLSClusteringP2P',
  'ThuNewsClusteringS2S',
  'LCQMC',
  'ATEC',
  'STSB',
  'TNews',
  'Waimai',
  'OnlineShopping',
]

const part = (items: number): Limits => ({ items, documentsPerQuery: 20, sets: 1, trainingPerLabel: 64 })

/** How much of a task the mini set takes, at even distances (`limitData`). A change here changes scores: RESULT_FORMAT must be counted up with it. */
export const MINI_LIMITS: Readonly<Record<CmtebTaskType, Limits>> = {
  retrieval: part(100),
  reranking: part(50),
  pairClassification: part(1000),
  clustering: part(2000),
  sts: part(1000),
  classification: part(500),
}

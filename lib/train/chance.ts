import type { TrainConfig } from './config.js'
import type { MetricsRow } from './run_folder.js'

/** What a model that knows nothing gets. */
export interface Chance {
  /** candidates of a query, the positive included: a mean over the batch */
  readonly candidates: number
  /** ln(candidates): the loss of equal scores. Absent where the loss has other terms: distillation */
  readonly loss?: number
  /** 1 / candidates */
  readonly accuracy: number
}

/**
 * Chance of a step of stages 2 and 3, what was masked in it left out. undefined where it is not known: candidates of one source, whose number
 * depends on the batch.
 */
export function chance(
  { batchSize, groupSize, candidates, direction, distillation, sameSource }: TrainConfig,
  row: Partial<MetricsRow> = {},
): Chance | undefined {
  if (candidates === 'source' && !sameSource) return undefined
  const all = candidates === 'group' ? groupSize : batchSize * groupSize
  const removed = ((row.masked ?? 0) + (row.falseNegatives ?? 0)) / batchSize
  const forward = Math.max(1, all - removed)
  const loss = direction === 'symmetric' ? (Math.log(forward) + Math.log(batchSize)) / 2 : Math.log(forward)
  return { candidates: forward, accuracy: 1 / forward, ...(distillation === 'none' && { loss }) }
}

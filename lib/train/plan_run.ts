import { batchesPerEpoch, epochBatches } from '../data/plan.js'
import type { DeviceMemory } from '../native.js'
import { type OpenRun, openRun, planRequest, type TrainOptions } from './loop.js'
import { batchTokens, largestThatFits, type MemoryPlan, planWithin, reserve } from './plan.js'
import type { Stage } from './stage.js'

/** What `planTraining` finds out about a run that is not made. */
export interface TrainingPlan {
  readonly device: string
  readonly batchSize: number
  readonly microBatchTokens: number
  readonly memory: MemoryPlan
  /** bytes that are compared with the limit: `memory` without `kept`, the total on the CPU and what is reserved on CUDA */
  readonly needed: number
  /** bytes that the device may use */
  readonly limit: number
  readonly fits: boolean
  /** The largest values that fit, each with the other as configured; 0 where nothing fits. */
  readonly largest: { readonly batchSize: number; readonly microBatchTokens: number }
  /** whether `largest` is all there is: the rows of the data, the tokens of a batch */
  readonly all: { readonly batchSize: boolean; readonly microBatchTokens: boolean }
  /** undefined where the plan does not fit */
  readonly probe: Probe | undefined
}

/** What two probe steps of a planned run measured. */
export interface Probe {
  /** rows of each probe step */
  readonly rows: number
  /** expected seconds of a whole step: the second probe step's, times batchSize / rows */
  readonly stepSeconds: number
  readonly tokensPerSecond: number
  readonly memory: DeviceMemory
}

/** Micro-batches, of texts at their longest, that a probe step needs to be representative. */
const PROBE_MICRO_BATCHES = 8

/**
 * Plans a run without making it: its memory, the largest batch that fits, and the time of a step. The time comes from two optimizer steps at
 * learning rate 0 on the first batches of epoch 0, in this process's copy of the model, which is then dropped; the first one warms up. Where a
 * batch is larger than about eight micro-batches only its first rows are used. `out` is read to resume, and never written.
 * Errors: as train() before its first step, but no ERR_BGE_OOM: a plan that does not fit is a result.
 */
export async function planTraining<Batch>(stage: Stage<Batch>, options: TrainOptions): Promise<TrainingPlan> {
  const open = await openRun(stage, options)
  const { model, run, config } = open
  try {
    batchesPerEpoch(run.sources, config.batchSize) // throws for a batch that the data cannot fill
    const { batchSize, microBatchTokens } = config
    const request = planRequest(stage.name, model, run, config)
    const { plan: memory, needed, limit } = await planWithin(request, model.device, options.memoryLimit)
    const fits = needed <= limit
    const rows = Math.min(...run.sources.map(({ start, end }) => end - start))
    const tokens = batchTokens(stage.name, config)
    const largest = {
      batchSize: largestThatFits(request, 'batchSize', rows, limit),
      microBatchTokens: largestThatFits(request, 'microBatchTokens', tokens, limit),
    }
    return {
      device: model.device.description,
      batchSize,
      microBatchTokens,
      memory,
      needed,
      limit,
      fits,
      largest,
      all: { batchSize: largest.batchSize === rows, microBatchTokens: largest.microBatchTokens === tokens },
      probe: fits ? await probe(open, memory, tokens, options.signal) : undefined,
    }
  } finally {
    model.dispose()
  }
}

async function probe<Batch>(
  { model, run, config }: OpenRun<Batch>,
  plan: MemoryPlan,
  tokens: number,
  signal?: AbortSignal,
): Promise<Probe> {
  const { batchSize, microBatchTokens, seed, weightDecay, maxGradNorm } = config
  const { device } = model
  const adamW = device.adamW(Object.values(run.modules), { weightDecay })
  const batches = epochBatches(run.sources, batchSize, seed, 0)
  const representative = Math.ceil((PROBE_MICRO_BATCHES * microBatchTokens) / (tokens / batchSize))
  const rows = Math.min(batchSize, Math.max(2, representative))
  await reserve(plan, device, model.encoder)
  let seconds = 0
  let done = 0
  // A probe of part of the batch keeps the same part of the activations.
  const keepBytes = (plan.activationArena * rows) / batchSize
  for (const step of [1, 2]) {
    const batch = await run.prepare(batches[(step - 1) % batches.length]!.subarray(0, rows), 0, signal)
    const start = performance.now()
    done = (await run.step(batch, { seed: BigInt(seed), step }, signal, keepBytes)).tokens
    await adamW.step(0, maxGradNorm)
    seconds = (performance.now() - start) / 1000
  }
  return { rows, stepSeconds: (seconds * batchSize) / rows, tokensPerSecond: done / seconds, memory: device.memory() }
}

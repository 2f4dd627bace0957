import { join } from 'node:path'
import { dataFiles } from '../data/jsonl.js'
import { batchesPerEpoch, epochBatches } from '../data/plan.js'
import { BgeError } from '../errors.js'
import type { Pooling } from '../model/config.js'
import { modelFolder } from '../hub/model.js'
import { BgeModel } from '../model/model.js'
import { loadCheckpoint, newestCheckpoint, type RunState, writeCheckpoint } from './checkpoint.js'
import { mergeConfig, type StageName, type TrainConfig } from './config.js'
import { type PlanRequest, planWithin, requireFit, reserve } from './plan.js'
import {
  appendMetrics,
  createRunFolder,
  type MetricsRow,
  requireEmpty,
  resumedConfig,
  type RunIdentity,
  runHash,
  runIdentity,
  sync,
  truncateMetrics,
} from './run_folder.js'
import { learningRateAt, warmupSteps } from './schedule.js'
import type { Stage, StageRun } from './stage.js'
import { ending, readSummary, type RunSummary, writeSummary } from './summary.js'
import { type EventFile, openEventFile } from './tensorboard.js'

/** Of `train` and `planTraining`. */
export interface TrainOptions {
  /** folder of the model to start from; it is not changed */
  model: string
  /** for a model folder that does not say how to pool, such as a plain BERT */
  pooling?: Pooling
  /** JSONL files, or folders of them */
  data: readonly string[]
  /** run folder: new or empty; gets config.json, run.json, summary.json, metrics.jsonl, tensorboard/, checkpoints/, model/ */
  out: string
  /** keys that differ from the stage's defaults */
  config?: Partial<TrainConfig>
  /** 'never' (default) starts a new run; 'continue' goes on with the one in `out`, bit for bit as if it had never stopped */
  resume?: 'never' | 'continue'
  /** bytes of device memory that the run may use; default: what the device, the machine or the container has free */
  memoryLimit?: number
  hooks?: TrainHooks
  /** An abort finishes the micro-batch, writes a checkpoint of the last complete step and throws the signal's reason. */
  signal?: AbortSignal
}

/** What a run tells its caller, and where the caller may decide. */
export interface TrainHooks {
  /** once, before the first step */
  onStart?: (run: RunStart) => void
  /** after every step, also those that logEvery leaves out of metrics.jsonl */
  onStep?: (row: MetricsRow) => void
  /**
   * Before each checkpoint is written, with the model as it stands. A returned number is its dev score (higher is better): the best
   * checkpoint is kept and becomes model/, and `patience` scores without a new best end the run.
   */
  onCheckpoint?: (checkpoint: { step: number; model: BgeModel }) => Promise<number | undefined>
}

/** A run before its first step. */
export interface RunStart {
  readonly config: TrainConfig
  /** steps done before, and in all */
  readonly step: number
  readonly totalSteps: number
  readonly device: string
  /** what metrics.jsonl holds so far */
  readonly rows: readonly MetricsRow[]
  /** what summary.json says: it changes as the run goes on, at checkpoints and at its end */
  readonly summary: Readonly<RunSummary>
}

/** What a finished run gives. */
export interface TrainResult {
  /** steps done */
  steps: number
  /** the trained model folder: the best dev score where there were scores, else the last step */
  model: string
  best?: { step: number; score: number }
  /** texts tokenized by this process, and how many of them were cut at their maximal length */
  truncation: { texts: number; truncated: number }
}

/**
 * Trains one stage: THE loop. Everything that decides the numbers is in (model, data, config); the plan of an epoch, its positives,
 * negatives and masks are functions of (seed, epoch, row), dropout of (seed, step).
 *
 * Errors: ERR_BGE_CONFIG, ERR_BGE_DATA, ERR_BGE_RESUME, ERR_BGE_NOTHING_TO_LEARN, and ERR_BGE_OOM for a run whose memory plan (docs/recipe.md 5)
 * exceeds the limit, before the first step; ERR_BGE_NON_FINITE for a loss or gradient that is not finite (the message names the step and the last
 * good checkpoint, which is kept); ERR_BGE_SAVE.
 */
export async function train<Batch>(stage: Stage<Batch>, options: TrainOptions): Promise<TrainResult> {
  const { out, signal, hooks = {} } = options
  const resume = options.resume === 'continue'
  if (!resume) await requireEmpty(out)
  const { model, run, config, identity } = await openRun(stage, options)
  try {
    const perEpoch = batchesPerEpoch(run.sources, config.batchSize)
    const request = planRequest(stage.name, model, run, config)
    const { plan, needed, limit } = await planWithin(request, model.device, options.memoryLimit)
    requireFit(request, plan, needed, limit)
    const totalSteps = config.steps || Math.ceil(config.epochs * perEpoch)
    const warmup = warmupSteps(totalSteps, config.warmupRatio)
    const adamW = model.device.adamW(Object.values(run.modules), { weightDecay: config.weightDecay })
    const hash = runHash(config, identity)

    let state: RunState = { step: 0, seconds: 0, stale: 0 }
    let rows: MetricsRow[] = []
    let earlier: RunSummary | undefined
    if (resume) {
      state = (await newestCheckpoint(out, hash)) ?? state
      if (state.step > 0) await loadCheckpoint(out, state.step, run.modules, adamW)
      rows = await truncateMetrics(out, state.step)
      earlier = await readSummary(out)
    } else {
      await createRunFolder(out, identity, config) // only now: whatever is wrong with model, data or configuration has come up by here
    }
    const device = model.device.description
    const summary: RunSummary = {
      stage: stage.name,
      status: 'running',
      step: state.step,
      totalSteps,
      stepsPerEpoch: perEpoch,
      device,
      started: { model: options.model, data: options.data, out },
      rows: run.sources.reduce((sum, { start, end }) => sum + end - start, 0),
      texts: run.texts(),
      scores: (earlier?.scores ?? []).filter(({ step }) => step <= state.step),
    }
    const summarize = async (end: Pick<RunSummary, 'status' | 'error'>): Promise<void> => {
      const texts = run.texts()
      const some = Object.values(texts).some(({ tokenized }) => tokenized > 0)
      Object.assign(summary, { ...end, step: state.step, texts: some || !earlier ? texts : earlier.texts })
      await writeSummary(out, summary)
    }
    await reserve(plan, model.device, model.encoder)
    await summarize({ status: 'running' })
    hooks.onStart?.({ config, step: state.step, totalSteps, device, rows, summary })

    let savedStep = state.step
    const save = async (): Promise<void> => {
      await sync(join(out, 'metrics.jsonl'))
      await writeCheckpoint(out, hash, run.modules, adamW, state)
      savedStep = state.step
      await summarize({ status: 'running' })
    }
    const prepare = planner(run, config, perEpoch, signal)
    const clock = stopwatch(state.seconds)
    const ended = (): boolean => state.step >= totalSteps || (config.patience > 0 && state.stale >= config.patience)
    const probed = probeSteps(totalSteps, config.logEvery)
    let next = ended() ? undefined : prepare(state.step)
    let events: EventFile | undefined
    try {
      events = await openEventFile(out, rows)
      while (!ended()) {
        signal?.throwIfAborted()
        const batch = await clock.stalled(next!)
        next = state.step + 1 < totalSteps ? prepare(state.step + 1) : undefined // collated while the device computes
        const learningRate = learningRateAt(state.step, config.learningRate, warmup, totalSteps)
        const probes = probed(state.step + 1) ? await run.probe?.(batch, signal) : undefined
        const { loss, tokens, ...measured } = await run.step(
          batch,
          { seed: BigInt(config.seed), step: state.step + 1 },
          signal,
          plan.activationArena,
        )
        requireFinite('loss', loss, state.step + 1, savedStep)
        const gradNorm = await adamW.step(learningRate, config.maxGradNorm)
        requireFinite('gradient norm', gradNorm, state.step + 1, savedStep)

        state.step++
        state.seconds = clock.seconds()
        const epoch = state.step / perEpoch
        const row: MetricsRow = {
          step: state.step,
          epoch,
          loss,
          learningRate,
          gradNorm,
          ...clock.speed(tokens, config.batchSize),
          tokens,
          seconds: state.seconds,
          ...measured,
          ...probes,
        }
        if (state.step % config.logEvery === 0 || state.step === totalSteps) {
          await appendMetrics(out, row)
          await events.append(row)
          clock.lap()
        }
        hooks.onStep?.(row)
        if (state.step === totalSteps || (config.saveEvery > 0 && state.step % config.saveEvery === 0)) {
          const score = await hooks.onCheckpoint?.({ step: state.step, model })
          if (typeof score === 'number') {
            recordScore(state, score)
            summary.scores.push({ step: state.step, score })
          }
          await save()
        }
      }
      const { best } = state
      if (best && best.step !== state.step) await loadCheckpoint(out, best.step, run.modules)
      await run.save(join(out, 'model'))
      await summarize({ status: 'done' })
    } catch (error) {
      if (signal?.aborted && state.step > savedStep) await save()
      await summarize(ending(error, signal)).catch(() => {}) // the first error is the one to tell
      throw error
    } finally {
      await events?.close()
    }
    const { best } = state
    const trained = join(out, 'model')
    return { steps: state.step, model: trained, ...(best && { best }), truncation: run.truncation() }
  } finally {
    model.dispose()
  }
}

/** What a run is made of, before anything of it is written. `model` is the caller's to dispose. */
export interface OpenRun<Batch> {
  readonly model: BgeModel
  readonly run: StageRun<Batch>
  readonly config: TrainConfig
  readonly identity: RunIdentity
}

/** Loads the model and opens the stage with the effective configuration; to resume, with that of the run folder. */
export async function openRun<Batch>(stage: Stage<Batch>, options: TrainOptions): Promise<OpenRun<Batch>> {
  const { config: given } = mergeConfig(stage.name, [{ origin: 'config', values: options.config ?? {} }])
  const files = await dataFiles(options.data)
  const folder = await modelFolder(options.model)
  const identity = await runIdentity(stage.name, { ...options, model: folder }, files)
  const resume = options.resume === 'continue'
  const settings = resume ? await resumedConfig(options.out, identity, given, stage.defaults) : { ...stage.defaults, ...given }
  const { device, dtype, threads, dropout } = settings
  const model = await BgeModel.load(folder, {
    device,
    ...(dtype === 'bf16' && { dtype }),
    ...(threads > 0 && { threads }),
    ...(dropout !== null && { dropout }),
    ...(options.pooling && { pooling: options.pooling }),
  })
  try {
    if (model.tokenizer.padId !== 0) {
      throw new BgeError(
        'ERR_BGE_MODEL_FORMAT',
        `${options.model}: [PAD] must be token 0 for training, where row 0 of the embeddings is not trained, but is token ${model.tokenizer.padId}`,
      )
    }
    const config: TrainConfig = { learningRate: stage.learningRate(model.encoder.config.hidden), ...settings }
    return { model, run: await stage.open({ model, files, config }), config, identity }
  } catch (error) {
    model.dispose()
    throw error
  }
}

/** What the memory plan of an open run depends on. */
export function planRequest(
  stage: StageName,
  model: BgeModel,
  run: Pick<StageRun, 'modules' | 'positives'>,
  config: TrainConfig,
): PlanRequest {
  return {
    stage,
    config,
    model: model.encoder.config,
    modules: Object.values(run.modules).map((module) => module.parameters.list),
    device: model.device,
    positives: run.positives ?? 0,
  }
}

/** Prepares the batch of a 0-based step; a function of the step alone. */
function planner<Batch>(
  run: StageRun<Batch>,
  config: TrainConfig,
  perEpoch: number,
  signal?: AbortSignal,
): (step: number) => Promise<Batch> {
  let planned = -1
  let batches: Int32Array[] = []
  return (step) => {
    const epoch = Math.floor(step / perEpoch)
    if (epoch !== planned) {
      batches = epochBatches(run.sources, config.batchSize, config.seed, epoch)
      planned = epoch
    }
    const batch = run.prepare(batches[step % perEpoch]!, epoch, signal)
    batch.catch(() => {}) // an error shows when the batch is awaited; if it never is, because the run ended before, it does not matter
    return batch
  }
}

function requireFinite(what: string, value: number, step: number, savedStep: number): void {
  if (Number.isFinite(value)) return
  const last = savedStep > 0 ? `the last good checkpoint is checkpoints/step-${savedStep}` : 'there is no checkpoint yet'
  throw new BgeError('ERR_BGE_NON_FINITE', `${what} must be finite, but was ${value} at step ${step}; ${last}`, {
    details: { step, checkpoint: savedStep },
  })
}

function recordScore(state: RunState, score: number): void {
  if (!Number.isFinite(score)) throw new BgeError('ERR_BGE_NON_FINITE', `dev score must be finite, but was ${score} at step ${state.step}`)
  if (!state.best || score > state.best.score) {
    state.best = { step: state.step, score }
    state.stale = 0
  } else state.stale++
}

/** Probes at most, and steps between them at least: a probe costs about as much as a step. */
const PROBES = 20
const PROBE_EVERY = 20

/** Which 1-based steps are probed: some that get a row in metrics.jsonl, the last one included. */
function probeSteps(totalSteps: number, logEvery: number): (step: number) => boolean {
  const every = logEvery * Math.ceil(Math.max(PROBE_EVERY, totalSteps / PROBES) / logEvery)
  return (step) => step % every === 0 || step === totalSteps
}

interface Stopwatch {
  /** of the run so far */
  seconds(): number
  /** Waits for what the device cannot go on without. */
  stalled<T>(work: Promise<T>): Promise<T>
  /** After a step of so many tokens and rows: speeds and waiting since the last lap. */
  speed(tokens: number, rows: number): Pick<MetricsRow, 'tokensPerSecond' | 'rowsPerSecond' | 'stallSeconds'>
  lap(): void
}

/** @param before seconds that the run had already taken */
function stopwatch(before: number): Stopwatch {
  const start = performance.now()
  let lapStart = start
  let done = { tokens: 0, rows: 0, stalled: 0 }
  return {
    seconds: () => before + (performance.now() - start) / 1000,
    async stalled(work) {
      const from = performance.now()
      const value = await work
      done.stalled += (performance.now() - from) / 1000
      return value
    },
    speed(tokens, rows) {
      done.tokens += tokens
      done.rows += rows
      const seconds = (performance.now() - lapStart) / 1000
      return { tokensPerSecond: done.tokens / seconds, rowsPerSecond: done.rows / seconds, stallSeconds: done.stalled }
    },
    lap() {
      lapStart = performance.now()
      done = { tokens: 0, rows: 0, stalled: 0 }
    },
  }
}

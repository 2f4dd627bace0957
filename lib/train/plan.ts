import { freemem } from 'node:os'
import { BgeError } from '../errors.js'
import type { Device, Encoder, EncoderConfig, Parameter } from '../native.js'
import type { StageName, TrainConfig } from './config.js'
import { mostHeld } from './plan_arena.js'
import { cpuOps, cudaOps, type OpMemory } from './plan_ops.js'
import { activationBytes, type MicroShape, type ObjectiveShape, Replay } from './plan_replay.js'

/** What the memory of a run depends on. */
export interface PlanRequest {
  readonly stage: StageName
  readonly config: TrainConfig
  readonly model: EncoderConfig
  /** parameters of each trained module, the encoder first */
  readonly modules: readonly (readonly Parameter[])[]
  readonly device: Pick<Device, 'kind' | 'description'>
  /** stages 2 and 3: the most positives that are listed for one query */
  readonly positives: number
}

/** Bytes of device memory that a run needs at the same time. */
export interface MemoryPlan {
  /** the parameters */
  readonly weights: number
  /** copies of weights in the form that the device multiplies with: packed panels on the CPU, bf16 on CUDA */
  readonly weightCopies: number
  readonly gradients: number
  /** AdamW's two moments */
  readonly optimizer: number
  /** of one micro-batch, with the matrices that go between encoder, heads and loss */
  readonly activations: number
  /** GradCache: further activations, which are kept from pass 1 instead of being computed again */
  readonly kept: number
  /** GradCache: the embeddings of the whole batch and their gradients, each as one matrix and by group */
  readonly embeddingCache: number
  /** what operations need while they run: backward intermediates, a chunk of logits or a block of scores, panels and bf16 copies of products */
  readonly workspace: number
  /** the sum */
  readonly total: number
  /** bytes of the encoder's arena: one micro-batch's activations, and what is kept */
  readonly activationArena: number
  /**
   * The most that `Device.memory().allocated` can show after `reserve`: the total, every block rounded up, and on CUDA blocks that were released
   * and not yet given back.
   */
  readonly reserved: number
  /** The same without `reserve`, where activations and workspace lie in blocks that grow by half. */
  readonly held: number
  /** the most that `Device.memory().workspacePeak` can show */
  readonly workspaceHeld: number
}

const F32 = 4
const ALIGN = 16 // floats, native/model/parameters.cc

/** Floats of a module's flat buffer: Table::finish of native/model/parameters.cc. Keys and values follow their queries without padding. */
export function bufferFloats(parameters: readonly Parameter[]): number {
  const align = (n: number): number => Math.ceil(n / ALIGN) * ALIGN
  let end = 0
  for (const decay of [true, false]) {
    for (const { name, shape, decay: decayed } of parameters) {
      if (decayed !== decay) continue
      const start = /\.self\.(key|value)\./.test(name) ? end : align(end)
      end = start + shape.reduce((a, b) => a * b, 1)
    }
  }
  return align(end)
}

/** Bytes of the copies of all weights that are multiplied with. CLS pooling computes the last layer's queries apart from its keys and values. */
export function weightCopies({ stage, model }: Pick<PlanRequest, 'stage' | 'model'>, ops: OpMemory): number {
  const { layers, hidden: C, intermediate: F, vocab: V, pooling } = model
  const rest = ops.weightCopies(C, C) + ops.weightCopies(F, C) + ops.weightCopies(C, F)
  const joint = ops.weightCopies(3 * C, C) + rest
  const apart = ops.weightCopies(C, C) + ops.weightCopies(2 * C, C) + rest
  const encoder = (layers - 1) * joint + (pooling === 'cls' ? apart : joint)
  return stage === 'pretrain' ? encoder + apart + ops.weightCopies(C, C) + ops.weightCopies(V, C) : encoder // decoder, head, tied embeddings
}

/** Bytes of the float32 matrices that one micro-batch sends between encoder, heads and loss. */
export function exchanged(stage: StageName, { sequences: N, labelled = 0 }: MicroShape, width: number): number {
  if (stage === 'pretrain') return (2 * labelled + 3 * N) * width * F32 // hidden, cls, embeddings; dHidden, dCls
  return (2 * N * width + 1) * F32 // an empty hidden, cls, embeddings
}

/** Bytes of E, dE (n, D), and of the same by group. */
export function embeddingCache(objective: ObjectiveShape, width: number): number {
  return 4 * objective.queries * (1 + objective.groupSize) * width * F32
}

/** The operations of a device, for shapes that are bounds. */
export function opsOf(device: PlanRequest['device'], shapes: 'known' | 'most' = 'most'): OpMemory {
  return device.kind === 'cpu' ? cpuOps(device.description, shapes) : cudaOps()
}

/**
 * The memory of a run, an upper bound for every batch that its configuration allows: the shapes come from the limits on lengths, not from the
 * data, and every figure is the sum of the requests of native/model and native/ops (plan_replay.ts, plan_ops.ts). Not in it: this process's
 * JavaScript (data, token caches), CUDA's context, and the evaluation of checkpoints.
 * @param room bytes that GradCache may use beyond its need, to keep activations. Default none
 */
export function planMemory(request: PlanRequest, room: number = 0): MemoryPlan {
  const { stage, config, model, modules } = request
  const ops = opsOf(request.device)
  const floats = modules.map(bufferFloats)
  const weights = floats.reduce((a, b) => a + b, 0) * F32
  const micro = largestMicroBatch(stage, config)
  const replay = new Replay(model, ops)
  let cache = 0
  let kept = 0
  if (stage === 'pretrain') replay.retroMaeStep([micro])
  else {
    const objective = objectiveShape(config, request.positives)
    cache = embeddingCache(objective, model.hidden)
    replay.contrastiveStep([micro, micro], objective, 1)
    kept = Math.floor(Math.max(0, Math.min(room, wholeBatch(request, micro) - replay.activations.need)))
  }
  replay.optimizer(floats)

  const between = exchanged(stage, micro, model.hidden)
  const copies = weightCopies(request, ops)
  const { workspace, activations } = replay
  const total = 4 * weights + copies + activations.need + kept + between + cache + workspace.need
  const blocks = 64 * (model.layers + 4) // more blocks than are alive at a time, each rounded up
  const reserved = total + blocks * (ops.rounding - 1) + ops.kept
  const arena = { need: activations.need + kept, largest: activations.largest }
  const growth = mostHeld(arena) - arena.need + mostHeld(workspace) - workspace.need
  return {
    weights,
    weightCopies: copies,
    gradients: weights,
    optimizer: 2 * weights,
    activations: activations.need + between,
    kept,
    embeddingCache: cache,
    workspace: workspace.need,
    total,
    activationArena: arena.need,
    reserved,
    held: reserved + growth,
    workspaceHeld: mostHeld(workspace),
  }
}

/** Bytes that hold the activations of all micro-batches of any batch: linear in tokens and sequences, but that every request is rounded up. */
function wholeBatch({ config, model, device, stage }: PlanRequest, { longest }: MicroShape): number {
  const tokens = batchTokens(stage, config)
  const sequences = config.batchSize * (1 + config.groupSize)
  // A micro-batch is closed when the next text does not fit, so all but the last are fuller than this.
  const full = Math.max(1, config.microBatchTokens - longest + 1)
  const microBatches = Math.min(sequences, Math.ceil(tokens / full) + 1)
  const requests = 16 * (model.layers + 1) // of one forward, at most
  return activationBytes(model, device, { tokens, sequences, longest }) + microBatches * requests * 64
}

/**
 * A shape that no micro-batch of the configuration exceeds in any number. packBatches fills at most microBatchTokens, or one longer sequence;
 * a sequence has at least 2 tokens, [CLS] and [SEP].
 */
export function largestMicroBatch(stage: StageName, config: TrainConfig): MicroShape {
  const pretrain = stage === 'pretrain'
  const limit = pretrain ? config.maxLength : Math.max(config.queryMaxLength, config.passageMaxLength)
  const tokens = Math.min(batchTokens(stage, config), Math.max(config.microBatchTokens, limit))
  const longest = Math.min(limit, tokens)
  const texts = pretrain ? config.batchSize : config.batchSize * (1 + config.groupSize)
  const sequences = Math.max(1, Math.min(texts, Math.floor(tokens / 2)))
  if (!pretrain) return { tokens, sequences, longest }
  return {
    tokens,
    sequences,
    longest,
    labelled: Math.min(tokens, Math.floor(tokens * config.encoderMaskRatio) + sequences), // maskedCount: at most L p + 1 of a text
    predicted: tokens,
    maskWords: Math.min(tokens, 128 * sequences) * Math.ceil(longest / 64),
  }
}

/** Tokens of a batch whose texts are all as long as they may be. */
export function batchTokens(stage: StageName, config: TrainConfig): number {
  const { batchSize, groupSize, queryMaxLength, passageMaxLength, maxLength } = config
  return batchSize * (stage === 'pretrain' ? maxLength : queryMaxLength + groupSize * passageMaxLength)
}

function objectiveShape(config: TrainConfig, positives: number): ObjectiveShape {
  const { batchSize, groupSize, candidates, direction, matryoshka, distillation, duplicates } = config
  return {
    queries: batchSize,
    groupSize,
    candidates,
    direction,
    matryoshka,
    teacher: distillation !== 'none',
    positives: duplicates === 'mask' ? batchSize * positives : 'none',
  }
}

/** Bytes that a plan takes from a limit. */
export function charged(plan: MemoryPlan, device: PlanRequest['device']): number {
  return device.kind === 'cpu' ? plan.total : plan.reserved
}

/** Of the memory that a CPU has free beyond a plan: what GradCache may keep where no limit was given. */
const CPU_SHARE = 1 / 4
/** Of the memory that a GPU has free: what is left to the driver, for the code of kernels and cuBLASLt. */
const DRIVER_BYTES = 512 << 20

/**
 * The plan of a run on a device. What it needs comes first; then GradCache keeps activations in what the limit leaves: all of it on CUDA and
 * with `memoryLimit`, a quarter of it on a CPU without.
 * @returns `limit`: bytes that the device may use; `needed`: of them, what the run cannot do without
 */
export async function planWithin(
  request: PlanRequest,
  device: Device,
  memoryLimit?: number,
): Promise<{ plan: MemoryPlan; needed: number; limit: number }> {
  const limit = memoryLimit ?? (await detectedLimit(device))
  const least = planMemory(request)
  const needed = charged(least, device)
  const room = Math.max(0, limit - needed) * (memoryLimit === undefined && device.kind === 'cpu' ? CPU_SHARE : 1)
  return { plan: planMemory(request, room), needed, limit }
}

/** Takes the plan's workspace and activations from the device, each in one block: a step allocates only what it exchanges. Throws ERR_BGE_OOM. */
export async function reserve(plan: MemoryPlan, device: Device, encoder: Encoder): Promise<void> {
  await device.reserve(plan.workspace)
  await encoder.reserve(plan.activationArena)
}

/** The largest value of a key, up to `most`, whose plan fits into `limit` bytes; 0: not even 1 does. */
export function largestThatFits(request: PlanRequest, key: 'batchSize' | 'microBatchTokens', most: number, limit: number): number {
  const fits = (value: number): boolean => {
    const config = { ...request.config, [key]: value }
    return charged(planMemory({ ...request, config }), request.device) <= limit
  }
  if (fits(most)) return most
  let [low, high] = [0, most]
  while (high - low > 1) {
    const middle = Math.floor((low + high) / 2)
    if (fits(middle)) low = middle
    else high = middle
  }
  return low
}

/**
 * Bytes that a device's memory may reach: what it holds already and what is free. On the CPU free is what the system could give, and in a
 * container what its limit leaves beyond this process (file caches can be dropped, so they do not count). On CUDA free is what no process
 * holds, but for 512 MiB.
 */
export async function detectedLimit(device: Pick<Device, 'memory' | 'memoryInfo'>): Promise<number> {
  const own = await device.memoryInfo()
  if (own) return device.memory().allocated + Math.max(0, own.free - DRIVER_BYTES)
  const most = process.constrainedMemory() // 0 or more than there is: no limit
  const inside = most > 0 ? most - process.memoryUsage.rss() : Number.POSITIVE_INFINITY
  return device.memory().allocated + Math.max(0, Math.min(freemem(), inside))
}

/** Throws ERR_BGE_OOM, with the numbers, when a plan does not fit into `limit` bytes. */
export function requireFit(request: PlanRequest, plan: MemoryPlan, needed: number, limit: number): void {
  if (needed <= limit) return // where it is not, nothing is kept: `needed` is all of the plan
  const { stage, config } = request
  const { batchSize, microBatchTokens } = config
  const parts = [
    ['weights with gradients and optimizer', 4 * plan.weights + plan.weightCopies],
    ['activations', plan.activations],
    ['embedding cache', plan.embeddingCache],
    ['workspace', plan.workspace],
  ] as const
  const sum = parts.flatMap(([name, bytes]) => (bytes > 0 ? [`${name} ${formatBytes(bytes)}`] : [])).join(', ')
  const most = largestThatFits(request, 'microBatchTokens', microBatchTokens, limit)
  throw new BgeError(
    'ERR_BGE_OOM',
    `${stage} with batchSize ${batchSize} and microBatchTokens ${microBatchTokens} must fit into ${formatBytes(limit)}, ` +
      `but needs ${formatBytes(needed)}: ${sum}${needed > plan.total ? `, rounding and blocks to reuse ${formatBytes(needed - plan.total)}` : ''}; ` +
      (most > 0 ? `microBatchTokens ${most} fits` : 'no microBatchTokens fits'),
    { details: { needed, limit, ...plan } },
  )
}

/** 3 significant digits in a binary unit, `1.25 GiB`. */
export function formatBytes(bytes: number): string {
  const units = ['bytes', 'KiB', 'MiB', 'GiB', 'TiB']
  let unit = 0
  let value = bytes
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024
    unit++
  }
  return `${unit === 0 ? value : value >= 999.5 ? Math.round(value) : value.toPrecision(3)} ${units[unit]}`
}

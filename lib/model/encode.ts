import { buildTokenBatch, packBatches } from '../data/batch.js'
import { BgeError, invalidArgument } from '../errors.js'
import type { Encoder, Priority, TokenBatch } from '../native.js'
import { checkTexts, type Tokenizer } from '../tokenizer/tokenizer.js'
import { resolveInstruction } from './instruction.js'
import { type Int8Ranges, type OutputOptions, type Precision, type VectorArrays, type VectorFormat, vectorFormat } from './precision.js'
import { slices } from './slices.js'

/** Of `encode` and `encodeQueries`. */
export interface EncodeOptions<P extends Precision = 'float32'> {
  /** Put before every text; 'zh' and 'en' name BGE's own. Default none */
  instruction?: string
  /** Tokens, [CLS] and [SEP] included. Default: the model's */
  maxLength?: number
  /** What happens to a longer text: its end is cut off and `truncated` counts it (the default), or ERR_BGE_ARGUMENT */
  truncation?: 'end' | 'error'
  /** Dimensions, normalisation and precision of the vectors */
  output?: OutputOptions<P>
  /** The micro-batches of a 'query' go before every 'bulk' one that has not begun; equals take turns in the order of their calls. Default 'bulk' */
  priority?: Priority
  /** Tokens computed at a time: memory and how long a query or an abort waits, never the result. Default 2048 on the CPU, 16384 on CUDA */
  microBatchTokens?: number
  /** Looked at between micro-batches and while tokenising */
  signal?: AbortSignal
  onProgress?: (progress: EncodeProgress) => void
}

/** How far an `encode` is. */
export interface EncodeProgress {
  /** texts whose vectors are ready */
  done: number
  total: number
}

/** Vectors of texts, one row a text. */
export interface EncodeResult<P extends Precision = 'float32'> {
  /** (n, d) row-major, row i is texts[i]; 'ubinary' has d / 8 bytes a row */
  data: VectorArrays[P]
  /** d: the components of a vector, whatever its precision */
  dims: [n: number, d: number]
  precision: P
  /** texts that were longer than maxLength */
  truncated: number
  /** tokens encoded, [CLS] and [SEP] not counted, and how many of them were [UNK] */
  tokens: number
  unknownTokens: number
}

/** What encoding needs of a model. */
export interface EncodingModel {
  readonly encoder: Encoder
  readonly tokenizer: Tokenizer
  readonly maxLength: number
  readonly microBatchTokens: number
  /** for int8 vectors of so many dimensions */
  readonly ranges: (dimensions: number) => Int8Ranges | undefined
  /** (N, D) pooled vectors before normalisation */
  pooled(batch: TokenBatch): Promise<Float32Array>
}

/** The options of encoding that do not depend on there being texts. */
export type SequenceOptions<P extends Precision = 'float32'> = Pick<
  EncodeOptions<P>,
  'output' | 'priority' | 'microBatchTokens' | 'signal' | 'onProgress'
>

/** Micro-batches tokenised ahead of the device: enough to sort by length, little enough to keep it busy. */
const windowBatches = 8

/**
 * Equal texts are encoded once. Windows of texts are tokenised while the device computes the window before; inside a window texts are
 * sorted by length into micro-batches of `microBatchTokens`.
 */
export async function encodeTexts<P extends Precision = 'float32'>(
  model: EncodingModel,
  texts: readonly string[],
  options: EncodeOptions<P>,
): Promise<EncodeResult<P>> {
  checkTexts(texts)
  const { signal, truncation = 'end' } = options
  const prefix = resolveInstruction(options.instruction)
  const maxLength = checkMaxLength(options.maxLength ?? model.maxLength, model.encoder.config.maxPositions)
  if (truncation !== 'end' && truncation !== 'error') throw invalidArgument('truncation', "'end' or 'error'", truncation)
  const job = createJob(model, options)
  const { microBatchTokens } = job
  signal?.throwIfAborted()

  const { distinct, first, next } = await distinctTexts(texts, signal)
  const data = job.format.create(texts.length)
  const counts = { truncated: 0, tokens: 0, unknownTokens: 0 }
  let done = 0
  const write = (text: number, vector: Float32Array): void => {
    for (let row = first[text]!; row >= 0; row = next[row]!, done++)
      if (!job.format.write(data, row, vector)) throw nonFinite(`texts[${row}]`)
  }

  let running: Promise<void> = Promise.resolve()
  try {
    for (let start = 0; start < distinct.length; ) {
      // The first window is one micro-batch, so that the device starts early.
      const end = windowEnd(distinct, start, maxLength, start === 0 ? microBatchTokens : windowBatches * microBatchTokens)
      const batch = await model.tokenizer.encodeBatch(distinct.slice(start, end), { maxLength, signal, prefix })
      for (const [i, ids] of batch.ids.entries()) {
        if (truncation === 'error' && batch.truncated[i] === 1) throw tooLong(`texts[${first[start + i]!}]`, maxLength)
        let times = 0
        for (let row = first[start + i]!; row >= 0; row = next[row]!) times++
        counts.truncated += times * batch.truncated[i]!
        counts.tokens += times * (ids.length - 2)
        for (const id of ids) if (id === model.tokenizer.unkId) counts.unknownTokens += times
      }
      await running
      const from = start
      running = embedSequences(
        job,
        batch.ids,
        (i, vector) => write(from + i, vector),
        () => options.onProgress?.({ done, total: texts.length }),
      )
      running.catch(() => {}) // seen by the next await
      start = end
    }
    await running
  } catch (error) {
    await running.catch(() => {}) // nothing of this call is left on the device when its promise settles
    throw error
  }
  return { data, dims: [texts.length, job.format.dimensions], precision: job.format.precision, ...counts }
}

/**
 * The vectors of token sequences, [CLS] and [SEP] included, in their order. Errors: ERR_BGE_ARGUMENT for a sequence that is empty or longer than the
 * model has positions, or an id outside the vocabulary.
 */
export async function encodeSequences<P extends Precision = 'float32'>(
  model: EncodingModel,
  sequences: readonly Int32Array[],
  options: SequenceOptions<P>,
): Promise<Pick<EncodeResult<P>, 'data' | 'dims' | 'precision'>> {
  const { vocab, maxPositions } = model.encoder.config
  for (const [i, ids] of sequences.entries()) {
    if (ids.length < 1 || ids.length > maxPositions)
      throw invalidArgument(`sequences[${i}]`, `1 to ${maxPositions} token ids`, `${ids.length} ids`)
    const bad = ids.find((id) => id < 0 || id >= vocab)
    if (bad !== undefined) throw invalidArgument(`sequences[${i}]`, `token ids from 0 to ${vocab - 1}`, bad)
  }
  const job = createJob(model, options)
  options.signal?.throwIfAborted()
  const data = job.format.create(sequences.length)
  let done = 0
  const write = (i: number, vector: Float32Array): void => {
    if (!job.format.write(data, i, vector)) throw nonFinite(`sequences[${i}]`)
    done++
  }
  await embedSequences(job, sequences, write, () => options.onProgress?.({ done, total: sequences.length }))
  return { data, dims: [sequences.length, job.format.dimensions], precision: job.format.precision }
}

/** Errors: ERR_BGE_ARGUMENT for a length the model has no positions for, or too short for [CLS], a token and [SEP]. */
export function checkMaxLength(value: number, maxPositions: number): number {
  if (!Number.isSafeInteger(value) || value < 3 || value > maxPositions) {
    throw invalidArgument('maxLength', `an integer from 3 to ${maxPositions} (the model's max_position_embeddings)`, value)
  }
  return value
}

interface Job<P extends Precision> {
  readonly format: VectorFormat<P>
  readonly microBatchTokens: number
  readonly signal: AbortSignal | undefined
  /** (N, D) */
  embed(batch: TokenBatch): Promise<Float32Array>
}

function createJob<P extends Precision>(model: EncodingModel, options: SequenceOptions<P>): Job<P> {
  const { output = {}, priority = 'bulk', microBatchTokens = model.microBatchTokens, signal } = options
  if (!Number.isSafeInteger(microBatchTokens) || microBatchTokens < 1)
    throw invalidArgument('microBatchTokens', 'a positive integer', microBatchTokens)
  if (priority !== 'query' && priority !== 'bulk') throw invalidArgument('priority', "'query' or 'bulk'", priority)
  const { hidden: width, normalize: normalizes } = model.encoder.config
  const { normalize = normalizes, dimensions = width } = output
  if (typeof normalize !== 'boolean') throw invalidArgument('normalize', 'true or false', normalize)
  const ranges = output.ranges ?? (output.precision === 'int8' ? model.ranges(dimensions) : undefined)
  // What the encoder has normalised is left as it is, bit for bit.
  const scale = normalize && (!normalizes || dimensions < width) ? 'unit' : 'as given'
  return {
    format: vectorFormat(width, scale, { ...output, ...(ranges && { ranges }) }),
    microBatchTokens,
    signal,
    embed: normalizes && !normalize ? (batch) => model.pooled(batch) : (batch) => embed(model.encoder, batch, priority),
  }
}

/** `write` gets the vector of every sequence, longest first; `onBatch` is called after each micro-batch. */
async function embedSequences<P extends Precision>(
  job: Job<P>,
  ids: readonly Int32Array[],
  write: (index: number, vector: Float32Array) => void,
  onBatch: () => void,
): Promise<void> {
  const { signal } = job
  const lengths = ids.map((sequence) => sequence.length)
  for (const indices of packBatches(lengths, job.microBatchTokens)) {
    signal?.throwIfAborted()
    const part = await job.embed(buildTokenBatch(ids, indices))
    const width = part.length / indices.length
    const turns = slices(signal)
    for (const [r, index] of indices.entries()) {
      write(index, part.subarray(r * width, (r + 1) * width))
      if (turns.over()) await turns.next()
    }
    onBatch()
  }
}

async function embed(encoder: Encoder, batch: TokenBatch, priority: Priority): Promise<Float32Array> {
  const tensor = await encoder.embed(batch, undefined, priority)
  try {
    return await tensor.toArray()
  } finally {
    tensor.dispose()
  }
}

interface DistinctTexts {
  /** in order of first appearance */
  distinct: string[]
  /** first row of each distinct text, next row with the text of each row, -1 at the end */
  first: Int32Array
  next: Int32Array
}

async function distinctTexts(texts: readonly string[], signal: AbortSignal | undefined): Promise<DistinctTexts> {
  const numbers = new Map<string, number>()
  const [first, last, next] = [0, 0, 0].map(() => new Int32Array(texts.length).fill(-1)) as [Int32Array, Int32Array, Int32Array]
  const turns = slices(signal)
  for (const [row, text] of texts.entries()) {
    const number = numbers.get(text)
    if (number === undefined) {
      first[numbers.size] = last[numbers.size] = row
      numbers.set(text, numbers.size)
    } else {
      next[last[number]!] = row
      last[number] = row
    }
    if (turns.over()) await turns.next()
  }
  return { distinct: [...numbers.keys()], first, next }
}

/** Where a window of about `tokens` tokens ends, taking a character for a token: right for Chinese, too short a window elsewhere. */
function windowEnd(texts: readonly string[], first: number, maxLength: number, tokens: number): number {
  let end = first
  for (let sum = 0; end < texts.length && (end === first || sum < tokens); end++) sum += Math.min(texts[end]!.length + 2, maxLength)
  return end
}

function tooLong(what: string, maxLength: number): BgeError {
  return new BgeError('ERR_BGE_ARGUMENT', `${what} must fit into ${maxLength} tokens ([CLS] and [SEP] included), but is longer`, {
    details: { name: what },
  })
}

function nonFinite(what: string): BgeError {
  return new BgeError(
    'ERR_BGE_NON_FINITE',
    `the vector of ${what} must be finite, but holds NaN or infinity: the model's weights are broken`,
  )
}

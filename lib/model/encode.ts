import { buildTokenBatch, packBatches } from '../data/batch.js'
import { BgeError, invalidArgument } from '../errors.js'
import type { Encoder, TokenBatch } from '../native.js'
import { checkTexts, type Tokenizer } from '../tokenizer/tokenizer.js'
import { resolveInstruction } from './instruction.js'

export interface EncodeOptions {
  /** Put before every text; 'zh' and 'en' name BGE's own. Default none */
  instruction?: string
  /** Tokens, [CLS] and [SEP] included; longer texts are cut. Default: the model's */
  maxLength?: number
  /** L2-normalise the vectors. Default: as the model folder says (BGE: true) */
  normalize?: boolean
  /** Tokens computed at a time: memory, never the result. Default 16384 */
  microBatchTokens?: number
  /** Looked at between micro-batches and while tokenising */
  signal?: AbortSignal
  onProgress?: (progress: EncodeProgress) => void
}

export interface EncodeProgress {
  /** texts whose vectors are ready */
  done: number
  total: number
}

export interface EncodeResult {
  /** (n, D) row-major, row i is texts[i] */
  data: Float32Array
  dims: [n: number, d: number]
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
  /** (N, D) pooled vectors before normalisation */
  pooled(batch: TokenBatch): Promise<Float32Array>
}

/** Micro-batches tokenised ahead of the device: enough to sort by length, little enough to keep it busy. */
const windowBatches = 8

/**
 * Equal texts are encoded once. Windows of texts are tokenised while the device computes the window before; inside a window texts are
 * sorted by length into micro-batches of `microBatchTokens`.
 */
export async function encodeTexts(model: EncodingModel, texts: readonly string[], options: EncodeOptions): Promise<EncodeResult> {
  checkTexts(texts)
  const { signal, onProgress, microBatchTokens = 16_384 } = options
  const prefix = resolveInstruction(options.instruction)
  const maxLength = checkMaxLength(options.maxLength ?? model.maxLength, model.encoder.config.maxPositions)
  if (!Number.isSafeInteger(microBatchTokens) || microBatchTokens < 1)
    throw invalidArgument('microBatchTokens', 'a positive integer', microBatchTokens)
  if (options.normalize !== undefined && typeof options.normalize !== 'boolean')
    throw invalidArgument('normalize', 'true or false', options.normalize)
  const normalize = options.normalize ?? model.encoder.config.normalize
  signal?.throwIfAborted()

  const { distinct, rows, copies } = distinctTexts(texts)
  const width = model.encoder.config.hidden
  const vectors = new Float32Array(distinct.length * width)
  const counts = { truncated: 0, tokens: 0, unknownTokens: 0 }
  let done = 0

  const embedWindow = async (ids: readonly Int32Array[], first: number): Promise<void> => {
    const lengths = ids.map((sequence) => sequence.length)
    for (const indices of packBatches(lengths, microBatchTokens)) {
      signal?.throwIfAborted()
      const batch = buildTokenBatch(ids, indices)
      const part = await embed(model, batch, normalize)
      for (const [r, index] of indices.entries()) {
        vectors.set(part.subarray(r * width, (r + 1) * width), (first + index) * width)
        done += copies[first + index]!
      }
      onProgress?.({ done, total: texts.length })
    }
  }

  let running: Promise<void> = Promise.resolve()
  try {
    for (let first = 0; first < distinct.length; ) {
      // The first window is one micro-batch, so that the device starts early.
      const end = windowEnd(distinct, first, maxLength, first === 0 ? microBatchTokens : windowBatches * microBatchTokens)
      const batch = await model.tokenizer.encodeBatch(distinct.slice(first, end), { maxLength, signal, prefix })
      for (const [i, ids] of batch.ids.entries()) {
        const times = copies[first + i]!
        counts.truncated += times * batch.truncated[i]!
        counts.tokens += times * (ids.length - 2)
        for (const id of ids) if (id === model.tokenizer.unkId) counts.unknownTokens += times
      }
      await running
      running = embedWindow(batch.ids, first)
      running.catch(() => {}) // seen by the next await
      first = end
    }
    await running
  } catch (error) {
    await running.catch(() => {}) // nothing of this call is left on the device when its promise settles
    throw error
  }
  const data = distinct.length === texts.length ? vectors : spread(vectors, rows, width)
  checkVectors(data, width)
  return { data, dims: [texts.length, width], ...counts }
}

/** Errors: ERR_BGE_ARGUMENT for a length the model has no positions for, or too short for [CLS], a token and [SEP]. */
export function checkMaxLength(value: number, maxPositions: number): number {
  if (!Number.isSafeInteger(value) || value < 3 || value > maxPositions) {
    throw invalidArgument('maxLength', `an integer from 3 to ${maxPositions} (the model's max_position_embeddings)`, value)
  }
  return value
}

async function embed(model: EncodingModel, batch: TokenBatch, normalize: boolean): Promise<Float32Array> {
  const { encoder } = model
  if (encoder.config.normalize && !normalize) return model.pooled(batch)
  const tensor = await encoder.embed(batch)
  try {
    const values = await tensor.toArray()
    if (normalize && !encoder.config.normalize) normalizeRows(values, encoder.config.hidden)
    return values
  } finally {
    tensor.dispose()
  }
}

/** x / max(|x|, 1e-12) for every row, as torch.nn.functional.normalize. */
function normalizeRows(values: Float32Array, width: number): void {
  for (let start = 0; start < values.length; start += width) {
    const row = values.subarray(start, start + width)
    let sum = 0
    for (const x of row) sum += x * x
    const norm = Math.max(Math.sqrt(sum), 1e-12)
    for (let i = 0; i < width; i++) row[i] = row[i]! / norm
  }
}

function distinctTexts(texts: readonly string[]): { distinct: string[]; rows: Int32Array; copies: Int32Array } {
  const numbers = new Map<string, number>()
  const rows = Int32Array.from(texts, (text) => {
    const number = numbers.get(text) ?? numbers.size
    numbers.set(text, number)
    return number
  })
  const copies = new Int32Array(numbers.size)
  for (const row of rows) copies[row]!++
  return { distinct: [...numbers.keys()], rows, copies }
}

/** Where a window of about `tokens` tokens ends, taking a character for a token: right for Chinese, too short a window elsewhere. */
function windowEnd(texts: readonly string[], first: number, maxLength: number, tokens: number): number {
  let end = first
  for (let sum = 0; end < texts.length && (end === first || sum < tokens); end++) sum += Math.min(texts[end]!.length + 2, maxLength)
  return end
}

function spread(vectors: Float32Array, rows: Int32Array, width: number): Float32Array {
  const data = new Float32Array(rows.length * width)
  for (const [i, row] of rows.entries()) data.set(vectors.subarray(row * width, (row + 1) * width), i * width)
  return data
}

function checkVectors(data: Float32Array, width: number): void {
  let sum = 0
  for (let i = 0; i < data.length; i++) sum += data[i]! * 0
  if (sum === 0) return
  const row = Math.floor(data.findIndex((x) => !Number.isFinite(x)) / width)
  throw new BgeError(
    'ERR_BGE_NON_FINITE',
    `the vector of texts[${row}] must be finite, but holds NaN or infinity: the model's weights are broken`,
  )
}

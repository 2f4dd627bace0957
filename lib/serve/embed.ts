import { BgeError } from '../errors.js'
import type { BgeModel } from '../model/model.js'
import { vectorFormat } from '../model/precision.js'
import { type Slices, slices } from '../model/slices.js'
import type { Batcher } from './batcher.js'
import { HttpError } from './http_error.js'
import type { EmbeddingRequest } from './requests.js'

/** The model as requests see it. */
export type ServedModel = Pick<BgeModel, 'dims' | 'tokenizer' | 'maxLength' | 'instruction' | 'encodeTokens'>

/** The vectors of a request. */
export interface Embedded {
  readonly texts: number
  readonly dimensions: number
  /** row i, a view */
  row(i: number): Float32Array
  /** [CLS] and [SEP] included */
  readonly tokens: number
  readonly truncated: number
}

/** Tokenises, waits for a batch, cuts to `dimensions`. Throws HttpError 413 for a text that is too long and may not be cut, 429; the signal's reason. */
export async function embedRequest(
  model: ServedModel,
  batcher: Batcher,
  request: EmbeddingRequest,
  truncation: 'end' | 'error',
  signal: AbortSignal,
): Promise<Embedded> {
  const { dims } = model
  const { dimensions, normalize } = request
  batcher.checkRoom(1) // before any work for a request that will be refused
  const { sequences, truncated } = await tokenize(model, request, signal)
  const cut = request.truncate ?? truncation === 'end'
  const tooLong = truncated.indexOf(1)
  if (tooLong >= 0 && !cut)
    throw new HttpError(413, `text ${tooLong} must have at most ${model.maxLength} tokens ([CLS] and [SEP] included), but has more`, {
      param: 'input',
    })
  const data = await batcher.submit(sequences, normalize, signal)
  const format = vectorFormat<'float32'>(dims, normalize && dimensions < dims ? 'unit' : 'as given', { dimensions })
  const vectors = dimensions === dims ? data : format.create(sequences.length)
  const turns = slices(signal)
  for (let i = 0; i < sequences.length; i++) {
    const row = data.subarray(i * dims, (i + 1) * dims)
    const finite = dimensions === dims ? row.every(Number.isFinite) : format.write(vectors, i, row)
    if (!finite) throw new BgeError('ERR_BGE_NON_FINITE', `the vector of text ${i} must be finite, but holds NaN or infinity`)
    if (turns.over()) await turns.next()
  }
  let tokens = 0
  for (const ids of sequences) tokens += ids.length
  return {
    texts: sequences.length,
    dimensions,
    row: (i) => vectors.subarray(i * dimensions, (i + 1) * dimensions),
    tokens,
    truncated: truncated.reduce((sum, one) => sum + one, 0),
  }
}

async function tokenize(
  { tokenizer, maxLength, instruction }: ServedModel,
  { input, side }: EmbeddingRequest,
  signal: AbortSignal,
): Promise<{ sequences: Int32Array[]; truncated: Uint8Array }> {
  const prefix = side === 'query' ? instruction : ''
  if ('texts' in input) {
    const { ids, truncated } = await tokenizer.encodeBatch(input.texts, { maxLength, signal, prefix })
    return { sequences: ids, truncated }
  }
  const { clsId, sepId } = tokenizer
  const before = prefix === '' ? [] : [...tokenizer.encode(prefix, maxLength).subarray(1, -1)]
  const truncated = new Uint8Array(input.tokens.length)
  const sequences = input.tokens.map((given, i) => {
    const framed = given.length >= 2 && given[0] === clsId && given.at(-1) === sepId
    const inner = [...before, ...(framed ? given.slice(1, -1) : given)]
    if (inner.length > maxLength - 2) truncated[i] = 1
    return Int32Array.of(clsId, ...inner.slice(0, maxLength - 2), sepId)
  })
  return { sequences, truncated }
}

/** `head` + the rows, separated by commas + `tail`: a large answer is written in slices, so that others get their turn. */
export async function writeRows(
  embedded: Embedded,
  write: (row: Float32Array, index: number) => string,
  [head, tail]: readonly [head: string, tail: string],
  signal: AbortSignal,
): Promise<string> {
  const parts: string[] = []
  const turns: Slices = slices(signal)
  for (let i = 0; i < embedded.texts; i++) {
    parts.push(write(embedded.row(i), i))
    if (turns.over()) await turns.next()
  }
  return `${head}${parts.join(',')}${tail}`
}

/** little-endian float32, as OpenAI's clients decode it */
export function base64(row: Float32Array): string {
  return Buffer.from(row.buffer, row.byteOffset, row.byteLength).toString('base64')
}

export function numbers(row: Float32Array): string {
  return `[${row.join(',')}]`
}

/** Stable error codes. A code never changes its meaning; new ones may be added. */
export type BgeErrorCode =
  | 'ERR_BGE_ARGUMENT' // an argument or option of a public function or command
  | 'ERR_BGE_CONFIG' // a key or value in a training configuration
  | 'ERR_BGE_RECIPE' // a key or value in a recipe
  | 'ERR_BGE_DATA' // a row of a data file (message starts with file:line)
  | 'ERR_BGE_FILE' // a file is missing, unreadable or cannot be written
  | 'ERR_BGE_MODEL_FORMAT' // a model folder: configuration, weights, names, shapes, pickle
  | 'ERR_BGE_POOLING' // a model folder does not say how to pool
  | 'ERR_BGE_TOKENIZER' // tokenizer files, or a text that is not a string
  | 'ERR_BGE_SHAPE' // tensors that do not fit together
  | 'ERR_BGE_DEVICE_UNAVAILABLE'
  | 'ERR_BGE_NO_BINARY' // the native addon is missing or does not load
  | 'ERR_BGE_OOM'
  | 'ERR_BGE_CLOSED' // a disposed device, model or tensor was used
  | 'ERR_BGE_NON_FINITE' // NaN or infinity in weights, embeddings or the loss
  | 'ERR_BGE_NOTHING_TO_LEARN' // one candidate per query
  | 'ERR_BGE_RESUME' // a run folder that cannot be continued
  | 'ERR_BGE_HUB' // a hub or mirror: no answer, an error status, a wrong hash, or offline mode
  | 'ERR_BGE_ENDPOINT' // an embedding service: no answer, an error status, or an answer that is no list of vectors
  | 'ERR_BGE_SAVE' // a save that was written but does not read back equal, or could not be written
  | 'ERR_BGE_DEPENDENCY' // an optional package that this command needs is not installed or does not load
  | 'ERR_BGE_INTERNAL'

/** Every error of this package that a caller can cause or act on. `message` is one sentence: what was expected, what came, where. */
export class BgeError extends Error {
  readonly code: BgeErrorCode
  readonly details: Readonly<Record<string, unknown>>
  constructor(code: BgeErrorCode, message: string, options: { cause?: unknown; details?: Record<string, unknown> } = {}) {
    // What it quotes (JSON, file names) may hold line breaks.
    super(message.replaceAll(/\s*[\r\n]+\s*/g, ' '), options.cause === undefined ? undefined : { cause: options.cause })
    this.name = 'BgeError'
    this.code = code
    this.details = options.details ?? {}
  }
}

/** `name` must be `expected`, but was `actual`: the one sentence form for arguments (after sharp's invalidParameterError). */
export function invalidArgument(name: string, expected: string, actual: unknown): BgeError {
  return new BgeError('ERR_BGE_ARGUMENT', `${name} must be ${expected}, but was ${show(actual)}`, { details: { name } })
}

/** A short, quoted rendering of any value for messages. */
export function show(value: unknown): string {
  if (typeof value === 'string') return value.length > 60 ? `"${value.slice(0, 57)}..."` : `"${value}"`
  if (ArrayBuffer.isView(value)) return `${value.constructor.name}(${(value as unknown as { length: number }).length})`
  if (Array.isArray(value)) return `an array of ${value.length}`
  if (value === null || typeof value !== 'object') return String(value)
  return `a ${value.constructor?.name ?? 'object'}`
}

/** True for the error a caller's own AbortSignal produced. */
export function isAbort(error: unknown): boolean {
  return error instanceof Error && error.name === 'AbortError'
}

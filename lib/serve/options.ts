import { invalidArgument } from '../errors.js'

/** Of `startServer`. */
export interface ServeOptions {
  /** Address to listen on. Default 127.0.0.1: this machine only */
  host?: string
  /** 0 takes any free one. Default 8080 */
  port?: number
  /** What requests may call the model; the first is what answers call it. Default: the name of its folder */
  names?: readonly string[]
  /** When given, every request but /health must carry it as a bearer token */
  apiKey?: string
  /** What happens to texts longer than the model takes, unless a request says: cut at the end (the default) or refused */
  truncation?: 'end' | 'error'
  limits?: ServeLimits
  /** Told one line for each request: method, path, status, texts, tokens, time. Never a text or a key */
  log?: (line: string) => void
}

/** What a request may hold; beyond it the answer is 413. */
export interface ServeLimits {
  /** of a request. Default 8 MiB */
  bodyBytes?: number
  /** texts of a request, and UTF-16 units of a text. Default 2048, as OpenAI's, and 200000 */
  texts?: number
  textLength?: number
  /** tokens that may wait for the device before requests are answered 429. Default 64 batches */
  queueTokens?: number
  /** tokens computed at a time. Default: the model's 2048 on the CPU, 16384 on CUDA */
  batchTokens?: number
  /** how long a batch that is not full waits for more requests while the device is idle, in ms. Default 2 */
  waitMs?: number
  /** how long `stop` waits for requests under way before it breaks them off, in ms. Default 30000 */
  stopMs?: number
}

export type Limits = Readonly<Required<ServeLimits>>

/** Errors: ERR_BGE_ARGUMENT. */
export function serveLimits(given: ServeLimits, batchTokens: number): Limits {
  const limits = {
    bodyBytes: 8 << 20,
    texts: 2048,
    textLength: 200_000,
    batchTokens,
    queueTokens: 64 * (given.batchTokens ?? batchTokens),
    waitMs: 2,
    stopMs: 30_000,
    ...given,
  }
  for (const [name, value] of Object.entries(limits)) {
    const least = name === 'waitMs' || name === 'stopMs' ? 0 : 1
    if (!Number.isSafeInteger(value) || value < least) throw invalidArgument(`limits.${name}`, `an integer of at least ${least}`, value)
  }
  return limits
}

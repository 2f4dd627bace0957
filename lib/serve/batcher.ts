import { setTimeout as sleep } from 'node:timers/promises'
import { HttpError } from './http_error.js'

/** What a batcher asks of a model; a BgeModel is one. */
export interface BatchModel {
  readonly dims: number
  encodeTokens(
    sequences: readonly Int32Array[],
    options: { priority: 'query'; microBatchTokens: number; output: { normalize: boolean } },
  ): Promise<{ data: Float32Array }>
}

export interface BatcherLimits {
  readonly batchTokens: number
  readonly queueTokens: number
  readonly waitMs: number
}

/** One request's sequences on their way. */
interface Entry {
  readonly sequences: readonly Int32Array[]
  readonly normalize: boolean
  /** (n, D) */
  readonly data: Float32Array
  /** of sequences not yet taken into a batch */
  tokens: number
  taken: number
  done: number
  readonly settle: (error?: unknown) => void
}

/**
 * Fills batches of `batchTokens` tokens from all requests that wait. Each takes part in turn, a sequence at a time, so that a request of one text
 * never waits for the thousands of another. One batch is computed at a time; the next is filled when it is ready, from all that has come by then.
 * While nothing is computed, a batch that is not full waits `waitMs` for more.
 */
export class Batcher {
  readonly #model: BatchModel
  readonly #limits: BatcherLimits
  readonly #onBatch: (tokens: number) => void
  readonly #entries = new Set<Entry>()
  #queuedTokens = 0
  #computing = 0
  #running: Promise<void> | undefined
  /** tokens in a second, of the last batches */
  #speed = 0

  constructor(model: BatchModel, limits: BatcherLimits, onBatch: (tokens: number) => void = () => {}) {
    this.#model = model
    this.#limits = limits
    this.#onBatch = onBatch
  }

  /** tokens that wait */
  get queuedTokens(): number {
    return this.#queuedTokens
  }

  /** Throws HttpError 429 unless `tokens` more may wait. A queue that is empty takes any request. */
  checkRoom(tokens: number): void {
    if (this.#queuedTokens === 0 || this.#queuedTokens + tokens <= this.#limits.queueTokens) return
    const waiting = this.#queuedTokens + this.#computing
    const retryAfter = this.#speed > 0 ? Math.min(60, Math.max(1, Math.ceil(waiting / this.#speed))) : 1
    throw new HttpError(
      429,
      `the server has ${this.#queuedTokens} tokens waiting, at most ${this.#limits.queueTokens} may; try again later`,
      {
        code: 'rate_limit_exceeded',
        retryAfter,
      },
    )
  }

  /** (n, D) vectors of sequences. An abort takes what still waits out of the queue. Throws as checkRoom, the model's error, the signal's reason. */
  async submit(sequences: readonly Int32Array[], normalize: boolean, signal: AbortSignal): Promise<Float32Array> {
    signal.throwIfAborted()
    if (sequences.length === 0) return new Float32Array(0)
    let tokens = 0
    for (const ids of sequences) tokens += ids.length
    this.checkRoom(tokens)
    const { promise, resolve, reject } = withResolvers<Float32Array>()
    const data = new Float32Array(sequences.length * this.#model.dims)
    const leave = (): void => entry.settle(signal.reason)
    const entry: Entry = {
      sequences,
      normalize,
      data,
      tokens,
      taken: 0,
      done: 0,
      settle: (error) => {
        signal.removeEventListener('abort', leave)
        if (this.#entries.delete(entry)) this.#queuedTokens -= entry.tokens
        if (error === undefined) resolve(data)
        else reject(error)
      },
    }
    signal.addEventListener('abort', leave)
    this.#entries.add(entry)
    this.#queuedTokens += tokens
    this.#running ??= this.#run()
    return promise
  }

  async #run(): Promise<void> {
    if (this.#queuedTokens < this.#limits.batchTokens && this.#limits.waitMs > 0) await sleep(this.#limits.waitMs)
    while (this.#entries.size > 0) await this.#compute(this.#take())
    this.#running = undefined
  }

  #take(): Part[] {
    const [head] = this.#entries
    const parts: Part[] = []
    let tokens = 0
    const full = (ids: Int32Array): boolean => tokens > 0 && tokens + ids.length > this.#limits.batchTokens
    const fitting = [...this.#entries].filter((entry) => entry.normalize === head!.normalize)
    for (let turn = fitting; turn.length > 0; ) {
      const next: Entry[] = []
      for (const entry of turn) {
        const ids = entry.sequences[entry.taken]!
        if (full(ids)) continue
        parts.push({ entry, index: entry.taken++, ids })
        tokens += ids.length
        entry.tokens -= ids.length
        this.#queuedTokens -= ids.length
        if (entry.taken < entry.sequences.length) next.push(entry)
        else this.#entries.delete(entry)
      }
      turn = next
    }
    // Those that have had their share go behind the others.
    for (const entry of fitting) {
      if (entry.taken > 0 && this.#entries.delete(entry)) this.#entries.add(entry)
    }
    return parts
  }

  async #compute(parts: readonly Part[]): Promise<void> {
    const { dims } = this.#model
    this.#computing = parts.reduce((sum, { ids }) => sum + ids.length, 0)
    this.#onBatch(this.#computing)
    const start = performance.now()
    try {
      const { data } = await this.#model.encodeTokens(
        parts.map(({ ids }) => ids),
        { priority: 'query', microBatchTokens: this.#limits.batchTokens, output: { normalize: parts[0]!.entry.normalize } },
      )
      for (const [p, { entry, index }] of parts.entries()) {
        entry.data.set(data.subarray(p * dims, (p + 1) * dims), index * dims)
        if (++entry.done === entry.sequences.length) entry.settle()
      }
      const speed = this.#computing / ((performance.now() - start) / 1000)
      this.#speed = this.#speed === 0 ? speed : 0.8 * this.#speed + 0.2 * speed
    } catch (error) {
      for (const { entry } of parts) entry.settle(error)
    }
    this.#computing = 0
  }
}

interface Part {
  readonly entry: Entry
  readonly index: number
  readonly ids: Int32Array
}

function withResolvers<T>(): { promise: Promise<T>; resolve: (value: T) => void; reject: (error: unknown) => void } {
  let [resolve, reject] = [(_: T): void => {}, (_: unknown): void => {}]
  const promise = new Promise<T>((yes, no) => {
    resolve = yes
    reject = no
  })
  return { promise, resolve, reject }
}

const ALIGN = 64
const FIRST_BLOCK = 8 << 20

export interface ArenaMark {
  readonly block: number
  readonly used: number
  readonly live: number
}

/** Replays the requests to an arena of native/core/arena.cc: same alignment, same growth, same joining of blocks. */
export class ArenaReplay {
  /** the most bytes that were live at a time, alignment included */
  need = 0
  /** the arena's own high-water mark: `need` and the unused ends of full blocks */
  peak = 0
  /** the largest single request */
  largest = 0
  #blocks: number[] = []
  #block = 0
  #used = 0
  #live = 0

  /** bytes held from the device */
  get capacity(): number {
    return this.#blocks.reduce((sum, size) => sum + size, 0)
  }

  take(...requests: readonly number[]): void {
    for (const bytes of requests) this.#take(Math.ceil(Math.max(bytes, 1) / ALIGN) * ALIGN)
  }

  mark(): ArenaMark {
    return { block: this.#block, used: this.#used, live: this.#live }
  }

  reset(mark: ArenaMark = { block: 0, used: 0, live: 0 }): void {
    this.#block = mark.block
    this.#used = mark.used
    this.#live = mark.live
    if (mark.block === 0 && mark.used === 0 && this.#blocks.length > 1) this.#blocks = [this.capacity]
  }

  /** Runs `body` and gives back what it took. */
  scope(body: () => void): void {
    const mark = this.mark()
    body()
    this.reset(mark)
  }

  /** What an operation takes while it runs. */
  op(requests: readonly number[]): void {
    if (requests.length > 0) this.scope(() => this.take(...requests))
  }

  #take(bytes: number): void {
    const blocks = this.#blocks
    while (this.#block < blocks.length && this.#used + bytes > blocks[this.#block]!) {
      const next = blocks[this.#block + 1]
      if (next !== undefined && next < bytes) {
        blocks.splice(this.#block + 1, 1)
        continue
      }
      this.#block++
      this.#used = 0
    }
    if (this.#block === blocks.length) {
      blocks.push(Math.max(bytes, FIRST_BLOCK))
      this.#used = 0
    }
    this.#used += bytes
    this.#live += bytes
    this.need = Math.max(this.need, this.#live)
    this.largest = Math.max(this.largest, bytes)
    const before = blocks.slice(0, this.#block).reduce((sum, size) => sum + size, 0)
    this.peak = Math.max(this.peak, before + this.#used)
  }
}

/**
 * Bytes that an arena can come to hold, whatever the order of the requests, when at most `need` bytes are live at a time and no request is
 * larger than `largest`. A block is added only when a request does not fit. Then each block so far ends in less than its own size, and in less
 * than the request that did not fit there, which is live and first in the next block: together less than `need`. The new block is the request or
 * 8 MiB, whichever is more.
 */
export function mostHeld({ need, largest }: { need: number; largest: number }): number {
  if (need === 0) return 0
  if (need <= FIRST_BLOCK) return FIRST_BLOCK
  let ends = 0
  for (let held = 0; held < need + ends && ends < need; ) {
    ends = Math.min(need, ends + Math.min(largest, FIRST_BLOCK))
    held += FIRST_BLOCK
  }
  const before = need + ends
  return before + Math.max(largest, FIRST_BLOCK)
}

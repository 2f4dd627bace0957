/** hash (32 bits) -> numbers of texts, in typed arrays: 16 to 24 bytes an entry, where a Map of lists takes a hundred. */
export class Postings {
  readonly #heads: Int32Array
  readonly #mask: number
  readonly #next: Int32Array
  readonly #hashes: Uint32Array
  readonly #texts: Int32Array
  readonly #perHash: number
  #size = 0
  /** @param capacity entries at most @param perHash further texts of a hash are left out: it says little about any of them */
  constructor(capacity: number, perHash: number) {
    let size = 1024
    while (size < capacity) size *= 2
    this.#heads = new Int32Array(size).fill(-1)
    this.#mask = size - 1
    this.#next = new Int32Array(capacity)
    this.#hashes = new Uint32Array(capacity)
    this.#texts = new Int32Array(capacity)
    this.#perHash = perHash
  }

  /** Texts come in ascending order; an entry that is there is not added again. */
  add(hash: number, text: number): void {
    const slot = hash & this.#mask
    let count = 0
    for (let at = this.#heads[slot]!; at >= 0; at = this.#next[at]!) {
      if (this.#hashes[at] !== hash) continue
      if (this.#texts[at] === text || ++count === this.#perHash) return
    }
    const at = this.#size++
    this.#hashes[at] = hash
    this.#texts[at] = text
    this.#next[at] = this.#heads[slot]!
    this.#heads[slot] = at
  }

  each(hash: number, visit: (text: number) => void): void {
    for (let at = this.#heads[hash & this.#mask]!; at >= 0; at = this.#next[at]!) {
      if (this.#hashes[at] === hash) visit(this.#texts[at]!)
    }
  }
}

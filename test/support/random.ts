/** Reproducible inputs (mulberry32). */
export class Random {
  #state: number
  constructor(seed: number) {
    this.#state = seed >>> 0
  }

  /** Uniform in [0, 1). */
  uniform(): number {
    this.#state = (this.#state + 0x6d2b79f5) >>> 0
    let t = this.#state
    t = Math.imul(t ^ (t >>> 15), t | 1)
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61)
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32
  }

  /** 0 .. n-1 */
  integer(n: number): number {
    return Math.floor(this.uniform() * n)
  }

  normal(): number {
    return Math.sqrt(-2 * Math.log(1 - this.uniform())) * Math.cos(2 * Math.PI * this.uniform())
  }

  /** n normal numbers, times `scale`, plus `shift`. */
  floats(n: number, scale = 1, shift = 0): Float32Array {
    return Float32Array.from({ length: n }, () => shift + scale * this.normal())
  }

  /** n whole numbers in [0, limit). */
  ints(n: number, limit: number): Int32Array {
    return Int32Array.from({ length: n }, () => this.integer(limit))
  }

  /** `count` different numbers of [0, limit), in random order. */
  choose(count: number, limit: number): Int32Array {
    const all = Array.from({ length: limit }, (_, i) => i)
    for (let i = 0; i < count; i++) {
      const j = i + this.integer(limit - i)
      const t = all[i]!
      all[i] = all[j]!
      all[j] = t
    }
    return Int32Array.from(all.slice(0, count))
  }
}

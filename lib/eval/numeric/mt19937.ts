import { invalidArgument } from '../../errors.js'

const N = 624
const M = 397

/**
 * numpy.random.RandomState(seed): the Mersenne Twister MT19937 (Matsumoto and Nishimura 1998) with numpy's legacy ways to turn its 32-bit words
 * into integers, doubles and permutations. Every method draws exactly what numpy's method of that name draws, so a sequence of calls gives the
 * same values.
 */
export class RandomState {
  readonly #state = new Uint32Array(N)
  #next = N

  /** @param seed an integer 0 <= seed < 2^32 */
  constructor(seed: number) {
    if (!Number.isInteger(seed) || seed < 0 || seed >= 2 ** 32) throw invalidArgument('seed', 'an integer 0 <= seed < 2^32', seed)
    this.#state[0] = seed
    for (let i = 1; i < N; i++) {
      const last = this.#state[i - 1]!
      this.#state[i] = Math.imul(1812433253, last ^ (last >>> 30)) + i
    }
  }

  /** The next 32-bit word, 0 <= word < 2^32. */
  uint32(): number {
    if (this.#next === N) this.#refill()
    let y = this.#state[this.#next++]!
    y ^= y >>> 11
    y ^= (y << 7) & 0x9d2c5680
    y ^= (y << 15) & 0xefc60000
    return (y ^ (y >>> 18)) >>> 0
  }

  #refill(): void {
    const s = this.#state
    for (let i = 0; i < N; i++) {
      const y = (s[i]! & 0x80000000) | (s[(i + 1) % N]! & 0x7fffffff)
      s[i] = s[(i + M) % N]! ^ (y >>> 1) ^ (y & 1 ? 0x9908b0df : 0)
    }
    this.#next = 0
  }

  /** random_sample(): 0 <= x < 1 with 53 bits, from two words. */
  double(): number {
    const high = this.uint32() >>> 5
    return (high * 67108864 + (this.uint32() >>> 6)) / 9007199254740992
  }

  /** uniform(size=size): doubles 0 <= x < 1. */
  uniform(size: number): Float64Array {
    return Float64Array.from({ length: size }, () => this.double())
  }

  /** An integer 0 <= x <= max by masked rejection; draws nothing for max = 0. */
  #interval(max: number): number {
    if (max === 0) return 0
    const mask = 0xffffffff >>> Math.clz32(max)
    for (;;) {
      const value = (this.uint32() & mask) >>> 0
      if (value <= max) return value
    }
  }

  /** randint(0, high, size): integers 0 <= x < high. @param high 1..2^32 - 1 */
  randint(high: number, size: number): Uint32Array {
    if (!Number.isInteger(high) || high < 1 || high >= 2 ** 32) throw invalidArgument('high', 'an integer 1 <= high < 2^32', high)
    return Uint32Array.from({ length: size }, () => this.#interval(high - 1))
  }

  /** shuffle(items), in place. */
  shuffle(items: Uint32Array): void {
    for (let i = items.length - 1; i > 0; i--) {
      const j = this.#interval(i)
      const item = items[i]!
      items[i] = items[j]!
      items[j] = item
    }
  }

  /** permutation(n): 0..n-1 in random order. */
  permutation(n: number): Uint32Array {
    const items = Uint32Array.from({ length: n }, (_, i) => i)
    this.shuffle(items)
    return items
  }

  /** choice(n, size, replace=False): distinct integers 0 <= x < n. */
  choiceDistinct(n: number, size: number): Uint32Array {
    if (size > n) throw invalidArgument('size', `at most ${n}, the number of items to choose from`, size)
    return this.permutation(n).subarray(0, size)
  }

  /** choice(n, size, p=p): integers 0 <= x < n with the distribution function `cdf` of cumulativeDistribution(p). */
  choice(cdf: Float64Array, size: number): Uint32Array {
    return Uint32Array.from({ length: size }, () => firstAbove(cdf, this.double()))
  }
}

/** cumsum(p) / sum(p), summed in order as numpy's choice does. */
export function cumulativeDistribution(p: ArrayLike<number>): Float64Array {
  const cdf = new Float64Array(p.length)
  let sum = 0
  for (let i = 0; i < p.length; i++) cdf[i] = sum += p[i]!
  for (let i = 0; i < cdf.length; i++) cdf[i]! /= sum
  return cdf
}

/** searchsorted(sorted, value, side='right'): the number of entries <= value. */
function firstAbove(sorted: Float64Array, value: number): number {
  return partitionPoint(sorted.length, (i) => sorted[i]! <= value)
}

/** searchsorted(sorted, value, side='left'): the number of entries < value. */
export function firstAtLeast(sorted: Float64Array, value: number): number {
  return partitionPoint(sorted.length, (i) => sorted[i]! < value)
}

/** The first index 0..n for which `before` is false; `before` must be true up to it. */
function partitionPoint(n: number, before: (i: number) => boolean): number {
  let low = 0
  let high = n
  while (low < high) {
    const middle = (low + high) >>> 1
    if (before(middle)) low = middle + 1
    else high = middle
  }
  return low
}

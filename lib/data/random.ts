/**
 * A small seeded generator: sfc32 (Chris Doty-Humphrey, PractRand), 128 bits of state, started from a hash of
 * (seed, purpose, epoch, index). Every draw of a training run is a pure function of those four and of nothing that happened
 * before, so a resumed run needs no generator state, and skipping work never shifts later draws.
 */
export interface Random {
  /** 32 uniform bits, 0 .. 2^32 - 1 */
  next(): number
  /** uniform integer 0 .. n-1, without bias; 1 <= n <= 2^32 */
  int(n: number): number
  /** true with probability p */
  chance(p: number): boolean
  /** Fisher-Yates, in place; returns the same array */
  shuffle<T extends { [index: number]: unknown; readonly length: number }>(values: T): T
  /** k distinct entries of `values`, in random order; k <= values.length */
  sample<T>(values: readonly T[], k: number): T[]
}

/** @param seed integer 0 .. 2^53 - 1 @param purpose what the draws are for: different purposes are independent streams */
export function random(seed: number, purpose: string, epoch = 0, index = 0): Random {
  const mix = absorber()
  mix.add(seed >>> 0)
  mix.add(Math.floor(seed / 2 ** 32))
  for (let i = 0; i < purpose.length; i++) mix.add(purpose.charCodeAt(i))
  mix.add(epoch)
  mix.add(index >>> 0)
  mix.add(Math.floor(index / 2 ** 32))
  // In an Int32Array because a closure variable beyond 31 bits is a heap object, made anew by every assignment.
  const state = Int32Array.of(mix.squeeze(), mix.squeeze(), mix.squeeze(), 1)

  const next = (): number => {
    const [a, b, c, counter] = [state[0]!, state[1]!, state[2]!, state[3]!]
    const result = (((a + b) | 0) + counter) | 0
    state[0] = b ^ (b >>> 9)
    state[1] = (c + (c << 3)) | 0
    state[2] = (((c << 21) | (c >>> 11)) + result) | 0
    state[3] = counter + 1
    return result >>> 0
  }
  for (let i = 0; i < 12; i++) next()

  // Lemire 2019 (arXiv 1805.10941): the high half of x * n; a division only in the rare case that may be biased. Larger n: x mod n.
  const int = (n: number): number => {
    const small = n <= 2 ** 21 // then x * n is below 2^53: exact
    for (;;) {
      const x = next()
      const product = x * n
      const high = Math.floor(product / 2 ** 32)
      const low = product - high * 2 ** 32
      if (small && (low >= n || low >= (2 ** 32 - n) % n)) return high
      if (!small && x < 2 ** 32 - (2 ** 32 % n)) return x % n
    }
  }
  return {
    next,
    int,
    chance: (p) => next() < p * 2 ** 32,
    shuffle: (values) => {
      const array = values as { [index: number]: unknown; length: number }
      for (let i = array.length - 1; i > 0; i--) swap(array, i, int(i + 1))
      return values
    },
    sample: (values, k) => {
      const pool = values.slice()
      for (let i = 0; i < k; i++) swap(pool, i, i + int(pool.length - i))
      return pool.slice(0, k)
    },
  }
}

function swap(array: { [index: number]: unknown }, i: number, j: number): void {
  const x = array[i]
  array[i] = array[j]
  array[j] = x
}

/** MurmurHash3's 32-bit block step to absorb words and its finalizer to squeeze them. */
function absorber(): { add(word: number): void; squeeze(): number } {
  let h = 0x9e3779b9
  return {
    add(word) {
      let k = Math.imul(word, 0xcc9e2d51)
      k = (k << 15) | (k >>> 17)
      h ^= Math.imul(k, 0x1b873593)
      h = (h << 13) | (h >>> 19)
      h = (Math.imul(h, 5) + 0xe6546b64) | 0
    },
    squeeze() {
      h = (h + 0x9e3779b9) | 0
      let x = h
      x = Math.imul(x ^ (x >>> 16), 0x85ebca6b)
      x = Math.imul(x ^ (x >>> 13), 0xc2b2ae35)
      return (x ^ (x >>> 16)) | 0
    },
  }
}

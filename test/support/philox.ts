/** Philox4x32-10 (Salmon et al. 2011) written plainly: what native/core/random.h must draw. */

/** 64-bit product of two 32-bit words as [high, low]. */
function multiply(a: number, b: number): [high: number, low: number] {
  const product = BigInt(a) * BigInt(b)
  return [Number(product >> 32n), Number(product & 0xffffffffn)]
}

export type Words4 = readonly [number, number, number, number]

export function philox(counter: Words4, key: readonly [number, number]): Words4 {
  let [c0, c1, c2, c3] = counter
  let [k0, k1] = key
  for (let round = 0; round < 10; round++) {
    const [high0, low0] = multiply(0xd2511f53, c0)
    const [high1, low1] = multiply(0xcd9e8d57, c2)
    c0 = (high1 ^ c1 ^ k0) >>> 0
    c2 = (high0 ^ c3 ^ k1) >>> 0
    c1 = low1
    c3 = low0
    k0 = (k0 + 0x9e3779b9) >>> 0
    k1 = (k1 + 0xbb67ae85) >>> 0
  }
  return [c0, c1, c2, c3]
}

/** Where a dropout mask is used: the fields of Dropout in native/core/backend.h. */
export interface DropoutSite {
  p: number
  seed: number
  step: number
  layer: number
  site: number
}

/** `kept(stream, element)` of one site. */
export function dropoutMask({ p, seed, step, layer, site }: DropoutSite): (stream: number, element: number) => boolean {
  const threshold = Math.min(Math.floor(Math.fround(p) * 2 ** 32), 0xffffffff)
  const key = [seed % 2 ** 32, Math.floor(seed / 2 ** 32)] as const
  let cachedStream = -1
  let cachedGroup = -1
  let words: Words4 = [0, 0, 0, 0]
  return (stream, element) => {
    const group = Math.floor(element / 4)
    if (stream !== cachedStream || group !== cachedGroup) {
      words = philox([group, stream, layer * 16 + site, step], key)
      cachedStream = stream
      cachedGroup = group
    }
    return words[element % 4]! >= threshold
  }
}

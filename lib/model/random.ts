/**
 * Reproducible N(0, std) numbers for initial weights. xoshiro128** (Blackman and Vigna), its state filled by splitmix32 from the seed and
 * from the FNV-1a hash of the tensor's name, so that a tensor's values do not depend on what was drawn before it; 53-bit uniforms, Box-Muller in
 * double precision, both values used, rounded to float32.
 */
export function normals(count: number, std: number, seed: number, name: string): Float32Array {
  const uniform = xoshiro128(seed, name)
  const values = new Float32Array(count)
  for (let i = 0; i < count; i += 2) {
    const radius = std * Math.sqrt(-2 * Math.log(1 - uniform()))
    const angle = 2 * Math.PI * uniform()
    values[i] = radius * Math.cos(angle)
    if (i + 1 < count) values[i + 1] = radius * Math.sin(angle)
  }
  return values
}

function xoshiro128(seed: number, name: string): () => number {
  let hash = 0x811c9dc5
  for (const byte of Buffer.from(name)) hash = Math.imul(hash ^ byte, 0x01000193)
  let mix = (hash ^ seed ^ Math.imul(Math.floor(seed / 2 ** 32), 0x9e3779b9)) >>> 0
  const splitmix = (): number => {
    mix = (mix + 0x9e3779b9) | 0
    let z = mix
    z = Math.imul(z ^ (z >>> 16), 0x85ebca6b)
    z = Math.imul(z ^ (z >>> 13), 0xc2b2ae35)
    return z ^ (z >>> 16)
  }
  let [a, b, c, d] = [splitmix(), splitmix(), splitmix(), splitmix() | 1]
  const next = (): number => {
    const five = Math.imul(b, 5)
    const result = Math.imul((five << 7) | (five >>> 25), 9)
    const shifted = b << 9
    c ^= a
    d ^= b
    b ^= c
    a ^= d
    c ^= shifted
    d = (d << 11) | (d >>> 21)
    return result >>> 0
  }
  return () => ((next() >>> 5) * 0x4000000 + (next() >>> 6)) / 0x20000000000000
}

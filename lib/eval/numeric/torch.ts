/**
 * Float32 sums in the order in which torch takes them on x86-64 (its kernels have eight lanes there, also on processors with AVX-512), so that the
 * similarity that mteb asks a model for is equal bit for bit: among pairs of equal texts its rounding is the order.
 */

const LANES = 8
/** Vectors that are summed side by side. */
const WIDE = 4
const LEVELS = 4

/** torch.sum of a contiguous float32 row: 4 x 8 running sums in a cascade of four levels, then across. */
export function torchSum(x: Float32Array): number {
  const lanes = x.length >= LANES ? LANES : 1
  const vectors = Math.floor(x.length / lanes)
  const rows = Math.floor(vectors / WIDE)
  const wide = WIDE * lanes
  const levels = Array.from({ length: LEVELS }, () => new Float32Array(wide))
  const bits = Math.max(4, Math.floor(Math.ceil(Math.log2(Math.max(1, rows))) / LEVELS))
  for (let row = 0; row < rows; ) {
    for (let j = 0; j < wide; j++) levels[0]![j]! += x[row * wide + j]!
    row++
    // Every 2^bits rows a level is emptied into the next one.
    for (let level = 1; level < LEVELS && row % 2 ** (bits * level) === 0; level++) {
      for (let j = 0; j < wide; j++) levels[level]![j]! += levels[level - 1]![j]!
      levels[level - 1]!.fill(0)
    }
  }
  const sums = levels[0]!
  for (const level of levels.slice(1)) for (let j = 0; j < wide; j++) sums[j]! += level[j]!
  for (let v = rows * WIDE; v < vectors; v++) for (let j = 0; j < lanes; j++) sums[j]! += x[v * lanes + j]!
  for (let j = lanes; j < wide; j++) sums[j % lanes]! += sums[j]!
  let sum = 0
  for (let i = vectors * lanes; i < x.length; i++) sum = Math.fround(sum + x[i]!)
  for (let j = 0; j < lanes; j++) sum = Math.fround(sum + sums[j]!)
  return sum
}

/** torch.linalg.vector_norm of a contiguous float32 row whose width is a multiple of eight: eight running sums of squares. */
export function torchNorm(x: Float32Array): number {
  const squares = new Float32Array(LANES)
  for (let i = 0; i < x.length; i++) squares[i % LANES]! += Math.fround(x[i]! * x[i]!)
  return Math.fround(Math.sqrt(squares.reduce((sum, value) => Math.fround(sum + value), 0)))
}

/** mteb's pairwise_cos_sim: torch's sum of the products of the rows divided by their norms. */
export function torchCosine(x: Float32Array, y: Float32Array): number {
  const [normX, normY] = [x, y].map((row) => Math.max(torchNorm(row), Math.fround(1e-12))) as [number, number]
  return torchSum(x.map((value, i) => Math.fround(value / normX) * Math.fround(y[i]! / normY)))
}

/**
 * Float32 sums in the order in which numpy and OpenBLAS take them, so that the results are equal bit for bit. The order is part of the result:
 * two vectors whose distances tie in one order do not tie in another.
 */

/** numpy's sum of a contiguous float32 array: pairwise, in blocks of at most 128 with eight running sums, every addition rounded to float32. */
export function sumFloat32(values: Float32Array): number {
  const n = values.length
  if (n < 8) return values.reduce((sum, value) => Math.fround(sum + value), 0)
  if (n > 128) {
    const half = Math.floor(n / 2)
    const split = half - (half % 8)
    return Math.fround(sumFloat32(values.subarray(0, split)) + sumFloat32(values.subarray(split)))
  }
  const r = values.slice(0, 8)
  let i = 8
  for (; i < n - (n % 8); i += 8) for (let j = 0; j < 8; j++) r[j]! += values[i + j]!
  const left = Math.fround(Math.fround(r[0]! + r[1]!) + Math.fround(r[2]! + r[3]!))
  const right = Math.fround(Math.fround(r[4]! + r[5]!) + Math.fround(r[6]! + r[7]!))
  let sum = Math.fround(left + right)
  for (; i < n; i++) sum = Math.fround(sum + values[i]!)
  return sum
}

/**
 * sklearn.utils.extmath.row_norms(x, squared=True) of one vector: numpy's einsum with four running sums, the last four of each 16 entries first.
 * @param start first entry of the vector in x @param d its length
 */
export function squaredNormFloat32(x: Float32Array, start: number, d: number): number {
  const { fround } = Math
  const lanes = new Float32Array(4)
  const add = (from: number): void => {
    for (let lane = 0; lane < 4 && from + lane < start + d; lane++) {
      const value = x[from + lane]!
      lanes[lane]! += fround(value * value)
    }
  }
  let i = start
  for (; i + 16 <= start + d; i += 16) for (let quarter = 12; quarter >= 0; quarter -= 4) add(i + quarter)
  for (; i < start + d; i += 4) add(i)
  return fround(fround(lanes[0]! + lanes[1]!) + fround(lanes[2]! + lanes[3]!))
}

/** Depth of one pass of OpenBLAS's sgemm on x86-64 (AVX2 and AVX-512). */
const GEMM_DEPTH = 384

/**
 * addend - 2 x.y as OpenBLAS's sgemm(alpha=-2, beta=1) computes one entry: fused multiply-adds in order within a pass of at most 384 entries,
 * longer vectors in several passes, each added to the result. The product of two floats is exact in a double, so one rounding remains.
 */
export function gemmFloat32(addend: number, x: Float32Array, xStart: number, y: Float32Array, yStart: number, d: number): number {
  let result = addend
  for (let start = 0; start < d; ) {
    const left = d - start
    // Less than two full passes are split evenly, rounded up to the 16 rows of the kernel.
    const depth = left >= 2 * GEMM_DEPTH ? GEMM_DEPTH : left > GEMM_DEPTH ? Math.ceil(Math.floor(left / 2) / 16) * 16 : left
    let sum = 0
    for (let j = start; j < start + depth; j++) sum = Math.fround(sum + x[xStart + j]! * y[yStart + j]!)
    result = Math.fround(result - 2 * sum)
    start += depth
  }
  return result
}

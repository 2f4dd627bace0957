// Our side of the contrastive loss at any batch size, and its gradient's error against float64.
import { multiplyFloat64, type Tensor } from '../../lib/native.js'
import type { Sizes } from './cases.js'
import { eachVariant, noise, type Section, timed } from './support.js'

type InfoNce = Extract<Sizes, { section: 'infonce' }>

/** Rows of length 1. */
function unitRows(values: Float32Array, width: number): Float32Array {
  for (let start = 0; start < values.length; start += width) {
    const row = values.subarray(start, start + width)
    let sum = 0
    for (let i = 0; i < width; i++) sum += row[i]! * row[i]!
    const scale = 1 / Math.sqrt(sum)
    for (let i = 0; i < width; i++) row[i]! *= scale
  }
  return values
}

/**
 * Unit rows; each passage leans towards its query by the cosine at which the positive's probability is about a half, so that the gradients are
 * those of a batch that still learns: of random unit vectors, log sum exp over M negatives is about ln M + 1 / (2 D t^2).
 */
function pairsOf({ batch, width, temperature }: InfoNce): { q: Float32Array; p: Float32Array } {
  const q = unitRows(noise(batch * width, 1, 0, 1), width)
  const p = unitRows(noise(batch * width, 1, 0, 2), width)
  const cosine = Math.min(0.95, temperature * (Math.log(batch) + 1 / (2 * width * temperature ** 2)))
  const rest = Math.sqrt(1 - cosine ** 2)
  for (let i = 0; i < p.length; i++) p[i] = cosine * q[i]! + rest * p[i]!
  return { q, p: unitRows(p, width) }
}

const CHUNK = 16_384

export const infonce: Section<'infonce'> = async (sizes, device) => {
  const { batch, width, temperature } = sizes
  const { q, p } = pairsOf(sizes)
  const [Q, P] = [device.tensor(q, batch, width), device.tensor(p, batch, width)]
  let errors: Record<string, number> | undefined
  return {
    measure: () =>
      eachVariant({
        ours: async (facts) => {
          let last: { loss: number; dQ: Tensor; dP: Tensor } | undefined
          const drop = (): void => {
            last?.dQ.dispose()
            last?.dP.dispose()
            last = undefined
          }
          try {
            const seconds = await timed(
              device,
              sizes,
              async () => {
                last = await device.contrastive(Q, P, { temperature })
              },
              async () => drop(),
            )
            const { workspacePeak, allocated } = device.memory()
            const matrix = 4 * batch * width
            errors ??= await gradientErrors(sizes, q, p, last!)
            Object.assign(facts, errors, { loss: last!.loss, workspacePeak, allocated })
            Object.assign(facts, { lossBytes: workspacePeak + 2 * matrix, allBytes: workspacePeak + 4 * matrix })
            return seconds
          } finally {
            drop()
          }
        },
      }),
    close: () => {
      Q.dispose()
      P.dispose()
    },
  }
}

/** Relative errors (Frobenius) of `sample` rows of dQ and, where every row's log sum exp is affordable, of dP. */
async function gradientErrors(
  sizes: InfoNce,
  q: Float32Array,
  p: Float32Array,
  found: { dQ: Tensor; dP: Tensor },
): Promise<Record<string, number>> {
  const { batch: B, width: D, temperature: t } = sizes
  const rows = Int32Array.from({ length: Math.min(sizes.sample, B) }, (_, i) => Math.floor(((i + 0.5) * B) / Math.min(sizes.sample, B)))
  const queries = gather(q, rows, D)
  const errors: Record<string, number> = {}

  const scores = await products(queries, rows.length, p, B, D) // (S, B)
  const dQ = new Float64Array(rows.length * D)
  for (const [r, i] of rows.entries()) {
    const row = scores.subarray(r * B, (r + 1) * B)
    const lse = logSumExp(row, t)
    for (let j = 0; j < B; j++) row[j] = (Math.exp(row[j]! / t - lse) - (j === i ? 1 : 0)) / (t * B)
  }
  for (let first = 0; first < B; first += CHUNK) {
    const n = Math.min(CHUNK, B - first)
    const weights = new Float64Array(rows.length * n)
    for (let r = 0; r < rows.length; r++) weights.set(scores.subarray(r * B + first, r * B + first + n), r * n)
    const part = new Float64Array(rows.length * D)
    await multiplyFloat64(part, weights, new Float64Array(p.subarray(first * D, (first + n) * D)), { m: rows.length, n: D, k: n })
    for (let i = 0; i < part.length; i++) dQ[i]! += part[i]!
  }
  errors['errorDQ'] = await relative(found.dQ, rows, dQ)

  if (sizes.columns) {
    const dP = new Float64Array(rows.length * D)
    const step = 1024
    for (let first = 0; first < B; first += step) {
      const n = Math.min(step, B - first)
      const part = await products(new Float64Array(q.subarray(first * D, (first + n) * D)), n, p, B, D) // (n, B)
      const weights = new Float64Array(rows.length * n) // columns of the gradient of the scores, transposed
      for (let r = 0; r < n; r++) {
        const row = part.subarray(r * B, (r + 1) * B)
        const lse = logSumExp(row, t)
        for (const [c, j] of rows.entries()) weights[c * n + r] = (Math.exp(row[j]! / t - lse) - (j === first + r ? 1 : 0)) / (t * B)
      }
      const sum = new Float64Array(rows.length * D)
      await multiplyFloat64(sum, weights, new Float64Array(q.subarray(first * D, (first + n) * D)), { m: rows.length, n: D, k: n })
      for (let i = 0; i < sum.length; i++) dP[i]! += sum[i]!
    }
    errors['errorDP'] = await relative(found.dP, rows, dP)
  }
  return { ...errors, gradientError: Math.max(...Object.values(errors)), sampledRows: rows.length }
}

function gather(values: Float32Array, rows: Int32Array, width: number): Float64Array {
  const out = new Float64Array(rows.length * width)
  for (const [r, row] of rows.entries()) out.set(values.subarray(row * width, (row + 1) * width), r * width)
  return out
}

/** a (m, D) times the transpose of b (n, D), b converted piece by piece. */
async function products(a: Float64Array, m: number, b: Float32Array, n: number, width: number): Promise<Float64Array> {
  const out = new Float64Array(m * n)
  for (let first = 0; first < n; first += CHUNK) {
    const count = Math.min(CHUNK, n - first)
    const part = new Float64Array(m * count)
    const piece = new Float64Array(b.subarray(first * width, (first + count) * width))
    await multiplyFloat64(part, a, piece, { m, n: count, k: width, transposed: 'b' })
    for (let r = 0; r < m; r++) out.set(part.subarray(r * count, (r + 1) * count), r * n + first)
  }
  return out
}

function logSumExp(scores: Float64Array, temperature: number): number {
  let max = Number.NEGATIVE_INFINITY
  for (let j = 0; j < scores.length; j++) max = Math.max(max, scores[j]!)
  let sum = 0
  for (let j = 0; j < scores.length; j++) sum += Math.exp((scores[j]! - max) / temperature)
  return max / temperature + Math.log(sum)
}

async function relative(found: Tensor, rows: Int32Array, reference: Float64Array): Promise<number> {
  const part = await found.gatherRows(rows)
  const values = await part.toArray()
  part.dispose()
  let [difference, norm] = [0, 0]
  for (const [i, x] of reference.entries()) {
    difference += (values[i]! - x) ** 2
    norm += x ** 2
  }
  return Math.sqrt(difference / norm)
}

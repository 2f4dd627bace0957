import { dot } from '../support/math.js'
import { type DropoutSite, dropoutMask } from '../support/philox.js'
import type { Random } from '../support/random.js'
import {
  asIs,
  attribute,
  floats,
  inFloat64,
  inner,
  ints,
  offsetsOf,
  type Inputs,
  type OpCase,
  type Operand,
  type OpSpec,
  type Operands,
  type Outputs,
  type Round,
  rowsOf,
  size,
} from '../support/spec.js'

export const dropoutSite = (c: OpCase): DropoutSite => ({
  p: attribute(c, 'p'),
  seed: c.attributes['seed'] ?? 0,
  step: c.attributes['step'] ?? 0,
  layer: c.attributes['layer'] ?? 0,
  site: c.attributes['site'] ?? 0,
})

/** The value that dropout multiplies with: 0 or 1 / (1 - p). */
export function dropoutFactor(c: OpCase, round: Round): (stream: number, element: number) => number {
  const site = dropoutSite(c)
  if (site.p === 0) return () => 1
  const kept = dropoutMask(site)
  const scale = round(1 / round(1 - site.p))
  return (stream, element) => (kept(stream, element) ? scale : 0)
}

/** Calls `visit` for every (head, query row) with its visible keys, their scores, softmax probabilities and dropout factors. */
function eachRow(
  inputs: Operands,
  c: OpCase,
  round: Round,
  visit: (row: { head: number; query: number; keys: number[]; scores: number[]; p: number[]; factor: number[]; lse: number }) => void,
): void {
  const [heads, d] = [size(c, 'heads'), size(c, 'headSize')]
  const width = heads * d
  const [q, k] = [floats(inputs, 'q'), floats(inputs, 'k')]
  const [queryOffsets, keyOffsets] = [ints(inputs, 'queryOffsets'), ints(inputs, 'keyOffsets')]
  const [position, stream] = [ints(inputs, 'queryPosition'), ints(inputs, 'stream')]
  const bits = inputs['maskBits'] as BigUint64Array | undefined
  const words = Math.ceil(Math.max(...Array.from(keyOffsets.subarray(1), (end, n) => end - keyOffsets[n]!)) / 64)
  const scale = round(1 / round(Math.sqrt(d)))
  const factorAt = dropoutFactor(c, round)
  for (let n = 0; n + 1 < keyOffsets.length; n++) {
    const [first, length] = [keyOffsets[n]!, keyOffsets[n + 1]! - keyOffsets[n]!]
    for (let head = 0; head < heads; head++) {
      for (let query = queryOffsets[n]!; query < queryOffsets[n + 1]!; query++) {
        const i = position[query]!
        const hidden = (j: number): boolean =>
          bits !== undefined && (j === i || ((bits[ints(inputs, 'maskChoice')[query]! * words + (j >> 6)]! >> BigInt(j & 63)) & 1n) === 1n)
        const keys: number[] = []
        const scores: number[] = []
        for (let j = 0; j < length; j++) {
          if (hidden(j)) continue
          keys.push(first + j)
          scores.push(round(scale * dot(q, query * width + head * d, 1, k, (first + j) * width + head * d, 1, d, round)))
        }
        const max = Math.max(...scores)
        const exps = scores.map((s) => round(Math.exp(round(s - max))))
        const sum = exps.reduce((a, b) => round(a + b), 0)
        const stride = Math.ceil(length / 4) * 4
        visit({
          head,
          query,
          keys,
          scores,
          p: exps.map((e) => round(e / sum)),
          factor: keys.map((key) => factorAt(stream[n]!, (head * length + i) * stride + key - first)),
          lse: round(max + round(Math.log(sum))),
        })
      }
    }
  }
}

/** softmax(q k^T / sqrt d) with dropout, times v; a row without visible keys gives 0 and an lse of -infinity. */
export function attentionReference(
  inputs: Operands,
  c: OpCase,
  round: Round,
  store: Round = inFloat64,
): { out: Float64Array; lse: Float64Array } {
  const [heads, d] = [size(c, 'heads'), size(c, 'headSize')]
  const width = heads * d
  const v = floats(inputs, 'v')
  const rows = floats(inputs, 'q').length / width
  const out = new Float64Array(rows * width)
  const lse = new Float64Array(heads * rows)
  eachRow(inputs, c, round, ({ head, query, keys, p, factor, lse: value }) => {
    lse[head * rows + query] = value
    for (const [a, key] of keys.entries()) {
      const weight = store(round(p[a]! * factor[a]!))
      for (let e = 0; e < d; e++) {
        const at = query * width + head * d + e
        out[at] = round(out[at]! + round(weight * v[key * width + head * d + e]!))
      }
    }
  })
  return { out, lse }
}

/** What attention multiplies, where a device's products are in another type than its hidden states. */
function rounded(inputs: Operands, operand: Operand): Operands {
  const factor = (name: string): boolean => ['q', 'k', 'v', 'dOut'].includes(name)
  return Object.fromEntries(
    Object.entries(inputs).map(([name, x]) => [name, factor(name) ? operand(x as Float64Array, 1, 'activation') : x]),
  )
}

/** Probabilities are multiplied with the values: they are rounded as those are. */
const probabilities = (store: Round, operand: Operand): Round =>
  operand === asIs ? store : (x) => operand(Float64Array.of(x), 1, 'activation')[0]!

function backwardReference(inputs: Operands, c: OpCase, round: Round, store: Round): Outputs {
  const [heads, d] = [size(c, 'heads'), size(c, 'headSize')]
  const width = heads * d
  const [q, k, v, dOut] = [floats(inputs, 'q'), floats(inputs, 'k'), floats(inputs, 'v'), floats(inputs, 'dOut')]
  const [dQ, dK, dV] = [new Float64Array(q.length), new Float64Array(k.length), new Float64Array(v.length)]
  const scale = round(1 / round(Math.sqrt(d)))
  const addRow = (to: Float64Array, toRow: number, from: Float64Array, fromRow: number, head: number, factor: number): void => {
    for (let e = head * d; e < (head + 1) * d; e++)
      to[toRow * width + e] = round(to[toRow * width + e]! + round(factor * from[fromRow * width + e]!))
  }
  eachRow(inputs, c, round, ({ head, query, keys, scores, factor, lse }) => {
    // The contract keeps lse, not the maximum and the sum: with large scores the rounding of lse is the formula's own error.
    const p = scores.map((s) => store(round(Math.exp(round(s - lse)))))
    const dP = keys.map((key, a) =>
      store(round(factor[a]! * dot(dOut, query * width + head * d, 1, v, key * width + head * d, 1, d, round))),
    )
    const mean = p.reduce((sum, value, a) => round(sum + round(value * dP[a]!)), 0)
    for (const [a, key] of keys.entries()) {
      addRow(dV, key, dOut, query, head, round(p[a]! * factor[a]!))
      const dScore = store(round(scale * round(p[a]! * round(dP[a]! - mean))))
      addRow(dQ, query, k, key, head, dScore)
      addRow(dK, key, q, query, head, dScore)
    }
  })
  return { dQ, dK, dV }
}

/** data: 'mask' RetroMAE position masks, 'pruned' only some query rows (none of one sequence), 'large' scores that overflow exp. */
function forwardInputs(c: OpCase, random: Random): Inputs {
  const lengths = c.lengths ?? []
  const width = size(c, 'heads') * size(c, 'headSize')
  const keyOffsets = offsetsOf(lengths)
  const total = keyOffsets[lengths.length]!
  const chosen = c.data?.includes('pruned') ? lengths.map((length, n) => (n === 1 ? 0 : Math.ceil(length / 3))) : lengths
  const queryOffsets = offsetsOf(chosen)
  const rows = queryOffsets[lengths.length]!
  const queryPosition = Int32Array.from(chosen.flatMap((count, n) => Array.from(random.choose(count, lengths[n]!)).sort((a, b) => a - b)))
  const scale = c.data?.includes('large') ? 12 : 1
  const words = Math.ceil(Math.max(...lengths) / 64)
  const masks = 5
  return {
    q: random.floats(rows * width, scale),
    k: random.floats(total * width, scale),
    v: random.floats(total * width),
    queryOffsets,
    keyOffsets,
    queryPosition,
    // Not 0 .. N-1: a micro-batch holds any of the batch's sequences.
    stream: Uint32Array.from(lengths, (_, n) => 1000 - 7 * n),
    ...(c.data?.includes('mask')
      ? {
          maskBits: BigUint64Array.from(
            { length: masks * words },
            () => (BigInt(random.integer(2 ** 32)) << 32n) | BigInt(random.integer(2 ** 32)),
          ),
          maskChoice: random.ints(rows, masks),
        }
      : {}),
  }
}

const CASES: readonly OpCase[] = [
  // dQ and dK of a sequence of one are exactly 0; the other sequence gives them a scale.
  { attributes: { heads: 1, headSize: 8, lse: 1 }, lengths: [1, 2] },
  { attributes: { heads: 3, headSize: 8, lse: 1, pad: 3 }, lengths: [7, 1, 3, 17] },
  { attributes: { heads: 3, headSize: 26, lse: 1 }, lengths: [19, 2, 66] },
  { attributes: { heads: 2, headSize: 5, lse: 1, p: 0.1, seed: 9, step: 1, layer: 1, site: 1, pad: 2 }, lengths: [33, 7], data: 'mask' },
  { attributes: { heads: 2, headSize: 40, lse: 1 }, lengths: [59, 33, 65], data: 'large' },
  { attributes: { heads: 2, headSize: 64, lse: 1, pad: 128 }, lengths: [113], data: 'mask' },
  { attributes: { heads: 1, headSize: 24, lse: 1 }, lengths: [1, 3, 203], data: 'mask pruned' },
  { attributes: { heads: 2, headSize: 32, lse: 1, p: 0.1, seed: 0x123456789ab, step: 3, layer: 2, site: 1, pad: 5 }, lengths: [17, 59, 4] },
  { attributes: { heads: 1, headSize: 64, lse: 1, p: 0.1, seed: 5, step: 2, layer: 1, site: 1 }, lengths: [31, 291, 16], large: true }, // BERT's head size
  // Sizes and strides that tensor-core kernels take, on both sides of their tiles.
  { attributes: { heads: 3, headSize: 64, lse: 1, pad: 8 }, lengths: [1, 2, 31, 33, 65, 130], large: true },
  {
    attributes: { heads: 2, headSize: 64, lse: 1, p: 0.1, seed: 6, step: 1, layer: 3, site: 1, pad: 8 },
    lengths: [16, 40, 130],
    large: true,
  },
  { attributes: { heads: 1, headSize: 64, lse: 1, pad: 8 }, lengths: [30, 50, 200], data: 'mask pruned', large: true },
  {
    attributes: { heads: 3, headSize: 64, lse: 1, p: 0.2, seed: 10, step: 2, layer: 4, site: 1, pad: 8 },
    lengths: [1, 70, 129],
    data: 'mask',
    large: true,
  },
  {
    attributes: { heads: 2, headSize: 32, lse: 1, p: 0.1, seed: 8, step: 4, layer: 2, site: 1, pad: 8 },
    lengths: [17, 59, 4, 257],
    large: true,
  },
  { attributes: { heads: 1, headSize: 64, lse: 1, pad: 8 }, lengths: [59, 140], data: 'large', large: true },
  {
    attributes: { heads: 3, headSize: 16, lse: 1, p: 0.5, seed: 7, step: 1, layer: 256, site: 1 },
    lengths: [66, 1, 30],
    data: 'mask pruned',
  },
]

const flops = (c: OpCase): number =>
  (c.lengths ?? []).reduce((sum, length) => sum + 4 * length * length * size(c, 'heads') * size(c, 'headSize'), 0)
const BIG: readonly OpCase[] = [
  { attributes: { heads: 8, headSize: 64 }, lengths: new Array<number>(16).fill(128) },
  { attributes: { heads: 8, headSize: 64 }, lengths: new Array<number>(4).fill(512) },
  { attributes: { heads: 8, headSize: 64, p: 0.1, seed: 1, site: 1 }, lengths: new Array<number>(16).fill(128) },
]

const attention: OpSpec = {
  name: 'attention',
  kind: 'value',
  hidden: ['q', 'k', 'v', 'out'],
  cases: [...CASES, { attributes: { heads: 1, headSize: 8 }, lengths: [5, 9] }],
  inputs: forwardInputs,
  reference(inputs, c, round, store, operand) {
    const { out, lse } = attentionReference(rounded(inputs, operand), c, round, probabilities(store, operand))
    return c.attributes['lse'] ? { out, lse } : { out }
  },
  benchmarks: BIG.map((c) => ({ ...c, flops: flops(c) })),
}

const withoutLse = (c: OpCase): OpCase => {
  const { lse: _, ...attributes } = c.attributes
  return { ...c, attributes }
}

const attentionBackward: OpSpec = {
  name: 'attention_backward',
  kind: 'gradient',
  hidden: ['q', 'k', 'v', 'dOut', 'dQ', 'dK', 'dV'],
  cases: CASES.map(withoutLse),
  inputs(c, random) {
    const inputs = forwardInputs(c, random)
    return { ...inputs, dOut: random.floats(inputs['q']!.length) }
  },
  reference: (inputs, c, round, store, operand) => backwardReference(rounded(inputs, operand), c, round, probabilities(store, operand)),
  proof: {
    loss: (inputs, c) => inner(attentionReference(inputs, c, inFloat64).out, floats(inputs, 'dOut')),
    of: { dQ: 'q', dK: 'k', dV: 'v' },
  },
  benchmarks: BIG.map((c) => ({ ...c, flops: 2.5 * flops(c) })),
}

function poolReference(inputs: Operands, c: OpCase, round: Round): Float64Array {
  const width = size(c, 'cols')
  const offsets = ints(inputs, 'offsets')
  const x = floats(inputs, 'x')
  const out = new Float64Array((offsets.length - 1) * width)
  for (let n = 0; n + 1 < offsets.length; n++) {
    for (let col = 0; col < width; col++) {
      let sum = 0
      for (let t = offsets[n]!; t < offsets[n + 1]!; t++) sum = round(sum + x[t * width + col]!)
      out[n * width + col] = round(sum / (offsets[n + 1]! - offsets[n]!))
    }
  }
  return out
}

const POOL: readonly OpCase[] = [
  { attributes: { cols: 1 }, lengths: [1] },
  { attributes: { cols: 40, pad: 3 }, lengths: [7, 1, 17, 203] },
  { attributes: { cols: 512 }, lengths: [59, 3] },
]
const totalOf = (c: OpCase): number => rowsOf(c.lengths ?? []).sequence.length
const POOL_BIG = { attributes: { cols: 512 }, lengths: new Array<number>(32).fill(128), bytes: 4 * 512 * 32 * 129 }

const meanPool: OpSpec = {
  name: 'mean_pool',
  kind: 'value',
  hidden: ['x'],
  cases: POOL,
  inputs: (c, random) => ({ offsets: offsetsOf(c.lengths ?? []), x: random.floats(totalOf(c) * size(c, 'cols'), 1, 0.5) }),
  reference: (inputs, c, round) => ({ out: poolReference(inputs, c, round) }),
  benchmarks: [POOL_BIG],
}

const meanPoolBackward: OpSpec = {
  name: 'mean_pool_backward',
  kind: 'gradient',
  hidden: ['dX'],
  cases: POOL,
  inputs: (c, random) => ({ offsets: offsetsOf(c.lengths ?? []), dOut: random.floats((c.lengths ?? []).length * size(c, 'cols')) }),
  reference(inputs, c, round) {
    const width = size(c, 'cols')
    const lengths = c.lengths ?? []
    const dOut = floats(inputs, 'dOut')
    const { sequence } = rowsOf(lengths)
    const dX = Float64Array.from({ length: sequence.length * width }, (_, i) => {
      const n = sequence[Math.floor(i / width)]!
      return round(dOut[n * width + (i % width)]! / lengths[n]!)
    })
    return { dX }
  },
  proof: {
    extra: (_, c) => ({ x: new Float64Array(totalOf(c) * size(c, 'cols')) }),
    loss: (inputs, c) => inner(poolReference(inputs, c, inFloat64), floats(inputs, 'dOut')),
    of: { dX: 'x' },
  },
  benchmarks: [POOL_BIG],
}

export const sequenceSpecs: readonly OpSpec[] = [attention, attentionBackward, meanPool, meanPoolBackward]

import type { Random } from '../support/random.js'
import {
  attribute,
  floats,
  inFloat64,
  inner,
  ints,
  type OpCase,
  type OpSpec,
  type Operands,
  type Round,
  size,
  widen,
} from '../support/spec.js'

const area = (c: OpCase): number => size(c, 'rows') * size(c, 'cols')

const convert: OpSpec = {
  name: 'convert',
  kind: 'value',
  hidden: ['x', 'out'],
  cases: [
    { attributes: { rows: 1, cols: 1, xF32: 1 } },
    { attributes: { rows: 17, cols: 59, pad: 3, xF32: 1 } },
    { attributes: { rows: 7, cols: 512, outF32: 1, pad: 1 } },
    { attributes: { rows: 113, cols: 40 } },
  ],
  inputs: (c, random) => ({ x: random.floats(area(c)) }),
  reference: (inputs) => ({ out: floats(inputs, 'x').slice() }),
}

// data: the rows that are picked. Repeats are allowed in gather, not in scatter.
const gatherRows: OpSpec = {
  name: 'gather_rows',
  kind: 'value',
  hidden: ['x', 'out'],
  cases: [
    { attributes: { rows: 1, cols: 1 }, data: '1' },
    { attributes: { rows: 17, cols: 40, pad: 3 }, data: '59' },
    { attributes: { rows: 59, cols: 40, outF32: 1 }, data: '17' },
    { attributes: { rows: 59, cols: 7, xF32: 1, pad: 1 }, data: '17' },
    { attributes: { rows: 203, cols: 512 }, data: '7' },
  ],
  inputs: (c, random) => ({ x: random.floats(area(c)), index: random.ints(Number(c.data), size(c, 'rows')) }),
  reference(inputs, c) {
    const width = size(c, 'cols')
    const x = floats(inputs, 'x')
    return {
      out: Float64Array.from(Array.from(ints(inputs, 'index')).flatMap((row) => Array.from(x.subarray(row * width, (row + 1) * width)))),
    }
  },
}

const scatterRows: OpSpec = {
  name: 'scatter_rows',
  kind: 'value',
  hidden: ['x', 'out'],
  cases: [
    { attributes: { rows: 1, cols: 1 }, data: '1' },
    { attributes: { rows: 59, cols: 40, pad: 3, accumulate: 1 }, data: '17' },
    { attributes: { rows: 59, cols: 40, accumulate: 1, xF32: 1 }, data: '17' },
    { attributes: { rows: 19, cols: 7, outF32: 1 }, data: '5' },
    { attributes: { rows: 203, cols: 512 }, data: '7' },
  ],
  inputs(c, random) {
    const count = Number(c.data)
    return { out: random.floats(area(c)), x: random.floats(count * size(c, 'cols')), index: random.choose(count, size(c, 'rows')) }
  },
  reference(inputs, c, round) {
    const width = size(c, 'cols')
    const out = floats(inputs, 'out').slice()
    for (const [r, row] of ints(inputs, 'index').entries()) {
      for (let i = 0; i < width; i++) {
        const value = floats(inputs, 'x')[r * width + i]!
        out[row * width + i] = c.attributes['accumulate'] ? round(out[row * width + i]! + value) : value
      }
    }
    return { out }
  },
}

const add: OpSpec = {
  name: 'add',
  kind: 'value',
  hidden: ['x', 'out'],
  cases: [
    { attributes: { rows: 1, cols: 1 } },
    { attributes: { rows: 17, cols: 59, pad: 3, alpha: -0.3 } },
    { attributes: { rows: 17, cols: 40, outF32: 1 } },
    { attributes: { rows: 17, cols: 40, xF32: 1, alpha: 0.5 } },
    { attributes: { rows: 113, cols: 512, alpha: 2 } },
  ],
  inputs: (c, random) => ({ out: random.floats(area(c)), x: random.floats(area(c)) }),
  reference: (inputs, c, round) => ({
    out: floats(inputs, 'out').map((value, i) => round(value + round(attribute(c, 'alpha', 1) * floats(inputs, 'x')[i]!))),
  }),
}

// ---- normalize ----

/** x / max(|x|, 1e-12) per row. */
function normalizeReference(inputs: Operands, c: OpCase, round: Round): Record<'out' | 'norm', Float64Array> {
  const width = size(c, 'cols')
  const x = floats(inputs, 'x')
  const norm = Float64Array.from({ length: size(c, 'rows') }, (_, r) => {
    let sum = 0
    for (let i = r * width; i < (r + 1) * width; i++) sum = round(sum + round(x[i]! * x[i]!))
    return round(Math.sqrt(sum))
  })
  return { out: x.map((value, i) => round(value / Math.max(norm[Math.floor(i / width)]!, 1e-12))), norm }
}

const normalize: OpSpec = {
  name: 'normalize',
  kind: 'value',
  cases: [
    { attributes: { rows: 1, cols: 1 } },
    { attributes: { rows: 17, cols: 59, pad: 3 }, data: 'zero' },
    { attributes: { rows: 7, cols: 512 } },
  ],
  inputs(c, random) {
    const x = random.floats(area(c), 3)
    if (c.data === 'zero') x.fill(0, 0, size(c, 'cols'))
    return { x }
  },
  reference: normalizeReference,
  benchmarks: [{ attributes: { rows: 4096, cols: 512 }, bytes: 2 * 4 * 4096 * 512 }],
}

const normalizeBackward: OpSpec = {
  name: 'normalize_backward',
  kind: 'gradient',
  cases: [
    { attributes: { rows: 1, cols: 3 } },
    { attributes: { rows: 17, cols: 59, pad: 3 } },
    { attributes: { rows: 7, cols: 512, alias: 1 } },
  ],
  inputs(c, random) {
    const x = random.floats(area(c), 3)
    const { out, norm } = normalizeReference(widen({ x }), c, inFloat64)
    // The op must see one consistent point, so the proof's x is rebuilt from what the op is given.
    return { out: Float32Array.from(out), norm: Float32Array.from(norm), dOut: random.floats(area(c)) }
  },
  reference(inputs, c, round) {
    const width = size(c, 'cols')
    const [out, norm, dOut] = [floats(inputs, 'out'), floats(inputs, 'norm'), floats(inputs, 'dOut')]
    const dX = new Float64Array(out.length)
    for (let r = 0; r < norm.length; r++) {
      let along = 0
      for (let i = r * width; i < (r + 1) * width; i++) along = round(along + round(out[i]! * dOut[i]!))
      for (let i = r * width; i < (r + 1) * width; i++) dX[i] = round(round(dOut[i]! - round(out[i]! * along)) / norm[r]!)
    }
    return { dX }
  },
  proof: {
    extra(inputs, c) {
      const norm = floats(inputs, 'norm')
      return { x: floats(inputs, 'out').map((value, i) => value * norm[Math.floor(i / size(c, 'cols'))]!) }
    },
    loss: (inputs, c) => inner(normalizeReference(inputs, c, inFloat64).out, floats(inputs, 'dOut')),
    of: { dX: 'x' },
  },
  benchmarks: [{ attributes: { rows: 4096, cols: 512 }, bytes: 3 * 4 * 4096 * 512 }],
}

// ---- optimizer ----

/** torch.optim.AdamW: decoupled decay (of every other part), then Adam with bias correction; gradients scaled to the global norm first, zero afterwards. */
const adamw: OpSpec = {
  name: 'adamw',
  kind: 'value',
  zeroed: ['gradient'],
  cases: [
    { attributes: { entries: 1, step: 1 } },
    { attributes: { entries: 203, step: 7, learningRate: 2e-5, weightDecay: 0.01, beta2: 0.98, epsilon: 1e-6, parts: 3 } },
    { attributes: { entries: 1003, step: 1000, learningRate: 1e-2, weightDecay: 0.1, maxNorm: 1 } },
    { attributes: { entries: 59, step: 2, maxNorm: 100 } },
    { attributes: { entries: 100_008, step: 3, weightDecay: 0.1, maxNorm: 20, parts: 6 } },
  ],
  inputs(c, random: Random) {
    const n = size(c, 'entries')
    return { parameter: random.floats(n), m: random.floats(n, 0.1), v: random.floats(n, 0.1).map((x) => x * x), gradient: random.floats(n) }
  },
  reference(inputs, c, round) {
    const scalar = (name: string, fallback: number): number => c.attributes[name] ?? fallback
    const [rate, b1, b2] = [scalar('learningRate', 1e-3), scalar('beta1', 0.9), scalar('beta2', 0.999)]
    const [epsilon, decay, maxNorm] = [scalar('epsilon', 1e-8), scalar('weightDecay', 0), scalar('maxNorm', 0)]
    const t = c.attributes['step'] ?? 1
    // As in torch the scalars are float64 whatever the tensors are.
    const [correction1, correction2] = [1 - b1 ** t, Math.sqrt(1 - b2 ** t)]
    let squaredNorm = 0
    for (const g of floats(inputs, 'gradient')) squaredNorm = round(squaredNorm + round(g * g))
    const clip = maxNorm > 0 ? round(Math.min(1, maxNorm / (Math.sqrt(squaredNorm) + 1e-6))) : 1
    const parts = scalar('parts', 1)
    const each = Math.floor(size(c, 'entries') / parts)
    const stepSize = round(rate / correction1)
    const parameter = floats(inputs, 'parameter').slice()
    const m = floats(inputs, 'm').slice()
    const v = floats(inputs, 'v').slice()
    for (let i = 0; i < parameter.length; i++) {
      const g = round(floats(inputs, 'gradient')[i]! * clip)
      const decays = Math.min(Math.floor(i / each), parts - 1) % 2 === 0
      const decayed = round(parameter[i]! * round(1 - rate * (decays ? decay : 0)))
      m[i] = round(round(round(b1) * m[i]!) + round(round(1 - b1) * g))
      v[i] = round(round(round(b2) * v[i]!) + round(round(1 - b2) * round(g * g)))
      const denominator = round(round(round(Math.sqrt(v[i]!)) / round(correction2)) + round(epsilon))
      parameter[i] = round(decayed - round(stepSize * round(m[i]! / denominator)))
    }
    return { parameter, m, v, gradient: new Float64Array(parameter.length), squaredNorm: Float64Array.of(squaredNorm) }
  },
  benchmarks: [{ attributes: { entries: 24_000_000, weightDecay: 0.01, maxNorm: 1 }, bytes: 9 * 4 * 24_000_000 }],
}

export const rowSpecs: readonly OpSpec[] = [convert, gatherRows, scatterRows, add, normalize, normalizeBackward, adamw]

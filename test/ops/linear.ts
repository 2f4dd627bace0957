import { dot, gelu, geluGradient } from '../support/math.js'
import {
  asIs,
  attribute,
  floats,
  inFloat64,
  inner,
  type OpCase,
  type Operand,
  type OpSpec,
  type Operands,
  type Outputs,
  type Round,
  size,
} from '../support/spec.js'

const sizes = (c: OpCase): [rows: number, inputs: number, outputs: number] => [size(c, 'rows'), size(c, 'in'), size(c, 'out')]
const multiplyAdds = (c: OpCase): number => 2 * size(c, 'rows') * size(c, 'in') * size(c, 'out')

// (rows, in, out) of a projection, feed-forward up and down, of bge-small, at one query, a short and a long micro-batch.
const BIG: readonly OpCase['attributes'][] = [
  { rows: 16, in: 512, out: 2048 },
  { rows: 128, in: 512, out: 2048 },
  { rows: 2048, in: 512, out: 2048 },
  { rows: 2048, in: 2048, out: 512 },
  { rows: 2048, in: 512, out: 1536 },
]

/** y = act(x W^T + b), W (out, in). Operands of a product are rounded as the device does, weights too. */
export function linearReference(inputs: Operands, c: OpCase, round: Round, store: Round = inFloat64, operand: Operand = asIs): Outputs {
  const [r, i, o] = sizes(c)
  const x = operand(floats(inputs, 'x').map(store), i, 'activation')
  const w = operand(floats(inputs, 'weight'), i, 'weight')
  const bias = inputs['bias'] ? floats(inputs, 'bias') : undefined
  const out = new Float64Array(r * o)
  const preActivation = new Float64Array(r * o)
  for (let row = 0; row < r; row++) {
    for (let col = 0; col < o; col++) {
      let y = dot(x, row * i, 1, w, col * i, 1, i, round)
      if (bias) y = round(y + bias[col]!)
      preActivation[row * o + col] = y
      out[row * o + col] = c.attributes['gelu'] ? gelu(store(y), round) : y
    }
  }
  return c.attributes['preActivation'] ? { out, preActivation } : { out }
}

const linear: OpSpec = {
  name: 'linear',
  kind: 'value',
  hidden: ['x', 'out', 'preActivation'],
  cases: [
    { attributes: { rows: 1, in: 1, out: 1 } },
    { attributes: { rows: 3, in: 7, out: 17, pad: 3 }, data: 'bias' },
    { attributes: { rows: 1, in: 512, out: 203 }, data: 'bias' },
    { attributes: { rows: 17, in: 40, out: 59, gelu: 1, pad: 1 }, data: 'bias' },
    { attributes: { rows: 7, in: 24, out: 113, gelu: 1, preActivation: 1, pad: 5, version: 0 } },
    { attributes: { rows: 113, in: 59, out: 203, gelu: 1, preActivation: 1 }, data: 'bias' },
    { attributes: { rows: 19, in: 24, out: 203, outF32: 1 }, data: 'bias' }, // logits
    { attributes: { rows: 19, in: 64, out: 40, xF32: 1 }, data: 'bias' },
    { attributes: { rows: 59, in: 1100, out: 40 }, data: 'bias' }, // deeper than one block of depth
    { attributes: { rows: 7, in: 4230, out: 17, gelu: 1 }, data: 'bias' }, // and than one of four values to a word
    { attributes: { rows: 1030, in: 23, out: 70, gelu: 1, preActivation: 1 }, data: 'bias' }, // tasks convert the rows they multiply
    { attributes: { rows: 17, in: 24, out: 24, gelu: 1, preActivation: 1, outF32: 1 }, data: 'identity' }, // the GELU alone
  ],
  inputs(c, random) {
    const [r, i, o] = sizes(c)
    return {
      x: random.floats(r * i),
      weight:
        c.data === 'identity'
          ? Float32Array.from({ length: o * i }, (_, at) => (at % (i + 1) === 0 ? 1 : 0))
          : random.floats(o * i, 1 / Math.sqrt(i)),
      ...(c.data === 'bias' ? { bias: random.floats(o, 0.5) } : {}),
    }
  },
  reference: linearReference,
  benchmarks: [
    ...BIG.map((attributes) => ({ attributes, data: 'bias' })),
    { attributes: { rows: 2048, in: 512, out: 2048, gelu: 1, preActivation: 1 }, data: 'bias' },
  ].map((c) => ({ ...c, flops: multiplyAdds(c) })),
}

const backwardInput: OpSpec = {
  name: 'linear_backward_input',
  kind: 'gradient',
  hidden: ['dOut', 'dX', 'preActivation'],
  cases: [
    { attributes: { rows: 1, in: 1, out: 3 } },
    { attributes: { rows: 3, in: 17, out: 7, pad: 3 } },
    { attributes: { rows: 59, in: 40, out: 113, accumulate: 1, pad: 1 } },
    { attributes: { rows: 17, in: 203, out: 24, pad: 7, version: 0 }, data: 'gelu' },
    { attributes: { rows: 113, in: 59, out: 203 }, data: 'gelu' },
    { attributes: { rows: 7, in: 24, out: 1100, accumulate: 1 } },
    { attributes: { rows: 19, in: 40, out: 203, dOutF32: 1 } },
    { attributes: { rows: 19, in: 64, out: 24, dXF32: 1 } },
  ],
  inputs(c, random) {
    const [r, i, o] = sizes(c)
    return {
      dOut: random.floats(r * o),
      weight: random.floats(o * i, 1 / Math.sqrt(i)),
      ...(c.data === 'gelu' ? { preActivation: random.floats(r * i, 1.5) } : {}),
      ...(c.attributes['accumulate'] ? { dX: random.floats(r * i) } : {}),
    }
  },
  reference(inputs, c, round, store, operand) {
    const [r, i, o] = sizes(c)
    const dOut = operand(floats(inputs, 'dOut').map(store), o, 'activation')
    const w = operand(floats(inputs, 'weight'), i, 'weight')
    const dX = new Float64Array(r * i)
    for (let row = 0; row < r; row++) {
      for (let col = 0; col < i; col++) {
        const at = row * i + col
        const g = store(dot(dOut, row * o, 1, w, col, i, o, round))
        if (inputs['preActivation']) dX[at] = round(g * geluGradient(floats(inputs, 'preActivation')[at]!, round))
        else dX[at] = c.attributes['accumulate'] ? round(floats(inputs, 'dX')[at]! + g) : g
      }
    }
    return { dX }
  },
  proof: {
    extra: (inputs, c) => ({ point: inputs['preActivation'] ?? new Float64Array(size(c, 'rows') * size(c, 'in')) }),
    loss(inputs, c) {
      const point = floats(inputs, 'point')
      const x = inputs['preActivation'] ? point.map((v) => gelu(v, inFloat64)) : point
      const plain = { attributes: { rows: size(c, 'rows'), in: size(c, 'in'), out: size(c, 'out') } }
      return inner(floats(linearReference({ x, weight: floats(inputs, 'weight') }, plain, inFloat64), 'out'), floats(inputs, 'dOut'))
    },
    of: { dX: 'point' },
  },
  benchmarks: BIG.map((attributes) => ({ attributes, flops: multiplyAdds({ attributes }) })),
}

const backwardWeight: OpSpec = {
  name: 'linear_backward_weight',
  kind: 'gradient',
  hidden: ['dOut', 'x'],
  cases: [
    { attributes: { rows: 1, in: 3, out: 1 } },
    { attributes: { rows: 3, in: 17, out: 7, pad: 3 }, data: 'bias' },
    { attributes: { rows: 113, in: 59, out: 203, pad: 1 }, data: 'bias' },
    { attributes: { rows: 203, in: 40, out: 24 } },
    { attributes: { rows: 19, in: 40, out: 203, dOutF32: 1 }, data: 'bias' },
    { attributes: { rows: 19, in: 64, out: 24, xF32: 1 } },
    { attributes: { rows: 1100, in: 17, out: 40 }, data: 'bias' },
  ],
  inputs(c, random) {
    const [r, i, o] = sizes(c)
    return {
      dOut: random.floats(r * o),
      x: random.floats(r * i),
      dW: random.floats(o * i),
      ...(c.data === 'bias' ? { dBias: random.floats(o) } : {}),
    }
  },
  reference(inputs, c, round, store, operand) {
    const [r, i, o] = sizes(c)
    const dOut = floats(inputs, 'dOut').map(store)
    const [g, x] = [operand(dOut, o, 'activation'), operand(floats(inputs, 'x').map(store), i, 'activation')]
    const dW = floats(inputs, 'dW').slice()
    for (let a = 0; a < o; a++) for (let b = 0; b < i; b++) dW[a * i + b] = round(dW[a * i + b]! + dot(g, a, o, x, b, i, r, round))
    if (!inputs['dBias']) return { dW }
    const dBias = floats(inputs, 'dBias').slice()
    for (let a = 0; a < o; a++) {
      let sum = 0
      for (let row = 0; row < r; row++) sum = round(sum + dOut[row * o + a]!)
      dBias[a] = round(dBias[a]! + sum)
    }
    return { dW, dBias }
  },
  proof: {
    extra: (_, c) => ({ weight: new Float64Array(size(c, 'out') * size(c, 'in')), bias: new Float64Array(size(c, 'out')) }),
    loss: (inputs, c) => inner(floats(linearReference(inputs, c, inFloat64), 'out'), floats(inputs, 'dOut')),
    of: { dW: 'weight', dBias: 'bias' },
  },
  benchmarks: BIG.map((attributes) => ({ attributes, data: 'bias', flops: multiplyAdds({ attributes }) })),
}

const geluBackward: OpSpec = {
  name: 'gelu_backward',
  kind: 'gradient',
  hidden: ['dOut', 'dX', 'preActivation'],
  cases: [
    { attributes: { rows: 1, cols: 1 } },
    { attributes: { rows: 17, cols: 59, pad: 3 } },
    { attributes: { rows: 7, cols: 203, alias: 1 }, data: 'tails' },
  ],
  inputs(c, random) {
    const n = size(c, 'rows') * size(c, 'cols')
    return { dOut: random.floats(n), preActivation: random.floats(n, c.data === 'tails' ? 6 : 1.5) }
  },
  reference: (inputs, _, round) => ({
    dX: floats(inputs, 'dOut').map((g, i) => round(g * geluGradient(floats(inputs, 'preActivation')[i]!, round))),
  }),
  proof: {
    loss: (inputs) =>
      inner(
        floats(inputs, 'preActivation').map((x) => gelu(x, inFloat64)),
        floats(inputs, 'dOut'),
      ),
    of: { dX: 'preActivation' },
  },
  benchmarks: [{ attributes: { rows: 2048, cols: 2048 }, bytes: 3 * 4 * 2048 * 2048 }],
}

const matmul: OpSpec = {
  name: 'matmul',
  kind: 'value',
  cases: [
    { attributes: { rows: 1, cols: 1, depth: 1 } },
    { attributes: { rows: 3, cols: 17, depth: 7, pad: 3, alpha: 0.5 } },
    { attributes: { rows: 59, cols: 113, depth: 40, transposeB: 1, pad: 1 } },
    { attributes: { rows: 113, cols: 59, depth: 203, transposeA: 1, beta: 1, alpha: -2 } },
    { attributes: { rows: 17, cols: 24, depth: 512, transposeA: 1, transposeB: 1, beta: 0.25, pad: 7 } },
    { attributes: { rows: 7, cols: 40, depth: 1100, transposeB: 1 } },
  ],
  inputs(c, random) {
    const [m, n, k] = [size(c, 'rows'), size(c, 'cols'), size(c, 'depth')]
    return { a: random.floats(m * k), b: random.floats(k * n), ...(c.attributes['beta'] ? { c: random.floats(m * n) } : {}) }
  },
  reference(inputs, c, round) {
    const [m, n, k] = [size(c, 'rows'), size(c, 'cols'), size(c, 'depth')]
    const alpha = attribute(c, 'alpha', 1)
    const beta = attribute(c, 'beta')
    const [a, b] = [floats(inputs, 'a'), floats(inputs, 'b')]
    const out = new Float64Array(m * n)
    for (let i = 0; i < m; i++) {
      for (let j = 0; j < n; j++) {
        const [ai, as] = c.attributes['transposeA'] ? [i, m] : [i * k, 1]
        const [bi, bs] = c.attributes['transposeB'] ? [j * k, 1] : [j, n]
        const product = round(alpha * dot(a, ai, as, b, bi, bs, k, round))
        out[i * n + j] = beta === 0 ? product : round(product + round(beta * floats(inputs, 'c')[i * n + j]!))
      }
    }
    return { c: out }
  },
  benchmarks: [
    { rows: 1024, cols: 1024, depth: 512, transposeB: 1 }, // a tile of the score matrix
    { rows: 1024, cols: 512, depth: 1024 },
  ].map((attributes) => ({ attributes, flops: 2 * attributes.rows * attributes.cols * attributes.depth })),
}

export const linearSpecs: readonly OpSpec[] = [linear, backwardInput, backwardWeight, geluBackward, matmul]

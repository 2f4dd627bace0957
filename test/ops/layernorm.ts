import type { Random } from '../support/random.js'
import {
  attribute,
  floats,
  inFloat64,
  type Inputs,
  inner,
  ints,
  type OpCase,
  type OpSpec,
  type Operands,
  type Outputs,
  type Round,
  rowsOf,
  size,
  widen,
} from '../support/spec.js'
import { dropoutFactor } from './attention.js'

interface Normalised {
  mean: number
  rstd: number
  /** (C) before gamma and beta */
  xhat: Float64Array
}

/** (x - mean) / sqrt(var + epsilon) of one row. */
function normaliseRow(x: Float64Array, epsilon: number, round: Round): Normalised {
  let mean = 0
  for (const value of x) mean = round(mean + value)
  mean = round(mean / x.length)
  let variance = 0
  for (const value of x) {
    const d = round(value - mean)
    variance = round(variance + round(d * d))
  }
  const rstd = round(1 / round(Math.sqrt(round(round(variance / x.length) + epsilon))))
  return { mean, rstd, xhat: x.map((value) => round(round(value - mean) * rstd)) }
}

const EPSILON = 1e-12
const epsilonOf = (c: OpCase): number => attribute(c, 'epsilon', EPSILON)

/** Row-wise LayerNorm of `sum` (R, C). */
function layerNorm(sum: Float64Array, inputs: Operands, c: OpCase, round: Round): Record<'out' | 'mean' | 'rstd', Float64Array> {
  const width = size(c, 'cols')
  const rows = sum.length / width
  const [gamma, beta] = [floats(inputs, 'gamma'), floats(inputs, 'beta')]
  const [out, mean, rstd] = [new Float64Array(sum.length), new Float64Array(rows), new Float64Array(rows)]
  for (let r = 0; r < rows; r++) {
    const row = normaliseRow(sum.subarray(r * width, (r + 1) * width), epsilonOf(c), round)
    mean[r] = row.mean
    rstd[r] = row.rstd
    for (let i = 0; i < width; i++) out[r * width + i] = round(round(row.xhat[i]! * gamma[i]!) + beta[i]!)
  }
  return { out, mean, rstd }
}

/** Gradient of LayerNorm: dx = rstd (g - mean(g) - xhat mean(g xhat)), g = dOut gamma; adds into dGamma and dBeta. */
function layerNormBackward(
  sum: Float64Array,
  dOut: Float64Array,
  inputs: Operands,
  c: OpCase,
  round: Round,
): Record<'dSum' | 'dGamma' | 'dBeta', Float64Array> {
  const width = size(c, 'cols')
  const rows = sum.length / width
  const gamma = floats(inputs, 'gamma')
  const [addGamma, addBeta] = [new Float64Array(width), new Float64Array(width)]
  const dSum = new Float64Array(sum.length)
  for (let r = 0; r < rows; r++) {
    const { rstd, xhat } = normaliseRow(sum.subarray(r * width, (r + 1) * width), epsilonOf(c), round)
    let meanG = 0
    let meanGx = 0
    const g = new Float64Array(width)
    for (let i = 0; i < width; i++) {
      const d = dOut[r * width + i]!
      addGamma[i] = round(addGamma[i]! + round(d * xhat[i]!))
      addBeta[i] = round(addBeta[i]! + d)
      g[i] = round(d * gamma[i]!)
      meanG = round(meanG + g[i]!)
      meanGx = round(meanGx + round(g[i]! * xhat[i]!))
    }
    meanG = round(meanG / width)
    meanGx = round(meanGx / width)
    for (let i = 0; i < width; i++) dSum[r * width + i] = round(rstd * round(round(g[i]! - meanG) - round(xhat[i]! * meanGx)))
  }
  const added = (name: string, values: Float64Array): Float64Array => values.map((value, i) => round(floats(inputs, name)[i]! + value))
  return { dSum, dGamma: added('dGamma', addGamma), dBeta: added('dBeta', addBeta) }
}

/** x times the dropout factor of a hidden site: element = position * C + column. */
function dropped(x: Float64Array, inputs: Operands, c: OpCase, round: Round): Float64Array {
  const width = size(c, 'cols')
  const factor = dropoutFactor(c, round)
  const [sequence, position, stream] = [ints(inputs, 'sequence'), ints(inputs, 'rowPosition'), ints(inputs, 'stream')]
  return x.map((value, at) => {
    const r = Math.floor(at / width)
    return round(value * factor(stream[sequence[r]!]!, position[r]! * width + (at % width)))
  })
}

const lengthsOf = (c: OpCase): readonly number[] => c.lengths ?? [size(c, 'rows')]
const where = (c: OpCase): Inputs => ({ ...rowsOf(lengthsOf(c)), stream: Uint32Array.from(lengthsOf(c), (_, n) => 3_000_000_000 - 11 * n) })

// ---- addLayerNorm ----

/** sum = residual + dropout(x); out = LayerNorm(sum). */
function addLayerNormReference(
  inputs: Operands,
  c: OpCase,
  round: Round,
  store: Round = inFloat64,
): Record<'out' | 'sum' | 'mean' | 'rstd', Float64Array> {
  const x = dropped(floats(inputs, 'x'), inputs, c, round)
  const sum = (inputs['residual'] ? x.map((value, i) => round(value + floats(inputs, 'residual')[i]!)) : x).map(store)
  return { sum, ...layerNorm(sum, inputs, c, round) }
}

function normInputs(c: OpCase, random: Random): Record<'gamma' | 'beta', Float32Array> {
  return { gamma: random.floats(size(c, 'cols'), 0.2, 1), beta: random.floats(size(c, 'cols'), 0.2) }
}

// data 'bare': no residual (the MLM head); 'shifted': a mean a thousand times the deviation, where a one-pass variance loses everything
const addLayerNorm: OpSpec = {
  name: 'add_layer_norm',
  kind: 'value',
  hidden: ['x', 'residual', 'out', 'sum'],
  cases: [
    { attributes: { rows: 1, cols: 1 } },
    { attributes: { rows: 3, cols: 7, stats: 1, pad: 3 } },
    { attributes: { rows: 17, cols: 40, stats: 1, alias: 1, p: 0.1, seed: 0x1ffffffff, step: 5, layer: 3, site: 2 }, lengths: [7, 10] },
    { attributes: { rows: 59, cols: 512, stats: 1, alias: 2, p: 0.3, seed: 11, step: 1, layer: 1, site: 3, pad: 1 }, lengths: [1, 30, 28] },
    { attributes: { rows: 7, cols: 24, stats: 1, epsilon: 1e-5 }, data: 'bare' },
    { attributes: { rows: 7, cols: 203, stats: 1, pad: 5 }, data: 'shifted' },
  ],
  inputs(c, random) {
    const n = size(c, 'rows') * size(c, 'cols')
    const shift = c.data === 'shifted' ? 500 : 0
    return {
      x: random.floats(n, 1, shift),
      ...(c.data === 'bare' ? {} : { residual: random.floats(n, 1, shift) }),
      ...normInputs(c, random),
      ...where(c),
    }
  },
  reference(inputs, c, round, store) {
    const { out, sum, mean, rstd } = addLayerNormReference(inputs, c, round, store)
    return c.attributes['stats'] ? { out, sum, mean, rstd } : { out, sum }
  },
  benchmarks: [
    { attributes: { rows: 2048, cols: 512 }, bytes: 4 * 4 * 2048 * 512 },
    { attributes: { rows: 2048, cols: 512, stats: 1, p: 0.1, seed: 1, site: 2 }, bytes: 4 * 4 * 2048 * 512 },
  ],
}

const addLayerNormBackward: OpSpec = {
  name: 'add_layer_norm_backward',
  kind: 'gradient',
  hidden: ['dOut', 'sum', 'dSum', 'dX'],
  cases: [
    { attributes: { rows: 3, cols: 7, pad: 3 } },
    { attributes: { rows: 17, cols: 40, alias: 1, p: 0.1, seed: 0x1ffffffff, step: 5, layer: 3, site: 2 }, lengths: [7, 10] },
    { attributes: { rows: 59, cols: 512, alias: 2, p: 0.3, seed: 11, step: 1, layer: 1, site: 3, pad: 1 }, lengths: [1, 30, 28] },
    { attributes: { rows: 113, cols: 24, alias: 3 } },
    { attributes: { rows: 203, cols: 59, alias: 4, pad: 5 } },
  ],
  inputs(c, random, store) {
    const n = size(c, 'rows') * size(c, 'cols')
    const width = size(c, 'cols')
    const { gamma, beta } = normInputs(c, random)
    const inputs = { sum: random.floats(n, 2, 0.3).map(store), gamma, ...where(c) }
    const { mean, rstd } = layerNorm(Float64Array.from(inputs.sum), { ...widen(inputs), beta: Float64Array.from(beta) }, c, inFloat64)
    return {
      ...inputs,
      mean: Float32Array.from(mean),
      rstd: Float32Array.from(rstd),
      dOut: random.floats(n),
      dGamma: random.floats(width),
      dBeta: random.floats(width),
    }
  },
  reference(inputs, c, round, store) {
    const { dSum, dGamma, dBeta } = layerNormBackward(floats(inputs, 'sum'), floats(inputs, 'dOut'), inputs, c, round)
    const alias = c.attributes['alias'] ?? 0
    return { dSum, dGamma, dBeta, ...(alias >= 3 ? {} : { dX: dropped(dSum.map(store), inputs, c, round) }) }
  },
  proof: {
    extra(inputs, c) {
      const x = floats(inputs, 'sum').map((_, i) => Math.sin(i))
      const kept = dropped(x, inputs, c, inFloat64)
      return { x, residual: floats(inputs, 'sum').map((value, i) => value - kept[i]!), beta: new Float64Array(size(c, 'cols')) }
    },
    loss: (inputs, c) => inner(addLayerNormReference(inputs, c, inFloat64).out, floats(inputs, 'dOut')),
    of: { dSum: 'residual', dX: 'x', dGamma: 'gamma', dBeta: 'beta' },
  },
  benchmarks: [{ attributes: { rows: 2048, cols: 512, p: 0.1, seed: 1, site: 2 }, bytes: 4 * 4 * 2048 * 512 }],
}

// ---- embedding ----

/** The rows that are normalised: table[index] + position + type. */
function embeddingSum(inputs: Operands, c: OpCase, round: Round): Float64Array {
  const width = size(c, 'cols')
  const [table, position, type] = [floats(inputs, 'table'), floats(inputs, 'position'), floats(inputs, 'type')]
  const [index, rowPosition] = [ints(inputs, 'index'), ints(inputs, 'rowPosition')]
  return Float64Array.from({ length: size(c, 'rows') * width }, (_, at) => {
    const [r, i] = [Math.floor(at / width), at % width]
    return round(round(table[index[r]! * width + i]! + position[rowPosition[r]! * width + i]!) + type[i]!)
  })
}

/** dropout(LayerNorm(table[index] + position + type)) */
function embeddingReference(
  inputs: Operands,
  c: OpCase,
  round: Round,
  store: Round = inFloat64,
): Record<'out' | 'mean' | 'rstd', Float64Array> {
  const normal = layerNorm(embeddingSum(inputs, c, round), inputs, c, round)
  return { ...normal, out: dropped(normal.out.map(store), inputs, c, round) }
}

function embeddingInputs(c: OpCase, random: Random): Inputs {
  const [rows, width] = [size(c, 'rows'), size(c, 'cols')]
  return {
    table: random.floats(size(c, 'tableRows') * width),
    position: random.floats(size(c, 'positions') * width),
    type: random.floats(width),
    ...normInputs(c, random),
    index: random.ints(rows, size(c, 'tableRows')),
    ...where(c),
  }
}

const embedding: OpSpec = {
  name: 'embedding',
  kind: 'value',
  hidden: ['out'],
  cases: [
    { attributes: { rows: 1, cols: 3, tableRows: 1, positions: 1 } },
    { attributes: { rows: 27, cols: 40, tableRows: 11, positions: 17, stats: 1, pad: 3 }, lengths: [7, 3, 17] },
    {
      attributes: { rows: 59, cols: 512, tableRows: 113, positions: 58, stats: 1, p: 0.1, seed: 3, step: 9, layer: 255, site: 0 },
      lengths: [58, 1],
    },
  ],
  inputs: embeddingInputs,
  reference(inputs, c, round, store) {
    const { out, mean, rstd } = embeddingReference(inputs, c, round, store)
    return c.attributes['stats'] ? { out, mean, rstd } : { out }
  },
  benchmarks: [
    {
      attributes: { rows: 2048, cols: 512, tableRows: 21128, positions: 128 },
      lengths: new Array<number>(16).fill(128),
      bytes: 3 * 4 * 2048 * 512,
    },
  ],
}

const embeddingBackward: OpSpec = {
  name: 'embedding_backward',
  kind: 'gradient',
  hidden: ['dOut'],
  cases: [
    { attributes: { rows: 3, cols: 7, tableRows: 2, positions: 3 } },
    { attributes: { rows: 27, cols: 40, tableRows: 11, positions: 17, paddingIndex: 0, pad: 3 }, lengths: [7, 3, 17] },
    {
      attributes: { rows: 203, cols: 24, tableRows: 5, positions: 113, p: 0.1, seed: 3, step: 9, layer: 255, site: 0 },
      lengths: [113, 90],
    },
    { attributes: { rows: 59, cols: 512, tableRows: 113, positions: 58, paddingIndex: 3 }, lengths: [58, 1] },
  ],
  inputs(c, random) {
    const width = size(c, 'cols')
    const { beta, ...inputs } = embeddingInputs(c, random)
    const { mean, rstd } = embeddingReference(widen({ ...inputs, beta: beta! }), c, inFloat64)
    return {
      ...inputs,
      mean: Float32Array.from(mean),
      rstd: Float32Array.from(rstd),
      dOut: random.floats(size(c, 'rows') * width),
      dTable: random.floats(size(c, 'tableRows') * width),
      dPosition: random.floats(size(c, 'positions') * width),
      dType: random.floats(width),
      dGamma: random.floats(width),
      dBeta: random.floats(width),
    }
  },
  reference(inputs, c, round, store) {
    const width = size(c, 'cols')
    const dOut = dropped(floats(inputs, 'dOut'), inputs, c, round).map(store)
    const { dSum, dGamma, dBeta } = layerNormBackward(embeddingSum(inputs, c, round), dOut, inputs, c, round)
    const scatter = (name: string, rowOf: (r: number) => number): Float64Array => {
      const added = new Float64Array(floats(inputs, name).length)
      for (const [at, value] of dSum.entries()) {
        const row = rowOf(Math.floor(at / width))
        if (row >= 0) added[row * width + (at % width)] = round(added[row * width + (at % width)]! + value)
      }
      return floats(inputs, name).map((value, i) => round(value + added[i]!))
    }
    const [index, rowPosition] = [ints(inputs, 'index'), ints(inputs, 'rowPosition')]
    const padding = c.attributes['paddingIndex'] ?? -1
    const outputs: Outputs = {
      dTable: scatter('dTable', (r) => (index[r] === padding ? -1 : index[r]!)),
      dPosition: scatter('dPosition', (r) => rowPosition[r]!),
      dType: scatter('dType', () => 0),
      dGamma,
      dBeta,
    }
    return outputs
  },
  proof: {
    // The padding row is looked up but never trained, so the proof looks its rows up in a second, fixed table.
    extra: (inputs, c) => ({ beta: new Float64Array(size(c, 'cols')), fixed: floats(inputs, 'table').slice() }),
    loss(inputs, c) {
      const [width, padding] = [size(c, 'cols'), c.attributes['paddingIndex'] ?? -1]
      const table = floats(inputs, 'table').slice()
      if (padding >= 0) table.set(floats(inputs, 'fixed').subarray(padding * width, (padding + 1) * width), padding * width)
      return inner(embeddingReference({ ...inputs, table }, c, inFloat64).out, floats(inputs, 'dOut'))
    },
    of: { dTable: 'table', dPosition: 'position', dType: 'type', dGamma: 'gamma', dBeta: 'beta' },
  },
  benchmarks: [
    {
      attributes: { rows: 2048, cols: 512, tableRows: 21128, positions: 128 },
      lengths: new Array<number>(16).fill(128),
      bytes: 5 * 4 * 2048 * 512,
    },
  ],
}

export const layerNormSpecs: readonly OpSpec[] = [addLayerNorm, addLayerNormBackward, embedding, embeddingBackward]

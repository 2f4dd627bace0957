// Our side of the sections about single operators, through the side door: seconds are the median that the addon measures on the host's clock
// around one call on a quiet device, launch included (PyTorch's are CUDA events: a few microseconds in its favour). Outputs are uploaded
// anew before each call, which leaves little of the inputs in the L2 cache.
import type { Device } from '../../lib/native.js'
import type { Answer, Sizes } from './cases.js'
import { eachVariant, noise, type Prepared, type Section } from './support.js'

type Inputs = Record<string, Float32Array | Int32Array | Uint32Array>

function prepared(device: Device, sizes: Sizes, op: string, inputs: Inputs, attributes: Record<string, number>): Prepared {
  return {
    measure: (): Promise<Answer> =>
      eachVariant({
        ours: async () => {
          const { seconds } = await device.op(op, inputs, { ...attributes, repeat: sizes.repeat })
          return [...seconds!]
        },
      }),
    close: () => {},
  }
}

/** Sequences of equal length. */
function packed(rows: number, length: number): { count: number; offsets: Int32Array; sequence: Int32Array; position: Int32Array } {
  const count = Math.floor(rows / length)
  const offsets = Int32Array.from({ length: count + 1 }, (_, n) => n * length)
  const sequence = Int32Array.from({ length: count * length }, (_, i) => Math.floor(i / length))
  return { count, offsets, sequence, position: sequence.map((n, i) => i - n * length) }
}

const drop = (p: number): Record<string, number> => (p > 0 ? { p, seed: 5, step: 1, layer: 1, site: 1 } : {})

export const attention: Section<'attention'> = async (sizes, device) => {
  const { count, offsets, position } = packed(sizes.tokens, sizes.length)
  const [rows, width] = [count * sizes.length, sizes.heads * sizes.headSize]
  const backward = sizes.direction === 'backward'
  const inputs: Inputs = {
    q: noise(rows * width),
    k: noise(rows * width, 1, 11),
    v: noise(rows * width, 1, 222),
    queryOffsets: offsets,
    keyOffsets: offsets,
    queryPosition: position,
    stream: Uint32Array.from({ length: count }, (_, n) => n),
    ...(backward && { dOut: noise(rows * width, 1, 3333) }),
  }
  const attributes = { heads: sizes.heads, headSize: sizes.headSize, ...drop(sizes.dropout), ...(backward ? {} : { lse: 1 }) }
  return prepared(device, sizes, backward ? 'attention_backward' : 'attention', inputs, attributes)
}

/** kind: 'input' x dOut -> dX, 'weight' dOut, x -> dW and dBias (accumulated in fp32). */
export const linear: Section<'linear'> = async (sizes, device) => {
  const { rows: r, in: i, out: o, kind } = sizes
  const weight = noise(o * i, 1 / Math.sqrt(i), 5)
  const attributes = { rows: r, in: i, out: o }
  if (kind === 'input') return prepared(device, sizes, 'linear_backward_input', { dOut: noise(r * o), weight }, attributes)
  const x = noise(r * i, 1, 77)
  if (kind === 'weight') {
    return prepared(
      device,
      sizes,
      'linear_backward_weight',
      { dOut: noise(r * o), x, dW: noise(o * i, 1, 6), dBias: noise(o, 1, 9) },
      attributes,
    )
  }
  return prepared(device, sizes, 'linear', { x, weight, bias: noise(o, 1, 9) }, kind === 'gelu' ? { ...attributes, gelu: 1 } : attributes)
}

/** LayerNorm(residual + dropout(x)) with saved statistics, and its gradient. */
export const layernorm: Section<'layernorm'> = async (sizes, device) => {
  const { count, sequence, position } = packed(sizes.rows, sizes.length)
  const [rows, cols] = [count * sizes.length, sizes.cols]
  const where = { sequence, rowPosition: position, stream: Uint32Array.from({ length: count }, (_, n) => n) }
  const gamma = noise(cols, 0.1).map((x) => x + 1)
  const attributes = { rows, cols, ...drop(sizes.dropout) }
  if (sizes.direction === 'forward') {
    const inputs = { x: noise(rows * cols), residual: noise(rows * cols, 1, 11), gamma, beta: noise(cols, 0.1, 3), ...where }
    return prepared(device, sizes, 'add_layer_norm', inputs, { ...attributes, stats: 1 })
  }
  const statistics = { mean: noise(rows, 0.05), rstd: noise(rows, 0.02, 5).map((x) => x + 1) }
  const gradients = { dGamma: noise(cols, 1, 21), dBeta: noise(cols, 1, 22) }
  const inputs = { dOut: noise(rows * cols), sum: noise(rows * cols, 1, 11), gamma, ...statistics, ...gradients, ...where }
  return prepared(device, sizes, 'add_layer_norm_backward', inputs, attributes)
}

import type { Random } from './random.js'

/** One rounding after every arithmetic step: the identity gives the float64 truth, Math.fround the plain fp32 formula. */
export type Round = (x: number) => number
export const inFloat64: Round = (x) => x
export const inFloat32: Round = Math.fround

/**
 * What a device computes in: how it stores hidden states (architecture.md section 6), and, where that is not what its linear layers multiply in,
 * the type of their operands.
 */
export type Storage = 'f32' | 'bf16' | 'f32, products bf16' | 'f32, products int8'
const word = new Uint32Array(1)
const asFloat = new Float32Array(word.buffer)
/** To bfloat16, ties to even. */
export const inBfloat16: Round = (x) => {
  asFloat[0] = x
  if (Number.isNaN(x)) return x
  const bits = word[0]!
  word[0] = (bits + 0x7fff + ((bits >>> 16) & 1)) & 0xffff0000
  return asFloat[0]!
}
/** To float16, ties to even. */
export const inFloat16: Round = (x) => {
  const unit = 2 ** (Math.max(Math.floor(Math.log2(Math.abs(x))), -14) - 10)
  if (x === 0 || !Number.isFinite(unit)) return x
  const [low, rest] = [Math.floor(x / unit), x / unit - Math.floor(x / unit)]
  const rounded = (rest < 0.5 || (rest === 0.5 && low % 2 === 0) ? low : low + 1) * unit
  return Math.abs(rounded) > 65504 ? Math.sign(x) * Infinity : rounded
}
/** What storing a value of the plain formula does to it. Stored values are float32 where the device stores float32: nothing more is lost. */
export const storageRounds: Readonly<Record<Storage, Round>> = {
  f32: inFloat64,
  bf16: inBfloat16,
  'f32, products bf16': inFloat64,
  'f32, products int8': inFloat64,
}

/** What a matrix of rows of `width` becomes before a linear layer multiplies it; a weight's rows are its output channels. */
export type Operand = (values: Float64Array, width: number, what: 'activation' | 'weight') => Float64Array
export const asIs: Operand = (values) => values

/** round(x / step) * step: activations with 256 levels between the least and the largest value of a row, weights with 127 on either side of 0. */
const inInt8: Operand = (values, width, what) => {
  const out = new Float64Array(values.length)
  for (let first = 0; first < values.length; first += width) {
    const row = values.subarray(first, first + width)
    const [least, most] = [Math.min(...row), Math.max(...row)]
    const low = what === 'activation' ? least : 0
    const step = what === 'activation' ? (most - least) / 255 : Math.max(-least, most) / 127
    for (let i = 0; i < width; i++) out[first + i] = step === 0 ? low : low + step * Math.round((row[i]! - low) / step)
  }
  return out
}
export const storageOperands: Readonly<Record<Storage, Operand>> = {
  f32: asIs,
  bf16: (values) => values.map(inBfloat16),
  'f32, products bf16': (values) => values.map(inBfloat16),
  'f32, products int8': inInt8,
}

export type Inputs = Readonly<Record<string, Float32Array | Int32Array | Uint32Array | BigUint64Array>>
/** Inputs as a reference reads them: floats widened, so that finite differences can move them. */
export type Operands = Readonly<Record<string, Float64Array | Int32Array | Uint32Array | BigUint64Array>>
export type Outputs = Record<string, Float64Array | Int32Array>

export interface OpCase {
  /** Sizes and options, passed to the op as they are (native/bindings/op.cc). */
  attributes: Readonly<Record<string, number>>
  /** Sequence lengths of a packed batch. */
  lengths?: readonly number[]
  /** Too many numbers for central differences, which a smaller case of the same kind then proves. */
  large?: true
  /** What only `inputs` reads: which optional inputs there are, which corner the data is put into. */
  data?: string
}

/** Everything that is known about an op: its formula, its tests, its proof and its benchmark. */
export interface OpSpec {
  /** As native/bindings/op.cc knows it. */
  name: string
  /** Gradients are sums of more terms in orders that differ more: 3 times the plain formula's error instead of 2. */
  kind: 'value' | 'gradient'
  /** in-out tensors that hold numbers before the op and zeros after it */
  zeroed?: readonly string[]
  cases: readonly OpCase[]
  /** Matrices of the op that a device stores as its hidden states, unless an attribute `<name>F32` says otherwise (native/bindings/op.cc). */
  hidden?: readonly string[]
  /** `store`: what storing a hidden state does to a number; values that are derived from a hidden input (mean, rstd) must see it. */
  inputs(c: OpCase, random: Random, store: Round): Inputs
  /**
   * The formula in plain loops. Saved values of a forward pass (mean, lse, ...) are recomputed, not read. `store`: where the plain formula
   * leaves an intermediate in memory (probabilities, a sum), as a device without fusion must; the outputs themselves are stored by the harness.
   * `operand`: what the operands of a linear layer's product are rounded to.
   */
  reference(inputs: Operands, c: OpCase, round: Round, store: Round, operand: Operand): Outputs
  proof?: GradientProof
  /** Sizes of real use, for benchmarks/ops.ts, with the arithmetic or the memory traffic of one run. */
  benchmarks?: readonly (OpCase & { flops?: number; bytes?: number })[]
}

/** Proves the float64 reference gradient by central differences of the float64 forward. */
export interface GradientProof {
  /** The scalar whose gradient the op computes. */
  loss(inputs: Operands, c: OpCase): number
  /** output of the op -> the input (or `extra`) it is the gradient of */
  of: Readonly<Record<string, string>>
  /** Inputs of the loss that the op does not take. */
  extra?(inputs: Operands, c: OpCase): Operands
}

/** An attribute as the op sees it: fp32. */
export const attribute = (c: OpCase, name: string, fallback = 0): number => Math.fround(c.attributes[name] ?? fallback)

export function size(c: OpCase, name: string): number {
  const value = c.attributes[name]
  if (value === undefined) throw new Error(`the case ${JSON.stringify(c)} has no attribute ${name}`)
  return value
}

export function floats(inputs: Operands, name: string): Float64Array {
  const value = inputs[name]
  if (!(value instanceof Float64Array)) throw new Error(`the spec's inputs have no floats called ${name}`)
  return value
}

export function ints(inputs: Operands, name: string): Int32Array | Uint32Array {
  const value = inputs[name]
  if (!(value instanceof Int32Array || value instanceof Uint32Array)) throw new Error(`the spec's inputs have no integers called ${name}`)
  return value
}

/** Whether a matrix of a case is stored as a hidden state. */
export const isHidden = (spec: OpSpec, c: OpCase, name: string): boolean =>
  (spec.hidden?.includes(name) ?? false) && !c.attributes[`${name}F32`]

export function widen(inputs: Inputs): Operands {
  return Object.fromEntries(Object.entries(inputs).map(([name, v]) => [name, v instanceof Float32Array ? Float64Array.from(v) : v]))
}

/** Sum of products, for the loss of a proof. */
export function inner(a: Float64Array, b: Float64Array): number {
  let sum = 0
  for (let i = 0; i < a.length; i++) sum += a[i]! * b[i]!
  return sum
}

export function offsetsOf(lengths: readonly number[]): Int32Array {
  const offsets = new Int32Array(lengths.length + 1)
  for (const [n, length] of lengths.entries()) offsets[n + 1] = offsets[n]! + length
  return offsets
}

/** Sequence and position of every packed row. */
export function rowsOf(lengths: readonly number[]): { sequence: Int32Array; rowPosition: Int32Array } {
  return {
    sequence: Int32Array.from(lengths.flatMap((length, n) => new Array<number>(length).fill(n))),
    rowPosition: Int32Array.from(lengths.flatMap((length) => Array.from({ length }, (_, i) => i))),
  }
}

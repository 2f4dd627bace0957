import type { Random } from './random.js'

/** One rounding after every arithmetic step: the identity gives the float64 truth, Math.fround the plain fp32 formula. */
export type Round = (x: number) => number
export const inFloat64: Round = (x) => x
export const inFloat32: Round = Math.fround

export type Inputs = Readonly<Record<string, Float32Array | Int32Array | Uint32Array | BigUint64Array>>
/** Inputs as a reference reads them: floats widened, so that finite differences can move them. */
export type Operands = Readonly<Record<string, Float64Array | Int32Array | Uint32Array | BigUint64Array>>
export type Outputs = Record<string, Float64Array | Int32Array>

export interface OpCase {
  /** Sizes and options, passed to the op as they are (native/bindings/op.cc). */
  attributes: Readonly<Record<string, number>>
  /** Sequence lengths of a packed batch. */
  lengths?: readonly number[]
  /** What only `inputs` reads: which optional inputs there are, which corner the data is put into. */
  data?: string
}

/** Everything that is known about an op: its formula, its tests, its proof and its benchmark. */
export interface OpSpec {
  /** As native/bindings/op.cc knows it. */
  name: string
  /** Gradients are sums of more terms in orders that differ more: 3 times the plain formula's error instead of 2. */
  kind: 'value' | 'gradient'
  cases: readonly OpCase[]
  inputs(c: OpCase, random: Random): Inputs
  /** The formula in plain loops. Saved values of a forward pass (mean, lse, ...) are recomputed, not read. */
  reference(inputs: Operands, c: OpCase, round: Round): Outputs
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

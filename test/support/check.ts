import { Random } from './random.js'
import {
  asIs,
  inFloat32,
  inFloat64,
  type Inputs,
  isHidden,
  type OpCase,
  type OpSpec,
  type Operands,
  type Outputs,
  type Storage,
  storageOperands,
  storageRounds,
  widen,
} from './spec.js'

export type OpResult = Record<string, Float32Array | Int32Array>

/** An op may err at most so many times as much as the plain formula in the same storage does (flash-attention's rule). */
const FACTOR = { value: 2, gradient: 3 } as const
/**
 * The plain formula's own error is 0 or near it where few roundings happen or where they cancel by luck; then the rule above would ask the op
 * for the same luck. Two units in the last place of the largest entry are always allowed.
 */
const FLOOR_ULPS = 2
const ulpOf = (storage: Storage): number => (storage === 'bf16' ? 2 ** -8 : 2 ** -23)

export interface Prepared {
  storage: Storage
  inputs: Inputs
  exact: Outputs
  plain: Outputs
}

export function seedOf(spec: OpSpec, c: OpCase): number {
  let hash = 2166136261
  for (const character of spec.name + spec.cases.indexOf(c)) hash = Math.imul(hash ^ character.charCodeAt(0), 16777619)
  return hash >>> 0
}

const prepared = new WeakMap<OpCase, Map<string, Prepared>>()

/** Inputs and both references of a case, computed once for all devices of one storage. Hidden inputs are representable in that storage. */
export function prepare(spec: OpSpec, c: OpCase, storage: Storage = 'f32'): Prepared {
  const known = prepared.get(c) ?? new Map<string, Prepared>()
  prepared.set(c, known)
  const key = `${spec.name} ${storage}`
  let p = known.get(key)
  if (!p) {
    const store = storageRounds[storage]
    const stored = <T extends Inputs | Outputs>(values: T): T =>
      Object.fromEntries(
        Object.entries(values).map(([name, v]) => [name, isHidden(spec, c, name) ? (v as Float64Array).map(store) : v]),
      ) as T
    const inputs = stored(spec.inputs(c, new Random(seedOf(spec, c)), store))
    const operands = widen(inputs)
    p = {
      storage,
      inputs,
      exact: spec.reference(operands, c, inFloat64, inFloat64, asIs),
      plain: stored(spec.reference(operands, c, inFloat32, store, storageOperands[storage])),
    }
    known.set(key, p)
  }
  return p
}

/** One output of an op beside its truth. */
export interface Verdict {
  output: string
  /** Largest error; absent for integers and where no error can be given. */
  error?: number
  /** That of the plain formula, and what is allowed. */
  plain?: number
  allowed?: number
  /** A sentence, where it is wrong. */
  problem?: string
}

/** What is wrong with an op's result, a sentence each; empty when it is right. */
export function problems(spec: OpSpec, c: OpCase, prepared: Omit<Prepared, 'inputs'>, result: OpResult): string[] {
  return verdicts(spec, c, prepared, result).flatMap(({ problem }) => problem ?? [])
}

export function verdicts(spec: OpSpec, c: OpCase, { exact, plain, storage }: Omit<Prepared, 'inputs'>, result: OpResult): Verdict[] {
  const [wanted, got] = [Object.keys(exact).sort(), Object.keys(result).sort()]
  if (wanted.join() !== got.join()) {
    return [{ output: got.join(), problem: `outputs must be ${wanted.join(', ')}, but were ${got.join(', ')}` }]
  }
  return wanted.map((output): Verdict => {
    const truth = exact[output]!
    const values = result[output]!
    if (truth.length !== values.length) return { output, problem: `${output} must have ${truth.length} entries, but has ${values.length}` }
    if (truth instanceof Int32Array) {
      const at = truth.findIndex((value, i) => value !== values[i])
      return { output, ...(at >= 0 && { problem: `${output}[${at}] must be ${truth[at]}, but was ${values[at]}` }) }
    }
    return floatVerdict(spec, output, ulpOf(isHidden(spec, c, output) ? storage : 'f32'), truth, plain[output] as Float64Array, values)
  })
}

function floatVerdict(
  spec: OpSpec,
  output: string,
  ulp: number,
  truth: Float64Array,
  plain: Float64Array,
  values: Float32Array | Int32Array,
): Verdict {
  let [scale, plainError, worst, at] = [0, 0, -1, 0]
  for (let i = 0; i < truth.length; i++) {
    const [exact, value] = [truth[i]!, values[i]!]
    if (!Number.isFinite(exact) || !Number.isFinite(value)) {
      if (Object.is(exact, value)) continue
      return { output, problem: `${output}[${i}] must be ${exact}, but was ${value}` }
    }
    scale = Math.max(scale, Math.abs(exact))
    plainError = Math.max(plainError, Math.abs(plain[i]! - exact))
    const error = Math.abs(value - exact)
    if (error > worst) [worst, at] = [error, i]
  }
  const bound = Math.max(FACTOR[spec.kind] * plainError, FLOOR_ULPS * ulp * scale)
  const measured = { output, error: Math.max(worst, 0), plain: plainError, allowed: bound }
  if (worst <= bound) return measured
  const problem =
    `${output}[${at}] must be ${truth[at]}, but was ${values[at]}: error ${worst.toExponential(2)}, the plain formula's ` +
    `${plainError.toExponential(2)}, ratio ${(worst / plainError).toFixed(2)}, allowed ${bound.toExponential(2)}`
  return { ...measured, problem }
}

/** Outputs that no case of a spec makes differ from zero: such a spec would pass an op that does nothing. */
export function zeroOutputs(spec: OpSpec): string[] {
  const alive = new Set<string>()
  const all = new Set<string>()
  for (const c of spec.cases) {
    for (const [name, values] of Object.entries(prepare(spec, c).exact)) {
      all.add(name)
      if (values.some((value) => value !== 0 && Number.isFinite(value))) alive.add(name)
    }
  }
  return [...all].filter((name) => !alive.has(name) && !spec.zeroed?.includes(name))
}

/** Central differences are exact to about h^2 / 6 times the third derivative plus 1e-16 loss / h: well below this share of the largest entry. */
const PROOF_TOLERANCE = 1e-6
const PROOF_STEP = 1e-5
const PROOF_ENTRIES = 8

/** What is wrong with a reference gradient, compared with central differences of the float64 loss. */
export function gradientProblems(spec: OpSpec, c: OpCase): string[] {
  const proof = spec.proof
  if (!proof) return [`${spec.name} has no proof`]
  const { inputs, exact } = prepare(spec, c)
  const base = widen(inputs)
  const operands: Operands = { ...base, ...proof.extra?.(base, c) }
  const random = new Random(seedOf(spec, c) + 1)
  const found: string[] = []
  for (const [output, input] of Object.entries(proof.of)) {
    const reference = exact[output]
    const point = operands[input]
    if (!reference) continue // an optional output that this case does not ask for
    if (!(point instanceof Float64Array)) return [`the proof of ${spec.name} has no floats called ${input}`]
    const before = base[output] instanceof Float64Array && output !== input ? (base[output] as Float64Array) : undefined
    const gradient = Float64Array.from(reference, (value, i) => value - (before?.[i] ?? 0))
    const scale = gradient.reduce((high, value) => Math.max(high, Math.abs(value)), 0)
    const largest = gradient.findIndex((value) => Math.abs(value) === scale)
    for (const i of new Set([largest, ...random.choose(Math.min(PROOF_ENTRIES, point.length), point.length)])) {
      const at = (value: number): number => {
        const moved = point.slice()
        moved[i] = value
        return proof.loss({ ...operands, [input]: moved }, c)
      }
      const difference = (at(point[i]! + PROOF_STEP) - at(point[i]! - PROOF_STEP)) / (2 * PROOF_STEP)
      if (!(Math.abs(difference - gradient[i]!) <= PROOF_TOLERANCE * Math.max(scale, 1e-3))) {
        found.push(`${output}[${i}] is ${gradient[i]}, but central differences give ${difference} (largest entry ${scale})`)
      }
    }
  }
  return found
}

export const bits = (result: OpResult): string =>
  Object.entries(result)
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .map(([name, v]) => `${name} ${Buffer.from(v.buffer, v.byteOffset, v.byteLength).toString('base64')}`)
    .join('\n')

/** Index of the first difference of two results, as a sentence; undefined when they are equal bit for bit. */
export function difference(a: OpResult, b: OpResult): string | undefined {
  if (bits(a) === bits(b)) return undefined
  for (const name of Object.keys(a)) {
    const i = a[name]!.findIndex((value, at) => !Object.is(value, b[name]![at]))
    if (i >= 0) return `${name}[${i}]: ${a[name]![i]} and ${b[name]![i]}`
  }
  return 'a NaN or the set of outputs differs'
}

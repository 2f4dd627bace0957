import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { type Device, type DropoutKey, type EncoderConfig, openDevice, type Parameters, type TokenBatch } from '../../lib/native.js'
import { availableIsas, availableLowTypes, type CudaWays, cudaLibrary, openCuda, openIsa } from './devices.js'
import type { Storage } from './spec.js'

type Numbers = Float32Array | Int32Array | Uint32Array | BigUint64Array
const types = { F32: Float32Array, I32: Int32Array, U32: Uint32Array, U64: BigUint64Array } as const

/** How far a float32 run may be from a float64 one: what PyTorch's own float32 run was off by. */
interface TorchError {
  /** largest absolute difference */
  max: number
  /** L2 norm of the difference */
  l2: number
}

export interface GoldenMeta {
  config: EncoderConfig
  /** dropout key; the seed as decimal digits */
  key?: { seed: string; step: number }
  scalars: Record<string, { value: number; error: number; bf16Error?: number }>
  errors: Record<string, TorchError>
  /** of the same module in bfloat16; goldens of the encoder and of RetroMAE have them */
  bf16Errors?: Record<string, TorchError>
  [other: string]: unknown
}

export const fixtures: string = join(import.meta.dirname, '../fixtures/torch')

/** A file made by test/fixtures/torch/make_*.py: inputs, float64 results rounded to float32, and PyTorch's float32 error beside each. */
export class Golden {
  readonly meta: GoldenMeta
  readonly names: readonly string[]
  readonly #tensors = new Map<string, Numbers>()

  constructor(file: string) {
    const bytes = readFileSync(join(fixtures, file))
    const start = 8 + Number(bytes.readBigUInt64LE(0))
    const { __metadata__: metadata, ...entries } = JSON.parse(bytes.toString('utf8', 8, start))
    this.meta = metadata ? JSON.parse(metadata.json) : {}
    for (const [name, entry] of Object.entries<{ dtype: keyof typeof types; data_offsets: [number, number] }>(entries)) {
      const [from, to] = entry.data_offsets
      const copy = Uint8Array.from(bytes.subarray(start + from, start + to)) // a typed array must begin at a multiple of its item size
      this.#tensors.set(name, new types[entry.dtype](copy.buffer))
    }
    this.names = [...this.#tensors.keys()]
  }

  floats(name: string): Float32Array {
    return this.#get(name, Float32Array)
  }
  ints(name: string): Int32Array {
    return this.#get(name, Int32Array)
  }
  words(name: string): BigUint64Array {
    return this.#get(name, BigUint64Array)
  }

  /** Tokens by the names the encoder scripts use. */
  batch(ids: string): TokenBatch & { rows: Int32Array; stream: Uint32Array } {
    return { ids: this.ints(ids), cuSeqlens: this.ints('cuSeqlens'), stream: this.#get('stream', Uint32Array), rows: this.ints('rows') }
  }

  get dropoutKey(): DropoutKey | undefined {
    const { key } = this.meta
    return key && { seed: BigInt(key.seed), step: key.step }
  }

  #get<T extends Numbers>(name: string, type: new (buffer: ArrayBuffer) => T): T {
    const values = this.#tensors.get(name)
    if (!(values instanceof type)) throw new Error(`the golden has no ${type.name} "${name}"`)
    return values
  }
}

/** Our values against a golden: `factor` times PyTorch's error in the device's storage type is allowed, by the largest difference and by the L2 norm. */
export class Comparison {
  readonly #golden: Golden
  readonly #failures: string[] = []
  readonly #storage: Storage
  readonly #errors: Record<string, TorchError>

  constructor(golden: Golden, storage: Storage = 'f32') {
    this.#golden = golden
    this.#storage = storage
    const errors = storage === 'bf16' ? golden.meta.bf16Errors : golden.meta.errors
    if (!errors) throw new Error(`the golden has no errors of PyTorch in ${storage}`)
    this.#errors = errors
  }

  tensor(name: string, ours: Float32Array, factor: number): void {
    const exact = this.#golden.floats(name)
    const torch = this.#errors[name]!
    if (ours.length !== exact.length) return void this.#failures.push(`${name}: ${ours.length} values instead of ${exact.length}`)
    let [max, sum, largest, norm] = [0, 0, 0, 0]
    for (let i = 0; i < exact.length; i++) {
      const difference = Math.abs(ours[i]! - exact[i]!)
      max = difference > max || Number.isNaN(difference) ? difference : max
      sum += difference ** 2
      largest = Math.max(largest, Math.abs(exact[i]!))
      norm += exact[i]! ** 2
    }
    // Floors, for tensors on which PyTorch happened to be almost exact: one ulp of the largest value, half an ulp of the norm.
    const ulp = this.#storage === 'bf16' ? 2 ** -8 : 2 ** -23
    let floor: TorchError = { max: largest * ulp, l2: (Math.sqrt(norm) * ulp) / 2 }
    if (name.startsWith('grad.') && name.endsWith('self.key.bias')) {
      // Softmax ignores a shift of all scores of a row, so this gradient is 0 and both sides hold nothing but the rounding of sums that cancel.
      // The key weight's gradient, (C, C), is a sum of the same terms times hidden values of about 1.
      const weight = this.#errors[name.replace(/bias$/, 'weight')]!
      floor = { max: weight.max, l2: weight.l2 / Math.sqrt(exact.length) }
    }
    this.#check(`${name} (largest difference)`, max, torch.max, floor.max, factor)
    this.#check(`${name} (L2)`, Math.sqrt(sum), torch.l2, floor.l2, factor)
  }

  /** `floor`: the rounding that no float32 implementation can avoid. */
  scalar(name: string, ours: number, floor: number, factor: number): void {
    const { value, error, bf16Error } = this.#golden.meta.scalars[name]!
    const torch = this.#storage === 'bf16' ? (bf16Error ?? 0) : error
    this.#check(`${name} = ${value}`, Math.abs(ours - value), torch, floor, factor)
  }

  value(name: string, ours: number, exact: number, torchError: number, floor: number, factor: number): void {
    this.#check(`${name} = ${exact}`, Math.abs(ours - exact), torchError, floor, factor)
  }

  #check(what: string, ours: number, torch: number, floor: number, factor: number): void {
    if (!(ours <= factor * Math.max(torch, floor))) {
      this.#failures.push(
        `${what}: our error ${ours.toExponential(2)} is more than ${factor} x PyTorch's ${torch.toExponential(2)} (floor ${floor.toExponential(2)})`,
      )
    }
  }

  done(): void {
    if (this.#failures.length > 0) throw new Error(this.#failures.join('\n'))
  }
}

/** A CPU device for each instruction set that this machine can run. */
export async function cpuDevices(): Promise<Map<string, Device>> {
  const found = new Map<string, Device>()
  for (const isa of await availableIsas()) found.set(isa, await openIsa(isa, 2))
  return found
}

/** These; the CPU with products in bf16, where it can; and, where its library has been built, the CUDA device (or its emulator). */
export async function devices(ways?: CudaWays): Promise<Map<string, Device>> {
  const found = await cpuDevices()
  if ((await availableLowTypes()).includes('bf16')) found.set('cpu bf16', await openDevice({ device: 'cpu', threads: 2, dtype: 'bf16' }))
  if (cudaLibrary) found.set('cuda', await openCuda(ways))
  return found
}

/** What a model on a device is compared with: PyTorch in bfloat16 where linear layers multiply in it. */
export const storageOf = (device: Device): Storage => (device.dtype === 'bf16' ? 'bf16' : 'f32')

const weights = new Golden('weights.safetensors')

/** Writes the committed weights (make_weights.py) into modules. */
export async function loadGoldenWeights(...modules: readonly { parameters: Parameters }[]): Promise<void> {
  for (const { parameters } of modules) for (const { name } of parameters.list) await parameters.write(name, weights.floats(name))
}

/** Names of all committed weights. */
export const weightNames: readonly string[] = weights.names

/** Compares the gradients of `modules` with the golden's `grad.*`. */
export async function compareGradients(comparison: Comparison, ...modules: readonly { parameters: Parameters }[]): Promise<void> {
  for (const { parameters } of modules)
    for (const { name } of parameters.list) comparison.tensor(`grad.${name}`, await parameters.gradient(name), 3)
}

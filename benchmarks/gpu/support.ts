import { normals } from '../../lib/model/random.js'
import type { Device, Encoder, EnhancedDecoder, MlmHead } from '../../lib/native.js'
import type { Answer, Sizes } from './cases.js'

/** One section made ready: it is measured once per turn and closed before the next section. */
export interface Prepared {
  measure(): Promise<Answer>
  close(): void
}
export type Section<Name> = (sizes: Extract<Sizes, { section: Name }>, device: Device) => Promise<Prepared>

/** A prime, so that no row of a matrix repeats at a round distance. */
const BLOCK = 1_048_573
const blocks = new Map<number, Float32Array>()

/** n normal numbers of standard deviation `scale`, repeating after a million or so. `start`: another stretch of them; `seed`: others. Never zeros. */
export function noise(n: number, scale = 1, start = 0, seed = 1): Float32Array {
  const block = blocks.get(seed) ?? normals(BLOCK, 1, seed, 'benchmarks/gpu')
  blocks.set(seed, block)
  const values = new Float32Array(n)
  for (let i = 0, at = start % BLOCK; i < n; at = 0) {
    const part = block.subarray(at, Math.min(BLOCK, at + n - i))
    values.set(part, i)
    i += part.length
  }
  if (scale !== 1) for (let i = 0; i < n; i++) values[i]! *= scale
  return values
}

/** N(0, 0.02) everywhere, LayerNorm weights around 1: fast, not BERT's initialisation to the bit. */
export async function randomise(...modules: readonly (Encoder | MlmHead | EnhancedDecoder)[]): Promise<void> {
  let start = 0
  for (const { parameters } of modules) {
    for (const { name, shape } of parameters.list) {
      const values = noise(
        shape.reduce((a, b) => a * b, 1),
        0.02,
        (start += 7919),
      )
      if (name.endsWith('LayerNorm.weight')) for (let i = 0; i < values.length; i++) values[i]! += 1
      await parameters.write(name, values)
    }
  }
}

/** Seconds of runs of `work`, from a quiet device to a quiet device, on the host's clock. */
export async function timed(
  device: Device,
  sizes: Sizes,
  work: () => Promise<unknown>,
  before?: () => Promise<unknown>,
): Promise<number[]> {
  const seconds: number[] = []
  const { warmups, repeat, budget } = sizes
  let spent = 0
  for (let i = -warmups; i < repeat && (i < Math.min(3, repeat) || spent < budget); i++) {
    await before?.()
    await device.synchronize()
    const start = performance.now()
    await work()
    await device.synchronize()
    const s = (performance.now() - start) / 1000
    if (i >= 0) {
      seconds.push(s)
      spent += s
    }
  }
  return seconds
}

/** Runs every variant; one that fails is named with its error and the others go on. */
export async function eachVariant(variants: Record<string, (facts: Record<string, unknown>) => Promise<number[]>>): Promise<Answer> {
  const answer: Answer = { seconds: {}, facts: {}, errors: {} }
  for (const [name, run] of Object.entries(variants)) {
    try {
      answer.seconds[name] = await run(answer.facts)
    } catch (error) {
      answer.errors[name] = error instanceof Error ? error.message : String(error)
    }
  }
  return answer
}

export function percentile(values: readonly number[], p: number): number {
  const sorted = [...values].sort((a, b) => a - b)
  return sorted[Math.min(sorted.length - 1, Math.ceil(p * sorted.length) - 1)]!
}

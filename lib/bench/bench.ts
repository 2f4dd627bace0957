import { buildTokenBatch, packBatches } from '../data/batch.js'
import { random } from '../data/random.js'
import { BgeError } from '../errors.js'
import { defaultMicroBatchTokens } from '../model/model.js'
import { initialiseParameters } from '../model/parameters.js'
import { type ModelSize, presetConfig } from '../model/config.js'
import { type Device, type DeviceOptions, type Dtype, type Encoder, openDevice } from '../native.js'

/** Chinese BERT's vocabulary. */
const VOCABULARY = 21_128
const [CLS, SEP] = [101, 102]

/** Of `bench`. */
export interface BenchOptions {
  /** layers x width: tiny 2x128, small 4x512, base 12x768, large 24x1024. Default small */
  size?: ModelSize
  /** default: what the device computes in */
  dtype?: Dtype
  device?: string
  threads?: number
  /** of each measurement. Default 3 */
  seconds?: number
  signal?: AbortSignal
}

/** How fast a device encodes. */
export interface BenchResult {
  readonly device: string
  readonly size: ModelSize
  /** one text of 16 tokens: milliseconds of a call, half and all but one in a hundred of the calls below */
  readonly query: { readonly p50: number; readonly p99: number }
  /** 32 texts of 128 tokens, and texts of mixed lengths (log-normal, median 60, at most 512): texts and tokens a second */
  readonly batch: Throughput
  readonly mixed: Throughput
  /** bytes that the device held at most */
  readonly memory: number
}

interface Throughput {
  readonly textsPerSecond: number
  readonly tokensPerSecond: number
}

/**
 * How fast this machine encodes: random weights and random tokens of a released size, no tokenizer and no files, so that two machines can be compared.
 * Errors: ERR_BGE_DEVICE_UNAVAILABLE, ERR_BGE_OOM, the signal's reason.
 */
export async function bench(options: BenchOptions = {}): Promise<BenchResult> {
  const { size = 'small', seconds = 3, signal, dtype, threads, device: kind = 'auto' } = options
  const open: DeviceOptions = { device: kind, ...(dtype && { dtype }), ...(threads !== undefined && { threads }) }
  const device = await openDevice(open)
  try {
    const { source: _, ...shape } = presetConfig(size, VOCABULARY)
    const encoder = device.encoder({ ...shape, pooling: 'cls', normalize: true })
    await initialiseParameters(encoder, 42)
    const draws = random(42, 'bench')
    const text = (tokens: number): Int32Array =>
      Int32Array.from({ length: tokens }, (_, i) => (i === 0 ? CLS : i === tokens - 1 ? SEP : 670 + draws.int(7000)))
    const query = await latency(encoder, text(16), seconds, signal)
    const tokens = defaultMicroBatchTokens[device.kind]
    const batch = await throughput(
      encoder,
      tokens,
      Array.from({ length: 32 }, () => text(128)),
      seconds,
      signal,
    )
    const mixed = await throughput(encoder, tokens, mixedLengths(256, () => draws.int(2 ** 32) / 2 ** 32).map(text), seconds, signal)
    return { device: device.description, size, query, batch, mixed, memory: peak(device) }
  } finally {
    device.dispose()
  }
}

/** Log-normal, median 60, sigma 0.8, 4 to 512. */
function mixedLengths(count: number, uniform: () => number): number[] {
  return Array.from({ length: count }, () => {
    const normal = Math.sqrt(-2 * Math.log(1 - uniform())) * Math.cos(2 * Math.PI * uniform())
    return Math.min(512, Math.max(4, Math.round(60 * Math.exp(0.8 * normal))))
  })
}

async function latency(encoder: Encoder, ids: Int32Array, seconds: number, signal: AbortSignal | undefined): Promise<BenchResult['query']> {
  const batch = buildTokenBatch([ids], [0])
  const times: number[] = []
  const call = async (): Promise<void> => {
    signal?.throwIfAborted()
    const start = performance.now()
    const tensor = await encoder.embed(batch)
    await tensor.toArray()
    times.push(performance.now() - start)
    tensor.dispose()
  }
  for (let i = 0; i < 5; i++) await call() // weights are packed, memory is taken
  times.length = 0
  for (const end = performance.now() + 1000 * seconds; performance.now() < end || times.length < 20; ) await call()
  times.sort((a, b) => a - b)
  return { p50: times[Math.floor(times.length / 2)]!, p99: times[Math.min(times.length - 1, Math.floor(0.99 * times.length))]! }
}

async function throughput(
  encoder: Encoder,
  microBatchTokens: number,
  texts: readonly Int32Array[],
  seconds: number,
  signal: AbortSignal | undefined,
): Promise<Throughput> {
  const lengths = texts.map((ids) => ids.length)
  const batches = packBatches(lengths, microBatchTokens).map((indices) => buildTokenBatch(texts, indices))
  const pass = async (): Promise<void> => {
    for (const batch of batches) {
      signal?.throwIfAborted()
      const tensor = await encoder.embed(batch)
      await tensor.toArray()
      tensor.dispose()
    }
  }
  await pass()
  let passes = 0
  const start = performance.now()
  while (passes === 0 || performance.now() - start < 1000 * seconds) {
    await pass()
    passes++
  }
  const elapsed = (performance.now() - start) / 1000
  const tokens = lengths.reduce((sum, length) => sum + length, 0)
  return { textsPerSecond: (passes * texts.length) / elapsed, tokensPerSecond: (passes * tokens) / elapsed }
}

function peak(device: Device): number {
  const { allocated } = device.memory()
  if (!(allocated > 0)) throw new BgeError('ERR_BGE_INTERNAL', 'a device that has encoded must hold memory, but says 0 bytes')
  return allocated
}

// Our encoder against PyTorch eager fp32 on the same weights and tokens, run in turns (A B A B ...), so that both see the same machine.
//   BGE_PYTHON=python3 npm run bench -- encoder-vs-torch [--models small,base] [--repeats 7] [--threads N] [--train] [--out NAME]
// BGE_PYTHON: an interpreter with torch, transformers and safetensors. ratio > 1: we are faster.
import { type ChildProcessWithoutNullStreams, spawn } from 'node:child_process'
import { mkdtemp, rm } from 'node:fs/promises'
import { availableParallelism, tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { setTimeout as pause } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { buildTokenBatch } from '../lib/data/batch.js'
import { type Random, random } from '../lib/data/random.js'
import { presetConfig } from '../lib/model/config.js'
import { initialiseParameters } from '../lib/model/parameters.js'
import { writeSafetensors } from '../lib/model/safetensors.js'
import { type Device, type DropoutKey, type Encoder, type EncoderConfig, openDevice } from '../lib/native.js'
import { gradCache } from '../lib/train/gradcache.js'
import { checkoutFile, machineFacts, median, writeResults } from './support.js'

const vocabulary = 21128
const [sequences, length] = [32, 128]
const [pairs, queryLength, temperature] = [64, 32, 0.02]

interface Timing {
  /** seconds */
  ours: number[]
  torch: number[]
}

interface Result {
  name: string
  /** median seconds */
  ours: number
  torch: number
  /** torch / ours */
  ratio: number
  runs: Timing
  [correctness: string]: unknown
}

/** A child process that answers one JSON line with one JSON line. */
class Peer {
  readonly #child: ChildProcessWithoutNullStreams
  readonly #lines: AsyncIterator<string>
  constructor(python: string, options: unknown) {
    this.#child = spawn(python, [checkoutFile('benchmarks/peers/torch_encoder.py'), JSON.stringify(options)])
    this.#child.stderr.pipe(process.stderr)
    this.#lines = createInterface(this.#child.stdout)[Symbol.asyncIterator]()
  }
  async answer<T>(): Promise<T> {
    const { value, done } = await this.#lines.next()
    if (done) throw new Error('the PyTorch process ended without an answer; its error is above')
    return JSON.parse(value) as T
  }
  ask<T>(command: unknown): Promise<T> {
    this.#child.stdin.write(`${JSON.stringify(command)}\n`)
    return this.answer()
  }
  close(): void {
    this.#child.stdin.end()
  }
}

const { values: args } = parseArgs({
  options: {
    models: { type: 'string', default: 'small,base' },
    repeats: { type: 'string', default: '7' },
    threads: { type: 'string', default: String(availableParallelism()) },
    train: { type: 'boolean', default: false },
    out: { type: 'string' },
  },
  allowPositionals: true,
})
const [repeats, threads] = [Number(args.repeats), Number(args.threads)]
const python = process.env.BGE_PYTHON
if (python) await main(python)
else console.log('encoder-vs-torch: skipped, BGE_PYTHON does not name a Python with torch and transformers')

async function main(python: string): Promise<void> {
  const device = await openDevice({ device: 'cpu', threads })
  const results: Result[] = []
  let versions: unknown
  for (const name of args.models.split(',')) {
    if (name !== 'tiny' && name !== 'small' && name !== 'base' && name !== 'large') throw new Error(`--models: unknown model "${name}"`)
    const { source: _, ...shape } = presetConfig(name, vocabulary)
    const config: EncoderConfig = { ...shape, pooling: 'cls', normalize: true }
    const encoder = device.encoder(config)
    await initialiseParameters(encoder, 1)
    const folder = await mkdtemp(join(tmpdir(), 'bge-bench-'))
    const weights = join(folder, 'model.safetensors')
    const { parameters } = encoder
    await writeSafetensors(
      weights,
      parameters.list.map((p) => ({ name: p.name, shape: p.shape, read: () => parameters.read(p.name) })),
    )
    const peer = new Peer(python, { config, weights, threads })
    try {
      versions = await peer.answer()
      results.push(await encode(name, encoder, peer))
      report(results.at(-1)!)
      if (args.train && name !== 'base' && name !== 'large') {
        results.push(await train(name, device, encoder, peer))
        report(results.at(-1)!)
      }
    } finally {
      peer.close()
      encoder.dispose()
      await rm(folder, { recursive: true })
    }
  }
  if (args.out)
    console.log(`written to ${await writeResults(args.out, { machine: machineFacts(device), threads, peer: versions, results })}`)
  device.dispose()
}

async function encode(name: string, encoder: Encoder, peer: Peer): Promise<Result> {
  const draw = random(1, `encoder-vs-torch ${name}`)
  const ids = texts(draw, sequences, length)
  const command = { op: 'embed', ids: ids.map((row) => [...row]) }
  const batch = buildTokenBatch(ids, [...ids.keys()])
  const ours = async (): Promise<Float32Array> => {
    const embeddings = await encoder.embed(batch)
    try {
      return await embeddings.toArray()
    } finally {
      embeddings.dispose()
    }
  }
  const exact = await peer.ask<{ embeddings: number[][] }>({ ...command, values: true })
  const correctness = compare(await ours(), exact.embeddings)
  const runs = await inTurns(
    () => timed(ours),
    async () => (await peer.ask<{ seconds: number }>(command)).seconds,
  )
  return summary(`encode ${name}, ${sequences} x ${length} tokens`, runs, {
    sequencesPerSecond: sequences / median(runs.ours),
    ...correctness,
  })
}

async function train(name: string, device: Device, encoder: Encoder, peer: Peer): Promise<Result> {
  const draw = random(2, `encoder-vs-torch ${name}`)
  const [queries, passages] = [texts(draw, pairs, queryLength), texts(draw, pairs, length)]
  const command = { op: 'train', temperature, queries: queries.map((row) => [...row]), passages: passages.map((row) => [...row]) }
  const adamW = device.adamW([encoder])
  const microBatchTokens = pairs * (queryLength + length) // all at once: what PyTorch does too
  const step = async (learningRate: number, key?: DropoutKey): Promise<number> => {
    const { loss } = await gradCache(
      encoder,
      device,
      [queries, passages],
      async ([Q, P]) => {
        const { loss, dQ, dP } = await device.contrastive(Q!, P!, { temperature })
        return { loss, gradients: [dQ, dP] }
      },
      { microBatchTokens, ...(key && { key }) },
    )
    await adamW.step(learningRate, 1)
    return loss
  }
  const loss = await step(0)
  const torch = await peer.ask<{ loss: number }>({ ...command, dropout: false, learningRate: 0 })
  let number = 0
  const runs = await inTurns(
    () => timed(() => step(1e-5, { seed: 1n, step: number++ })),
    async () => (await peer.ask<{ seconds: number }>({ ...command, dropout: true, learningRate: 1e-5 })).seconds,
  )
  adamW.dispose()
  return summary(`training step ${name}, ${pairs} pairs (${queryLength} + ${length} tokens), dropout`, runs, {
    loss,
    torchLoss: torch.loss,
  })
}

/** One run of each to warm up, then `repeats` pairs. The pause lets the other side's spinning threads go to sleep. */
async function inTurns(ours: () => Promise<number>, torch: () => Promise<number>): Promise<Timing> {
  const runs: Timing = { ours: [], torch: [] }
  for (let i = -1; i < repeats; i++) {
    for (const [side, run] of [
      ['ours', ours],
      ['torch', torch],
    ] as const) {
      await pause(50)
      const seconds = await run()
      if (i >= 0) runs[side].push(seconds)
    }
  }
  return runs
}

async function timed(work: () => Promise<unknown>): Promise<number> {
  const start = performance.now()
  await work()
  return (performance.now() - start) / 1000
}

function texts(draw: Random, count: number, tokens: number): Int32Array[] {
  return Array.from({ length: count }, () => Int32Array.from({ length: tokens }, () => 1 + draw.int(vocabulary - 1)))
}

function compare(ours: Float32Array, exact: number[][]): { maxDifference: number; minCosine: number } {
  let [maxDifference, minCosine] = [0, 1]
  const width = exact[0]!.length
  for (const [n, row] of exact.entries()) {
    let [dot, a, b] = [0, 0, 0]
    for (const [i, y] of row.entries()) {
      const x = ours[n * width + i]!
      maxDifference = Math.max(maxDifference, Math.abs(x - y))
      dot += x * y
      a += x * x
      b += y * y
    }
    minCosine = Math.min(minCosine, dot / Math.sqrt(a * b))
  }
  return { maxDifference, minCosine }
}

function summary(name: string, runs: Timing, correctness: Record<string, unknown>): Result {
  const [ours, torch] = [median(runs.ours), median(runs.torch)]
  return { name, ours, torch, ratio: torch / ours, ...correctness, runs }
}

function report({ name, ours, torch, ratio, runs: _, ...correctness }: Result): void {
  console.log(
    `${name}: ours ${(ours * 1000).toFixed(1)} ms, PyTorch ${(torch * 1000).toFixed(1)} ms, ratio ${ratio.toFixed(2)}  ${JSON.stringify(correctness)}`,
  )
}

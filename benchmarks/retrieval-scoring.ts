// Scoring of a retrieval task, vectors given: our search and measures against mteb's, a process each, in turns (A B A B ...).
//   BGE_PYTHON=python3 npm run bench -- retrieval-scoring [--documents 100000] [--queries 22000] [--dims 512] [--repeats 3] [--threads N] [--out NAME]
// BGE_PYTHON: an interpreter with mteb 2.20 (and with it torch and pytrec_eval). Without it our side runs alone. ratio > 1: we are faster.
import { spawn } from 'node:child_process'
import { closeSync, openSync, readFileSync, writeSync } from 'node:fs'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { availableParallelism, loadavg, tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { type Random, random } from '../lib/data/random.js'
import { evaluateRetrieval } from '../lib/eval/evaluators.js'
import type { Embedder } from '../lib/model/embedder.js'
import { openDevice } from '../lib/native.js'
import { checkoutFile, machineFacts, median, writeResults } from './support.js'

/** Relevant documents of a query, and how near it lies to the first of them: enough to be found at ranks from 1 to about 1000. */
const [RELEVANT, NEARNESS] = [5, 0.2]

interface Options {
  folder: string
  documents: number
  queries: number
  dims: number
  relevant: number
  threads: number
}

/** What a process reports. Bytes: peak of its resident memory, and what it was before the work began. */
interface Report {
  seconds: number
  peakBytes: number
  loadedBytes: number
  scores: Record<string, number>
  [more: string]: unknown
}

const { values: args } = parseArgs({
  options: {
    documents: { type: 'string', default: '100000' },
    queries: { type: 'string', default: '22000' },
    dims: { type: 'string', default: '512' },
    repeats: { type: 'string', default: '3' },
    threads: { type: 'string', default: String(availableParallelism()) },
    out: { type: 'string' },
    ours: { type: 'string' }, // the options of a child process
  },
  allowPositionals: true,
})
if (args.ours !== undefined) process.stdout.write(`${JSON.stringify(await ours(JSON.parse(args.ours) as Options))}\n`)
else await main()

async function main(): Promise<void> {
  const folder = await mkdtemp(join(tmpdir(), 'bge-scoring-'))
  try {
    const [documents, queries, dims, threads] = [args.documents, args.queries, args.dims, args.threads].map(Number) as [
      number,
      number,
      number,
      number,
    ]
    const options: Options = { folder, documents, queries, dims, relevant: RELEVANT, threads }
    await writeVectors(options)
    const python = process.env.BGE_PYTHON
    const sides: [string, string, string[]][] = [
      ['ours', process.execPath, [checkoutFile('benchmarks/run.mjs'), 'retrieval-scoring', '--ours', JSON.stringify(options)]],
    ]
    if (python) sides.push(['mteb', python, [checkoutFile('benchmarks/peers/retrieval_scoring.py'), JSON.stringify(options)]])
    else console.log('retrieval-scoring: ours alone, BGE_PYTHON does not name a Python with mteb')
    const runs: Record<string, (Report & { load: number })[]> = { ours: [], mteb: [] }
    for (let i = 0; i < Number(args.repeats); i++) {
      for (const [side, program, argv] of sides) {
        const load = loadavg()[0]!
        const result = await report(program, argv)
        runs[side]!.push({ ...result, load })
        console.log(
          `${side}: ${result.seconds.toFixed(1)} s, peak ${(result.peakBytes / 2 ** 30).toFixed(2)} GiB, load before ${load.toFixed(2)}`,
        )
      }
    }
    const summary = Object.fromEntries(
      Object.entries(runs)
        .filter(([, all]) => all.length > 0)
        .map(([side, all]) => [
          side,
          {
            seconds: median(all.map((run) => run.seconds)),
            peakBytes: median(all.map((run) => run.peakBytes)),
            loadedBytes: median(all.map((run) => run.loadedBytes)),
          },
        ]),
    )
    const [mine, theirs] = [runs.ours![0]!, runs.mteb![0]]
    const comparison = theirs && {
      ratio: summary.mteb!.seconds / summary.ours!.seconds,
      memoryRatio: summary.mteb!.peakBytes / summary.ours!.peakBytes,
      largestDifference: largestDifference(mine.scores, theirs.scores),
    }
    console.log(JSON.stringify({ ...summary, ...comparison }))
    if (args.out) {
      const device = await openDevice({ device: 'cpu', threads })
      const { folder: _, ...sizes } = options
      const content = { machine: machineFacts(device), ...sizes, nearness: NEARNESS, summary, ...comparison, runs }
      device.dispose()
      console.log(`written to ${await writeResults(args.out, content)}`)
    }
  } finally {
    await rm(folder, { recursive: true })
  }
}

function largestDifference(ours: Report['scores'], theirs: Report['scores']): { metric: string; difference: number } {
  let largest = { metric: '', difference: -1 }
  for (const [metric, value] of Object.entries(theirs)) {
    const difference = Math.abs(value - (ours[metric] ?? Number.NaN))
    if (Number.isNaN(difference)) throw new Error(`${metric} is ${ours[metric]} here, but ${value} there`)
    if (difference > largest.difference) largest = { metric, difference }
  }
  return largest
}

/** Unit vectors of normal deviates; a query is one of those plus NEARNESS times its first relevant document, normalised. */
async function writeVectors({ folder, documents, queries, dims, relevant }: Options): Promise<void> {
  const draw = random(1, 'retrieval-scoring')
  const unit = (toward?: Float32Array): Float32Array => {
    const row = Float32Array.from({ length: dims }, () => normal(draw))
    const scale = (values: Float32Array): void => {
      const norm = Math.hypot(...values)
      for (let j = 0; j < dims; j++) values[j]! /= norm
    }
    scale(row)
    if (toward === undefined) return row
    for (let j = 0; j < dims; j++) row[j]! += NEARNESS * toward[j]!
    scale(row)
    return row
  }
  const write = (name: string, count: number, toward?: (row: number) => Float32Array): void => {
    const file = openSync(join(folder, name), 'w')
    for (let i = 0; i < count; i++) writeSync(file, unit(toward?.(i)))
    closeSync(file)
  }
  const judged = Int32Array.from(
    { length: queries * relevant },
    (_, i) => (Math.floor(i / relevant) * 37 + (i % relevant) * 4513) % documents,
  )
  await writeFile(join(folder, 'relevant.i32'), judged)
  write('documents.f32', documents)
  const all = readFloats(join(folder, 'documents.f32'))
  write('queries.f32', queries, (q) => all.subarray(judged[q * relevant]! * dims, (judged[q * relevant]! + 1) * dims))
}

/** Box and Muller 1958, the cosine half */
function normal(draw: Random): number {
  const uniform = (): number => (draw.next() + 0.5) / 2 ** 32
  return Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform())
}

function readFloats(file: string): Float32Array {
  const bytes = readFileSync(file)
  return new Float32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4)
}

/** The evaluator that `bge eval` uses, on a model that knows the vectors. */
async function ours({ folder, documents, queries, dims, relevant, threads }: Options): Promise<Report> {
  const vectors = { d: readFloats(join(folder, 'documents.f32')), q: readFloats(join(folder, 'queries.f32')) }
  const bytes = readFileSync(join(folder, 'relevant.i32'))
  const judged = new Int32Array(bytes.buffer, bytes.byteOffset, queries * relevant)
  const names = (letter: string, count: number): Map<string, string> =>
    new Map(Array.from({ length: count }, (_, i) => [`${letter}${i}`, `${letter}${i}`]))
  const qrels = new Map(
    Array.from({ length: queries }, (_, q) => [
      `q${q}`,
      new Map(Array.from(judged.subarray(q * relevant, (q + 1) * relevant), (d) => [`d${d}`, 1] as const)),
    ]),
  )
  const embedder: Embedder = {
    dims,
    async encode(texts) {
      const data = new Float32Array(texts.length * dims)
      for (const [n, text] of texts.entries()) {
        const row = Number(text.slice(1))
        data.set(vectors[text[0] as 'd' | 'q'].subarray(row * dims, (row + 1) * dims), n * dims)
      }
      return { data }
    },
  }
  const device = await openDevice({ device: 'cpu', threads })
  const loadedBytes = process.resourceUsage().maxRSS * 1024
  const start = performance.now()
  const { scores } = await evaluateRetrieval(
    embedder,
    { corpus: names('d', documents), queries: names('q', queries), qrels },
    {
      instruction: '',
      device,
      encode: {},
      rules: { dialect: 'mteb2', sklearn: '1.9', identicalIds: 'keep', experiments: 10, samplesPerLabel: 32 },
    },
  )
  const seconds = (performance.now() - start) / 1000
  device.dispose()
  return { seconds, loadedBytes, peakBytes: process.resourceUsage().maxRSS * 1024, scores: { ...scores } }
}

function report(program: string, argv: string[]): Promise<Report> {
  return new Promise((resolve, reject) => {
    const child = spawn(program, argv, { stdio: ['ignore', 'pipe', 'inherit'] })
    let text = ''
    child.stdout.setEncoding('utf8').on('data', (part: string) => {
      text += part
    })
    child.on('error', reject)
    child.on('close', (code) => {
      if (code === 0) resolve(JSON.parse(text.trim().split('\n').at(-1)!) as Report)
      else reject(new Error(`${program} ended with ${code}; its error is above`))
    })
  })
}

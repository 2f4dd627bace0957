// InfoNCE, forward and backward, at growing batches: ours beside plain PyTorch that makes the B x B scores, on the same rows and threads.
//   BGE_PYTHON=python3 npm run bench -- infonce [--sizes 2048x512,2048x768,8192x512,19200x512] [--dtypes fp32,bf16] [--repeats 3] [--threads N]
//                                               [--out infonce]
// A process per trial, ours and PyTorch's in turns; medians over the trials' medians. Memory is that of the whole process at its highest while
// it computes ("peak"), and what of it came on top of the process that holds q and p ("added"). At up to 4,096 rows gradients are compared with
// float64. BGE_PYTHON: an interpreter with torch; without it our side runs alone. 19,200 x 512 takes 6 GB.
import { spawn } from 'node:child_process'
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { availableParallelism, tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { random } from '../lib/data/random.js'
import { multiplyFloat64, openDevice } from '../lib/native.js'
import { checkoutFile, fmaPeak, machineFacts, median, writeResults } from './support.js'

const TEMPERATURE = 0.02
const MOST_CHECKED = 4096

interface Trial {
  q: string
  p: string
  batch: number
  width: number
  temperature: number
  threads: number
  dtype: 'fp32' | 'bf16'
  runs: number
  /** rows of a run that is not timed, for the threads and the code to be there */
  warm: number
  /** file for dQ and dP of the last run */
  gradients?: string
}

/** seconds of each run, bytes before the runs and at their highest */
interface Answer {
  seconds: number[]
  loss: number
  before: number
  peak: number
  version?: string
}

const { values: args } = parseArgs({
  options: {
    sizes: { type: 'string', default: '2048x512,2048x768,8192x512,19200x512' },
    dtypes: { type: 'string', default: 'fp32' },
    repeats: { type: 'string', default: '3' },
    threads: { type: 'string', default: String(availableParallelism()) },
    out: { type: 'string' },
  },
  allowPositionals: true,
})
await main()

async function main(): Promise<void> {
  const [repeats, threads, python] = [Number(args.repeats), Number(args.threads), process.env['BGE_PYTHON']]
  const dtypes = args.dtypes.split(',').map((dtype) => {
    if (dtype !== 'fp32' && dtype !== 'bf16') throw new Error(`--dtypes: fp32 or bf16, not "${dtype}"`)
    return dtype
  })
  const device = await openDevice({ device: 'cpu', threads })
  const machine = machineFacts(device)
  device.dispose()
  const peak = fmaPeak(threads)
  const folder = await mkdtemp(join(tmpdir(), 'bge-infonce-'))
  const results: object[] = []
  let peer: string | undefined
  if (!python) console.error('infonce: PyTorch is left out, BGE_PYTHON does not name a Python with torch')
  try {
    for (const size of args.sizes.split(',')) {
      const [batch, width] = size.split('x').map(Number)
      if (!batch || !width) throw new Error(`--sizes: a batch and a width as in 2048x512, not "${size}"`)
      const [q, p] = [join(folder, 'q'), join(folder, 'p')]
      const rows = pairs(batch, width)
      await writeFile(q, rows.q)
      await writeFile(p, rows.p)
      const checked = batch <= MOST_CHECKED
      const truth = checked ? await exact(rows.q, rows.p, width) : undefined
      for (const dtype of dtypes) {
        const trial: Trial = {
          ...{ q, p, batch, width, temperature: TEMPERATURE, threads, dtype },
          ...{ runs: checked ? 5 : 1, warm: Math.min(batch, 1024) },
          ...(checked && { gradients: join(folder, 'gradients') }),
        }
        const sides = { ours: [] as Answer[], ...(python && { torch: [] as Answer[] }) }
        const errors: Record<string, number> = {}
        for (let i = 0; i < repeats; i++) {
          for (const [side, answers] of Object.entries(sides)) {
            const command =
              side === 'ours'
                ? [process.execPath, '--expose-gc', checkoutFile('benchmarks/peers/ours_infonce.mjs')]
                : [python!, checkoutFile('benchmarks/peers/torch_infonce.py')]
            answers.push(await run(command, trial))
            if (truth) errors[side] = await gradientError(trial.gradients!, truth)
          }
        }
        peer = sides.torch?.[0]?.version ?? peer
        const result = summary(trial, sides, errors)
        results.push(result)
        console.log(line(result))
      }
    }
  } finally {
    await rm(folder, { recursive: true })
  }
  if (args.out) {
    const goals = { '19200x512 fp32': { ratio: 1.9, aim: 2.2, memory: 10, memoryAim: 25 }, '19200x512 bf16': { ratioToFp32: 4 } }
    console.log(
      `written to ${await writeResults(args.out, { machine, threads, peakGflops: peak, peer, temperature: TEMPERATURE, goals, results })}`,
    )
  }
}

/** Rows of length 1; each passage leans towards its query so far that the loss is neither 0 nor that of noise. */
function pairs(batch: number, width: number): { q: Float32Array; p: Float32Array } {
  const draw = random(1, `infonce ${batch} ${width}`)
  const normal = (): number => Math.sqrt(-2 * Math.log(1 - draw.next() / 2 ** 32)) * Math.cos((2 * Math.PI * draw.next()) / 2 ** 32)
  const unit = (values: Float32Array): Float32Array => {
    for (let start = 0; start < values.length; start += width) {
      let sum = 0
      for (let i = start; i < start + width; i++) sum += values[i]! ** 2
      for (let i = start; i < start + width; i++) values[i]! /= Math.sqrt(sum)
    }
    return values
  }
  const q = unit(Float32Array.from({ length: batch * width }, normal))
  const p = unit(Float32Array.from({ length: batch * width }, normal))
  const cosine = TEMPERATURE * (Math.log(batch) + 1 / (2 * width * TEMPERATURE ** 2))
  for (let i = 0; i < p.length; i++) p[i] = cosine * q[i]! + Math.sqrt(1 - cosine ** 2) * p[i]!
  return { q, p: unit(p) }
}

async function run([program, ...rest]: string[], trial: Trial): Promise<Answer> {
  const child = spawn(program!, [...rest, JSON.stringify(trial)], { stdio: ['ignore', 'pipe', 'inherit'] })
  const code = new Promise<number | null>((resolve) => child.on('close', resolve))
  let output = ''
  for await (const text of child.stdout.setEncoding('utf8')) output += text
  if ((await code) !== 0) throw new Error(`${program} ended with ${await code}; its error is above`)
  return JSON.parse(output.trim().split('\n').at(-1)!) as Answer
}

/** dQ and dP of the mean InfoNCE loss in float64, one behind the other. */
async function exact(q: Float32Array, p: Float32Array, width: number): Promise<Float64Array> {
  const batch = q.length / width
  const [Q, P] = [Float64Array.from(q), Float64Array.from(p)]
  const scores = new Float64Array(batch * batch)
  await multiplyFloat64(scores, Q, P, { m: batch, n: batch, k: width, transposed: 'b' })
  for (let i = 0; i < batch; i++) {
    const row = scores.subarray(i * batch, (i + 1) * batch)
    const high = row.reduce((a, b) => Math.max(a, b), -Infinity)
    let sum = 0
    for (let j = 0; j < batch; j++) sum += row[j] = Math.exp((row[j]! - high) / TEMPERATURE)
    for (let j = 0; j < batch; j++) row[j] = (row[j]! / sum - (i === j ? 1 : 0)) / (TEMPERATURE * batch)
  }
  const gradients = new Float64Array(2 * batch * width)
  await multiplyFloat64(gradients.subarray(0, batch * width), scores, P, { m: batch, n: width, k: batch })
  await multiplyFloat64(gradients.subarray(batch * width), scores, Q, { m: batch, n: width, k: batch, transposed: 'a' })
  return gradients
}

/** Frobenius norm of the difference over that of the truth, the larger of dQ's and dP's. */
async function gradientError(file: string, truth: Float64Array): Promise<number> {
  const bytes = await readFile(file)
  const found = new Float32Array(bytes.buffer, bytes.byteOffset, truth.length)
  const half = truth.length / 2
  const errors = [0, half].map((start) => {
    let [difference, norm] = [0, 0]
    for (let i = start; i < start + half; i++) {
      difference += (found[i]! - truth[i]!) ** 2
      norm += truth[i]! ** 2
    }
    return Math.sqrt(difference / norm)
  })
  return Math.max(...errors)
}

interface Summary {
  name: string
  [figure: string]: unknown
}

function summary({ batch, width, dtype }: Trial, sides: { ours: Answer[]; torch?: Answer[] }, errors: Record<string, number>): Summary {
  const of = (answers: readonly Answer[], side: string): Record<string, number> => {
    const seconds = median(answers.map((a) => median(a.seconds)))
    return {
      seconds,
      gflops: (6 * batch * batch * width) / seconds / 1e9,
      peakBytes: median(answers.map((a) => a.peak)),
      addedBytes: median(answers.map((a) => a.peak - a.before)),
      loss: answers[0]!.loss,
      ...(errors[side] !== undefined && { gradientError: errors[side] }),
    }
  }
  const [mine, torch] = [of(sides.ours, 'ours'), sides.torch && of(sides.torch, 'torch')]
  return {
    name: `${batch}x${width} ${dtype}`,
    batch,
    width,
    dtype,
    ours: mine,
    ...(torch && {
      torch,
      ratio: torch['seconds']! / mine['seconds']!,
      peakRatio: torch['peakBytes']! / mine['peakBytes']!,
      addedRatio: torch['addedBytes']! / mine['addedBytes']!,
    }),
    runs: Object.fromEntries(Object.entries(sides).map(([side, answers]) => [side, answers.map((a) => a.seconds)])),
  }
}

function line(result: Summary): string {
  const side = (name: string): string => {
    const s = result[name] as Record<string, number> | undefined
    if (!s) return ''
    const error = s['gradientError'] === undefined ? '' : `, gradient error ${s['gradientError'].toExponential(1)}`
    const [peak, added] = [s['peakBytes']! / 1e6, s['addedBytes']! / 1e6].map((mb) => mb.toFixed(0))
    return ` ${name} ${s['seconds']!.toFixed(3)} s, ${s['gflops']!.toFixed(0)} GFLOP/s, ${peak} MB (added ${added})${error};`
  }
  const ratios = ['ratio', 'peakRatio', 'addedRatio'].map((name) => (result[name] as number | undefined)?.toFixed(2))
  return `${result.name}:${side('ours')}${side('torch')}${ratios[0] ? ` time ${ratios[0]}x, peak ${ratios[1]}x, added ${ratios[2]}x` : ''}`
}

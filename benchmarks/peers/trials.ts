// A process per trial, the sides in turns (A B C A B C ...), so that all of them see the same machine. A side is a program that gets its
// options as one JSON argument and ends with one line of JSON: a SideReport, or { skipped } where something that it needs is not installed.
import { spawn } from 'node:child_process'
import { existsSync } from 'node:fs'
import { availableParallelism, loadavg } from 'node:os'
import { basename, join } from 'node:path'
import { checkoutFile, median } from '../support.js'

export interface Side {
  name: string
  program: string
  argv: string[]
  env?: Record<string, string>
  /** more than every side gets: dtype and the like */
  options?: Record<string, unknown>
}

export interface Measured {
  /** one entry a repetition */
  seconds: number[]
  /** peak of the resident memory while this workload ran */
  peakBytes: number
  [more: string]: unknown
}

export interface SideReport {
  /** of the libraries */
  versions: Record<string, string>
  /** resident memory when the model was loaded */
  loadedBytes: number
  workloads: Record<string, Measured>
  [more: string]: unknown
}

/** One process of a side. `load`: the machine's load average of one minute before it started. */
export type Trial = SideReport & { load: number }

export interface SideResult {
  trials: Trial[]
  /** why there is none */
  skipped?: string
}

/** PyTorch allocates and frees everything at every step: without this, glibc hands each large block back to the kernel. 1.1-1.3x on PyTorch. */
export const tunedMalloc: Record<string, string> = {
  MALLOC_TRIM_THRESHOLD_: String(2 ** 34),
  MALLOC_MMAP_THRESHOLD_: String(2 ** 34),
  MALLOC_TOP_PAD_: String(2 ** 26),
}

/** The interpreter of the Python sides: BGE_PYTHON. */
export function pythonSide(name: string, script: string, options: Record<string, unknown> = {}, env: Record<string, string> = {}): Side {
  return { name, program: process.env['BGE_PYTHON'] ?? '', argv: [checkoutFile(`benchmarks/peers/${script}`)], options, env }
}

/** A side that runs in Node. Packages of the peers are looked for in benchmarks/peers, then in BGE_PEERS. */
export function nodeSide(name: string, script: string, options: Record<string, unknown> = {}): Side {
  const packages = [process.env['BGE_PEERS'] ?? '', checkoutFile('benchmarks/peers')].find((folder) =>
    existsSync(join(folder, 'node_modules/onnxruntime-node')),
  )
  const argv = ['--expose-gc', checkoutFile(`benchmarks/peers/${script}`)]
  return { name, program: process.execPath, argv, options: { packages: packages ?? '', ...options } }
}

/** Runs every side `trials` times, in turns. A side that says `skipped`, or cannot be started, is left out from then on. */
export async function runTrials(sides: readonly Side[], shared: object, trials: number): Promise<Record<string, SideResult>> {
  const results: Record<string, SideResult> = Object.fromEntries(sides.map(({ name }) => [name, { trials: [] }]))
  for (let trial = 0; trial < trials; trial++) {
    for (const side of sides) {
      const result = results[side.name]!
      if (result.skipped !== undefined) continue
      const load = loadavg()[0]!
      const report = await runSide(side, shared)
      if (typeof report === 'string') {
        result.skipped = report
        console.log(`${side.name}: skipped, ${report}`)
        continue
      }
      result.trials.push({ ...report, load })
      const times = Object.entries(report.workloads).map(([name, { seconds, peakBytes }]) => {
        return `${name} ${milliseconds(median(seconds))} (${Math.round(peakBytes / 2 ** 20)} MiB)`
      })
      console.log(`${side.name} ${trial + 1}/${trials}: ${times.join(', ')}; load before ${load.toFixed(2)}`)
    }
  }
  return results
}

function runSide(side: Side, shared: object): Promise<SideReport | string> {
  if (side.program === '') return Promise.resolve('BGE_PYTHON does not name a Python interpreter')
  return new Promise((resolve) => {
    const options = JSON.stringify({ ...shared, ...side.options })
    const child = spawn(side.program, [...side.argv, options], { stdio: ['ignore', 'pipe', 'pipe'], env: { ...process.env, ...side.env } })
    const text = { out: '', err: '' }
    child.stdout.setEncoding('utf8').on('data', (part: string) => {
      text.out += part
    })
    child.stderr.setEncoding('utf8').on('data', (part: string) => {
      text.err = (text.err + part).slice(-4000)
    })
    child.on('error', (error) => resolve(error.message))
    child.on('close', (code, signal) => {
      const line = text.out.trim().split('\n').at(-1) ?? ''
      try {
        const report = JSON.parse(line) as SideReport | { skipped: string }
        if (code === 0) return resolve('skipped' in report ? (report.skipped as string) : report)
      } catch {
        // its last words are the reason
      }
      resolve(`${basename(side.program)} ended with ${code ?? signal}: ${text.err.trim().split('\n').at(-1) ?? ''}`)
    })
  })
}

export interface Summary {
  /** median over the trials of each trial's median and 99th percentile, seconds */
  p50: number
  p99: number
  peakBytes: number
  trials: number
}

/** What one side measured for one workload, over its trials; undefined where it did not run. */
export function summarise(result: SideResult | undefined, workload: string): Summary | undefined {
  const runs = (result?.trials ?? []).map((trial) => trial.workloads[workload]).filter((run) => run !== undefined)
  if (runs.length === 0) return undefined
  return {
    p50: median(runs.map((run) => median(run.seconds))),
    p99: median(runs.map((run) => percentile(run.seconds, 0.99))),
    peakBytes: median(runs.map((run) => run.peakBytes)),
    trials: runs.length,
  }
}

export function percentile(values: readonly number[], share: number): number {
  const sorted = [...values].sort((a, b) => a - b)
  return sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))]!
}

/** The fastest of the named sides; undefined where none ran. */
export function fastest(table: Record<string, Summary | undefined>, names: readonly string[]): { name: string; p50: number } | undefined {
  const found = names.flatMap((name) => (table[name] ? [{ name, p50: table[name].p50 }] : []))
  return found.sort((a, b) => a.p50 - b.p50)[0]
}

export function milliseconds(seconds: number): string {
  return seconds < 0.1 ? `${(seconds * 1e3).toFixed(2)} ms` : `${(seconds * 1e3).toFixed(0)} ms`
}

export const defaultThreads: number = availableParallelism()

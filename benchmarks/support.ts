import { execFileSync } from 'node:child_process'
import { existsSync, mkdtempSync, rmSync } from 'node:fs'
import { mkdir, writeFile } from 'node:fs/promises'
import { availableParallelism, cpus, tmpdir } from 'node:os'
import { basename, dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { Device } from '../lib/native.js'

/** The checkout: the nearest folder above this file that has benchmarks/peak.cc. */
const root: string = (() => {
  for (let folder = dirname(fileURLToPath(import.meta.url)); ; folder = dirname(folder)) {
    if (existsSync(join(folder, 'benchmarks/peak.cc'))) return folder
    if (folder === dirname(folder)) return process.cwd()
  }
})()

/** The path of a file of the checkout; a benchmark may run from a build folder. */
export function checkoutFile(path: string): string {
  return join(root, path)
}

/** Compiles lib/ to dist/: what a user of the package loads, for benchmarks that start it in processes of their own. */
export function buildPackage(): void {
  execFileSync(process.execPath, [join(root, 'node_modules/typescript/bin/tsc'), '-p', join(root, 'tsconfig.json')], { stdio: 'inherit' })
}

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b)
  const middle = sorted.length >> 1
  return sorted.length % 2 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2
}

/** Without these a number means nothing. */
export interface MachineFacts {
  cpu: string
  cores: number
  /** e.g. "cpu avx512, 2 threads" */
  device: string
  node: string
  commit: string
  date: string
}

export function machineFacts(device: Device): MachineFacts {
  return {
    cpu: cpus()[0]?.model ?? 'unknown',
    cores: availableParallelism(),
    device: device.description,
    node: process.version,
    commit: commit(),
    date: new Date().toISOString(),
  }
}

export function commit(): string {
  try {
    const git = (...args: string[]): string =>
      execFileSync('git', args, { cwd: root, encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] }).trim()
    return git('rev-parse', '--short', 'HEAD') + (git('status', '--porcelain', '--untracked-files=no') ? ' with changes' : '')
  } catch {
    return 'unknown'
  }
}

/** fp32 fused multiply-adds from registers, GFLOP/s: benchmarks/peak.cc, compiled for this machine. Undefined without a C++ compiler. */
export function fmaPeak(threads: number): number | undefined {
  const folder = mkdtempSync(join(tmpdir(), 'bge-peak-'))
  try {
    const program = join(folder, 'peak')
    const compiler = process.env['CXX'] ?? 'c++'
    execFileSync(
      compiler,
      ['-O3', '-march=native', '-ffp-contract=fast', '-pthread', '-std=c++17', join(root, 'benchmarks/peak.cc'), '-o', program],
      { stdio: 'ignore' },
    )
    return Number(execFileSync(program, [String(threads)], { encoding: 'utf8' }))
  } catch {
    return undefined
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

/** Writes benchmarks/results/<name>.json and returns its path. */
export async function writeResults(name: string, content: object): Promise<string> {
  const folder = join(root, 'benchmarks/results')
  await mkdir(folder, { recursive: true })
  const file = join(folder, `${basename(name, '.json')}.json`)
  await writeFile(file, `${JSON.stringify(content, null, 2)}\n`)
  return file
}

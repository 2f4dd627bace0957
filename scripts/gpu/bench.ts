// Our device against PyTorch on the same machine, section by section, in turns (A B B A): `scripts/gpu-bench --help`.
import { execFileSync } from 'node:child_process'
import { writeFileSync } from 'node:fs'
import { cpus } from 'node:os'
import { dirname, join } from 'node:path'
import { setTimeout as pause } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { type Answer, best, type Case, cases, type Outcome } from '../../benchmarks/gpu/cases.js'
import { Child } from './child.js'

const { values: flags } = parseArgs({
  options: {
    device: { type: 'string', default: 'cuda' },
    'peer-device': { type: 'string', default: 'cuda' },
    python: { type: 'string', default: process.env['BGE_PYTHON'] ?? 'python3' },
    only: { type: 'string' },
    skip: { type: 'string' },
    tiny: { type: 'boolean', default: false },
    seconds: { type: 'string', default: '540' },
    json: { type: 'string' },
    list: { type: 'boolean', default: false },
    help: { type: 'boolean', short: 'h', default: false },
  },
})
if (flags.help) {
  console.log(`bench.js [--only encode,infonce-19200] [--skip large] [--seconds 540] [--json FILE] [--list]
Each section: our process, PyTorch's, PyTorch's, ours, a second between turns; medians over both turns, the goals beside each figure.
--only      cases whose name begins with one of these        --skip     cases whose name contains one of these
--seconds   no new case is begun after so long               --list     the names of all cases, in their order
--tiny      small sizes: does everything run? (--device cpu --peer-device cpu on a machine without a GPU)
--python    the interpreter that has PyTorch (or BGE_PYTHON)   BGE_COMMIT  the commit these files were built from`)
  process.exit(0)
}

const here = dirname(fileURLToPath(import.meta.url))
const started = performance.now()
const elapsed = (): number => (performance.now() - started) / 1000

interface Figure {
  name: string
  sizes: unknown
  /** seconds of every run, turn by turn */
  turns: { side: 'ours' | 'peers'; seconds: Record<string, number[]>; gpu?: string }[]
  /** medians over all turns */
  ours: Record<string, number>
  peers: Record<string, number>
  /** (90th - 10th percentile) / median of the fastest variant of each side */
  spread: { ours?: number; peers?: number }
  /** fastest peer over our fastest: more than 1 is faster */
  ratio?: number
  rates: Record<string, number>
  goals: { what: string; goal: string; value: number | null; met: boolean | null }[]
  facts: { ours: Record<string, unknown>; peers: Record<string, unknown> }
  errors: Record<string, string>
}

const children = {
  ours: new Child('ours', process.execPath, [join(here, '../../benchmarks/gpu/ours.js')]),
  peers: new Child('peers', flags.python, [join(here, '../../benchmarks/gpu/peers.py')]),
}

const words = (list: string | undefined): string[] => list?.split(',').filter((word) => word !== '') ?? []
const [only, skip] = [words(flags.only), words(flags.skip)]
const chosen = cases(flags.tiny ? 'tiny' : 'full').filter(
  ({ name }) => (only.length === 0 || only.some((word) => name.startsWith(word))) && !skip.some((word) => name.includes(word)),
)
if (chosen.length === 0) {
  console.error(`bench: no case begins with ${flags.only} (--list names them)`)
  process.exit(2)
}
if (flags.list) {
  for (const { name, turns } of chosen) console.log(`${name} ${turns}`)
  process.exit(0)
}

const figures: Figure[] = []
const ceiling = (name: string): number | undefined => {
  const found = figures.find((f) => f.name === 'ceilings')?.facts.peers[`bf16 ${name} TF/s`]
  return typeof found === 'number' && found > 0 ? found * 1e12 : undefined
}
const notRun: string[] = []
const device: Record<string, unknown> = {}
// The time is over in the middle of a case: what was measured before it is told.
process.on('SIGTERM', () => {
  notRun.push(...chosen.map(({ name }) => name).filter((name) => !figures.some((f) => f.name === name) && !notRun.includes(name)))
  finish()
  process.exit()
})
for (const c of chosen) {
  if (elapsed() > Number(flags.seconds)) {
    notRun.push(c.name)
    continue
  }
  const figure = await measure(c)
  figures.push(figure)
  console.log(`${elapsed().toFixed(0)} s  ${line(figure)}`)
  write() // after every case: what ran is kept, whatever ends this process
}
finish()

function finish(): void {
  for (const child of Object.values(children)) child.end()
  console.log(`\n${'case'.padEnd(26)} ${'ours ms'.padStart(10)} ${'peer ms'.padStart(10)}  ratio  rates; goals; errors`)
  for (const figure of figures) console.log(line(figure))
  const judged = figures.flatMap(({ goals }) => goals)
  const count = (met: boolean | null): number => judged.filter((goal) => goal.met === met).length
  const failed = figures.reduce((n, { errors }) => n + Object.keys(errors).length, 0)
  console.log(`goals: ${count(true)} met, ${count(false)} not met, ${count(null)} without a figure; variants that failed: ${failed}`)
  if (notRun.length > 0) console.log(`not run, the time was over: --only ${notRun.join(',')}`)
  write()
  // A GPU that is slower than hoped is a result; a line of ours that fails is an error.
  process.exitCode = figures.some(({ errors }) => Object.keys(errors).some((name) => name.startsWith('ours'))) ? 1 : 0
}

async function measure({ name, sizes, turns, timeout, work, goals }: Case): Promise<Figure> {
  const runs: Figure['turns'] = []
  const facts: Figure['facts'] = { ours: {}, peers: {} }
  const errors: Record<string, string> = {}
  const broken = new Set<string>()
  for (const turn of turns) {
    if (broken.has(turn)) continue
    const side = turn === 'A' ? 'ours' : 'peers'
    await pause(flags.tiny ? 0 : 1000)
    try {
      const answer = await children[side].ask<Answer & { device?: string }>(
        { device: side === 'ours' ? flags.device : flags['peer-device'], sizes },
        timeout,
      )
      const { device: description, seconds, facts: found, errors: failed } = answer
      if (description !== undefined) device[side] = description
      Object.assign(facts[side], found)
      for (const [variant, error] of Object.entries(failed)) errors[`${side} ${variant}`] = error
      const gpu = gpuState()
      runs.push({ side, seconds, ...(gpu !== undefined && { gpu }) })
    } catch (error) {
      errors[side] = error instanceof Error ? error.message : String(error)
      broken.add(turn) // the other side still runs
    }
  }
  await Promise.all(Object.values(children).map((child) => child.release()))

  const medians = { ours: {} as Record<string, number>, peers: {} as Record<string, number> }
  const spread: Figure['spread'] = {}
  for (const side of ['ours', 'peers'] as const) {
    const all: Record<string, number[]> = {}
    for (const run of runs.filter((r) => r.side === side)) {
      for (const [variant, seconds] of Object.entries(run.seconds)) all[variant] = [...(all[variant] ?? []), ...seconds]
    }
    for (const [variant, seconds] of Object.entries(all)) if (seconds.length > 0) medians[side][variant] = quantile(seconds, 0.5)
    const fastest = best(medians[side])
    const variant = Object.keys(medians[side]).find((v) => medians[side][v] === fastest)
    if (variant !== undefined) spread[side] = (quantile(all[variant]!, 0.9) - quantile(all[variant]!, 0.1)) / fastest!
  }
  const [ours, peers] = [best(medians.ours), best(medians.peers)]
  const [burst, sustained] = [ceiling('burst'), ceiling('sustained')]
  const outcome: Outcome = { ours: medians.ours, peers: medians.peers, oursFacts: facts.ours, peerFacts: facts.peers, burst, sustained }
  return {
    name,
    sizes,
    turns: runs,
    ...medians,
    spread,
    ...(ours !== undefined && peers !== undefined && { ratio: peers / ours }),
    rates: ours === undefined ? {} : Object.fromEntries(Object.entries(work ?? {}).map(([unit, n]) => [unit, n / ours])),
    goals: goals.map(({ what, value, atLeast, atMost }) => {
      const found = value(outcome)
      const met = found === undefined ? null : atLeast !== undefined ? found >= atLeast : found <= atMost!
      // A smoke test has no figures worth judging.
      return { what, goal: atLeast !== undefined ? `>= ${atLeast}` : `<= ${atMost}`, value: found ?? null, met: flags.tiny ? null : met }
    }),
    facts,
    errors,
  }
}

function quantile(values: readonly number[], q: number): number {
  const sorted = [...values].sort((a, b) => a - b)
  const at = q * (sorted.length - 1)
  const below = sorted[Math.floor(at)]!
  return below + (sorted[Math.ceil(at)]! - below) * (at - Math.floor(at))
}

function line(figure: Figure): string {
  const ms = (variants: Record<string, number>): string => {
    const s = best(variants)
    return (s === undefined ? '-' : (s * 1e3).toPrecision(4)).padStart(10)
  }
  const units: Record<string, [string, number]> = {
    flops: ['TF/s', 1e12],
    bytes: ['GB/s', 1e9],
    texts: ['seq/s', 1],
    tokens: ['Mtok/s', 1e6],
  }
  const rates = Object.entries(figure.rates).map(([unit, n]) => `${(n / units[unit]![1]).toPrecision(4)} ${units[unit]![0]}`)
  const flops = figure.rates['flops']
  for (const name of ['burst', 'sustained']) {
    const most = ceiling(name)
    if (flops !== undefined && most !== undefined) rates.push(`${((100 * flops) / most).toFixed(0)} % of ${name}`)
  }
  const errors = Object.entries(figure.errors).map(([variant, error]) => `${variant}: ${error.split('\n')[0]!.slice(0, 70)}`)
  const goals = figure.goals.map(
    ({ what, goal, value, met }) => `${met === null ? '?' : met ? 'MET' : 'not met'} ${what} ${value?.toPrecision(3) ?? '-'} ${goal}`,
  )
  const found = figure.name === 'ceilings' ? [JSON.stringify(figure.facts.peers)] : []
  return `${figure.name.padEnd(26)} ${ms(figure.ours)} ${ms(figure.peers)} ${(figure.ratio?.toFixed(2) ?? '-').padStart(6)}  ${[...rates, ...found, ...goals, ...errors].join('; ')}`
}

function command(file: string, ...args: string[]): string | undefined {
  try {
    return execFileSync(file, args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'], timeout: 10_000 }).trim()
  } catch {
    return undefined
  }
}

/** SM and memory clock, temperature, power. */
function gpuState(): string | undefined {
  return command('nvidia-smi', '--query-gpu=clocks.sm,clocks.mem,temperature.gpu,power.draw', '--format=csv,noheader')
}

function write(): void {
  if (!flags.json) return
  const machine = {
    gpu:
      command(
        'nvidia-smi',
        '--query-gpu=name,driver_version,memory.total,power.limit,clocks.max.sm,clocks.max.mem',
        '--format=csv,noheader',
      ) ?? null,
    cpu: cpus()[0]?.model,
    cores: cpus().length,
    node: process.version,
    ...device,
  }
  const facts = {
    commit: process.env['BGE_COMMIT'] ?? command('git', 'rev-parse', '--short', 'HEAD') ?? 'unknown',
    date: new Date().toISOString(),
    scale: flags.tiny ? 'tiny: nothing here is a measurement' : 'full',
    clock:
      'seconds on the host clock between two synchronisations; of PyTorch in attention, linear, layernorm and ceilings: CUDA events, L2 flushed before each run',
  }
  writeFileSync(flags.json, `${JSON.stringify({ ...facts, machine, elapsedSeconds: elapsed(), notRun, figures }, null, 1)}\n`)
}

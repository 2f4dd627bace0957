// Mining without a model: random vectors instead of an encoder's, everything else as `bge mine` does it. Seconds of each step, peak memory, disk.
//   npm run bench -- mine [--queries 20000] [--pool 200000] [--dims 512] [--range 10-210] [--block 16384] [--threads N] [--out NAME]
//   npm run bench -- mine --queries 2000 --pool 2000000 --dims 64 --out mine-2m       memory of a larger pool
// The pool's text and vectors are generated into the temporary folder (2.1 kB a vector of 512) and removed.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, readdir, rm, stat } from 'node:fs/promises'
import { createWriteStream } from 'node:fs'
import { availableParallelism, loadavg, tmpdir } from 'node:os'
import { join } from 'node:path'
import { finished } from 'node:stream/promises'
import { parseArgs } from 'node:util'
import { random } from '../lib/data/random.js'
import { mine, type MineProgress } from '../lib/mine/mine.js'
import { openDevice } from '../lib/native.js'
import { chineseLike, passageLength } from '../test/support/corpus.js'
import { machineFacts, writeResults } from './support.js'

const { values: args } = parseArgs({
  allowPositionals: true,
  options: {
    queries: { type: 'string', default: '20000' },
    pool: { type: 'string', default: '200000' },
    dims: { type: 'string', default: '512' },
    range: { type: 'string', default: '10-210' },
    block: { type: 'string', default: '16384' },
    threads: { type: 'string', default: String(availableParallelism()) },
    out: { type: 'string' },
    trial: { type: 'string' }, // folder: what the measured process is told
  },
})
const numbers = {
  queries: Number(args.queries),
  pool: Number(args.pool),
  dims: Number(args.dims),
  block: Number(args.block),
  threads: Number(args.threads),
}
const range = args.range.split('-').map(Number) as [number, number]
/** The paper's scale of labelled data, and what the issue asks for. */
const [MANY_QUERIES, MANY_PASSAGES] = [1e6, 1e7]

type Steps = Record<'hash' | 'read' | 'keep' | 'search' | 'choose' | 'vectors', number>

/** What the measured process says. */
interface Trial {
  /** wall seconds; `vectors`, making the random vectors, is in no other step; `keep`: writing the pool's vectors; `hash`: of the files, and the end */
  seconds: Steps
  /** of all threads: on a machine that others use too, what the step would take alone is this divided by the threads, where it uses them all (search) */
  cpuSeconds: Steps
  peakBytes: number
  /** before mining */
  startBytes: number
  result: { mined: number; random: number; missing: number; rejected: Record<string, number> }
}

if (args.trial !== undefined) process.stdout.write(`\n${JSON.stringify(await trial(args.trial))}\n`)
else await main()

async function main(): Promise<void> {
  const folder = await mkdtemp(join(tmpdir(), 'bge-mine-bench-'))
  try {
    await generate(folder)
    const load = loadavg()[0]!
    const measured = await child(folder)
    const bytes = { text: (await stat(join(folder, 'pool.jsonl'))).size, vectors: await cacheBytes(join(folder, 'mine-cache')) }
    const device = await openDevice({ device: 'cpu', threads: numbers.threads })
    const facts = machineFacts(device)
    device.dispose()
    const factor = { queries: MANY_QUERIES / numbers.queries, pool: MANY_PASSAGES / numbers.pool }
    const flops = 2 * numbers.queries * numbers.pool * numbers.dims
    const gflops = { measured: flops / measured.seconds.search / 1e9, perCpuSecond: flops / measured.cpuSeconds.search / 1e9 }
    const hours = ({ read, keep, search, choose }: Steps): object => ({
      read: (read * factor.pool) / 3600,
      keep: (keep * factor.pool) / 3600,
      search: (search * factor.pool * factor.queries) / 3600,
      choose: (choose * factor.queries) / 3600,
    })
    const { cpuSeconds, seconds } = measured
    const projection = {
      queries: MANY_QUERIES,
      pool: MANY_PASSAGES,
      hoursAtThisLoad: hours(seconds),
      hoursAlone: hours({ ...cpuSeconds, search: cpuSeconds.search / numbers.threads }),
      diskBytes: { texts: bytes.text * factor.pool, vectors: bytes.vectors * factor.pool },
      memoryBytes: memoryBound(MANY_QUERIES, MANY_PASSAGES),
      note: 'search grows with queries x pool, the rest with one of them; encoding is not in it; alone: CPU seconds, search on all threads; memory: the formula of docs/mining.md',
    }
    const summary = {
      ...measured,
      searchGflops: gflops,
      memoryBeyondStartBytes: measured.peakBytes - measured.startBytes,
      memoryBoundBytes: memoryBound(numbers.queries, numbers.pool),
      diskBytes: bytes,
    }
    const settings = { ...numbers, range }
    const file = await writeResults(args.out ?? 'mine', {
      machine: { ...facts, loadAverage: { before: load, after: loadavg()[0] } },
      settings,
      ...summary,
      projection,
    })
    console.log(JSON.stringify({ settings, ...summary, projection }, null, 2))
    console.log(file)
  } finally {
    await rm(folder, { recursive: true, force: true })
  }
}

/** docs/mining.md: bytes beyond Node and the addon themselves. */
function memoryBound(queries: number, pool: number): number {
  const block = Math.min(numbers.block, queries)
  const slots = (count: number): number => 12 * 2 ** Math.ceil(Math.log2((4 / 3) * count)) * 1.5
  const perPassage = 2 * slots(pool) + (3 * 8 + 4) * pool
  const perQuery = 2 * slots(queries) + 8 * 8 * queries
  const perBlock = block * (4 * 4 * numbers.dims + 6 * 8 * range[1] + 4096)
  const perPoolBlock = 5 * 16_384 * 4 * numbers.dims
  const garbage = 128 * 2 ** 20 // what V8 has not collected yet, and buffers
  return perPassage + perQuery + perBlock + perPoolBlock + garbage
}

async function generate(folder: string): Promise<void> {
  const write = async (name: string, count: number, row: (i: number) => object): Promise<void> => {
    const stream = createWriteStream(join(folder, name))
    for (let i = 0; i < count; i++) {
      if (!stream.write(`${JSON.stringify(row(i))}\n`)) await once(stream, 'drain')
    }
    stream.end()
    await finished(stream)
  }
  // The number comes first: from it the vector is made.
  const writer = chineseLike(1)
  const passage = (i: number): string => {
    const draw = random(1, 'passage', 0, i)
    return `p${i} ${writer.passage(i, passageLength(draw), draw)}`
  }
  await write('pool.jsonl', numbers.pool, (i) => ({ text: passage(i) }))
  await write('data.jsonl', numbers.queries, (i) => ({
    query: `q${i} ${writer.title(i, random(1, 'query', 0, i))}`,
    pos: [passage(i % numbers.pool)],
  }))
}

function child(folder: string): Promise<Trial> {
  const flags = Object.entries(args).flatMap(([name, value]) => (name === 'out' ? [] : [`--${name}`, String(value)]))
  return new Promise((resolve, reject) => {
    const runner = new URL('./run.mjs', import.meta.url).pathname
    const started = spawn(process.execPath, [runner, 'mine', ...flags, '--trial', folder], { stdio: ['ignore', 'pipe', 'inherit'] })
    let text = ''
    started.stdout.on('data', (chunk: Buffer) => {
      text += chunk.toString()
    })
    started.once('error', reject)
    started.once('exit', (code) =>
      code === 0 ? resolve(JSON.parse(text.trim().split('\n').at(-1)!) as Trial) : reject(new Error(`the trial ended with ${code}`)),
    )
  })
}

async function trial(folder: string): Promise<Trial> {
  const { dims } = numbers
  const device = await openDevice({ device: 'cpu', threads: numbers.threads })
  const making: Record<string, number> = { encode: 0, search: 0, choose: 0 } // random vectors, by step
  const cpuMaking: Record<string, number> = { ...making }
  // A step lasts until another one reports.
  const seconds: Record<string, number> = { hash: 0, read: 0, encode: 0, search: 0, choose: 0 }
  const cpuSeconds: Record<string, number> = { ...seconds }
  const cpu = (): number => (process.cpuUsage().user + process.cpuUsage().system) / 1e6
  let [stage, since, cpuSince] = ['hash', performance.now(), cpu()]
  const enter = (next: string): void => {
    const now = performance.now()
    const cpuNow = cpu()
    seconds[stage]! += (now - since) / 1000
    cpuSeconds[stage]! += cpuNow - cpuSince
    ;[stage, since, cpuSince] = [next, now, cpuNow]
  }
  const model = {
    dims,
    device,
    fingerprint: async () => 'random vectors',
    async encode(texts: readonly string[]) {
      const [start, cpuStart] = [performance.now(), cpu()]
      const data = new Float32Array(texts.length * dims)
      for (const [i, text] of texts.entries()) {
        const draw = random(text.startsWith('q') ? 2 : 3, 'vector', 0, Number.parseInt(text.slice(1), 10))
        for (let d = 0; d < dims; d++) data[i * dims + d] = draw.next() / 2 ** 31 - 1
      }
      making[stage]! += (performance.now() - start) / 1000
      cpuMaking[stage]! += cpu() - cpuStart
      return { data }
    },
  }
  const startBytes = process.memoryUsage.rss()
  const onProgress = (progress: MineProgress): void => enter(progress.stage)
  const result = await mine(model, {
    data: join(folder, 'data.jsonl'),
    pool: join(folder, 'pool.jsonl'),
    out: join(folder, 'mined.jsonl'),
    range,
    rules: { maxRelative: null }, // the positive is as random as the rest
    scoreTemperature: 0.02,
    storage: { block: numbers.block },
    onProgress,
  })
  enter('hash')
  const peakBytes = process.resourceUsage().maxRSS * 1024
  device.dispose()
  const rejected = Object.fromEntries(Object.entries(result.rejected).map(([rule, { count }]) => [rule, count]))
  return {
    seconds: steps(seconds, making),
    cpuSeconds: steps(cpuSeconds, cpuMaking),
    peakBytes,
    startBytes,
    result: { mined: result.mined, random: result.random, missing: result.missing, rejected },
  }
}

function steps(all: Readonly<Record<string, number>>, making: Readonly<Record<string, number>>): Steps {
  const of = (step: string): number => all[step]! - (making[step] ?? 0)
  const vectors = Object.values(making).reduce((a, b) => a + b)
  return { hash: of('hash'), read: of('read'), keep: of('encode'), search: of('search'), choose: of('choose'), vectors }
}

async function cacheBytes(folder: string): Promise<number> {
  let bytes = 0
  for (const entry of await readdir(folder, { recursive: true, withFileTypes: true })) {
    if (entry.isFile()) bytes += (await stat(join(entry.parentPath, entry.name))).size
  }
  return bytes
}

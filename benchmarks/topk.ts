// Exact top-k of inner products against faiss IndexFlatIP and PyTorch, on the same vectors; a process per trial, in turns.
//   BGE_PYTHON=python3 npm run bench -- topk [--queries 1000] [--passages 1000000] [--dims 512] [--k 100] [--trials 3] [--repeats 3] [--threads N] [--out NAME]
// ratio > 1: we are faster. The passages are a file of passages x dims x 4 bytes in TMPDIR while it runs (2 GB by default).
import { closeSync, openSync, writeSync } from 'node:fs'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { random } from '../lib/data/random.js'
import { openDevice } from '../lib/native.js'
import { defaultThreads, fastest, nodeSide, pythonSide, runTrials, summarise } from './peers/trials.js'
import { buildPackage, fmaPeak, machineFacts, writeResults } from './support.js'

const { values: args } = parseArgs({
  options: {
    queries: { type: 'string', default: '1000' },
    passages: { type: 'string', default: '1000000' },
    dims: { type: 'string', default: '512' },
    k: { type: 'string', default: '100' },
    trials: { type: 'string', default: '3' },
    repeats: { type: 'string', default: '3' },
    threads: { type: 'string', default: String(defaultThreads) },
    out: { type: 'string' },
  },
  allowPositionals: true,
})
const sizes = { queries: Number(args.queries), passages: Number(args.passages), dims: Number(args.dims), k: Number(args.k) }
const [threads, repeats] = [Number(args.threads), Number(args.repeats)]

/** Unit vectors of uniform deviates, written row by row. */
function writeVectors(file: string, rows: number, name: string): void {
  const draw = random(1, `topk ${name}`)
  const handle = openSync(file, 'w')
  const row = new Float32Array(sizes.dims)
  for (let i = 0; i < rows; i++) {
    let sum = 0
    for (let j = 0; j < row.length; j++) {
      const x = draw.next() / 2 ** 31 - 1
      row[j] = x
      sum += x * x
    }
    const scale = 1 / Math.sqrt(sum)
    for (let j = 0; j < row.length; j++) row[j]! *= scale
    writeSync(handle, row)
  }
  closeSync(handle)
}

buildPackage()
const folder = await mkdtemp(join(tmpdir(), 'bge-topk-'))
try {
  const [queriesFile, passagesFile] = [join(folder, 'queries.f32'), join(folder, 'passages.f32')]
  writeVectors(queriesFile, sizes.queries, 'queries')
  writeVectors(passagesFile, sizes.passages, 'passages')
  const sides = [
    nodeSide('ours', 'ours_topk.mjs'),
    pythonSide('faiss IndexFlatIP', 'topk.py', { side: 'faiss' }),
    pythonSide('PyTorch product and topk', 'topk.py', { side: 'torch' }),
  ]
  const results = await runTrials(sides, { ...sizes, threads, repeats, queriesFile, passagesFile }, Number(args.trials))
  const table = Object.fromEntries(Object.entries(results).map(([side, result]) => [side, summarise(result, 'search')]))
  const ratios = Object.fromEntries(
    Object.entries(table).map(([side, found]) => [side, found && table['ours'] && found.p50 / table['ours'].p50]),
  )
  const first = results['ours']!.trials[0]?.['first']
  const agree = Object.fromEntries(
    Object.entries(results).map(([side, { trials }]) => [side, trials[0] && JSON.stringify(trials[0]['first']) === JSON.stringify(first)]),
  )
  const peak = fmaPeak(threads)
  const gflops = table['ours'] && (2 * sizes.queries * sizes.passages * sizes.dims) / table['ours'].p50 / 1e9
  const best = fastest(
    table,
    Object.keys(table).filter((name) => name !== 'ours'),
  )
  const summary = { table, ratios, best, oursGflops: gflops, peakGflops: peak ?? null, sameIndicesForTheFirstQuery: agree }
  console.log(JSON.stringify(summary))
  if (args.out) {
    const device = await openDevice({ device: 'cpu', threads })
    console.log(
      `written to ${await writeResults(args.out, { machine: machineFacts(device), threads, ...sizes, ...summary, sides: results })}`,
    )
    device.dispose()
  }
} finally {
  await rm(folder, { recursive: true })
}

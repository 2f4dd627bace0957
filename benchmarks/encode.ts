// Encoding on the CPU against every peer that is installed, on the same weights and token ids; a process per trial, in turns.
//   BGE_PYTHON=python3 npm run bench -- encode [--models small,base] [--workloads q16,q32,b128,b512,mixed,mixed-input-order]
//     [--sides words] [--trials 3] [--texts 2000] [--threads N] [--out NAME]
// q16, q32: one query of 16, 32 tokens; b128, b512: 32 texts of 128, 512; mixed: texts of log-normal length, median 60, at most 512, for the peers in batches of 32
// sorted by length, or in input order as most call them. --sides keeps those whose name has one of the words, e.g. "ours,onnxruntime-node".
// Peers: npm install --prefix benchmarks/peers --ignore-scripts; BGE_PYTHON with benchmarks/peers/requirements.txt. What is missing is skipped with a word.
import { execFileSync } from 'node:child_process'
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { type Random, random } from '../lib/data/random.js'
import { type EncoderConfig, openDevice } from '../lib/native.js'
import { vocabulary, writeModel } from './peers/model_files.js'
import {
  defaultThreads,
  fastest,
  milliseconds,
  nodeSide,
  pythonSide,
  runTrials,
  type Side,
  type SideResult,
  type Summary,
  summarise,
  tunedMalloc,
} from './peers/trials.js'
import { buildPackage, checkoutFile, machineFacts, writeResults } from './support.js'

interface Workload {
  name: string
  ids: number[][]
  batchTexts: number
  order: 'sorted' | 'input'
  repeats: number
  warmUps: number
}

const { values: args } = parseArgs({
  options: {
    models: { type: 'string', default: 'small,base' },
    workloads: { type: 'string', default: 'q16,q32,b128,b512,mixed,mixed-input-order' },
    sides: { type: 'string', default: '' },
    trials: { type: 'string', default: '3' },
    texts: { type: 'string', default: '2000' },
    threads: { type: 'string', default: String(defaultThreads) },
    out: { type: 'string' },
  },
  allowPositionals: true,
})
const threads = Number(args.threads)
/** In input order padding costs so much that a part of the texts has to do. */
const inputOrderTexts = 512

const torchSide = (side: string, dtype: string): Side =>
  pythonSide(`PyTorch ${side} ${dtype}`, 'encode.py', { side, dtype }, { OMP_NUM_THREADS: String(threads), ...tunedMalloc })
const onnxruntime = (dtype: 'fp32' | 'int8'): Side[] => [
  nodeSide(`onnxruntime-node ${dtype}`, 'onnxruntime_node.mjs', { runtime: 'onnxruntime', graph: graphs[dtype], dtype }),
  nodeSide(`@huggingface/transformers ${dtype}`, 'onnxruntime_node.mjs', {
    runtime: 'transformers',
    dtype: dtype === 'int8' ? 'q8' : dtype,
  }),
  pythonSide(`onnxruntime ${dtype}`, 'encode.py', { side: 'onnxruntime', graph: graphs[dtype], dtype }),
]
const graphs = { fp32: 'fused.onnx', int8: 'fused_int8.onnx' }
const ours: Side[] = ['fp32', 'bf16', 'int8'].map((dtype) => nodeSide(`ours ${dtype}`, 'ours_encode.mjs', { dtype }))
const peers: Record<string, Side[]> = {
  fp32: [...onnxruntime('fp32'), torchSide('eager', 'fp32'), torchSide('compile', 'fp32'), torchSide('sentence-transformers', 'fp32')],
  bf16: [torchSide('eager', 'bf16'), torchSide('compile', 'bf16'), torchSide('sentence-transformers', 'bf16')],
  int8: onnxruntime('int8'),
}

await main()

async function main(): Promise<void> {
  buildPackage()
  const wanted = args.sides === '' ? [''] : args.sides.split(',')
  const sides = [...ours, ...Object.values(peers).flat()].filter(({ name }) => wanted.some((word) => name.includes(word)))
  const folder = await mkdtemp(join(tmpdir(), 'bge-encode-'))
  const device = await openDevice({ device: 'cpu', threads })
  const models: Record<string, unknown> = {}
  try {
    for (const model of args.models.split(',')) {
      const work = join(folder, model)
      await mkdir(work)
      const { config, weights } = await writeModel(device, model, work)
      const all = workloads(random(1, 'encode'), model).filter(({ name }) => args.workloads.split(',').includes(name))
      await writeFile(join(work, 'workloads.json'), JSON.stringify(all))
      await writeFile(
        join(work, 'check.json'),
        JSON.stringify([{ ids: [5, 16, 31, 64, 129, 300].map((n) => text(random(2, 'check', 0, n), n)) }]),
      )
      const shared = { config, weights, threads, workloads: join(work, 'workloads.json'), check: join(work, 'check.json') }
      const exported = sides.some(({ name }) => /onnx|huggingface/.test(name)) ? exportGraphs(shared, join(work, 'graphs')) : {}
      console.log(`${model}: ${all.map(({ name, ids }) => `${name} ${ids.length} texts, ${ids.flat().length} tokens`).join('; ')}`)
      const results = await runTrials(sides, { ...shared, ...exported }, Number(args.trials))
      models[model] = summary(model, config, all, results)
    }
    if (args.out) {
      const content = { machine: machineFacts(device), threads, peersMalloc: tunedMalloc, models }
      console.log(`written to ${await writeResults(args.out, content)}`)
    }
  } finally {
    device.dispose()
    await rm(folder, { recursive: true })
  }
}

function text(draw: Random, tokens: number): number[] {
  // [CLS] word ... [SEP]: words are ordinary tokens, so that every peer's tokenizer could have written them
  return Array.from({ length: tokens }, (_, i) => (i === 0 ? 101 : i === tokens - 1 ? 102 : 104 + draw.int(vocabulary - 104)))
}

function workloads(draw: Random, model: string): Workload[] {
  const long = model === 'base' || model === 'large'
  const uniform = (): number => (draw.next() + 0.5) / 2 ** 32
  const normal = (): number => Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform()) // Box and Muller 1958
  const equal = (texts: number, tokens: number): number[][] => Array.from({ length: texts }, () => text(draw, tokens))
  const lengths = Array.from({ length: Number(args.texts) }, () => Math.min(512, Math.max(3, Math.round(60 * Math.exp(0.8 * normal())))))
  const mixed = lengths.map((tokens) => text(draw, tokens))
  const batch = { batchTexts: 32, order: 'sorted' as const }
  return [
    // first, while nothing else has been held: its peak memory is reported
    { ...batch, name: 'mixed', ids: long ? mixed.slice(0, 512) : mixed, repeats: 1, warmUps: 1 },
    { ...batch, name: 'mixed-input-order', ids: mixed.slice(0, long ? 128 : inputOrderTexts), order: 'input', repeats: 1, warmUps: 0 },
    { ...batch, name: 'q16', ids: equal(1, 16), repeats: long ? 100 : 400, warmUps: 20 },
    { ...batch, name: 'q32', ids: equal(1, 32), repeats: long ? 100 : 400, warmUps: 20 },
    { ...batch, name: 'b128', ids: equal(32, 128), repeats: long ? 3 : 9, warmUps: 2 },
    { ...batch, name: 'b512', ids: equal(32, 512), repeats: long ? 1 : 3, warmUps: 1 },
  ]
}

/** { onnx: folder } or { onnxMissing: why there is none } */
function exportGraphs(shared: object, onnx: string): object {
  const python = process.env['BGE_PYTHON']
  const onnxMissing = 'no ONNX graphs: they need BGE_PYTHON with torch, onnx, onnxscript and onnxruntime'
  if (!python) return { onnxMissing }
  try {
    const script = checkoutFile('benchmarks/peers/export_onnx.py')
    const out = execFileSync(python, [script, JSON.stringify({ ...shared, onnx })], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] })
    const last = JSON.parse(out.trim().split('\n').at(-1)!) as { skipped?: string }
    return last.skipped === undefined ? { onnx } : { onnxMissing: `no ONNX graphs: ${last.skipped}` }
  } catch (error) {
    const { stderr } = error as { stderr?: string }
    return { onnxMissing: `no ONNX graphs: ${stderr?.trim().split('\n').at(-1) ?? onnxMissing}` }
  }
}

interface Row {
  workload: string
  texts: number
  tokens: number
  sides: Record<string, (Summary & { textsPerSecond: number }) | { skipped: string }>
  /** the fastest peer's time over ours, by dtype */
  ratios: Record<string, { peer: string; ratio: number } | undefined>
}

function summary(model: string, config: EncoderConfig, all: readonly Workload[], results: Record<string, SideResult>): object {
  const rows: Row[] = all.map(({ name: workload, ids }) => {
    const table = Object.fromEntries(Object.entries(results).map(([side, result]) => [side, summarise(result, workload)]))
    const sides = Object.fromEntries(
      Object.entries(results).flatMap(([side, { skipped }]): [string, Row['sides'][string]][] => {
        const found = table[side]
        if (found) return [[side, { ...found, textsPerSecond: ids.length / found.p50 }]]
        return skipped === undefined ? [] : [[side, { skipped }]]
      }),
    )
    const ratios = Object.fromEntries(
      Object.entries(peers).map(([dtype, list]) => {
        const mine = table[`ours ${dtype}`]
        const best = fastest(
          table,
          list.map(({ name }) => name),
        )
        return [dtype, mine && best && { peer: best.name, ratio: best.p50 / mine.p50 }]
      }),
    )
    for (const [side, found] of Object.entries(table)) {
      if (!found) continue
      const rate = workload.startsWith('q')
        ? `p50 ${milliseconds(found.p50)}, p99 ${milliseconds(found.p99)}`
        : `${(ids.length / found.p50).toFixed(1)} texts/s`
      console.log(`${model} ${workload}  ${side}: ${rate}, peak ${Math.round(found.peakBytes / 2 ** 20)} MiB`)
    }
    for (const [dtype, ratio] of Object.entries(ratios)) {
      if (ratio) console.log(`${model} ${workload}  ours ${dtype} is ${ratio.ratio.toFixed(2)}x ${ratio.peer}`)
    }
    return { workload, texts: ids.length, tokens: ids.flat().length, sides, ratios }
  })
  const reference = ['PyTorch eager fp32', 'ours fp32'].find((name) => results[name]?.trials[0]?.['check'])
  const exact = reference && (results[reference]!.trials[0]!['check'] as number[])
  const minCosine = Object.fromEntries(
    Object.entries(results).flatMap(([side, { trials }]) => {
      const check = trials[0]?.['check'] as number[] | null | undefined
      return exact && check ? [[side, smallestCosine(check, exact, config.hidden)]] : []
    }),
  )
  console.log(`${model}: smallest cosine to ${reference}: ${JSON.stringify(minCosine)}`)
  const slim = Object.fromEntries(
    Object.entries(results).map(([side, { trials, skipped }]) => [
      side,
      { skipped, trials: trials.map(({ check: _, ...trial }) => trial) },
    ]),
  )
  return { rows, cosine: { reference, minCosine }, sides: slim }
}

function smallestCosine(x: readonly number[], y: readonly number[], width: number): number {
  let least = 1
  for (let n = 0; n < x.length; n += width) {
    let [dot, a, b] = [0, 0, 0]
    for (let i = n; i < n + width; i++) {
      dot += x[i]! * y[i]!
      a += x[i]! ** 2
      b += y[i]! ** 2
    }
    least = Math.min(least, dot / Math.sqrt(a * b))
  }
  return least
}

// One training step on the CPU against PyTorch eager, on the same weights and tokens: forward with dropout, InfoNCE, backward, clipping, AdamW.
// A process per trial, in turns.
//   BGE_PYTHON=python3 npm run bench -- train [--models small] [--trials 3] [--repeats 5] [--threads N] [--out NAME]
// ratio > 1: we are faster. The PyTorch of bf16 is autocast, ours stores hidden states in bf16; master weights are fp32 in both.
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { random } from '../lib/data/random.js'
import { openDevice } from '../lib/native.js'
import { vocabulary, writeModel } from './peers/model_files.js'
import { defaultThreads, nodeSide, pythonSide, runTrials, summarise, tunedMalloc } from './peers/trials.js'
import { buildPackage, machineFacts, writeResults } from './support.js'

const { values: args } = parseArgs({
  options: {
    models: { type: 'string', default: 'small' },
    trials: { type: 'string', default: '3' },
    repeats: { type: 'string', default: '5' },
    threads: { type: 'string', default: String(defaultThreads) },
    out: { type: 'string' },
  },
  allowPositionals: true,
})
const [pairs, queryLength, passageLength, temperature] = [64, 32, 128, 0.02]
const threads = Number(args.threads)
const dtypes = ['fp32', 'bf16'] as const
const sides = dtypes.flatMap((dtype) => [
  nodeSide(`ours ${dtype}`, 'ours_train.mjs', { dtype }),
  pythonSide(`PyTorch ${dtype}`, 'train.py', { dtype }, tunedMalloc),
])

buildPackage()
const folder = await mkdtemp(join(tmpdir(), 'bge-train-'))
const device = await openDevice({ device: 'cpu', threads })
const models: Record<string, unknown> = {}
try {
  for (const model of args.models.split(',')) {
    const draw = random(2, `train ${model}`)
    const texts = (tokens: number): number[][] =>
      Array.from({ length: pairs }, () => Array.from({ length: tokens }, () => 1 + draw.int(vocabulary - 1)))
    const workloads = join(folder, `${model}.json`)
    const work = { queries: texts(queryLength), passages: texts(passageLength), temperature, repeats: Number(args.repeats) }
    await writeFile(workloads, JSON.stringify(work))
    const results = await runTrials(sides, { ...(await writeModel(device, model, folder)), threads, workloads }, Number(args.trials))
    const rows = dtypes.map((dtype) => {
      const [ours, torch] = [`ours ${dtype}`, `PyTorch ${dtype}`].map((name) => results[name]!)
      const [mine, theirs] = [summarise(ours, 'step'), summarise(torch, 'step')]
      return {
        dtype,
        ratio: mine && theirs && theirs.p50 / mine.p50,
        memoryRatio: mine && theirs && theirs.peakBytes / mine.peakBytes,
        ours: mine ?? { skipped: ours!.skipped },
        torch: theirs ?? { skipped: torch!.skipped },
        losses: [ours!.trials[0]?.['loss'], torch!.trials[0]?.['loss']],
      }
    })
    for (const row of rows) console.log(`${model} ${row.dtype}: ${JSON.stringify(row)}`)
    models[model] = { rows, trials: results }
  }
  const step = { pairs, queryLength, passageLength, temperature, dropout: 0.1 }
  if (args.out) {
    const content = { machine: machineFacts(device), threads, peersMalloc: tunedMalloc, step, models }
    console.log(`written to ${await writeResults(args.out, content)}`)
  }
} finally {
  device.dispose()
  await rm(folder, { recursive: true })
}

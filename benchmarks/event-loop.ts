// How late the event loop is while 5,000 texts are encoded: ours beside onnxruntime-node and @huggingface/transformers, each in a process of its own, the
// same model, texts and threads. `idle` is what the measurement shows of a process that only waits (perf_hooks.monitorEventLoopDelay looks every ms).
//   npm run build && npm run bench -- event-loop [--texts 5000] [--threads N] [--repeats 3] [--model DIR] [--out NAME]
// The peers: npm install --prefix benchmarks/peers --ignore-scripts, or BGE_PEERS names a folder with their node_modules. --model: a folder to use
// instead of a new bge-small over the quickstart's tokenizer; it gets an onnx/model.onnx in a copy.
import { execFileSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { cp, mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { availableParallelism, loadavg, tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { exportOnnx } from '../lib/export/onnx.js'
import { random } from '../lib/data/random.js'
import { dataFiles, readJsonl } from '../lib/data/jsonl.js'
import { BgeModel } from '../lib/model/model.js'
import { checkoutFile, machineFacts, writeResults } from './support.js'

interface Trial {
  seconds: number
  /** how often the delay was looked at */
  looks: number
  /** ms */
  p50: number
  p99: number
  max: number
}

const { values: args } = parseArgs({
  options: {
    texts: { type: 'string', default: '5000' },
    threads: { type: 'string', default: String(availableParallelism()) },
    repeats: { type: 'string', default: '3' },
    model: { type: 'string' },
    out: { type: 'string' },
  },
  allowPositionals: true,
})
const packages = process.env.BGE_PEERS ?? checkoutFile('benchmarks/peers')
const folder = await mkdtemp(join(tmpdir(), 'bge-event-loop-'))
try {
  const model = join(folder, 'model')
  if (args.model) await cp(args.model, model, { recursive: true })
  const own = args.model
    ? await BgeModel.load(model, { device: 'cpu' })
    : await BgeModel.createNew({ size: 'small', tokenizerDir: checkoutFile('examples/quickstart/tokenizer'), device: 'cpu' })
  if (!args.model) await own.save(model)
  await mkdir(join(model, 'onnx'), { recursive: true })
  await exportOnnx(model, join(model, 'onnx/model.onnx'))
  const machine = machineFacts(own.device)
  const texts = await someTexts(Number(args.texts))
  const { tokens } = await own.tokenizer.encodeBatch(texts)
  own.dispose()
  await writeFile(join(folder, 'texts.json'), JSON.stringify(texts))

  const load = loadavg()[0]!
  const results: Record<string, Trial[]> = {}
  const missing = (name: string): boolean => !existsSync(join(packages, 'node_modules', name))
  const sides = [
    { side: 'idle', needs: undefined },
    { side: 'ours', needs: undefined },
    { side: 'onnxruntime', needs: 'onnxruntime-node' },
    { side: 'transformers', needs: '@huggingface/transformers' },
  ].filter(({ side, needs }) => {
    if (needs === undefined || !missing(needs)) return true
    console.log(`${side}: left out, ${needs} is not in ${packages}`)
    return false
  })
  for (let repeat = 0; repeat < Number(args.repeats); repeat++) {
    for (const { side } of sides) {
      const options = { side, model, packages, texts: join(folder, 'texts.json'), threads: Number(args.threads) }
      const child = checkoutFile('benchmarks/peers/event_loop.mjs')
      const answer = execFileSync(process.execPath, [child, JSON.stringify(options)], {
        encoding: 'utf8',
        stdio: ['ignore', 'pipe', 'inherit'],
      })
      const trial = JSON.parse(answer.trim().split('\n').at(-1)!) as Trial
      ;(results[side] ??= []).push(trial)
      console.error(`run ${repeat + 1}, ${side}: p99 ${f(trial.p99)} ms in ${trial.seconds.toFixed(1)} s`)
    }
  }
  console.log(
    `${texts.length} texts, ${tokens} tokens, ${args.threads} threads, load before ${load.toFixed(1)}; the best of ${args.repeats} runs by p99`,
  )
  const best = Object.entries(results).map(([side, trials]) => ({ side, ...trials.reduce((a, b) => (b.p99 < a.p99 ? b : a)) }))
  for (const { side, seconds, looks, p50, p99, max } of best)
    console.log(`${side.padEnd(14)} p50 ${f(p50)}  p99 ${f(p99)}  max ${f(max)} ms   ${seconds.toFixed(1)} s, ${looks} looks`)
  if (args.out) {
    const settings = { texts: texts.length, tokens, threads: Number(args.threads), load }
    console.log(`written to ${await writeResults(args.out, { machine, ...settings, best, runs: results })}`)
  }
} finally {
  await rm(folder, { recursive: true })
}

function f(value: number): string {
  return value.toFixed(2).padStart(8)
}

/** Pieces of 10 to 60 characters of the quickstart's corpus, no two alike, from a fixed seed. */
async function someTexts(count: number): Promise<string[]> {
  const draw = random(1, 'event-loop')
  const documents: string[] = []
  for (const file of await dataFiles([checkoutFile('examples/quickstart/corpus')]))
    for await (const { value } of readJsonl(file)) if (typeof value.text === 'string') documents.push(value.text)
  const all = documents.join('')
  const texts = new Set<string>()
  while (texts.size < count) {
    const start = draw.int(all.length)
    texts.add(all.slice(start, start + 10 + draw.int(51)))
  }
  return [...texts]
}

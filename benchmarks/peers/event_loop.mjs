// One trial of event-loop.ts, in a process of its own: encodes options.texts with options.side and says how late the event loop was meanwhile.
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { monitorEventLoopDelay } from 'node:perf_hooks'
import { readFileSync } from 'node:fs'
import { setTimeout as pause } from 'node:timers/promises'
import { pathToFileURL } from 'node:url'

const options = JSON.parse(process.argv.at(-1))
const texts = JSON.parse(readFileSync(options.texts, 'utf8'))
const warmUp = texts.slice(0, 200)
const batchTexts = 32 // of the peers, which take what they are given at once

function batches(all) {
  return Array.from({ length: Math.ceil(all.length / batchTexts) }, (_, i) => all.slice(i * batchTexts, (i + 1) * batchTexts))
}

/** Each returns a function that encodes texts. */
const sides = {
  /** Nothing but waiting: what the measurement itself shows. */
  async idle() {
    return () => pause(3000)
  },
  async ours() {
    const { BgeModel } = await import(new URL('../../dist/index.js', import.meta.url))
    const model = await BgeModel.load(options.model, { device: 'cpu', threads: options.threads })
    return (some) => model.encode(some)
  },
  async onnxruntime() {
    const require = createRequire(join(options.packages, 'package.json'))
    const ort = require('onnxruntime-node')
    const { Tokenizer } = await import(new URL('../../dist/index.js', import.meta.url))
    const tokenizer = await Tokenizer.load(options.model)
    const session = await ort.InferenceSession.create(join(options.model, 'onnx/model.onnx'), {
      intraOpNumThreads: options.threads,
      interOpNumThreads: 1,
    })
    // Tokenised before the clock starts: what is measured is the runtime alone.
    const { ids } = await tokenizer.encodeBatch(texts)
    const rowOf = new Map(texts.map((text, i) => [text, ids[i]]))
    return async (some) => {
      for (const batch of batches(some.map((text) => rowOf.get(text)))) {
        const length = Math.max(...batch.map((row) => row.length))
        const dims = [batch.length, length]
        const feed = () => new BigInt64Array(batch.length * length)
        const [input_ids, attention_mask, token_type_ids] = [feed(), feed(), feed()]
        for (const [n, row] of batch.entries())
          for (const [t, id] of row.entries()) {
            input_ids[n * length + t] = BigInt(id)
            attention_mask[n * length + t] = 1n
          }
        const feeds = Object.entries({ input_ids, attention_mask, token_type_ids })
        await session.run(Object.fromEntries(feeds.map(([name, data]) => [name, new ort.Tensor('int64', data, dims)])))
      }
    }
  },
  async transformers() {
    const file = join(options.packages, 'node_modules/@huggingface/transformers/dist/transformers.node.mjs')
    const { pipeline, env } = await import(pathToFileURL(file))
    env.allowRemoteModels = false
    env.localModelPath = dirname(options.model)
    const session_options = { intraOpNumThreads: options.threads, interOpNumThreads: 1 }
    const extract = await pipeline('feature-extraction', options.model.slice(env.localModelPath.length + 1), {
      dtype: 'fp32',
      session_options,
    })
    return async (some) => {
      for (const batch of batches(some)) await extract(batch, { pooling: 'cls', normalize: true })
    }
  },
}

const encode = await sides[options.side]()
await encode(warmUp)
await pause(200)
const resolution = 1 // ms between looks: the least delay that it shows
const histogram = monitorEventLoopDelay({ resolution })
histogram.enable()
const start = performance.now()
await encode(texts)
const seconds = (performance.now() - start) / 1000
histogram.disable()
const ms = (nanoseconds) => nanoseconds / 1e6
process.stdout.write(
  `${JSON.stringify({ seconds, looks: histogram.count, p50: ms(histogram.percentile(50)), p99: ms(histogram.percentile(99)), max: ms(histogram.max) })}\n`,
  () => process.exit(0), // native threads of the peers may linger
)

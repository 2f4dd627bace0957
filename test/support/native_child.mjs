// Scenarios that must not take a process down, each run in a process of its own by native.test.ts: node native_child.mjs <scenario>
import { createRequire } from 'node:module'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { isMainThread, parentPort, Worker, workerData } from 'node:worker_threads'

const file = fileURLToPath(import.meta.url)
const addon = createRequire(import.meta.url)('../../build/Release/bge.node')
addon.configure(
  class extends Error {
    constructor(code, message) {
      super(message)
      this.code = code
    }
  },
)

const config = {
  layers: 2,
  hidden: 64,
  heads: 4,
  intermediate: 256,
  vocab: 100,
  maxPositions: 128,
  typeVocab: 2,
  layerNormEps: 1e-12,
  hiddenDropout: 0,
  attentionDropout: 0,
  pooling: 'cls',
  normalize: true,
}

/** A device with an encoder, and `count` texts of 100 tokens for it. */
function open(count) {
  const device = addon.openDevice({ threads: 1 })
  const encoder = device.encoder(config)
  for (const { name, shape } of encoder.parameters.list) {
    const values = new Float32Array(shape.reduce((a, b) => a * b, 1)).map((_, i) => Math.sin(i))
    void encoder.parameters.write(name, values)
  }
  const batch = {
    ids: new Int32Array(count * 100).map((_, i) => i % 100),
    cuSeqlens: Int32Array.from({ length: count + 1 }, (_, n) => n * 100),
  }
  return { device, encoder, batch }
}

const scenarios = {
  // Twenty threads, each with its own device, ended at any moment of a job.
  async storm() {
    let jobs = 0
    await Promise.all(
      Array.from({ length: 20 }, async (_, n) => {
        const worker = new Worker(file, { workerData: { scenario: 'embedForever', held: n % 2 === 0 } })
        worker.on('message', () => jobs++)
        await new Promise((resolve, reject) => {
          worker.once('online', resolve)
          worker.once('error', reject)
        })
        await sleep(20 + n * 23)
        await worker.terminate()
      }),
    )
    console.log(jobs > 0 ? 'storm over' : 'no worker finished a job')
  },
  async embedForever() {
    const { device, encoder, batch } = open(8)
    if (workerData.held) globalThis.kept = [device, encoder]
    for (;;) {
      // Several in flight, so that the end finds some running, some queued and some finished.
      await Promise.all([1, 2, 3].map(() => encoder.embed(batch)))
      parentPort.postMessage('embedded')
    }
  },

  // Nothing is disposed: the process ends by itself once no call is pending, and not before.
  async idle() {
    const { encoder, batch } = open(4)
    void encoder
      .embed(batch)
      .then((e) => e.toArray())
      .then((e) => console.log(`idle after ${e.length}`))
  },

  async exitWhileRunning() {
    const { encoder, batch } = open(64)
    for (let i = 0; i < 20; i++) void encoder.embed(batch)
    await sleep(5)
    console.log('leaving')
    process.exit(0)
  },

  async disposeWhileRunning() {
    const { device, encoder, batch } = open(16)
    const calls = Array.from({ length: 10 }, () => encoder.embed(batch))
    device.dispose()
    const settled = await Promise.allSettled(calls)
    console.log(`settled ${settled.filter((s) => s.status === 'fulfilled').length}`)
  },

  // Handles that nobody holds give their memory back.
  async garbage() {
    const device = addon.openDevice({ threads: 1 })
    await device.synchronize()
    const before = device.memory().allocated
    for (let i = 0; i < 50; i++) device.zeros(1000, 1000)
    await device.synchronize()
    const held = device.memory().allocated - before
    for (let i = 0; i < 20; i++) {
      globalThis.gc()
      await sleep(5)
      await device.synchronize()
    }
    const left = device.memory().allocated - before
    console.log(held >= 50 * 4e6 && left <= 4e6 ? 'collected' : `held ${held}, left ${left}`)
  },
}

await scenarios[isMainThread ? process.argv[2] : workerData.scenario]()

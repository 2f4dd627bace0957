// Our side of infonce.ts, one trial in a process of its own: the addon alone, so that the memory is that of the loss and not of a test runner.
//   node --expose-gc benchmarks/peers/ours_infonce.mjs TRIAL      as torch_infonce.py
import { readFileSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'

const trial = JSON.parse(process.argv[2])
const { batch, width, temperature, threads, dtype } = trial
const { openDevice } = createRequire(import.meta.url)('../../build/Release/bge.node')
const device = openDevice({ threads, ...(dtype !== 'fp32' && { dtype }) })

function load(/** @type {string} */ file, /** @type {number} */ rows) {
  const bytes = readFileSync(file)
  return device.tensor(new Float32Array(bytes.buffer, bytes.byteOffset, rows * width), rows, width)
}
async function step(q, p) {
  const start = performance.now()
  const { loss, dQ, dP } = await device.contrastive(q, p, { temperature })
  return { seconds: (performance.now() - start) / 1000, loss, gradients: [dQ, dP] }
}
/** Bytes of this process. */
const memory = (/** @type {string} */ name) =>
  Number(new RegExp(`^${name}:\\s+(\\d+) kB`, 'm').exec(readFileSync('/proc/self/status', 'utf8'))[1]) * 1024

const warm = [load(trial.q, trial.warm), load(trial.p, trial.warm)]
for (const tensor of [...(await step(...warm)).gradients, ...warm]) tensor.dispose()

const [q, p] = [load(trial.q, batch), load(trial.p, batch)]
await device.synchronize()
globalThis.gc?.()
await new Promise((resolve) => setTimeout(resolve, 100)) // buffers are given back a moment later
const before = memory('VmRSS')
writeFileSync('/proc/self/clear_refs', '5') // the peak begins anew
const seconds = []
let loss = 0
let peak = 0
for (let i = 0; i < trial.runs; i++) {
  const result = await step(q, p)
  seconds.push(result.seconds)
  loss = result.loss
  peak = memory('VmHWM')
  if (trial.gradients && i === trial.runs - 1) {
    const values = await Promise.all(result.gradients.map((tensor) => tensor.toArray()))
    writeFileSync(trial.gradients, Buffer.concat(values.map((x) => Buffer.from(x.buffer, x.byteOffset, x.byteLength))))
  }
  for (const tensor of result.gradients) tensor.dispose()
}
device.dispose()
console.log(JSON.stringify({ seconds, loss, before, peak }))

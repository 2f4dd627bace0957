// Our side of topk.ts. `contiguous`: all passages as one tensor, in one call.
import { createHash } from 'node:crypto'
import { closeSync, openSync, readSync } from 'node:fs'
import { openDevice } from '../../dist/native.js'
import { peakBytes, residentBytes, resetPeak } from './memory.mjs'

const options = JSON.parse(process.argv.at(-1))
const device = await openDevice({ device: 'cpu', threads: options.threads })
function floats(file, rows) {
  const values = new Float32Array(rows * options.dims)
  const handle = openSync(file, 'r')
  const bytes = new Uint8Array(values.buffer)
  for (let at = 0; at < bytes.length; ) at += readSync(handle, bytes, at, Math.min(2 ** 30, bytes.length - at), at)
  closeSync(handle)
  return values
}
const Q = device.tensor(floats(options.queriesFile, options.queries), options.queries, options.dims)
const P = device.tensor(floats(options.passagesFile, options.passages), options.passages, options.dims)
await device.synchronize()
globalThis.gc?.()
await device.topK(Q, P, options.k)
const loadedBytes = residentBytes()
resetPeak()
const seconds = []
let found
for (let i = 0; i < options.repeats; i++) {
  const start = performance.now()
  found = await device.topK(Q, P, options.k)
  seconds.push((performance.now() - start) / 1000)
}
const workloads = { search: { seconds, peakBytes: peakBytes() } }
const versions = { node: process.version, device: device.description }
const first = [...found.indices.subarray(0, options.k)]
const sha256 = createHash('sha256').update(new Uint8Array(found.indices.buffer)).digest('hex')
process.stdout.write(`${JSON.stringify({ versions, loadedBytes, workloads, first, sha256 })}\n`)
device.dispose()

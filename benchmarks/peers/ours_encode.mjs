// Our side of encode.ts.
import { buildTokenBatch, packBatches } from '../../dist/data/batch.js'
import { measure, readWorkloads } from './measure.mjs'
import { loadEncoder, open, options } from './ours_model.mjs'

const device = await open()
const encoder = await loadEncoder(device)
const microBatchTokens = 2048 // BgeModel's default on a CPU
async function embed(_, rows) {
  const ids = rows.map((row) => Int32Array.from(row))
  const lengths = ids.map((row) => row.length)
  const width = encoder.config.hidden
  const vectors = new Float32Array(ids.length * width)
  for (const indices of packBatches(lengths, microBatchTokens)) {
    const tensor = await encoder.embed(buildTokenBatch(ids, indices))
    const part = await tensor.toArray()
    tensor.dispose()
    for (const [r, index] of indices.entries()) vectors.set(part.subarray(r * width, (r + 1) * width), index * width)
  }
  return vectors
}
const check = [...(await embed(undefined, readWorkloads(options.check)[0].ids))]
await measure(options, { node: process.version, device: device.description }, embed, { check })
device.dispose()

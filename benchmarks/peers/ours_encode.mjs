// Our side of encode.ts, from the package's own build (dist/): what a user loads, and no loader's memory next to it.
import { buildTokenBatch, packBatches } from '../../dist/data/batch.js'
import { openDevice } from '../../dist/native.js'
import { openSafetensors } from '../../dist/model/safetensors.js'
import { measure, readWorkloads, skip } from './measure.mjs'

const options = JSON.parse(process.argv.at(-1))
let device
try {
  device = await openDevice({ device: 'cpu', threads: options.threads, dtype: options.dtype })
} catch (error) {
  skip(error.message)
}
const encoder = device.encoder(options.config)
const source = await openSafetensors(options.weights)
for (const { name } of encoder.parameters.list) await encoder.parameters.write(name, await source.read(name))
await source.close?.()

const microBatchTokens = 16_384 // encodeTexts' default
async function embed(_, rows) {
  const ids = rows.map((row) => Int32Array.from(row))
  const width = encoder.config.hidden
  const vectors = new Float32Array(ids.length * width)
  for (const indices of packBatches(
    ids.map((row) => row.length),
    microBatchTokens,
  )) {
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

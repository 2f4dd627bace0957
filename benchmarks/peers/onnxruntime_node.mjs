// onnxruntime-node and @huggingface/transformers, the Node peers of encode.ts. options.runtime: 'onnxruntime' (the fused graph) or 'transformers'.
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { batches, measure, readWorkloads, skip } from './measure.mjs'

const options = JSON.parse(process.argv.at(-1))
if (!options.packages)
  skip('onnxruntime-node is not installed: npm install --prefix benchmarks/peers --ignore-scripts, or name its folder in BGE_PEERS')
if (!options.onnx) skip(options.onnxMissing)
const require = createRequire(join(options.packages, 'package.json'))
const version = (name) => {
  for (let folder = dirname(require.resolve(name)); ; folder = dirname(folder)) {
    const manifest = join(folder, 'package.json')
    try {
      const found = require(manifest)
      if (found.name === name) return found.version
    } catch {
      if (folder === dirname(folder)) return 'unknown'
    }
  }
}

/** int64 ids and masks, padded to the longest of the batch */
function padded(rows) {
  const length = Math.max(...rows.map((row) => row.length))
  const ids = new BigInt64Array(rows.length * length)
  const mask = new BigInt64Array(rows.length * length)
  for (const [n, row] of rows.entries()) {
    for (const [t, id] of row.entries()) {
      ids[n * length + t] = BigInt(id)
      mask[n * length + t] = 1n
    }
  }
  return { ids, mask, types: new BigInt64Array(rows.length * length), dims: [rows.length, length] }
}

let forward // rows -> the last hidden states
const versions = { node: process.version, 'onnxruntime-node': version('onnxruntime-node') }
if (options.runtime === 'onnxruntime') {
  const ort = require('onnxruntime-node')
  const session = await ort.InferenceSession.create(join(options.onnx, options.graph), {
    intraOpNumThreads: options.threads,
    interOpNumThreads: 1,
    graphOptimizationLevel: 'all',
  })
  forward = async (rows) => {
    const { ids, mask, types, dims } = padded(rows)
    const feeds = { input_ids: ids, attention_mask: mask, token_type_ids: types }
    const tensors = session.inputNames.map((name) => [name, new ort.Tensor('int64', feeds[name], dims)])
    const { last_hidden_state } = await session.run(Object.fromEntries(tensors))
    return { data: last_hidden_state.data, dims }
  }
} else {
  const { AutoModel, Tensor, env } = await import(
    pathToFileURL(join(options.packages, 'node_modules/@huggingface/transformers/dist/transformers.node.mjs'))
  )
  versions['@huggingface/transformers'] = version('@huggingface/transformers')
  env.allowRemoteModels = false
  env.localModelPath = dirname(options.onnx)
  const model = await AutoModel.from_pretrained(options.onnx.slice(env.localModelPath.length + 1), {
    dtype: options.dtype,
    session_options: { intraOpNumThreads: options.threads, interOpNumThreads: 1 },
  })
  forward = async (rows) => {
    const { ids, mask, types, dims } = padded(rows)
    const [input_ids, attention_mask, token_type_ids] = [ids, mask, types].map((data) => new Tensor('int64', data, dims))
    const { last_hidden_state } = await model({ input_ids, attention_mask, token_type_ids })
    return { data: last_hidden_state.data, dims }
  }
}

async function embed({ batchTexts, order }, ids) {
  const width = options.config.hidden
  const vectors = []
  for (const rows of batches(ids, batchTexts, order)) {
    const { data, dims } = await forward(rows)
    for (let n = 0; n < rows.length; n++) {
      const cls = data.slice(n * dims[1] * width, n * dims[1] * width + width)
      let sum = 0
      for (const x of cls) sum += x * x
      vectors.push(cls.map((x) => x / Math.sqrt(sum)))
    }
  }
  return vectors
}
const check = (await embed({ batchTexts: 32, order: 'input' }, readWorkloads(options.check)[0].ids)).flatMap((row) => [...row])
await measure(options, versions, embed, { check })

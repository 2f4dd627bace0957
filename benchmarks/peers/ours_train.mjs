// Our side of train.ts: one step of InfoNCE with in-batch negatives, all pairs in one micro-batch, as PyTorch has them.
import { readFileSync } from 'node:fs'
import { gradCache } from '../../dist/train/gradcache.js'
import { peakBytes, residentBytes, resetPeak } from './memory.mjs'
import { loadEncoder, open, options } from './ours_model.mjs'

const device = await open()
const encoder = await loadEncoder(device)
const adamW = device.adamW([encoder])
const { queries, passages, temperature, repeats } = JSON.parse(readFileSync(options.workloads, 'utf8'))
const groups = [queries, passages].map((rows) => rows.map((row) => Int32Array.from(row)))
const microBatchTokens = groups.flat().reduce((sum, row) => sum + row.length, 0)

async function step(learningRate, key) {
  const contrastive = async ([Q, P]) => {
    const { loss, dQ, dP } = await device.contrastive(Q, P, { temperature })
    return { loss, gradients: [dQ, dP] }
  }
  const { loss } = await gradCache(encoder, device, groups, contrastive, { microBatchTokens, ...(key && { key }) })
  await adamW.step(learningRate, 1)
  return loss
}

const loss = await step(0) // without dropout, and nothing moves: the other sides must see the same loss
await step(1e-5, { seed: 1n, step: 0 })
const loadedBytes = residentBytes()
resetPeak()
const seconds = []
for (let i = 1; i <= repeats; i++) {
  const start = performance.now()
  await step(1e-5, { seed: 1n, step: i })
  seconds.push((performance.now() - start) / 1000)
}
const versions = { node: process.version, device: device.description }
process.stdout.write(`${JSON.stringify({ versions, loadedBytes, workloads: { step: { seconds, peakBytes: peakBytes() } }, loss })}\n`)
device.dispose()

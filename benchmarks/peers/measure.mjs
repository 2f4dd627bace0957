// The Node side of a trial: runs every workload of the shared file with embed(rows) and prints the report that trials.ts reads.
import { readFileSync } from 'node:fs'
import { peakBytes, residentBytes, resetPeak } from './memory.mjs'

/** The workloads of encode.ts: { name, ids, repeats, warmUps, order } */
export const readWorkloads = (file) => JSON.parse(readFileSync(file, 'utf8'))

/** Batches of `size` texts, in input order or by length, padded later by who calls. */
export function batches(ids, size, order) {
  const rows = order === 'sorted' ? [...ids].sort((a, b) => b.length - a.length) : ids
  const all = []
  for (let first = 0; first < rows.length; first += size) all.push(rows.slice(first, first + size))
  return all
}

/** @param embed (workload, ids) -> resolves when the vectors of all texts are in JavaScript's memory */
export async function measure(options, versions, embed, more = {}) {
  const loadedBytes = residentBytes()
  const workloads = {}
  for (const workload of readWorkloads(options.workloads)) {
    for (let i = 0; i < workload.warmUps; i++) await embed(workload, workload.ids.slice(0, 256))
    resetPeak()
    const seconds = []
    for (let i = 0; i < workload.repeats; i++) {
      const start = performance.now()
      await embed(workload, workload.ids)
      seconds.push((performance.now() - start) / 1000)
    }
    workloads[workload.name] = { seconds, peakBytes: peakBytes() }
  }
  process.stdout.write(`${JSON.stringify({ versions, loadedBytes, workloads, ...more })}\n`)
}

export function skip(reason) {
  process.stdout.write(`${JSON.stringify({ skipped: reason })}\n`)
  process.exit(0)
}

/**
 * Results and a cache for cmteb_parity.py without a model: the vector of a text is the sum of random vectors of its characters, so that cosines are
 * spread as a trained model's are.
 *   node benchmarks/cmteb-vectors.mjs DATA OUT CACHE 1.9 STSB,OCNLI,...
 */
import { createHash } from 'node:crypto'
import { evaluate } from '../dist/eval/evaluate.js'

const [data, out, cache, sklearn, tasks = 'all'] = process.argv.slice(2)
const dims = 256
const known = new Map()

/** (dims) about N(0, 1), from hashes. */
function vectorOf(character) {
  const found = known.get(character)
  if (found) return found
  const bytes = Buffer.concat(Array.from({ length: (4 * dims) / 32 }, (_, i) => createHash('sha256').update(`${character} ${i}`).digest()))
  const vector = Float32Array.from({ length: dims }, (_, i) => [0, 1, 2, 3].reduce((sum, k) => sum + bytes[4 * i + k] / 255, 0) - 2)
  known.set(character, vector)
  return vector
}

const model = {
  dims,
  fingerprint: async () => 'characters',
  async encode(texts, { instruction = '' } = {}) {
    const data = new Float32Array(texts.length * dims)
    for (const [n, text] of texts.entries()) {
      const row = data.subarray(n * dims, (n + 1) * dims)
      for (const character of instruction + text) for (const [i, x] of vectorOf(character).entries()) row[i] += x
      const norm = Math.hypot(...row) || 1
      for (let i = 0; i < dims; i++) row[i] /= norm
    }
    return { data }
  },
}
const evaluation = await evaluate(model, {
  data,
  out,
  tasks: tasks.split(','),
  rules: { dialect: 'mteb2', sklearn },
  reuse: { cache },
  instruction: '问',
})
for (const task of evaluation.tasks) if ('error' in task) throw new Error(task.error.message)

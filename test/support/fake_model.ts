import type { EncodeOptions, Embedder } from '../../lib/model/embedder.js'
import type { SearchDevice } from '../../lib/model/search.js'
import type { Tensor, TopK } from '../../lib/native.js'

/** An embedder of given vectors: `vectors[text]`, or the sum of one-hot vectors of its characters. Remembers what it was asked. */
export function fakeModel(vectors: Record<string, readonly number[]> = {}): Embedder & {
  readonly device: SearchDevice
  readonly calls: { texts: string[]; instruction: string }[]
} {
  const dims = Object.values(vectors)[0]?.length ?? 97
  const calls: { texts: string[]; instruction: string }[] = []
  return {
    dims,
    calls,
    device: plainDevice(),
    async encode(texts: readonly string[], options: EncodeOptions = {}) {
      const instruction = options.instruction ?? ''
      calls.push({ texts: [...texts], instruction })
      const data = new Float32Array(texts.length * dims)
      for (const [i, text] of texts.entries()) {
        const given = vectors[instruction + text] ?? vectors[text]
        if (given) data.set(given, i * dims)
        else for (const character of text) data[i * dims + (character.codePointAt(0)! % dims)]! += 1
      }
      return { data }
    },
  }
}

/** Exact search in plain JavaScript: the rules of device.topK (ties by smaller index, merging, -1 for empty slots). */
export function plainDevice(): SearchDevice {
  const values = new WeakMap<Tensor, Float32Array>()
  return {
    tensor(data, rows, cols) {
      const tensor = { shape: [rows, cols], dispose() {} } as unknown as Tensor
      values.set(tensor, data.slice())
      return tensor
    },
    async topK(q, p, k, { firstIndex = 0, into } = {}) {
      const [queries, dims] = q.shape
      const indices = new Int32Array(queries * k).fill(-1)
      const scores = new Float32Array(queries * k).fill(-Infinity)
      for (let b = 0; b < queries; b++) {
        const hits: [number, number][] = []
        if (into) for (let i = b * k; i < (b + 1) * k; i++) if (into.indices[i]! >= 0) hits.push([into.indices[i]!, into.scores[i]!])
        for (let j = 0; j < p.shape[0]; j++) {
          let sum = 0
          for (let d = 0; d < dims; d++) sum += values.get(q)![b * dims + d]! * values.get(p)![j * dims + d]!
          hits.push([firstIndex + j, Math.fround(sum)])
        }
        hits.sort((x, y) => y[1] - x[1] || x[0] - y[0])
        for (const [i, [index, score]] of hits.slice(0, k).entries()) {
          indices[b * k + i] = index
          scores[b * k + i] = score
        }
      }
      return { indices, scores } satisfies TopK
    },
  }
}

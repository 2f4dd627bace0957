import type { KeptModel } from './options.js'
import { type KeptVectors, keptVectors } from './vectors.js'

/** Vectors of queries, each with its own instruction. */
export interface QueryVectors {
  /** texts that the model has encoded */
  readonly encoded: number
  /** @returns (B, D) */
  encode(queries: readonly { readonly text: string; readonly instruction: string }[]): Promise<Float32Array>
  close(): void
}

/** Instructions whose vectors are open at a time. */
const OPEN = 32

export function queryVectors(
  model: KeptModel,
  fingerprint: string,
  options: { readonly directory: string; readonly signal: AbortSignal | undefined },
): QueryVectors {
  const { dims } = model
  const open = new Map<string, KeptVectors>()
  let closed = 0 // encoded by those that have been closed
  const close = (): void => {
    for (const vectors of open.values()) {
      closed += vectors.encoded
      vectors.close()
    }
    open.clear()
  }
  return {
    get encoded() {
      let sum = closed
      for (const vectors of open.values()) sum += vectors.encoded
      return sum
    },
    async encode(queries) {
      const out = new Float32Array(queries.length * dims)
      for (const instruction of new Set(queries.map((query) => query.instruction))) {
        const members = [...queries.keys()].filter((i) => queries[i]!.instruction === instruction)
        if (!open.has(instruction)) {
          if (open.size >= OPEN) close()
          open.set(instruction, await keptVectors(model, fingerprint, { ...options, instruction }))
        }
        const vectors = open.get(instruction)!
        const places = await vectors.ensure(members.map((i) => queries[i]!.text))
        const rows = new Float32Array(members.length * dims)
        vectors.read(places, rows)
        for (const [m, i] of members.entries()) out.set(rows.subarray(m * dims, (m + 1) * dims), i * dims)
      }
      return out
    },
    close,
  }
}

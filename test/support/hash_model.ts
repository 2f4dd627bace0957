import { createHash } from 'node:crypto'
import type { EvaluatedModel } from '../../lib/eval/evaluate.js'
import { plainDevice } from './fake_model.js'

/** A model with a fingerprint whose vectors are hashes of the texts: no two are alike. Remembers what it was asked. */
export function hashModel(
  fingerprint: string = 'f'.repeat(64),
): EvaluatedModel & { readonly calls: { texts: readonly string[]; instruction: string }[] } {
  const calls: { texts: readonly string[]; instruction: string }[] = []
  const bytes = (text: string): number[] => [...createHash('sha256').update(text).digest().subarray(0, 8)].map((byte) => byte - 127.5)
  return {
    dims: 8,
    calls,
    device: plainDevice(),
    fingerprint: async () => fingerprint,
    async encode(texts, { instruction = '' } = {}) {
      calls.push({ texts, instruction })
      return { data: Float32Array.from(texts.flatMap((text) => bytes(instruction + text))) }
    },
  }
}

import { createHash } from 'node:crypto'
import type { Encoder } from '../native.js'

/** What decides a vector besides the weights. */
export interface FingerprintParts {
  readonly encoder: Encoder
  readonly tokenizerFingerprint: string
  readonly pooling: string
  readonly normalize: boolean
  readonly instruction: string
}

/**
 * sha256 in hexadecimal over the weights (as float32), the tokenizer, pooling, normalisation and instruction. It does not depend on how a folder stores
 * them: names with or without `bert.`, safetensors or pickle, shards, float16 of the same values.
 */
export async function modelFingerprint(parts: FingerprintParts): Promise<string> {
  const { encoder } = parts
  const { heads, layerNormEps } = encoder.config
  const hash = createHash('sha256')
  hash.update(
    JSON.stringify(['float32', parts.tokenizerFingerprint, parts.pooling, parts.normalize, parts.instruction, heads, layerNormEps]),
  )
  for (const { name, shape } of encoder.parameters.list) {
    const values = await encoder.parameters.read(name)
    hash.update(JSON.stringify([name, shape]))
    hash.update(new Uint8Array(values.buffer, values.byteOffset, values.byteLength))
  }
  return hash.digest('hex')
}

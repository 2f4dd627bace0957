import { stat } from 'node:fs/promises'
import { join } from 'node:path'
import { openCheckpoint } from './checkpoint.js'
import type { Pooling } from './config.js'
import { loadTokenizer, readDescription } from './folder.js'
import { elements } from './weights.js'

/** What a model folder is, without loading its weights. */
export interface ModelInfo {
  readonly folder: string
  readonly layers: number
  readonly hidden: number
  readonly heads: number
  readonly intermediate: number
  readonly vocab: number
  /** of the encoder; the pooler and an MLM head not counted */
  readonly parameters: number
  /** of all weight files */
  readonly weightBytes: number
  readonly pooling: Pooling
  readonly normalize: boolean
  /** tokens of a text, [CLS] and [SEP] included */
  readonly maxLength: number
  /** before every query; '' for none */
  readonly instruction: string
  readonly tokenizer: { readonly engine: 'native' | 'library'; readonly vocabulary: number; readonly fingerprint: string }
  /** whether it carries an MLM head, for stage 1 to go on with */
  readonly mlmHead: boolean
}

/** Errors: those of the folder (ERR_BGE_FILE, ERR_BGE_MODEL_FORMAT, ERR_BGE_POOLING, ERR_BGE_TOKENIZER). */
export async function modelInfo(folder: string, pooling?: Pooling): Promise<ModelInfo> {
  const description = await readDescription(folder, pooling)
  const tokenizer = await loadTokenizer(folder)
  const { layers, hidden, heads, intermediate, vocab, maxPositions } = description.config
  const checkpoint = await openCheckpoint(folder)
  try {
    const tensors = [...checkpoint.tensors]
    const encoder = tensors.filter(([name]) => /^(embeddings|encoder)\./.test(name) && name !== 'embeddings.position_ids')
    const files = new Set(tensors.map(([, { file }]) => file))
    let weightBytes = 0
    for (const file of files) weightBytes += (await stat(file)).size
    return {
      folder: join(folder),
      layers,
      hidden,
      heads,
      intermediate,
      vocab,
      parameters: encoder.reduce((sum, [, { shape }]) => sum + elements(shape), 0),
      weightBytes,
      pooling: description.pooling,
      normalize: description.normalize,
      maxLength: Math.min(description.maxLength ?? tokenizer.modelMaxLength ?? maxPositions, maxPositions),
      instruction: description.instruction,
      tokenizer: { engine: tokenizer.engine, vocabulary: tokenizer.vocabSize, fingerprint: tokenizer.fingerprint },
      mlmHead: tensors.some(([name]) => name.startsWith('cls.predictions.')),
    }
  } finally {
    await checkpoint.close()
  }
}

import { BgeError } from '../errors.js'
import { openCheckpoint, readTensor } from '../model/checkpoint.js'
import type { Pooling } from '../model/config.js'
import { loadTokenizer, readDescription } from '../model/folder.js'
import { isMlmHeadTensor } from '../model/mlm_head.js'
import { saveFolder } from '../model/save.js'
import { toFloat16, toFloat32 } from '../model/weights.js'

const LARGEST = 65_504

/**
 * Writes a model folder with float16 weights, half the size: each value is rounded to the nearest even. An MLM head is left out, and a calibration, which
 * belongs to the exact vectors. Memory is one tensor.
 * Errors: those of the folder, ERR_BGE_ARGUMENT for a weight beyond the range of float16, ERR_BGE_SAVE.
 */
export async function exportHalf(folder: string, out: string, options: { pooling?: Pooling } = {}): Promise<void> {
  const description = await readDescription(folder, options.pooling)
  const tokenizer = await loadTokenizer(folder)
  const checkpoint = await openCheckpoint(folder)
  try {
    const names = [...checkpoint.tensors.keys()].filter((name) => !isMlmHeadTensor(name) && name !== 'embeddings.position_ids')
    const list = names.map((name) => ({ name, shape: checkpoint.tensors.get(name)!.shape }))
    const read = async (name: string): Promise<Float32Array> => {
      const values = await readTensor(checkpoint, name, checkpoint.tensors.get(name)!.shape)
      const half = toFloat32(toFloat16(values).buffer as ArrayBuffer, 'F16')
      const beyond = half.findIndex((value) => !Number.isFinite(value))
      if (beyond < 0) return half
      throw new BgeError(
        'ERR_BGE_ARGUMENT',
        `${folder}: tensor "${name}" holds ${values[beyond]}, beyond the ${LARGEST} that float16 can hold: keep this model in float32`,
      )
    }
    for (const name of names) await read(name) // refused before anything is written
    const { maxPositions } = description.config
    const content = {
      ...description,
      maxLength: Math.min(description.maxLength ?? tokenizer.modelMaxLength ?? maxPositions, maxPositions),
      padId: tokenizer.padId,
      tokenizerFiles: tokenizer.files,
      encoder: { parameters: { list, read } },
      mlmHead: undefined,
      others: new Map(),
      calibration: undefined,
      stored: 'F16' as const,
    }
    await saveFolder(out, content, async () => {})
  } finally {
    await checkpoint.close()
  }
}

// A model of random weights in files, for processes that are started to be compared: every side reads the same ones.
import { join } from 'node:path'
import { type ModelSize, presetConfig, sizes } from '../../lib/model/config.js'
import { initialiseParameters } from '../../lib/model/parameters.js'
import { writeSafetensors } from '../../lib/model/safetensors.js'
import type { Device, EncoderConfig } from '../../lib/native.js'

export const vocabulary = 21128

export interface ModelFiles {
  config: EncoderConfig
  /** model.safetensors with Hugging Face's names */
  weights: string
}

export async function writeModel(device: Device, size: string, folder: string): Promise<ModelFiles> {
  if (!Object.hasOwn(sizes, size)) throw new Error(`--models: must be one of ${Object.keys(sizes).join(', ')}, but was "${size}"`)
  const { source: _, ...shape } = presetConfig(size as ModelSize, vocabulary)
  const config: EncoderConfig = { ...shape, pooling: 'cls', normalize: true }
  const encoder = device.encoder(config)
  await initialiseParameters(encoder, 1)
  const weights = join(folder, 'model.safetensors')
  const { parameters } = encoder
  await writeSafetensors(
    weights,
    parameters.list.map((p) => ({ name: p.name, shape: p.shape, read: () => parameters.read(p.name) })),
  )
  encoder.dispose()
  return { config, weights }
}

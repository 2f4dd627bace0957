import { cp, mkdir, readdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { ModelConfig } from '../../lib/model/config.js'
import { BgeModel } from '../../lib/model/model.js'
import type { Device } from '../../lib/native.js'

const tokenizerFixture = new URL('../fixtures/tokenizer/', import.meta.url).pathname

/** One layer of width 64 over the vocabulary of the tokenizer fixture. */
export const smallConfig: ModelConfig = {
  layers: 1,
  hidden: 64,
  heads: 2,
  intermediate: 128,
  vocab: 571,
  maxPositions: 64,
  typeVocab: 2,
  layerNormEps: 1e-12,
  hiddenDropout: 0.1,
  attentionDropout: 0.1,
  source: { directionality: 'bidi', id2label: { 0: 'LABEL_0' }, dtype: 'float16' },
}

/** A new model over the fixture's vocabulary. */
export async function smallModel(folder: string, device: Device, seed = 1): Promise<BgeModel> {
  const tokenizerDir = join(folder, 'tokenizer')
  await mkdir(tokenizerDir, { recursive: true })
  await cp(join(tokenizerFixture, 'vocab.txt'), join(tokenizerDir, 'vocab.txt'))
  return BgeModel.createNew({ config: smallConfig, tokenizerDir, seed, device })
}

/** Replaces keys of a JSON file; undefined removes one. */
export async function editJson(file: string, changes: Record<string, unknown>): Promise<void> {
  const value = JSON.parse(await readFile(file, 'utf8')) as Record<string, unknown>
  await writeFile(file, JSON.stringify({ ...value, ...changes }))
}

/** Every file below a folder with its content, for "nothing has changed". */
export async function snapshot(folder: string): Promise<Map<string, string>> {
  const files = new Map<string, string>()
  for (const entry of await readdir(folder, { recursive: true, withFileTypes: true })) {
    const path = join(entry.parentPath, entry.name)
    if (entry.isFile()) files.set(path.slice(folder.length), (await readFile(path)).toString('base64'))
  }
  return files
}

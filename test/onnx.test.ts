import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import * as ort from 'onnxruntime-web'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { exportOnnx } from '../lib/export/onnx.js'
import type { ModelConfig, Pooling } from '../lib/model/config.js'
import { BgeModel } from '../lib/model/model.js'

const tokenizerDir = new URL('../examples/quickstart/tokenizer', import.meta.url).pathname
let root = ''
beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), 'bge-onnx-'))
})
afterAll(() => rm(root, { recursive: true, force: true }))

// Odd on purpose: 3 heads of 10, and weights wide enough for the vectors to differ.
const config: ModelConfig = {
  layers: 2,
  hidden: 30,
  heads: 3,
  intermediate: 50,
  vocab: 4057,
  maxPositions: 64,
  typeVocab: 2,
  layerNormEps: 1e-12,
  hiddenDropout: 0.1,
  attentionDropout: 0.1,
  source: { initializer_range: 0.3 },
}
const texts = ['月食只在满月时发生。', '好', 'The quick brown fox, 1234.', '米饭要先泡后煮，泡的时间看米的新旧。']

async function newFolder(name: string): Promise<string> {
  const folder = join(root, name)
  const model = await BgeModel.createNew({ config, tokenizerDir, device: 'cpu' })
  await model.save(folder)
  model.dispose()
  return folder
}

/** Runs a file on texts padded to the longest. */
async function run(file: string, ids: readonly Int32Array[]): Promise<ort.InferenceSession.OnnxValueMapType> {
  const session = await ort.InferenceSession.create(new Uint8Array(await readFile(file)), { executionProviders: ['wasm'] })
  const length = Math.max(...ids.map((sequence) => sequence.length))
  const input = (value: (n: number, t: number) => number): ort.Tensor => {
    const values = ids.flatMap((_, n) => Array.from({ length }, (_, t) => BigInt(value(n, t))))
    return new ort.Tensor('int64', BigInt64Array.from(values), [ids.length, length])
  }
  try {
    return await session.run({
      input_ids: input((n, t) => ids[n]![t] ?? 0),
      attention_mask: input((n, t) => (t < ids[n]!.length ? 1 : 0)),
      token_type_ids: input(() => 0),
    })
  } finally {
    await session.release()
  }
}

describe('exportOnnx', () => {
  for (const pooling of ['cls', 'mean'] as const satisfies readonly Pooling[]) {
    for (const normalize of [true, false]) {
      test(`${pooling}, ${normalize ? 'normalised' : 'not normalised'}: the vectors of this runtime in ONNX Runtime, padding and all`, async () => {
        const folder = await newFolder(`${pooling}-${normalize}`)
        const modules = JSON.parse(await readFile(join(folder, 'modules.json'), 'utf8')) as unknown[]
        if (!normalize) await writeFile(join(folder, 'modules.json'), JSON.stringify(modules.slice(0, 2)))
        const file = join(folder, 'onnx', 'model.onnx')
        await exportOnnx(folder, file, { pooling })
        const model = await BgeModel.load(folder, { device: 'cpu', pooling })
        try {
          const { ids } = await model.tokenizer.encodeBatch(texts)
          const { sentence_embedding: vectors, last_hidden_state: hidden } = await run(file, ids)
          expect(hidden!.dims).toEqual([texts.length, Math.max(...ids.map((sequence) => sequence.length)), 30])
          const ours = await model.encode(texts)
          expect(vectors!.dims).toEqual(ours.dims)
          // Two float32 orders of summation over a few hundred terms; the values are about 1.
          const theirs = vectors!.data as Float32Array
          const largest = Math.max(...ours.data.map(Math.abs))
          for (const [i, x] of ours.data.entries()) expect(Math.abs(x - theirs[i]!)).toBeLessThan(1e-5 * largest)
          const lengths = texts.map((_, n) => Math.hypot(...theirs.subarray(30 * n, 30 * n + 30)))
          expect(lengths.every((length) => Math.abs(length - 1) < 1e-5)).toBe(normalize)
        } finally {
          model.dispose()
        }
      })
    }
  }

  test('a folder that is broken leaves no file behind', async () => {
    const folder = await newFolder('broken')
    const json = JSON.parse(await readFile(join(folder, 'config.json'), 'utf8'))
    await writeFile(join(folder, 'config.json'), JSON.stringify({ ...json, num_hidden_layers: 3 }))
    const out = join(root, 'none')
    await expect(exportOnnx(folder, join(out, 'model.onnx'))).rejects.toMatchObject({
      code: 'ERR_BGE_MODEL_FORMAT',
      message: expect.stringContaining('"encoder.layer.2.attention.self.query.weight" of shape [30, 30] is missing'),
    })
    expect(await readdir(out)).toEqual([])
    await rm(join(folder, 'modules.json'))
    await rm(join(folder, '1_Pooling'), { recursive: true })
    await expect(exportOnnx(folder, join(out, 'model.onnx'))).rejects.toMatchObject({ code: 'ERR_BGE_POOLING' })
  })
})

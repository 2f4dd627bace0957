import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, describe, expect, it } from 'vitest'
import { BgeModel } from '../lib/model/model.js'
import { Comparison, fixtures, Golden } from './support/golden.js'

const golden = new Golden('folder-vectors.safetensors')
const texts = golden.meta.texts as string[]
const temporary = mkdtempSync(join(tmpdir(), 'bge-golden-'))
afterAll(() => rmSync(temporary, { recursive: true, force: true }))

// st: saved by sentence-transformers 6 (CLS). bin: pytorch_model.bin with `bert.` prefix, MLM head and position_ids (mean).
describe.each(['st', 'bin'])('folder-%s against sentence-transformers', (name) => {
  const load = () => BgeModel.load(join(fixtures, `folder-${name}`), { device: 'cpu' })

  it('tokenises to the same ids', async () => {
    await using model = await load()
    expect(model.maxLength).toBe(24)
    const { ids } = await model.tokenizer.encodeBatch(texts, { maxLength: model.maxLength })
    expect(ids.map((row) => [...row])).toEqual(golden.meta[`${name}Ids`])
  })

  it('gives the same vectors, also after a save', async () => {
    await using model = await load()
    expect(model.pooling).toBe(name === 'st' ? 'cls' : 'mean')
    const { data, dims } = await model.encode(texts)
    expect(dims).toEqual([texts.length, 32])
    const comparison = new Comparison(golden)
    comparison.tensor(name, data, 2)
    comparison.done()

    await model.save(join(temporary, name))
    await using saved = await BgeModel.load(join(temporary, name), { device: 'cpu' })
    expect((await saved.encode(texts)).data).toEqual(data)
  })
})

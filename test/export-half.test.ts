import { mkdtemp, readFile, rm, stat } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { exportHalf } from '../lib/export/half.js'
import { BgeModel } from '../lib/model/model.js'
import { toFloat16, toFloat32 } from '../lib/model/weights.js'

const tokenizerDir = fileURLToPath(new URL('../examples/quickstart/tokenizer', import.meta.url))
let root = ''
beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), 'bge-half-'))
})
afterAll(() => rm(root, { recursive: true, force: true }))

describe('float16', () => {
  test('every half-precision number survives, and what lies between goes to the nearest even', () => {
    const all = Uint16Array.from({ length: 65_536 }, (_, i) => i)
    const values = toFloat32(all.slice().buffer, 'F16')
    const lost = [...toFloat16(values).entries()].filter(([i, back]) => !Number.isNaN(values[i]!) && back !== i)
    expect(lost).toEqual([])
    // Neighbours a < b with the middle exactly between, and a little to either side.
    const wrong: number[] = []
    for (let i = 0; i < 0x7bff; i++) {
      const middle = (values[i]! + values[i + 1]!) / 2 // exact in float32
      const [below, above] = [Math.fround(middle * (1 - 2 ** -23)), Math.fround(middle * (1 + 2 ** -23))]
      const expected = [i + (i & 1), i, i + 1, (i + (i & 1)) | 0x8000]
      if (toFloat16(Float32Array.of(middle, below, above, -middle)).some((half, k) => half !== expected[k])) wrong.push(i)
    }
    expect(wrong).toEqual([])
    expect([...toFloat16(Float32Array.of(65_519.996, 65_520, Infinity, -70_000, 2 ** -25, 2 ** -24 * 0.75))]).toEqual([
      0x7bff, 0x7c00, 0x7c00, 0xfc00, 0, 1,
    ])
  })
})

describe('exportHalf', () => {
  test('half the size, loads here, vectors within the rounding of the weights', async () => {
    const source = join(root, 'source')
    const model = await BgeModel.createNew({ size: 'tiny', tokenizerDir, device: 'cpu', instruction: 'zh' })
    await model.save(source)
    const out = join(root, 'half')
    await exportHalf(source, out)
    const [whole, half] = await Promise.all([source, out].map(async (folder) => (await stat(join(folder, 'model.safetensors'))).size))
    expect(half! / whole!).toBeCloseTo(0.5, 2)
    expect(JSON.parse(await readFile(join(out, 'config.json'), 'utf8'))).toMatchObject({ torch_dtype: 'float16' })
    const loaded = await BgeModel.load(out, { device: 'cpu' })
    expect(loaded.instruction).toBe(model.instruction)
    for (const { name } of model.encoder.parameters.list) {
      const [a, b] = [await model.encoder.parameters.read(name), await loaded.encoder.parameters.read(name)]
      expect(b).toEqual(toFloat32(toFloat16(a).buffer as ArrayBuffer, 'F16'))
    }
    model.dispose()
    loaded.dispose()
  })

  test('a weight beyond the range is refused by name, and nothing is written', async () => {
    const model = await BgeModel.createNew({ size: 'tiny', tokenizerDir, device: 'cpu' })
    const name = 'encoder.layer.1.output.dense.bias'
    await model.encoder.parameters.write(name, new Float32Array(128).fill(1e5))
    const folder = join(root, 'large')
    await model.save(folder)
    model.dispose()
    await expect(exportHalf(folder, join(root, 'none'))).rejects.toMatchObject({
      code: 'ERR_BGE_ARGUMENT',
      message: expect.stringContaining(`tensor "${name}" holds 100000, beyond the 65504`),
    })
    await expect(stat(join(root, 'none'))).rejects.toMatchObject({ code: 'ENOENT' })
  })
})

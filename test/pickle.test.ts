import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { openTorch } from '../lib/model/torch.js'

const fixtures = new URL('./fixtures/pickle/', import.meta.url).pathname
const expected = JSON.parse(await readFile(join(fixtures, 'expected.json'), 'utf8')) as Record<
  string,
  { shape: number[]; values: number[] }
>

let root = ''
beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), 'bge-pickle-'))
})
afterAll(() => rm(root, { recursive: true, force: true }))

describe('pytorch_model.bin', () => {
  for (const file of ['state.bin', 'legacy.bin']) {
    test(`${file}: every tensor as torch has it`, async () => {
      const source = await openTorch(join(fixtures, file))
      expect([...source.tensors.keys()].sort()).toEqual(Object.keys(expected).sort())
      for (const [name, { shape, values }] of Object.entries(expected)) {
        expect(source.tensors.get(name)!.shape, name).toEqual(shape)
        expect([...(await source.read(name))], name).toEqual(values)
      }
      await expect(source.read('other')).rejects.toThrow('tensor "other" is missing')
      await source.close()
    })
  }

  const refused: [file: string, message: string][] = [
    ['evil.bin', 'its pickle names "posix.system", but a state dict holds nothing but tensors; it was not run'],
    ['evil4.bin', 'its pickle names "posix.system"'],
    ['module.bin', 'its pickle names "torch.nn.modules.linear.Linear"'],
    ['not_only_tensors.bin', '"epoch" must be a tensor, but was 3'],
  ]
  for (const [file, message] of refused) {
    test(`${file} is refused`, async () => {
      await expect(openTorch(join(fixtures, file))).rejects.toMatchObject({
        code: 'ERR_BGE_MODEL_FORMAT',
        message: expect.stringContaining(message),
      })
    })
  }

  test.each(['state.bin', 'legacy.bin'])('%s cut anywhere is refused, never misread', async (file) => {
    const whole = await readFile(join(fixtures, file))
    const cut = join(root, file)
    for (let size = 0; size < whole.length; size += 41) {
      await writeFile(cut, whole.subarray(0, size))
      await expect(openTorch(cut), `${size} bytes`).rejects.toMatchObject({ code: 'ERR_BGE_MODEL_FORMAT' })
    }
  })

  test('a damaged pickle is refused or read, never anything else', async () => {
    const whole = await readFile(join(fixtures, 'legacy.bin'))
    const damaged = join(root, 'damaged.bin')
    for (let i = 0; i < 1500; i += 3) {
      const bytes = Buffer.from(whole)
      bytes[i] = bytes[i]! ^ (1 + (i % 255))
      await writeFile(damaged, bytes)
      const source = await openTorch(damaged).catch((error) => error as { code?: string })
      if ('tensors' in source) await source.close()
      else expect(source.code, `byte ${i}`).toBe('ERR_BGE_MODEL_FORMAT')
    }
  })
})

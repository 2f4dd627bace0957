import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { openSafetensors, writeSafetensors } from '../lib/model/safetensors.js'

let root = ''
beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), 'bge-safetensors-'))
})
afterAll(() => rm(root, { recursive: true, force: true }))

async function file(header: unknown, data: Uint8Array = new Uint8Array(0)): Promise<string> {
  const json = Buffer.from(typeof header === 'string' ? header : JSON.stringify(header))
  const length = Buffer.alloc(8)
  length.writeBigUInt64LE(BigInt(json.length))
  const path = join(root, 'file.safetensors')
  await writeFile(path, Buffer.concat([length, json, data]))
  return path
}

function bytes(array: ArrayBufferView): Uint8Array {
  return new Uint8Array(array.buffer, array.byteOffset, array.byteLength)
}

describe('safetensors', () => {
  test('what is written reads back', async () => {
    const path = join(root, 'written.safetensors')
    const a = Float32Array.of(1, -2, 3.5, 1e-40, -0, 1e38)
    await writeSafetensors(path, [
      { name: 'a', shape: [2, 3], read: () => a },
      { name: '中文', shape: [0], read: async () => new Float32Array(0) },
    ])
    const source = await openSafetensors(path)
    expect([...source.tensors.keys()]).toEqual(['a', '中文'])
    expect(source.tensors.get('a')!.shape).toEqual([2, 3])
    expect(Buffer.from(bytes(await source.read('a')))).toEqual(Buffer.from(bytes(a)))
    expect(await source.read('中文')).toHaveLength(0)
    await source.close()
    const raw = await readFile(path)
    expect((8 + Number(raw.readBigUInt64LE())) % 8).toBe(0)
    expect(JSON.parse(raw.toString('utf8', 8, 8 + Number(raw.readBigUInt64LE()))).__metadata__).toEqual({ format: 'pt' })
  })

  test('F16, BF16 and F64 become float32, integers are left out', async () => {
    const data = Buffer.concat([
      bytes(Uint16Array.of(0x3c00, 0xb800, 0x7bff, 0x0001, 0x7c00, 0x8000)), // 1, -0.5, 65504, 2^-24, inf, -0
      bytes(Uint16Array.of(0x3f80, 0xbf00, 0x0001)), // 1, -0.5, 2^-133
      bytes(Float64Array.of(1 / 3)),
      bytes(BigInt64Array.of(0n, 1n)),
    ])
    const path = await file(
      {
        half: { dtype: 'F16', shape: [6], data_offsets: [0, 12] },
        bfloat: { dtype: 'BF16', shape: [3, 1], data_offsets: [12, 18] },
        double: { dtype: 'F64', shape: [], data_offsets: [18, 26] },
        position_ids: { dtype: 'I64', shape: [1, 2], data_offsets: [26, 42] },
      },
      data,
    )
    const source = await openSafetensors(path)
    expect([...source.tensors.keys()]).toEqual(['half', 'bfloat', 'double'])
    expect([...(await source.read('half'))]).toEqual([1, -0.5, 65504, 2 ** -24, Number.POSITIVE_INFINITY, -0])
    expect([...(await source.read('bfloat'))]).toEqual([1, -0.5, 2 ** -133])
    expect([...(await source.read('double'))]).toEqual([Math.fround(1 / 3)])
    await source.close()
  })

  const four = Float32Array.of(1)
  const tensor = (more: object): object => ({ a: { dtype: 'F32', shape: [1], data_offsets: [0, 4], ...more } })
  const refused: [name: string, header: unknown, data: ArrayBufferView, message: string][] = [
    ['a header that is no JSON', '{"a"', four, 'its header is not JSON'],
    ['a header that is an array', '[1]', four, 'its header must be a JSON object'],
    ['an unknown type', tensor({ dtype: 'F7' }), four, 'tensor "a" must have a type of'],
    ['a negative size', tensor({ shape: [-1] }), four, 'tensor "a" must have a shape of sizes'],
    ['offsets that are none', tensor({ data_offsets: [4, 0] }), four, 'tensor "a" must have data_offsets'],
    ['offsets that do not fit the shape', tensor({ shape: [2] }), four, 'shape [2] needs 8 bytes, but its offsets hold 4'],
    ['a truncated file', tensor({}), Float32Array.of(), '(truncated)'],
    ['bytes left over', tensor({}), Float32Array.of(1, 2), 'its tensors need'],
    [
      'an overlap',
      { ...tensor({}), b: { dtype: 'F32', shape: [1], data_offsets: [2, 6] } },
      Float32Array.of(1, 2),
      'tensor "b" starts at byte 2',
    ],
    ['a gap', { ...tensor({}), b: { dtype: 'F32', shape: [1], data_offsets: [8, 12] } }, Float32Array.of(1, 2, 3), 'overlap or gap'],
  ]
  for (const [name, header, data, message] of refused) {
    test(`${name} is refused`, async () => {
      const path = await file(header, bytes(data))
      await expect(openSafetensors(path)).rejects.toMatchObject({ code: 'ERR_BGE_MODEL_FORMAT', message: expect.stringContaining(message) })
    })
  }

  test('files that are none', async () => {
    const path = join(root, 'none')
    await expect(openSafetensors(path)).rejects.toMatchObject({ code: 'ERR_BGE_FILE' })
    await writeFile(path, 'abc')
    await expect(openSafetensors(path)).rejects.toThrow('at least 8 bytes, but this has 3')
    await writeFile(path, 'version https://git-lfs.github.com/spec/v1\n')
    await expect(openSafetensors(path)).rejects.toThrow('truncated, or not a safetensors file')
  })
})

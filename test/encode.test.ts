import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Command } from 'commander'
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest'
import { register as registerEmbed } from '../lib/cli/embed.js'
import { register as registerNew } from '../lib/cli/new.js'
import { buildTokenBatch, packBatches } from '../lib/data/batch.js'
import { instructions, resolveInstruction } from '../lib/model/instruction.js'
import { BgeModel } from '../lib/model/model.js'
import { type Device, openDevice } from '../lib/native.js'
import { smallModel } from './support/model_folder.js'

const fixture = JSON.parse(await readFile(new URL('./fixtures/tokenizer/ids.json', import.meta.url), 'utf8')) as { texts: string[] }
const { texts } = fixture // 207 texts, lengths 0 to 101 characters

let root = ''
let device: Device
let model: BgeModel

beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), 'bge-encode-'))
  device = await openDevice({ device: 'cpu', threads: 2 })
  model = await smallModel(root, device)
})
afterAll(async () => {
  device?.dispose()
  await rm(root, { recursive: true, force: true })
})

function row(data: Float32Array, i: number): number[] {
  return [...data.subarray(i * 64, (i + 1) * 64)]
}

function norm(values: number[]): number {
  return Math.sqrt(values.reduce((sum, x) => sum + x * x, 0))
}

describe('packBatches', () => {
  test('keeps the budget, every index once, longest first', () => {
    const lengths = Array.from({ length: 300 }, (_, i) => 3 + ((i * 7919) % 61))
    for (const budget of [1, 64, 100, 1000, 1_000_000]) {
      const batches = packBatches(lengths, budget)
      for (const batch of batches) {
        const tokens = batch.reduce((sum, i) => sum + lengths[i]!, 0)
        expect(tokens <= budget || batch.length === 1).toBe(true)
      }
      const order = batches.flat()
      expect([...order].sort((a, b) => a - b)).toEqual(lengths.map((_, i) => i))
      expect(
        order.every(
          (index, i) =>
            i === 0 || lengths[order[i - 1]!]! > lengths[index]! || (lengths[order[i - 1]!] === lengths[index] && order[i - 1]! < index),
        ),
      ).toBe(true)
    }
    expect(packBatches([], 10)).toEqual([])
    expect(packBatches([5, 9, 4], 9)).toEqual([[1], [0, 2]])
    expect(() => packBatches([1], 0)).toThrow('microBatchTokens must be a positive integer, but was 0')
  })

  test('buildTokenBatch packs without padding', () => {
    const ids = [Int32Array.of(1, 2, 3), Int32Array.of(4), Int32Array.of(5, 6)]
    expect(buildTokenBatch(ids, [2, 0])).toEqual({ ids: Int32Array.of(5, 6, 1, 2, 3), cuSeqlens: Int32Array.of(0, 2, 5) })
    expect(buildTokenBatch(ids, [1], Uint32Array.of(7))).toEqual({
      ids: Int32Array.of(4),
      cuSeqlens: Int32Array.of(0, 1),
      stream: Uint32Array.of(7),
    })
  })
})

describe('encode', () => {
  test('one row per text, in order, whatever the micro-batches', async () => {
    const { data, dims } = await model.encode(texts)
    expect(dims).toEqual([texts.length, 64])
    for (const microBatchTokens of [1, 50, 700])
      expect((await model.encode(texts, { microBatchTokens })).data, `${microBatchTokens}`).toEqual(data)
    for (const i of [0, 3, 66, 130, 206]) expect((await model.encode([texts[i]!])).data, texts[i]).toEqual(data.slice(i * 64, (i + 1) * 64))
    for (let i = 0; i < texts.length; i++) expect(Math.abs(norm(row(data, i)) - 1)).toBeLessThan(64 * 2 ** -24) // width x unit roundoff
  })

  test('equal texts share a row and are counted each', async () => {
    const long = '今天的天气真不错，适合出门走走。'.repeat(10)
    const result = await model.encode([long, '猫', long, '囗', '猫'])
    expect(row(result.data, 0)).toEqual(row(result.data, 2))
    expect(row(result.data, 1)).toEqual(row(result.data, 4))
    expect(row(result.data, 1)).not.toEqual(row(result.data, 0))
    expect(result).toMatchObject({ truncated: 2, tokens: 62 + 1 + 62 + 1 + 1 })
    expect(result.unknownTokens).toBeGreaterThanOrEqual(1)
  })

  test('no texts', async () => {
    const { data, dims } = await model.encode([])
    expect(data).toHaveLength(0)
    expect(dims).toEqual([0, 64])
  })

  test('the instruction is put before the text; queries use the stored one', async () => {
    expect(instructions.zh).toHaveLength(19)
    expect(resolveInstruction('en').endsWith(': ')).toBe(true)
    const plain = await model.encode([`${instructions.zh}长江有多长`, '查：长江有多长'])
    expect(row((await model.encode(['长江有多长'], { instruction: 'zh' })).data, 0)).toEqual(row(plain.data, 0))
    expect(row((await model.encode(['长江有多长'], { instruction: '查：' })).data, 0)).toEqual(row(plain.data, 1))
    model.instruction = '查：'
    expect(row((await model.encodeQueries(['长江有多长'])).data, 0)).toEqual(row(plain.data, 1))
    expect(row((await model.encodeQueries(['长江有多长'], { instruction: 'zh' })).data, 0)).toEqual(row(plain.data, 0))
    model.instruction = ''
  })

  test('maxLength cuts', async () => {
    const text = '今天的天气真不错'
    const cut = await model.encode([text], { maxLength: 6 })
    expect(cut).toMatchObject({ truncated: 1, tokens: 4 })
    expect(cut.data).toEqual((await model.encode(['今天的天'])).data)
  })

  for (const pooling of ['cls', 'mean'] as const) {
    test(`normalize: false gives the ${pooling} vectors before normalisation, also many at once`, async () => {
      const folder = join(root, pooling)
      await model.save(folder)
      const pooled = await BgeModel.load(folder, { device, pooling })
      const unit = await pooled.encode(texts)
      const several = await Promise.all([0, 1, 2].map(() => pooled.encode(texts, { output: { normalize: false }, microBatchTokens: 200 })))
      const raw = several[0]!.data
      for (const { data } of several) expect(data).toEqual(raw)
      let different = 0
      for (let i = 0; i < texts.length; i++) {
        const values = row(raw, i)
        const length = norm(values)
        if (Math.abs(length - 1) > 0.01) different++
        const expected = row(unit.data, i)
        for (let c = 0; c < 64; c++) expect(Math.abs(values[c]! / length - expected[c]!)).toBeLessThan(64 * 2 ** -23)
      }
      expect(different).toBe(texts.length)

      // A folder without a Normalize module: the same vectors the other way round.
      const modules = JSON.parse(await readFile(join(folder, 'modules.json'), 'utf8')) as unknown[]
      await writeFile(join(folder, 'modules.json'), JSON.stringify(modules.slice(0, 2)))
      const plain = await BgeModel.load(folder, { device, pooling })
      const native = (await plain.encode(texts)).data
      for (const [i, x] of native.entries()) expect(Math.abs(x - raw[i]!)).toBeLessThan(64 * 2 ** -23)
      const normalised = (await plain.encode(texts, { output: { normalize: true } })).data
      for (const [i, x] of normalised.entries()) expect(Math.abs(x - unit.data[i]!)).toBeLessThan(64 * 2 ** -23)
      for (const each of [pooled, plain]) each.dispose()
    })
  }

  test('progress, and an event loop that stays free', async () => {
    const many = Array.from({ length: 3000 }, (_, i) => `${texts[i % texts.length]}第${i}条`)
    const seen: number[] = []
    let turns = 0
    const timer = setInterval(() => turns++, 1)
    await model.encode([...many, ...many], { microBatchTokens: 2048, onProgress: ({ done, total }) => seen.push(done / total) })
    clearInterval(timer)
    expect(seen.at(-1)).toBe(1)
    expect(seen.every((x, i) => i === 0 || x > seen[i - 1]!)).toBe(true)
    expect(seen.length).toBeGreaterThan(10)
    expect(turns).toBeGreaterThan(5)
  })

  test('an abort stops between micro-batches and leaves the model usable', async () => {
    const many = Array.from({ length: 2000 }, (_, i) => `${texts[i % texts.length]}第${i}条`)
    const controller = new AbortController()
    let last = 0
    const work = model.encode(many, {
      microBatchTokens: 1024,
      signal: controller.signal,
      onProgress: ({ done }) => {
        last = done
        controller.abort()
      },
    })
    await expect(work).rejects.toMatchObject({ name: 'AbortError' })
    expect(last).toBeLessThan(many.length)
    await expect(model.encode(['a'], { signal: AbortSignal.abort() })).rejects.toMatchObject({ name: 'AbortError' })
    expect((await model.encode(['a'])).dims).toEqual([1, 64])
  })

  test('bad arguments are named', async () => {
    await expect(model.encode('a' as unknown as string[])).rejects.toMatchObject({
      code: 'ERR_BGE_TOKENIZER',
      message: 'texts must be an array of strings, but was "a"',
    })
    await expect(model.encode(['a', 1 as unknown as string])).rejects.toThrow('texts[1] must be a string, but was 1')
    await expect(model.encode(['a'], { maxLength: 65 })).rejects.toMatchObject({
      code: 'ERR_BGE_ARGUMENT',
      message: expect.stringContaining('from 3 to 64'),
    })
    await expect(model.encode(['a'], { microBatchTokens: 0 })).rejects.toThrow('microBatchTokens must be a positive integer, but was 0')
    await expect(model.encode(['a'], { instruction: 5 as unknown as string })).rejects.toThrow(
      "instruction must be a string, 'zh' or 'en', but was 5",
    )
    await expect(model.encode(['a'], { output: { normalize: 1 as unknown as boolean } })).rejects.toThrow(
      'normalize must be true or false, but was 1',
    )
  })
})

describe('bge new and bge embed', () => {
  async function bge(...args: string[]): Promise<{ out: string; err: string }> {
    const text = { out: '', err: '' }
    const out = vi.spyOn(process.stdout, 'write').mockImplementation((chunk) => Boolean((text.out += chunk)))
    const err = vi.spyOn(process.stderr, 'write').mockImplementation((chunk) => Boolean((text.err += chunk)))
    try {
      const program = new Command().exitOverride()
      registerNew(program)
      registerEmbed(program)
      await program.parseAsync(args, { from: 'user' })
      return text
    } finally {
      out.mockRestore()
      err.mockRestore()
    }
  }

  test('a new model embeds a .jsonl and a .txt', async () => {
    const folder = join(root, 'new')
    expect(await bge('new', '--size', 'tiny', '--tokenizer', join(root, 'tokenizer'), '--out', folder, '--seed', '7')).toMatchObject({
      out: `${folder}\n`,
    })
    const again = join(root, 'new-again')
    await bge('new', '--size', 'tiny', '--tokenizer', join(root, 'tokenizer'), '--out', again, '--seed', '7')
    expect((await readFile(join(again, 'model.safetensors'))).equals(await readFile(join(folder, 'model.safetensors')))).toBe(true)

    const jsonl = join(root, 'in.jsonl')
    const npy = join(root, 'out', 'in.npy')
    await writeFile(jsonl, `{"text": ${JSON.stringify(texts[0])}, "id": 1}\r\n\n${JSON.stringify(texts[1])}\n{"text": ""}\n`)
    const { out, err } = await bge('embed', '--model', folder, '--input', jsonl, '--out', npy, '--device', 'cpu', '--max-length', '12')
    expect(out).toBe(`${npy}\n`)
    expect(err).toMatch(/^3 texts x 128, \d+ tokens in .* s \(\d+ tokens\/s\); 2 cut at 12 tokens \(66\.7 %\), unknown tokens \d+\.\d %\n$/)
    expect(await readdir(join(root, 'out'))).toEqual(['in.npy'])

    const bytes = await readFile(npy)
    expect(bytes.toString('latin1', 0, 8)).toBe('\x93NUMPY\x01\x00')
    const start = 10 + bytes.readUInt16LE(8)
    expect(start % 64).toBe(0)
    expect(bytes.toString('latin1', 10, start)).toMatch(/^\{'descr': '<f4', 'fortran_order': False, 'shape': \(3, 128\), \} *\n$/)
    const fresh = await BgeModel.load(folder, { device })
    const expected = await fresh.encode([texts[0]!, texts[1]!, ''], { maxLength: 12 })
    fresh.dispose()
    expect(new Float32Array(bytes.buffer.slice(bytes.byteOffset + start, bytes.byteOffset + bytes.length))).toEqual(expected.data)

    const txt = join(root, 'in.txt')
    await writeFile(txt, `${texts[0]}\n\n${texts[1]}`)
    await bge('embed', '--model', folder, '--input', txt, '--out', npy, '--instruction', 'zh')
    expect((await readFile(npy)).toString('latin1')).toContain("'shape': (3, 128)")
  })

  test('bad rows are named by file and line, and nothing is written', async () => {
    const file = join(root, 'bad.jsonl')
    const target = join(root, 'bad.npy')
    for (const [content, message] of [
      ['{"text": "a"}\n{"text": 5}\n', 'bad.jsonl:2: field text expected a string, but was 5'],
      ['{"query": "a"}\n', 'bad.jsonl:1: field text expected a string, but was missing'],
      ['"a"\n{"text": "b"\n', 'bad.jsonl:2: expected a JSON object or string on one line'],
      ['7\n', 'bad.jsonl:1: expected {"text": ...} or a JSON string, but was 7'],
    ] as const) {
      await writeFile(file, content)
      await expect(bge('embed', '--model', root, '--input', file, '--out', target)).rejects.toMatchObject({
        code: 'ERR_BGE_DATA',
        message: expect.stringContaining(message),
      })
    }
    await writeFile(file, Buffer.from('"a"\n"\xff"\n', 'latin1'))
    await expect(bge('embed', '--model', root, '--input', file, '--out', target)).rejects.toMatchObject({
      code: 'ERR_BGE_DATA',
      message: `${file}:2: expected UTF-8 text, but was something else`,
    })
    await expect(bge('embed', '--model', root, '--input', 'a.csv', '--out', target)).rejects.toMatchObject({ code: 'ERR_BGE_ARGUMENT' })
    await expect(bge('embed', '--model', root, '--input', join(root, 'none.txt'), '--out', target)).rejects.toMatchObject({
      code: 'ERR_BGE_FILE',
    })
    expect((await readdir(root)).filter((name) => name.startsWith('bad.npy'))).toEqual([])
  })
})

import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, expectTypeOf, test } from 'vitest'
import { type Calibration, findThreshold, fitCalibration } from '../lib/model/calibrate.js'
import { isotonicRegression, mapValue } from '../lib/model/isotonic.js'
import { BgeModel } from '../lib/model/model.js'
import { int8Ranges, quantize } from '../lib/model/precision.js'
import { type Device, openDevice, type TokenBatch } from '../lib/native.js'
import { editJson, smallModel } from './support/model_folder.js'

const golden = JSON.parse(await readFile(new URL('./fixtures/encode/golden.json', import.meta.url), 'utf8')) as {
  vectors: number[]
  dims: number
  ranges: { min: number[]; max: number[] }
  int8: number[][]
  ubinary: number[][]
  isotonic: { x: number[]; y: number[]; at: number[]; expected: number[] }[]
}
const { texts } = JSON.parse(await readFile(new URL('./fixtures/tokenizer/ids.json', import.meta.url), 'utf8')) as { texts: string[] }

let root = ''
let device: Device
let model: BgeModel

beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), 'bge-encode-apps-'))
  device = await openDevice({ device: 'cpu', threads: 2 })
  model = await smallModel(root, device)
})
afterAll(async () => {
  device?.dispose()
  await rm(root, { recursive: true, force: true })
})

describe('priority', () => {
  /** n sequences of 60 tokens: with 600 of them, tens of milliseconds, much longer than it takes to enqueue them all. */
  const batch = (n: number): TokenBatch => ({
    ids: Int32Array.from({ length: 60 * n }, (_, t) => t % 571),
    cuSeqlens: Int32Array.from({ length: n + 1 }, (_, i) => 60 * i),
  })

  test('a query goes before the bulk jobs that have not begun; equals keep their order', async () => {
    const order: string[] = []
    const run = async (name: string, priority?: 'query' | 'bulk'): Promise<void> => {
      const tensor = await model.encoder.embed(batch(600), undefined, priority)
      order.push(name)
      await tensor.toArray()
      tensor.dispose()
    }
    const bulk = Array.from({ length: 12 }, (_, i) => run(`b${i}`, i % 2 === 0 ? 'bulk' : undefined))
    const queries = [0, 1, 2].map((i) => run(`q${i}`, 'query'))
    await Promise.all([...bulk, ...queries])
    expect(order.filter((name) => name.startsWith('b'))).toEqual(Array.from({ length: 12 }, (_, i) => `b${i}`))
    expect(order.filter((name) => name.startsWith('q'))).toEqual(['q0', 'q1', 'q2'])
    expect(order.slice(-6)).toEqual(['b6', 'b7', 'b8', 'b9', 'b10', 'b11'])
    expect(() => model.encoder.embed(batch(1), undefined, 'soon' as 'query')).toThrow("priority must be 'query' or 'bulk', but was soon")
  })

  test('encode: a query is ready while three bulk encodes are on their way, and its vectors are the same', async () => {
    const many = Array.from({ length: 1500 }, (_, i) => `${texts[i % texts.length]}第${i}条`)
    const [alone] = await Promise.all([model.encode(['长江有多长'])])
    const done = [0, 0, 0]
    const bulk = done.map((_, b) => model.encode(many, { microBatchTokens: 1024, onProgress: (p) => (done[b] = p.done) }))
    while (done.some((n) => n === 0)) await new Promise(setImmediate)
    const before = [...done]
    const query = await model.encode(['长江有多长'], { priority: 'query' })
    // A micro-batch of 1024 tokens holds at most 341 texts; each encode has one on the device and at most one more begins meanwhile.
    for (const [b, n] of done.entries()) expect(n - before[b]!).toBeLessThanOrEqual(3 * 341)
    expect(done.some((n) => n < many.length)).toBe(true)
    expect(query.data).toEqual(alone.data)
    await Promise.all(bulk)
    await expect(model.encode(['a'], { priority: 'now' as 'query' })).rejects.toThrow("priority must be 'query' or 'bulk', but was \"now\"")
  })

  test('a disposed device finishes urgent and bulk work that is queued', async () => {
    const own = await openDevice({ device: 'cpu', threads: 1 })
    const encoder = own.encoder(model.encoder.config)
    const works = [encoder.embed(batch(50)), encoder.embed(batch(3), undefined, 'query'), encoder.embed(batch(50))]
    own.dispose()
    expect(await Promise.all(works.map((work) => work.then((tensor) => tensor.shape[0])))).toEqual([50, 3, 50])
  })
})

describe('abort', () => {
  test('after an abort at most the micro-batch that is under way is computed', async () => {
    const many = Array.from({ length: 600 }, (_, i) => `${texts[i % texts.length]}第${i}条`)
    for (const priority of ['query', 'bulk'] as const) {
      const { encoder } = model
      let [computed, atAbort] = [0, -1]
      const counting = new Proxy(encoder, {
        get: (target, key) =>
          key === 'embed'
            ? (...args: Parameters<typeof encoder.embed>) => {
                computed++
                return target.embed(...args)
              }
            : Reflect.get(target, key),
      })
      const observed = Object.create(model, { encoder: { value: counting } }) as BgeModel
      const { encodeTexts } = await import('../lib/model/encode.js')
      const controller = new AbortController()
      const { tokenizer, maxLength } = observed
      const work = encodeTexts(
        {
          encoder: counting,
          tokenizer,
          maxLength,
          microBatchTokens: 256,
          ranges: () => undefined,
          pooled: () => Promise.reject(new Error('unused')),
        },
        many,
        {
          priority,
          signal: controller.signal,
          onProgress: ({ done }) => {
            if (done < 100 || atAbort >= 0) return
            atAbort = computed
            controller.abort(new Error('enough'))
          },
        },
      )
      await expect(work).rejects.toThrow('enough')
      expect(atAbort).toBeGreaterThan(1)
      expect(computed).toBeLessThanOrEqual(atAbort + 1)
      await new Promise((resolve) => setTimeout(resolve, 20))
      expect(computed).toBeLessThanOrEqual(atAbort + 1)
    }
  })
})

describe('truncation', () => {
  test("'end' counts, 'error' names the text", async () => {
    const long = '今天的天气真不错'.repeat(20)
    expect(await model.encode(['短', long, long])).toMatchObject({ truncated: 2 })
    await expect(model.encode(['短', '好', long, long], { truncation: 'error' })).rejects.toMatchObject({
      code: 'ERR_BGE_ARGUMENT',
      message: 'texts[2] must fit into 64 tokens ([CLS] and [SEP] included), but is longer',
    })
    expect(await model.encode(['短'], { truncation: 'error' })).toMatchObject({ truncated: 0 })
    await expect(model.encode(['a'], { truncation: 'start' as 'end' })).rejects.toThrow(
      "truncation must be 'end' or 'error', but was \"start\"",
    )
  })
})

describe('dimensions and precision', () => {
  test('equal to sentence-transformers', () => {
    const vectors = Float32Array.from(golden.vectors)
    expect(int8Ranges(vectors, 24)).toEqual({ min: Float32Array.from(golden.ranges.min), max: Float32Array.from(golden.ranges.max) })
    expect([...quantize(vectors, 24, 'int8', golden.ranges)]).toEqual(golden.int8.flat())
    expect([...quantize(vectors, 24, 'ubinary')]).toEqual(golden.ubinary.flat())
    expect(quantize(vectors, 24, 'float32')).toEqual(vectors)
  })

  test('values outside of their range become its ends, a component without a range has steps of 1', () => {
    const ranges = { min: [0, 0, 1], max: [1, 1, 1] }
    expect([...quantize(Float32Array.of(-5, 9, 1, 0, 0.5, 7), 3, 'int8', ranges)]).toEqual([-128, 127, -128, -128, -1, -122])
  })

  test('cut, then normalised, then quantised', async () => {
    const full = await model.encode(texts)
    const cut = await model.encode(texts, { output: { dimensions: 24 } })
    expect(cut.dims).toEqual([texts.length, 24])
    for (let i = 0; i < texts.length; i++) {
      const row = full.data.subarray(i * 64, i * 64 + 24)
      const norm = Math.sqrt(row.reduce((sum, x) => sum + x * x, 0))
      for (let c = 0; c < 24; c++) expect(cut.data[i * 24 + c]).toBe(Math.fround(row[c]! / norm))
    }
    const raw = await model.encode(texts, { output: { dimensions: 24, normalize: false } })
    const whole = await model.encode(texts, { output: { normalize: false } })
    for (let i = 0; i < texts.length; i++) expect(raw.data.slice(i * 24, i * 24 + 24)).toEqual(whole.data.slice(i * 64, i * 64 + 24))

    const ranges = int8Ranges(cut.data, 24)
    const int8 = await model.encode(texts, { output: { dimensions: 24, precision: 'int8', ranges } })
    expectTypeOf(int8.data).toEqualTypeOf<Int8Array>()
    expect(int8.data).toEqual(quantize(cut.data, 24, 'int8', ranges))
    const bits = await model.encodeQueries(texts, { output: { dimensions: 24, precision: 'ubinary' } })
    expectTypeOf(bits.data).toEqualTypeOf<Uint8Array>()
    expect(bits).toMatchObject({ dims: [texts.length, 24], precision: 'ubinary' })
    expect(bits.data).toEqual(quantize(cut.data, 24, 'ubinary'))
    expectTypeOf((await model.encode(['a'])).data).toEqualTypeOf<Float32Array>()
  })

  test('token sequences give the vectors of their texts', async () => {
    const ids = texts.map((text) => model.tokenizer.encode(text, 64))
    expect((await model.encodeTokens(ids)).data).toEqual((await model.encode(texts)).data)
    await expect(model.encodeTokens([Int32Array.of(1, 571)])).rejects.toThrow('sequences[0] must be token ids from 0 to 570, but was 571')
    await expect(model.encodeTokens([new Int32Array(65)])).rejects.toThrow('sequences[0] must be 1 to 64 token ids, but was "65 ids"')
  })

  test('bad arguments are named', async () => {
    for (const [output, message] of [
      [{ dimensions: 65 }, "dimensions must be an integer from 1 to 64, the model's width, but was 65"],
      [{ dimensions: 12, precision: 'ubinary' }, 'dimensions must be a multiple of 8 for ubinary vectors, but was 12'],
      [{ precision: 'int4' }, "precision must be 'float32', 'int8' or 'ubinary', but was \"int4\""],
      [{ precision: 'int8' }, 'ranges must be given for int8 vectors of 64 dimensions'],
      [{ precision: 'int8', ranges: { min: [0], max: [1] } }, 'ranges.min must be 64 numbers, but was "1 numbers"'],
      [
        { precision: 'int8', ranges: { min: new Float32Array(64).fill(1), max: new Float32Array(64) } },
        'ranges.max[0] must be a finite number',
      ],
    ] as const)
      await expect(model.encode(['a'], { output: output as object })).rejects.toMatchObject({
        code: 'ERR_BGE_ARGUMENT',
        message: expect.stringContaining(message),
      })
  })
})

describe('calibration', () => {
  test('isotonic regression is scikit-learn’s', () => {
    for (const { x, y, at, expected } of golden.isotonic) {
      const map = isotonicRegression(x, y)
      for (const [i, value] of at.entries()) expect(Math.abs(mapValue(map, value) - expected[i]!)).toBeLessThan(1e-12)
    }
  })

  test('the threshold is the lowest with the wanted precision; equal cosines are taken together', () => {
    const cosines = [0.9, 0.8, 0.8, 0.7, 0.6, 0.5]
    const labels = [1, 0, 1, 1, 1, 0]
    expect(findThreshold(cosines, labels, 0.8)).toMatchObject({ cosine: 0.6, precision: 0.8, recall: 1 })
    expect(findThreshold(cosines, labels, 0.81)).toMatchObject({ cosine: 0.9, precision: 1, recall: 0.25 })
    expect(() => findThreshold([0.9, 0.8], [0, 1], 0.9)).toThrow(
      'precision must be one that these pairs allow, at most 0.5000, but was 0.9',
    )
    // Wilson's interval of 4 of 5, as scipy's binomtest(4, 5).proportion_ci(method='wilson') has it
    const { interval } = findThreshold(cosines, labels, 0.8)
    expect(interval[0]).toBeCloseTo(0.37553463, 7)
    expect(interval[1]).toBeCloseTo(0.96377589, 7)
  })

  test('no probability is 0 or 1, however clear the pairs were', () => {
    /** The map for pairs with these cosines, as vectors of the plane. */
    const fit = (cosines: readonly number[], labels: readonly number[]): [x: number, y: number][] => {
      const angle = (cosine: number): number[] => [cosine, Math.sqrt(1 - cosine * cosine)]
      const vectors = Float32Array.from([...cosines.flatMap(() => [1, 0]), ...cosines.flatMap(angle)])
      const { x, y } = fitCalibration(vectors, 2, labels, 0.1).probability
      return x.map((value, i) => [Number(value.toFixed(5)), y[i]!])
    }
    // Two wrong pairs, then three right ones.
    expect(fit([0.1, 0.2, 0.7, 0.8, 0.9], [0, 0, 1, 1, 1])).toEqual([
      [0.1, 1 / 4],
      [0.2, 1 / 4],
      [0.7, 4 / 5],
      [0.9, 4 / 5],
    ])
    // One right pair above four of five, one wrong below one of five: the ends do not pass their neighbours.
    const labels = [0, 1, 0, 0, 0, 0, 1, 1, 1, 1, 0, 1]
    const y = fit(
      Array.from(labels, (_, i) => i / 20),
      labels,
    ).map(([, share]) => share)
    expect(y).toEqual([1 / 5, 1 / 5, 1 / 5, 4 / 5, 4 / 5, 4 / 5])
    // Nothing to tell: the ends are no certainty and stay.
    expect(fit([0.2, 0.4, 0.6, 0.8], [1, 0, 1, 0]).map(([, share]) => share)).toEqual([0.5, 0.5])
  })

  /** Pairs of a text and itself with a few characters changed (1) or another text (0). */
  const pairs = (() => {
    const named = Array.from({ length: 60 }, (_, i) => `${texts[(i * 7) % texts.length]}第${i}条`)
    return {
      a: [...named, ...named],
      b: [...named.map((text) => `${text}。`), ...named.map((_, i) => named[(i + 17) % 60]!)],
      labels: named.map(() => 1).concat(named.map(() => 0)),
    }
  })()

  test('is kept by save and load, gives probabilities, and leaves with the weights', async () => {
    const own = await smallModel(root, device, 5)
    const calibration = await own.calibrate(pairs, { precision: 0.9 })
    expect(calibration).toMatchObject({ pairs: 120, positives: 60, dimensions: 64, instruction: '', fingerprint: await own.fingerprint() })
    expect(calibration.threshold.precision).toBeGreaterThanOrEqual(0.9)
    const { cosines, probabilities } = await own.similarity(pairs.a, pairs.b)
    const taken = pairs.labels.filter((_, i) => cosines[i]! >= calibration.threshold.cosine)
    expect(taken.filter((label) => label === 1).length / taken.length).toBe(calibration.threshold.precision)
    const order = [...cosines.keys()].sort((i, j) => cosines[i]! - cosines[j]!)
    expect(order.every((i, k) => k === 0 || probabilities![order[k - 1]!]! <= probabilities![i]!)).toBe(true)
    // The mean of the regression is the share of positives; of the probabilities it is what the two ends leave, no further than a pair each.
    const plain = isotonicRegression(cosines, pairs.labels)
    expect(cosines.reduce((sum, cosine) => sum + mapValue(plain, cosine), 0) / 120).toBeCloseTo(0.5, 9)
    const moved = cosines.map((cosine, i) => probabilities![i]! - mapValue(plain, cosine))
    expect(moved.every((by, i) => by === 0 || [0, 1].includes(mapValue(plain, cosines[i]!)))).toBe(true)
    expect(Math.max(...probabilities!)).toBeLessThan(1)
    expect(Math.min(...probabilities!)).toBeGreaterThan(0)
    expect(await own.similarity(['a'], ['b'], { instruction: '查：' })).not.toHaveProperty('probabilities')
    expect(await own.similarity(['a'], ['b'], { dimensions: 32 })).not.toHaveProperty('probabilities')
    // Its ranges serve int8 vectors.
    const { ranges } = calibration
    expect((await own.encode(['猫'], { output: { precision: 'int8' } })).data).toEqual(
      (await own.encode(['猫'], { output: { precision: 'int8', ranges } })).data,
    )

    const folder = join(root, 'calibrated')
    await own.save(folder)
    const loaded = await BgeModel.load(folder, { device })
    expect(loaded.calibration).toEqual(calibration)
    expect((await loaded.similarity(['猫'], ['狗'])).probabilities).toEqual((await own.similarity(['猫'], ['狗'])).probabilities)
    await loaded.save(folder) // over itself
    const bias = await loaded.encoder.parameters.read('embeddings.LayerNorm.bias')
    await loaded.encoder.parameters.write('embeddings.LayerNorm.bias', bias.fill(0.5))
    const other = join(root, 'trained')
    await loaded.save(other)
    expect((await BgeModel.load(other, { device })).calibration).toBeUndefined()

    const file = join(folder, 'bge_calibration.json')
    for (const [change, message] of [
      [{ version: 2 }, 'bge_calibration.json: version must be 1, but was 2'],
      [{ probability: { x: [0, 1], y: [1, 0] } }, 'probability.y must be 2 numbers that do not fall, but was an array of 2'],
      [{ ranges: undefined }, 'ranges.min must be 64 numbers, but was undefined'],
    ] as const) {
      await writeFile(file, JSON.stringify(calibration))
      await editJson(file, change as Partial<Calibration>)
      await expect(BgeModel.load(folder, { device })).rejects.toMatchObject({
        code: 'ERR_BGE_MODEL_FORMAT',
        message: expect.stringContaining(message),
      })
    }
  })

  test('bad pairs are named', async () => {
    await expect(model.calibrate({ a: ['a'], b: [], labels: [1] })).rejects.toThrow('b must be as many texts as a, 1, but was "0 texts"')
    await expect(model.calibrate({ a: ['a'], b: ['b'], labels: [1] })).rejects.toThrow(
      'labels must be some 0 and some 1, but was "1 ones of 1"',
    )
    await expect(model.calibrate({ a: ['a', 'b'], b: ['b', 'c'], labels: [1, 2] })).rejects.toThrow('labels[1] must be 0 or 1, but was 2')
    await expect(model.similarity(['a'], [])).rejects.toThrow('b must be as many texts as a, 1, but was "0 texts"')
  })
})

describe('the model itself', () => {
  test('memory, fingerprint of both layouts, await using', async () => {
    const shapes = model.encoder.parameters.list.map(({ shape }) => shape.reduce((a, b) => a * b, 1))
    expect(model.memory()).toMatchObject({ parameters: 4 * shapes.reduce((a, b) => a + b, 0), allocated: expect.any(Number) })
    expect(model.memory().allocated).toBeGreaterThanOrEqual(model.memory().parameters)
    const head = device.mlmHead(model.encoder)
    const [plain, masked] = [join(root, 'plain'), join(root, 'masked')]
    await model.save(plain)
    await model.save(masked, { mlmHead: head })
    head.dispose()
    expect(JSON.parse(await readFile(join(masked, 'config.json'), 'utf8'))).toMatchObject({ architectures: ['BertForMaskedLM'] })
    let closed: BgeModel
    {
      await using a = await BgeModel.load(plain, { device })
      await using b = await BgeModel.load(masked, { device })
      expect(await a.fingerprint()).toBe(await model.fingerprint())
      expect(await b.fingerprint()).toBe(await model.fingerprint())
      closed = a
    }
    expect(() => closed.memory()).toThrow('the model was disposed')
    await expect(closed.similarity(['a'], ['b'])).rejects.toMatchObject({ code: 'ERR_BGE_CLOSED' })
  })
})

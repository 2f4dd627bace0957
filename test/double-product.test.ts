import { Worker } from 'node:worker_threads'
import { createRequire } from 'node:module'
import { describe, expect, test } from 'vitest'
import { RandomState } from '../lib/eval/numeric/mt19937.js'
import { type Float64Product, multiplyFloat64 } from '../lib/native.js'

/** The sums by definition: in order of k, each product and each sum rounded. */
function reference(a: Float64Array, b: Float64Array, { m, n, k, transposed }: Float64Product): Float64Array {
  const c = new Float64Array(m * n)
  for (let i = 0; i < m; i++) {
    for (let j = 0; j < n; j++) {
      let sum = 0
      for (let p = 0; p < k; p++) sum += a[transposed === 'a' ? p * m + i : i * k + p]! * b[transposed === 'b' ? j * k + p : p * n + j]!
      c[i * n + j] = sum
    }
  }
  return c
}

/** Values of float32, whose products are exact in float64: fused or not, every order of rounding is the same. */
function operands(seed: number, { m, n, k }: Float64Product): [Float64Array, Float64Array] {
  const random = new RandomState(seed)
  const draw = (count: number): Float64Array => random.uniform(count).map((u) => Math.fround(u - 0.5))
  return [draw(m * k), draw(n * k)]
}

async function withIsa<T>(isa: string, work: () => Promise<T>): Promise<T> {
  const before = process.env.BGE_ISA
  process.env.BGE_ISA = isa
  try {
    return await work()
  } finally {
    if (before === undefined) delete process.env.BGE_ISA
    else process.env.BGE_ISA = before
  }
}

const SHAPES = [
  [1, 1, 1],
  [4, 5, 300],
  [7, 17, 257],
  [8, 16, 128],
  [13, 3, 129],
  [97, 65, 40],
  [200, 130, 260],
  [119, 33, 1000],
] as const

describe('multiplyFloat64', () => {
  describe.each(['base', 'avx2', 'avx512'])('%s', (isa) => {
    for (const [m, n, k] of SHAPES) {
      for (const transposed of [undefined, 'a', 'b'] as const) {
        test(`${m} x ${n} x ${k}, transposed: ${transposed ?? 'neither'}: the bits of the sums in order`, async ({ skip }) => {
          const shape: Float64Product = { m, n, k, ...(transposed && { transposed }) }
          const [a, b] = operands(m + n, shape)
          const c = new Float64Array(m * n).fill(Number.NaN)
          try {
            await withIsa(isa, () => multiplyFloat64(c, a, b, shape))
          } catch (error) {
            if ((error as { code?: string }).code === 'ERR_BGE_DEVICE_UNAVAILABLE') return skip()
            throw error
          }
          expect(Buffer.from(c.buffer).equals(Buffer.from(reference(a, b, shape).buffer))).toBe(true)
        })
      }
    }
  })

  test('equal bits for every number of threads, of any float64 values', async () => {
    const shape: Float64Product = { m: 700, n: 200, k: 150, transposed: 'b' }
    const random = new RandomState(3)
    const [a, b] = [random.uniform(700 * 150), random.uniform(200 * 150)]
    const results: Float64Array[] = []
    for (const threads of [1, 2, 3, 7]) {
      const c = new Float64Array(700 * 200)
      await multiplyFloat64(c, a, b, { ...shape, threads })
      results.push(c)
    }
    for (const c of results.slice(1)) expect(c).toEqual(results[0])
    const exact = reference(a, b, shape)
    for (let i = 0; i < exact.length; i += 997) expect(results[0]![i]! / exact[i]!).toBeCloseTo(1, 13)
  })

  test('operands may be parts of larger arrays, and a result without summands is 0', async () => {
    const whole = new Float64Array([9, 1, 2, 3, 4, 9])
    const c = new Float64Array(6).fill(9)
    await multiplyFloat64(c.subarray(1, 5), whole.subarray(1, 5), new Float64Array([1, 0, 0, 1]), { m: 2, n: 2, k: 2 })
    expect([...c]).toEqual([9, 1, 2, 3, 4, 9])
    await multiplyFloat64(c, new Float64Array(0), new Float64Array(0), { m: 2, n: 3, k: 0 })
    expect([...c]).toEqual([0, 0, 0, 0, 0, 0])
    await multiplyFloat64(new Float64Array(0), new Float64Array(0), new Float64Array(4), { m: 0, n: 2, k: 2 })
  })

  test('NaN and infinity go where they belong', async () => {
    const c = new Float64Array(4)
    await multiplyFloat64(c, new Float64Array([Number.NaN, 1, 2, 3]), new Float64Array([1, Number.POSITIVE_INFINITY, 1, 1]), {
      m: 2,
      n: 2,
      k: 2,
    })
    expect([...c]).toEqual([Number.NaN, Number.NaN, 5, Number.POSITIVE_INFINITY])
  })

  test('runs beside the event loop', async () => {
    const shape: Float64Product = { m: 2000, n: 500, k: 600, transposed: 'b' }
    const [a, b] = operands(1, shape)
    let turns = 0
    let running = true
    const turn = (): void => {
      turns++
      if (running) setImmediate(turn)
    }
    setImmediate(turn)
    await multiplyFloat64(new Float64Array(shape.m * shape.n), a, b, shape)
    running = false
    expect(turns).toBeGreaterThan(10)
  })

  test('bad input is one sentence with a code', async () => {
    const three = new Float64Array(3)
    const all = { c: three, a: three, b: three }
    const wrong: [typeof all, Float64Product, string, string][] = [
      [all, { m: 1, n: 3, k: 2 }, 'ERR_BGE_SHAPE', 'a must have 1 x 2 entries, but has 3'],
      [all, { m: 1, n: 3, k: 3, transposed: 'b' }, 'ERR_BGE_SHAPE', 'b must have 3 x 3 entries, but has 3'],
      [all, { m: 2, n: 3, k: 1 }, 'ERR_BGE_SHAPE', 'c must have 2 x 3 entries, but has 3'],
      [{ ...all, c: new Float32Array(3) as never }, { m: 1, n: 3, k: 1 }, 'ERR_BGE_ARGUMENT', 'c must be a Float64Array'],
      [all, { m: 0.5, n: 3, k: 1 }, 'ERR_BGE_ARGUMENT', 'm must be an integer'],
      [{ ...all, a: new Float64Array(1) }, { m: 1, n: 3, k: 1, threads: 0 }, 'ERR_BGE_ARGUMENT', 'threads must be an integer'],
    ]
    for (const [{ c, a, b }, shape, code, message] of wrong) {
      await expect(multiplyFloat64(c, a, b, shape)).rejects.toMatchObject({ code, message: expect.stringContaining(message) })
    }
    await expect(withIsa('sse9', () => multiplyFloat64(three, new Float64Array(1), three, { m: 1, n: 3, k: 1 }))).rejects.toMatchObject({
      code: 'ERR_BGE_DEVICE_UNAVAILABLE',
    })
  })

  test('an environment may end while products run', async () => {
    const addon = createRequire(import.meta.url).resolve('../build/Release/bge.node')
    for (let round = 0; round < 5; round++) {
      const worker = new Worker(
        `const { parentPort } = require('node:worker_threads')
         const addon = require(${JSON.stringify(addon)})
         const size = 500
         const make = () => new Float64Array(size * size)
         for (let i = 0; i < 8; i++) addon.multiplyFloat64(make(), make(), make(), { m: size, n: size, k: size })
         parentPort.postMessage('queued')`,
        { eval: true },
      )
      const errors: unknown[] = []
      worker.on('error', (error) => errors.push(error))
      await new Promise((resolve) => worker.once('message', resolve))
      await worker.terminate()
      expect(errors).toEqual([])
    }
    const c = new Float64Array(1)
    await multiplyFloat64(c, new Float64Array([2]), new Float64Array([3]), { m: 1, n: 1, k: 1 })
    expect(c[0]).toBe(6)
  })
})

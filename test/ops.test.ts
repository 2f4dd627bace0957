import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { type Device, openDevice } from '../lib/native.js'
import { specs } from './ops/index.js'
import { difference, gradientProblems, type OpResult, prepare, problems, zeroOutputs } from './support/check.js'
import { availableIsas, availableLowTypes, cudaLibrary, hasWgmma, openCuda, openIsa } from './support/devices.js'
import { philox } from './support/philox.js'
import { Random } from './support/random.js'
import { asIs, inFloat32, inFloat64, type OpCase, type OpSpec, type Storage, widen } from './support/spec.js'

const specOf = (name: string): OpSpec => specs.find((spec) => spec.name === name)!
const titleOf = (c: OpCase): string =>
  [...Object.entries(c.attributes).map(([name, value]) => `${name} ${value}`), c.lengths && `lengths ${c.lengths}`, c.data]
    .filter(Boolean)
    .join(', ')

describe('the references', () => {
  for (const spec of specs) {
    it(`${spec.name}: some case gives every output something to be wrong about`, () => {
      expect(zeroOutputs(spec)).toEqual([])
    })
    if (spec.kind !== 'gradient') continue
    it(`${spec.name}: central differences prove the gradient`, () => {
      expect(
        spec.cases.filter((c) => !c.large).flatMap((c) => gradientProblems(spec, c).map((problem) => `${titleOf(c)}: ${problem}`)),
      ).toEqual([])
    })
  }

  it('Philox draws the known answers of Random123 (kat_vectors)', () => {
    expect(philox([0, 0, 0, 0], [0, 0])).toEqual([0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8])
    expect(philox([0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344], [0xa4093822, 0x299f31d0])).toEqual([
      0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1,
    ])
  })
})

const isas = await availableIsas()

it('the baseline instruction set runs everywhere', () => {
  expect(isas).toContain(process.env['BGE_ISA'] ?? 'base')
})

const columns: { name: string; storage: Storage; open: (threads: number) => Promise<Device>; only?: RegExp }[] = isas.map((isa) => ({
  name: `cpu ${isa}`,
  storage: 'f32',
  open: (threads) => openIsa(isa, threads),
}))
// What multiplies in another type: the other ops are those above.
for (const dtype of await availableLowTypes()) {
  const storage = `f32, products ${dtype}` as const
  const open = (threads: number) => openDevice({ device: 'cpu', threads, dtype })
  columns.push({ name: `cpu ${dtype}`, storage, open, only: dtype === 'bf16' ? /^(linear|attention|contrastive_pass)/ : /^linear$/ })
}
if (cudaLibrary) columns.push({ name: 'cuda', storage: 'bf16', open: () => openCuda() })
// The second version of the attention behind the same specs, where the device has it.
if (await hasWgmma())
  columns.push({ name: 'cuda by wgmma', storage: 'bf16', open: () => openCuda({ attention: 'wgmma' }), only: /^attention/ })
// Products of the contrastive pass to fp32 accuracy, held to what the CPU is held to.
if (cudaLibrary)
  columns.push({ name: 'cuda, f32 similarity', storage: 'f32', open: () => openCuda({ similarity: 'f32' }), only: /^contrastive_pass/ })

describe.each(columns)('$name', ({ storage, open, only }) => {
  let two: Device
  let one: Device
  beforeAll(async () => {
    two = await open(2)
    one = await open(1)
  })
  afterAll(() => {
    two.dispose()
    one.dispose()
  })

  for (const spec of specs) {
    if (only && !only.test(spec.name)) continue
    describe(spec.name, () => {
      it.each(spec.cases.map((c) => [titleOf(c), c] as const))('%s', async (_, c) => {
        const p = prepare(spec, c, storage)
        const result = await two.op(spec.name, p.inputs, c.attributes)
        expect(problems(spec, c, p, result)).toEqual([])
        expect(difference(result, await two.op(spec.name, p.inputs, c.attributes)), 'a second run').toBeUndefined()
        expect(difference(result, await one.op(spec.name, p.inputs, c.attributes)), 'one thread').toBeUndefined()
      })
    })
  }

  // An embedding must not depend on the micro-batch it is in (architecture section 5).
  it.each([1, 2, 7, 20, 112])('linear: a row of 113 is the same in a call of %i', async (rows) => {
    const attributes = { rows: 113, in: 59, out: 203, gelu: 1 }
    const inputs = prepare(specOf('linear'), { attributes, data: 'bias' }, storage).inputs
    const { out } = (await two.op('linear', inputs, attributes)) as { out: Float32Array }
    const part = (await two.op('linear', { ...inputs, x: (inputs['x'] as Float32Array).slice(0, rows * 59) }, { ...attributes, rows })) as {
      out: Float32Array
    }
    expect(difference({ out: out.slice(0, rows * 203) }, part)).toBeUndefined()
  })

  it('linear: a value that is not finite stays visible in its row and changes no other', async () => {
    const attributes = { rows: 9, in: 40, out: 24 }
    const { x, ...rest } = prepare(specOf('linear'), { attributes }, storage).inputs as Record<'x' | 'weight', Float32Array>
    const { out } = (await two.op('linear', { x, ...rest }, attributes)) as { out: Float32Array }
    for (const value of [Number.NaN, Number.POSITIVE_INFINITY]) {
      const broken = Float32Array.from(x)
      broken[4 * 40 + 33] = value
      const result = (await two.op('linear', { x: broken, ...rest }, attributes)) as { out: Float32Array }
      expect(result.out.subarray(4 * 24, 5 * 24).some((y) => Number.isFinite(y))).toBe(false)
      expect(result.out.every((y, i) => Math.floor(i / 24) === 4 || y === out[i])).toBe(true)
    }
  })

  it.each([32, 64])('attention, head size %i: a sequence is the same alone and behind others', async (headSize) => {
    const c: OpCase = { attributes: { heads: 2, headSize }, lengths: [17, 59, 4] }
    const inputs = prepare(specOf('attention'), c, storage).inputs
    const { out } = (await two.op('attention', inputs, c.attributes)) as { out: Float32Array }
    const cut = (name: string): Float32Array => (inputs[name] as Float32Array).slice(17 * 2 * headSize, 76 * 2 * headSize)
    const alone = {
      q: cut('q'),
      k: cut('k'),
      v: cut('v'),
      queryOffsets: Int32Array.of(0, 59),
      keyOffsets: Int32Array.of(0, 59),
      queryPosition: (inputs['queryPosition'] as Int32Array).slice(17, 76),
      stream: (inputs['stream'] as Uint32Array).slice(1, 2),
    }
    const result = (await two.op('attention', alone, c.attributes)) as OpResult
    expect(difference({ out: out.slice(17 * 2 * headSize, 76 * 2 * headSize) }, result)).toBeUndefined()
  })

  it('adamw with a gradient that is not finite shows it in the norm, changes nothing and zeroes the gradients', async () => {
    for (const value of [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY]) {
      const random = new Random(1)
      const [parameter, m, v, gradient] = [random.floats(1003), random.floats(1003), random.floats(1003).map(Math.abs), random.floats(1003)]
      gradient[1001] = value
      const result = (await two.op('adamw', { parameter, m, v, gradient }, { entries: 1003, parts: 2, maxNorm: 1 })) as OpResult
      const squaredNorm = Float32Array.of(value * value)
      expect(difference({ parameter, m, v, gradient: new Float32Array(1003), squaredNorm }, result)).toBeUndefined()
    }
  })

  // Tests that guard the tests.
  it('a tanh GELU is told from the exact one', async () => {
    const spec = specOf('linear')
    const c = spec.cases.find((k) => k.data === 'identity')!
    const p = prepare(spec, c, storage)
    const result = (await two.op('linear', p.inputs, c.attributes)) as Record<'out' | 'preActivation', Float32Array>
    // On the CPU hidden states are fp32: whatever the product's operands were rounded to, its GELU is an fp32 one.
    const of = widen({ ...p.inputs, x: result.preActivation })
    const reference = (round: typeof inFloat32) => spec.reference(of, c, round, inFloat64, asIs)
    const judged = storage === 'bf16' ? p : { storage: 'f32' as const, exact: reference(inFloat64), plain: reference(inFloat32) }
    expect(problems(spec, c, judged, result)).toEqual([])
    const out = result.preActivation.map((x) => 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3))))
    expect(problems(spec, c, judged, { ...result, out }).join()).toMatch(/^out\[/)
  })

  it('misuse of the side door is refused in a sentence', async () => {
    const x = Float32Array.of(1)
    await expect(two.op('no_such_op', {}, {})).rejects.toMatchObject({
      code: 'ERR_BGE_ARGUMENT',
      message: expect.stringContaining('no_such_op'),
    })
    await expect(two.op('add', { x }, { rows: 1, cols: 1 })).rejects.toMatchObject({
      code: 'ERR_BGE_ARGUMENT',
      message: expect.stringContaining('input out'),
    })
    await expect(two.op('add', { x, out: x }, { rows: 1 })).rejects.toMatchObject({
      code: 'ERR_BGE_ARGUMENT',
      message: expect.stringContaining('cols'),
    })
    await expect(two.op('add', { x, out: x, y: x }, { rows: 1, cols: 1 })).rejects.toMatchObject({
      code: 'ERR_BGE_ARGUMENT',
      message: expect.stringContaining('input y'),
    })
    await expect(two.op('add', { x, out: x }, { rows: 1, cols: 1, beta: 2 })).rejects.toMatchObject({
      code: 'ERR_BGE_ARGUMENT',
      message: expect.stringContaining('attribute beta'),
    })
    await expect(two.op('add', { x, out: x }, { rows: 2, cols: 1 })).rejects.toMatchObject({ code: 'ERR_BGE_SHAPE' })
  })
})

describe('the harness', () => {
  const spec = specOf('linear_backward_weight')
  const c = spec.cases[1]!
  const p = prepare(spec, c)
  const right = (): OpResult => Object.fromEntries(Object.entries(p.exact).map(([name, v]) => [name, Float32Array.from(v)]))

  it('accepts the rounded truth and refuses one wrong entry, a NaN, zeros, a missing output', () => {
    expect(problems(spec, c, p, right())).toEqual([])
    const { dW, dBias } = right() as Record<'dW' | 'dBias', Float32Array>
    expect(problems(spec, c, p, { dBias: dBias!, dW: dW!.map((x, i) => (i === 5 ? x * 1.0001 : x)) })).toHaveLength(1)
    expect(problems(spec, c, p, { dBias: dBias!, dW: dW!.map((x, i) => (i === 5 ? Number.NaN : x)) })).toHaveLength(1)
    expect(problems(spec, c, p, { dBias: dBias!, dW: dW!.map(() => 0) })).toHaveLength(1)
    expect(problems(spec, c, p, { dW: dW! })).toHaveLength(1)
  })

  it('refuses a spec whose gradients are all zero', () => {
    const silent: OpSpec = {
      ...spec,
      name: 'silent',
      inputs: (k, random, store) => ({
        ...spec.inputs(k, random, store),
        dBias: new Float32Array(7),
        dW: new Float32Array(119),
        dOut: new Float32Array(21),
      }),
      cases: [c],
    }
    expect(zeroOutputs(silent)).toEqual(['dW', 'dBias'])
  })

  it.each(specs.filter((s) => s.kind === 'gradient').map((s) => [s.name, s] as const))(
    'refuses a gradient formula of %s that is 0.1 % off',
    (_, s) => {
      const outputs = Object.keys(s.proof!.of)
      const wrong: OpSpec = {
        ...s,
        name: `${s.name}, wrong`,
        reference: (...operands) =>
          Object.fromEntries(
            Object.entries(s.reference(...operands)).map(([name, v]) => [name, outputs.includes(name) ? v.map((x) => 1.001 * x) : v]),
          ),
      }
      expect(gradientProblems(wrong, s.cases[1]!).length).toBeGreaterThan(0)
    },
  )

  it('rounds in the plain formula only', () => {
    expect(inFloat64(0.1)).toBe(0.1)
    expect(Object.keys(p.exact).some((name) => p.exact[name]!.some((v, i) => v !== p.plain[name]![i]))).toBe(true)
  })
})

import { spawnSync } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { BgeError, type BgeErrorCode } from '../lib/errors.js'
import { type Device, type Encoder, type EncoderConfig, openDevice, type TokenBatch } from '../lib/native.js'
import { availableIsas, availableLowTypes, openIsa } from './support/devices.js'
import { Random } from './support/random.js'

const CONFIG: EncoderConfig = {
  layers: 2,
  hidden: 32,
  heads: 2,
  intermediate: 64,
  vocab: 50,
  maxPositions: 16,
  typeVocab: 2,
  layerNormEps: 1e-12,
  hiddenDropout: 0.1,
  attentionDropout: 0.1,
  pooling: 'cls',
  normalize: true,
}
const BATCH: TokenBatch = { ids: Int32Array.of(1, 2, 3, 4, 5, 6, 7), cuSeqlens: Int32Array.of(0, 3, 7) }

async function makeEncoder(device: Device, config: EncoderConfig = CONFIG): Promise<Encoder> {
  const encoder = device.encoder(config)
  const random = new Random(1)
  for (const { name, shape } of encoder.parameters.list) {
    const n = shape.reduce((a, b) => a * b, 1)
    await encoder.parameters.write(name, name.endsWith('LayerNorm.weight') ? new Float32Array(n).fill(1) : random.floats(n, 0.1))
  }
  return encoder
}

const isas = await availableIsas()
const lowTypes = await availableLowTypes()

/** The error a call throws at once; a promise would be too late. */
function thrown(call: () => unknown): BgeError {
  try {
    const result = call()
    if (result instanceof Promise) result.catch(() => {})
  } catch (error) {
    expect(error).toBeInstanceOf(BgeError)
    return error as BgeError
  }
  throw new Error('nothing was thrown')
}

describe('arguments are checked before anything is enqueued', () => {
  let device: Device
  let other: Device
  let encoder: Encoder
  beforeAll(async () => {
    device = await openDevice({ device: 'cpu', threads: 1 })
    other = await openDevice({ device: 'cpu', threads: 1 })
    encoder = await makeEncoder(device)
  })
  afterAll(() => {
    device.dispose()
    other.dispose()
  })

  const cases: readonly (readonly [string, BgeErrorCode, RegExp, () => unknown])[] = [
    [
      'a tensor of plain numbers',
      'ERR_BGE_ARGUMENT',
      /values must be a Float32Array, but was an array/,
      () => device.tensor([1, 2] as unknown as Float32Array, 1, 2),
    ],
    ['a tensor of another size', 'ERR_BGE_SHAPE', /rows \* cols \(2 x 3\)/, () => device.tensor(new Float32Array(5), 2, 3)],
    ['half a row', 'ERR_BGE_ARGUMENT', /rows must be an integer/, () => device.zeros(1.5, 2)],
    ['heads that do not fit', 'ERR_BGE_SHAPE', /config\.hidden/, () => device.encoder({ ...CONFIG, heads: 3 })],
    [
      'a pooling that does not exist',
      'ERR_BGE_ARGUMENT',
      /'cls' or 'mean', but was "max"/,
      () => device.encoder({ ...CONFIG, pooling: 'max' as 'cls' }),
    ],
    [
      'a token outside the vocabulary',
      'ERR_BGE_ARGUMENT',
      /batch\.ids\[1\].*below 50, but was 50/,
      () => encoder.embed({ ...BATCH, ids: Int32Array.of(1, 50, 3, 4, 5, 6, 7) }),
    ],
    ['offsets that do not end at T', 'ERR_BGE_SHAPE', /cuSeqlens/, () => encoder.embed({ ...BATCH, cuSeqlens: Int32Array.of(0, 3, 6) })],
    [
      'an empty sequence',
      'ERR_BGE_SHAPE',
      /sequence 1 .* but has 0/,
      () => encoder.embed({ ...BATCH, cuSeqlens: Int32Array.of(0, 3, 3, 7) }),
    ],
    [
      'a sequence that is too long',
      'ERR_BGE_SHAPE',
      /1 to 16 tokens, but has 17/,
      () => encoder.embed({ ids: new Int32Array(17), cuSeqlens: Int32Array.of(0, 17) }),
    ],
    ['a backward without a forward', 'ERR_BGE_ARGUMENT', /outstanding forward/, () => encoder.backward({ dCls: device.zeros(2, 32) })],
    ['a tensor of another device', 'ERR_BGE_ARGUMENT', /another/, () => device.topK(device.zeros(1, 4), other.zeros(3, 4), 1)],
    [
      'a temperature of 0',
      'ERR_BGE_ARGUMENT',
      /temperature/,
      () => device.contrastive(device.zeros(2, 4), device.zeros(2, 4), { temperature: 0 }),
    ],
    [
      'candidates of the same source without sources',
      'ERR_BGE_ARGUMENT',
      /candidates 'source' and sourceIds need each other/,
      () => device.contrastive(device.zeros(2, 4), device.zeros(2, 4), { temperature: 1, candidates: 'source' }),
    ],
    [
      'sources that nobody asked for',
      'ERR_BGE_ARGUMENT',
      /candidates 'source' and sourceIds need each other/,
      () => device.contrastive(device.zeros(2, 4), device.zeros(2, 4), { temperature: 1, sourceIds: Int32Array.of(0, 1) }),
    ],
    [
      'too few sources',
      'ERR_BGE_SHAPE',
      /sourceIds must have 2 entries, but has 1/,
      () =>
        device.contrastive(device.zeros(2, 4), device.zeros(2, 4), { temperature: 1, candidates: 'source', sourceIds: Int32Array.of(0) }),
    ],
    [
      'false negatives without a margin',
      'ERR_BGE_ARGUMENT',
      /falseNegativeMargin/,
      () => device.contrastive(device.zeros(2, 4), device.zeros(2, 4), { temperature: 1, falseNegatives: 'all' }),
    ],
    [
      'a margin without false negatives',
      'ERR_BGE_ARGUMENT',
      /falseNegativeMargin needs falseNegatives/,
      () => device.contrastive(device.zeros(2, 4), device.zeros(2, 4), { temperature: 1, falseNegativeMargin: 0 }),
    ],
    ['a parameter that does not exist', 'ERR_BGE_ARGUMENT', /no_such/, () => encoder.parameters.read('no_such')],
    [
      'a parameter of another size',
      'ERR_BGE_SHAPE',
      /LayerNorm/,
      () => encoder.parameters.write('embeddings.LayerNorm.bias', new Float32Array(3)),
    ],
  ]
  it.each(cases)('%s', (_, code, sentence, call) => {
    const error = thrown(call)
    expect(error.message).toMatch(sentence)
    expect(error.code).toBe(code)
  })

  it('a call that was refused leaves the device as it was', async () => {
    const { embeddings } = await encoder.forward(BATCH)
    expect(embeddings.shape).toEqual([2, 32])
    await encoder.discard()
  })

  it('threads and device names are checked', async () => {
    await expect(openDevice({ threads: 0 })).rejects.toMatchObject({ code: 'ERR_BGE_ARGUMENT' })
    await expect(openDevice({ device: 'gpu' })).rejects.toMatchObject({ code: 'ERR_BGE_ARGUMENT' })
    await expect(openDevice({ device: 'cuda:x' })).rejects.toMatchObject({ code: 'ERR_BGE_ARGUMENT' })
  })

  it('a dtype that the device does not compute in is refused, not replaced', async () => {
    await expect(openIsa('avx2', 1, 'bf16')).rejects.toMatchObject({
      code: 'ERR_BGE_DEVICE_UNAVAILABLE',
      message: expect.stringMatching(isas.includes('avx2') ? /bf16 on the CPU needs the instruction set avx512bf16, but avx2 was/ : /avx2/),
    })
    await expect(openIsa('base', 1, 'int8')).rejects.toMatchObject({
      code: 'ERR_BGE_DEVICE_UNAVAILABLE',
      message: expect.stringContaining('dtype int8 on the CPU needs the instruction set avx512vnni, but base was asked for'),
    })
    for (const dtype of ['fp32', 'int8'] as const) {
      await expect(openDevice({ device: 'cuda', dtype })).rejects.toMatchObject({
        code: 'ERR_BGE_DEVICE_UNAVAILABLE',
        message: expect.stringContaining('CUDA computes in bf16'),
      })
    }
    await expect(openDevice({ dtype: 'int4' as 'fp32' })).rejects.toMatchObject({ code: 'ERR_BGE_ARGUMENT' })
    const device = await openDevice({ dtype: 'fp32' }) // 'auto'
    expect(device).toMatchObject({ kind: 'cpu', dtype: 'fp32' })
    device.dispose()
  })

  it.each(lowTypes)('%s is named with the instruction set, and refused without it', async (dtype) => {
    const low = await openDevice({ device: 'cpu', threads: 2, dtype })
    expect(low).toMatchObject({
      kind: 'cpu',
      dtype,
      description: expect.stringMatching(new RegExp(`^cpu avx512(vnni|bf16) ${dtype}, 2 threads$`)),
    })
    low.dispose()
    if (process.env['BGE_ISA'] !== undefined) return
    const wanted = dtype === 'bf16' ? 'avx512bf16' : 'avx512vnni'
    const forced = await openIsa(wanted, 1, dtype)
    expect(forced.description).toBe(`cpu ${wanted} ${dtype}, 1 thread`)
    forced.dispose()
    await expect(openIsa('avx512', 1, dtype)).rejects.toMatchObject({ code: 'ERR_BGE_DEVICE_UNAVAILABLE' })
  })

  it.runIf(lowTypes.includes('int8'))('int8 is for inference: what trains is refused in a sentence', async () => {
    const low = await openDevice({ device: 'cpu', threads: 1, dtype: 'int8' })
    const encoder = await makeEncoder(low)
    const refused: [what: RegExp, call: () => unknown][] = [
      [
        /^forward\(\) keeps activations for backward\(\), and needs a device that trains.*dtype int8.*fp32 or bf16$/,
        () => encoder.forward(BATCH),
      ],
      [/^an MLM head needs a device that trains/, () => low.mlmHead(encoder)],
      [/^an optimizer needs a device that trains/, () => low.adamW([encoder])],
    ]
    for (const [sentence, call] of refused) {
      const error = thrown(call)
      expect(error.code).toBe('ERR_BGE_ARGUMENT')
      expect(error.message).toMatch(sentence)
    }
    const matrix = { dOut: new Float32Array(6), weight: new Float32Array(6) }
    await expect(low.op('linear_backward_input', matrix, { rows: 3, in: 3, out: 2 })).rejects.toMatchObject({
      code: 'ERR_BGE_ARGUMENT',
      message: expect.stringContaining('dtype int8 is for inference'),
    })
    expect((await encoder.embed(BATCH)).shape).toEqual([2, 32])
    low.dispose()
  })
})

describe.each(['fp32', ...lowTypes] as const)('%s on the CPU', (dtype) => {
  // 230 sequences, 1,150 tokens: enough for a product whose tasks convert the rows they multiply, where a few rows are converted beforehand.
  const lengths = Array.from({ length: 230 }, (_, n) => 3 + (n % 5))
  const cuSeqlens = Int32Array.from([0, ...lengths.map((_, n) => lengths.slice(0, n + 1).reduce((a, b) => a + b))])
  const ids = Int32Array.from({ length: cuSeqlens.at(-1)! }, (_, t) => 1 + ((t * 7) % 49))

  it('gives a text the same vector, bit for bit, alone, among others and on one thread', async () => {
    const two = await openDevice({ device: 'cpu', threads: 2, dtype })
    const one = await openDevice({ device: 'cpu', threads: 1, dtype })
    const [encoder, single] = [await makeEncoder(two), await makeEncoder(one)]
    const all = await (await encoder.embed({ ids, cuSeqlens })).toArray()
    expect(all.every((x) => Number.isFinite(x))).toBe(true)
    expect(await (await single.embed({ ids, cuSeqlens })).toArray()).toEqual(all)
    for (const [first, count] of [
      [0, 1],
      [17, 3],
      [100, 90],
    ] as const) {
      const [from, to] = [cuSeqlens[first]!, cuSeqlens[first + count]!]
      const part = { ids: ids.slice(from, to), cuSeqlens: cuSeqlens.slice(first, first + count + 1).map((offset) => offset - from) }
      expect(await (await encoder.embed(part)).toArray()).toEqual(all.slice(first * 32, (first + count) * 32))
    }
    two.dispose()
    one.dispose()
  })

  it.runIf(dtype !== 'int8').each([0, 0.1])('embeds under a key what forward gives, bit for bit, with dropout %s', async (dropout) => {
    const device = await openDevice({ device: 'cpu', threads: 2, dtype })
    const encoder = await makeEncoder(device, { ...CONFIG, hiddenDropout: dropout, attentionDropout: dropout })
    const key = { seed: 5n, step: 3 }
    const { embeddings } = await encoder.forward({ ids, cuSeqlens }, key)
    expect(await (await encoder.embed({ ids, cuSeqlens }, key)).toArray()).toEqual(await embeddings.toArray())
    device.dispose()
  })
})

describe('one forward is outstanding', () => {
  it('a second one is refused until backward or discard', async () => {
    const device = await openDevice({ device: 'cpu', threads: 1 })
    const encoder = await makeEncoder(device)
    const first = encoder.forward(BATCH)
    expect(thrown(() => encoder.forward(BATCH)).code).toBe('ERR_BGE_ARGUMENT')
    const { embeddings } = await first
    await encoder.backward({ dEmbeddings: embeddings })
    await encoder.forward(BATCH)
    await encoder.discard()
    await encoder.forward(BATCH)
    device.dispose()
  })
})

describe('lifetimes', () => {
  it('a disposed handle throws ERR_BGE_CLOSED, and disposing twice is nothing', async () => {
    const device = await openDevice({ device: 'cpu', threads: 1 })
    const encoder = await makeEncoder(device)
    const tensor = device.zeros(2, 3)
    tensor.dispose()
    tensor.dispose()
    expect(thrown(() => tensor.toArray()).code).toBe('ERR_BGE_CLOSED')
    expect(thrown(() => device.topK(tensor, device.zeros(1, 3), 1)).code).toBe('ERR_BGE_CLOSED')
    encoder.dispose()
    encoder.dispose()
    expect(thrown(() => encoder.embed(BATCH)).code).toBe('ERR_BGE_CLOSED')
    expect(thrown(() => encoder.parameters.read('embeddings.LayerNorm.bias')).code).toBe('ERR_BGE_CLOSED')
    device.dispose()
    device.dispose()
    expect(thrown(() => device.zeros(1, 1)).code).toBe('ERR_BGE_CLOSED')
    expect(thrown(() => device.synchronize()).code).toBe('ERR_BGE_CLOSED')
  })

  it('disposing a handle does not take it from a call that was made before', async () => {
    const device = await openDevice({ device: 'cpu', threads: 1 })
    const tensor = device.tensor(Float32Array.of(1, 2, 3), 1, 3)
    const values = tensor.toArray()
    tensor.dispose()
    expect(await values).toEqual(Float32Array.of(1, 2, 3))
    device.dispose()
  })

  it('an array may change as soon as the call has returned', async () => {
    const device = await openDevice({ device: 'cpu', threads: 1 })
    const values = Float32Array.of(1, 2, 3)
    const tensor = device.tensor(values, 1, 3)
    values.fill(0)
    expect(await tensor.toArray()).toEqual(Float32Array.of(1, 2, 3))
    device.dispose()
  })

  it('a device closes all it made; what was enqueued before is finished', async () => {
    const device = await openDevice({ device: 'cpu', threads: 1 })
    const encoder = await makeEncoder(device)
    const calls = Array.from({ length: 5 }, () => encoder.embed(BATCH))
    device.dispose()
    expect(thrown(() => encoder.embed(BATCH)).code).toBe('ERR_BGE_CLOSED')
    const settled = await Promise.allSettled(calls)
    expect(settled.map((s) => s.status)).toEqual(new Array(5).fill('fulfilled'))
  })

  it('two devices do not share anything', async () => {
    const [a, b] = [await openDevice({ device: 'cpu', threads: 1 }), await openDevice({ device: 'cpu', threads: 1 })]
    const tensor = b.tensor(Float32Array.of(7), 1, 1)
    a.dispose()
    expect(await tensor.toArray()).toEqual(Float32Array.of(7))
    b.dispose()
  })
})

it('the event loop turns while the device works', async () => {
  const device = await openDevice({ device: 'cpu', threads: 1 })
  const [rows, cols] = [512, 1024]
  const random = new Random(1)
  const inputs = { a: random.floats(rows * cols), b: random.floats(cols * cols) }
  const work = device.op('matmul', inputs, { rows, cols, depth: cols, repeat: 10 }) // 10 x 1 GFLOP
  let ticks = 0
  const timer = setInterval(() => ticks++, 5)
  await work
  clearInterval(timer)
  device.dispose()
  expect(ticks).toBeGreaterThanOrEqual(3)
})

it('results arrive in call order', async () => {
  const device = await openDevice({ device: 'cpu', threads: 1 })
  const order: number[] = []
  await Promise.all(
    Array.from({ length: 20 }, (_, i) =>
      device
        .zeros(i % 3, 4)
        .toArray()
        .then(() => order.push(i)),
    ),
  )
  expect(order).toEqual(Array.from({ length: 20 }, (_, i) => i))
  device.dispose()
})

describe('a process of its own', () => {
  const script = fileURLToPath(new URL('support/native_child.mjs', import.meta.url))
  const run = (scenario: string, ...flags: string[]): { status: number | null; signal: string | null; stdout: string; stderr: string } => {
    const child = spawnSync(process.execPath, [...flags, script, scenario], { encoding: 'utf8', timeout: 60_000 })
    return { status: child.status, signal: child.signal, stdout: child.stdout.trim(), stderr: child.stderr }
  }
  const ends = (stdout: string): object => ({ status: 0, signal: null, stdout, stderr: '' })

  it('survives twenty worker threads that are ended in the middle of a job', () => expect(run('storm')).toEqual(ends('storm over')))
  it('ends by itself when no call is pending', () => expect(run('idle')).toEqual(ends('idle after 256')))
  it('may exit while a job runs', () => expect(run('exitWhileRunning')).toEqual(ends('leaving')))
  it('may dispose a device while its jobs run', () => expect(run('disposeWhileRunning')).toEqual(ends('settled 10')))
  it('frees what is garbage', () => expect(run('garbage', '--expose-gc')).toEqual(ends('collected')))
})

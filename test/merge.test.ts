import { cpSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { openCheckpoint } from '../lib/model/checkpoint.js'
import { mergeModels } from '../lib/model/merge.js'
import { BgeModel } from '../lib/model/model.js'
import { openSafetensors, writeSafetensors } from '../lib/model/safetensors.js'
import { newTinyModel } from './support/tiny_run.js'

const root = mkdtempSync(join(tmpdir(), 'bge-merge-'))
afterAll(() => rmSync(root, { recursive: true, force: true }))
const at = (name: string): string => join(root, name)

async function tensors(folder: string): Promise<Map<string, Float32Array>> {
  const checkpoint = await openCheckpoint(folder)
  try {
    const values = new Map<string, Float32Array>()
    for (const [name, tensor] of checkpoint.tensors) values.set(name, await tensor.read())
    return values
  } finally {
    await checkpoint.close()
  }
}

/** Copies a model and writes its weights anew, some of them changed or left out. */
async function rewritten(
  from: string,
  to: string,
  change: (name: string, shape: readonly number[]) => { name: string; shape: readonly number[] }[],
): Promise<string> {
  cpSync(from, to, { recursive: true })
  const source = await openSafetensors(join(from, 'model.safetensors'))
  const list = [...source.tensors].flatMap(([name, { shape }]) => change(name, shape))
  await writeSafetensors(
    join(to, 'model.safetensors'),
    list.map(({ name, shape }) => ({ name, shape, read: () => new Float32Array(shape.reduce((a, b) => a * b, 1)) })),
  )
  await source.close()
  return to
}

beforeAll(async () => {
  for (const seed of [1, 2, 3]) await newTinyModel(at(`m${seed}`), seed)
})

describe('merging', () => {
  test('is the weighted sum of every tensor, rounded once', async () => {
    const weights = [0.5, 0.3, 0.2]
    await mergeModels(
      weights.map((weight, i) => ({ model: at(`m${i + 1}`), weight })),
      { out: at('three') },
    )
    const parts = await Promise.all([1, 2, 3].map((i) => tensors(at(`m${i}`))))
    const merged = await tensors(at('three'))
    expect([...merged.keys()].sort()).toEqual([...parts[0]!.keys()].sort())
    expect(merged.has('pooler.dense.weight')).toBe(true)
    for (const [name, values] of merged) {
      const expected = Float32Array.from(values, (_, i) => weights.reduce((sum, weight, p) => sum + weight * parts[p]!.get(name)![i]!, 0))
      expect(values).toEqual(expected)
    }
    await using model = await BgeModel.load(at('three'), { device: 'cpu', threads: 1 })
    expect((await model.encode(['天地玄黄'])).data.every(Number.isFinite)).toBe(true)
  })

  test('all of one model is that model, and says what its queries begin with', async () => {
    const parts = [
      { model: at('m1'), weight: 1 },
      { model: at('m2'), weight: 0 },
    ]
    await mergeModels(parts, { out: at('one'), instruction: 'zh' })
    expect(await tensors(at('one'))).toEqual(await tensors(at('m1')))
    await using model = await BgeModel.load(at('one'), { device: 'cpu', threads: 1 })
    expect(model.instruction).toMatch(/^为这个句子/)
  })

  test('an MLM head is left out', async () => {
    const withHead = await rewritten(at('m1'), at('head'), (name, shape) => [
      { name, shape },
      ...(name === 'pooler.dense.bias' ? [{ name: 'cls.predictions.bias', shape: [29] }] : []),
    ])
    await mergeModels(
      [withHead, at('m2')].map((model) => ({ model, weight: 0.5 })),
      { out: at('headless') },
    )
    expect([...(await tensors(at('headless'))).keys()].filter((name) => name.startsWith('cls.'))).toEqual([])
  })

  test.each<[string, () => Promise<{ model: string; weight: number }[]>, RegExp]>([
    ['one model', async () => [{ model: at('m1'), weight: 1 }], /parts must be at least two models/],
    ['a sum that is not 1', async () => both('m1', 'm2', 0.6), /the sum of the weights must be 1, but was 1.2/],
    [
      'a weight out of range',
      async () => [
        { model: at('m1'), weight: 1.5 },
        { model: at('m2'), weight: -0.5 },
      ],
      /the weight of .*m1 must be a number from 0 to 1/,
    ],
    [
      'a tensor that one lacks',
      async () => {
        await rewritten(at('m2'), at('lacks'), (name, shape) => (name.startsWith('pooler') ? [] : [{ name, shape }]))
        return both('m1', 'lacks')
      },
      /same tensors, but "pooler\.dense\.(weight|bias)" is in .*m1 and not in .*lacks/,
    ],
    [
      'another shape',
      async () => {
        await rewritten(at('m2'), at('wide'), (name, shape) => [{ name, shape: name === 'pooler.dense.bias' ? [65] : shape }])
        return both('m1', 'wide')
      },
      /wide.*"pooler\.dense\.bias" must have shape \[64\], but has \[65\]/,
    ],
    [
      'another pooling',
      async () => {
        cpSync(at('m2'), at('mean'), { recursive: true })
        const file = join(at('mean'), '1_Pooling/config.json')
        const config = JSON.parse(readFileSync(file, 'utf8')) as object
        writeFileSync(file, JSON.stringify({ ...config, pooling_mode_cls_token: false, pooling_mode_mean_tokens: true }))
        return both('m1', 'mean')
      },
      /same pooling, but .*m1 has cls and .*mean mean/,
    ],
    [
      'another tokenizer',
      async () => {
        await newTinyModel(at('other-words'), 2, ['[PAD]', '[UNK]', '[SEP]', '[CLS]', '[MASK]'])
        return both('m1', 'other-words')
      },
      /same tokenizer, but/,
    ],
  ])('refuses %s, and writes nothing', async (_name, parts, message) => {
    const given = await parts()
    const before = readdirSync(root).sort()
    await expect(mergeModels(given, { out: at('refused') })).rejects.toThrow(message)
    expect(readdirSync(root).sort()).toEqual(before)
  })
})

function both(a: string, b: string, weight = 0.5): { model: string; weight: number }[] {
  return [a, b].map((name) => ({ model: at(name), weight }))
}

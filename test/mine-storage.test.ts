import { mkdtempSync, rmSync, truncateSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, describe, expect, test } from 'vitest'
import { growing } from '../lib/data/growing.js'
import { createKeyTable } from '../lib/data/key_table.js'
import { random } from '../lib/data/random.js'
import { listsOf } from '../lib/mine/csr.js'
import { searchPool } from '../lib/mine/search.js'
import { openTextStore } from '../lib/mine/texts.js'
import { keptVectors, passageVectors } from '../lib/mine/vectors.js'
import { openVectorCache, textKey } from '../lib/model/vector_cache.js'
import { openDevice } from '../lib/native.js'
import { hashModel } from './support/hash_model.js'

const root = mkdtempSync(join(tmpdir(), 'bge-mine-storage-'))
afterAll(() => rmSync(root, { recursive: true, force: true }))

describe('the key table', () => {
  test('is a Map, also when it grows and when keys share their low half', () => {
    const table = createKeyTable()
    const map = new Map<string, number>()
    const draw = random(1, 'keys')
    for (let i = 0; i < 20_000; i++) {
      const [high, low] = [draw.int(50), draw.chance(0.5) ? draw.int(40) : draw.next()]
      table.set(high, low, i)
      map.set(`${high} ${low}`, i)
    }
    expect(table.size).toBe(map.size)
    for (const [key, value] of map) {
      const [high, low] = key.split(' ').map(Number) as [number, number]
      if (table.get(high, low) !== value) expect([key, table.get(high, low)]).toEqual([key, value])
    }
    expect(table.get(51, 0)).toBe(-1)
  })

  test('keeps the value 0 and the key 0', () => {
    const table = createKeyTable()
    expect(table.get(0, 0)).toBe(-1)
    table.set(0, 0, 0)
    expect([table.get(0, 0), table.size]).toEqual([0, 1])
  })
})

test('a growing array holds what was pushed', () => {
  const list = growing((length) => new Float64Array(length))
  for (let i = 0; i < 1000; i++) list.push(i * 2 ** 33)
  expect([list.length, list.at(999), list.at(1000)]).toEqual([1000, 999 * 2 ** 33, undefined])
  expect([...list.view()]).toEqual(Array.from({ length: 1000 }, (_, i) => i * 2 ** 33))
})

test('lists by owner keep their order', () => {
  const lists = listsOf(4, Int32Array.of(2, 0, 2, 3, 2), Int32Array.of(9, 1, 7, 5, 8))
  expect([0, 1, 2, 3].map((owner) => [...lists.of(owner)])).toEqual([[1], [], [9, 7, 8], [5]])
})

describe('the text store', () => {
  test('gives back every text, also those that are not written yet', () => {
    const store = openTextStore(join(root, 'texts.bin'))
    const long = '长'.repeat(400_000)
    const texts = ['天', '', 'a\nb', long, '𠀀', long, 'z']
    for (const text of texts) store.push(text)
    expect(texts.map((_, i) => store.at(i) === texts[i])).toEqual(texts.map(() => true))
    expect(store.slice(1, 5)).toEqual(texts.slice(1, 5))
    expect(store.slice(2, 2)).toEqual([])
    store.push('more')
    expect([store.at(7), store.size]).toEqual(['more', 8])
    store.close()
  })

  test('that was cut off is a sentence', () => {
    const file = join(root, 'cut.bin')
    const store = openTextStore(file)
    store.push('天地')
    store.at(0)
    truncateSync(file, 2)
    expect(() => store.at(0)).toThrow(/cut\.bin cannot be written and read again: it has been cut off/)
    store.close()
  })
})

describe('vectors on disk', () => {
  const space = { fingerprint: 'f', device: 'cpu', instruction: '', maxLength: null } as const

  test('are read in any order over the files of several runs', async () => {
    const directory = join(root, 'several')
    const keys = Array.from({ length: 9 }, (_, i) => textKey(`t${i}`))
    for (let run = 0; run < 3; run++) {
      const cache = await openVectorCache(directory, space, 2)
      const own = keys.slice(3 * run, 3 * run + 3)
      cache.put(own, Float32Array.from(own.flatMap((_, i) => [3 * run + i, -i])))
      cache.close()
    }
    const cache = await openVectorCache(directory, space, 2)
    const order = [8, 0, 1, 2, 3, 7, 7, 4]
    const out = new Float32Array(2 * order.length)
    expect(
      cache.read(
        Int32Array.from(order, (i) => cache.place(keys[i]!)),
        out,
      ),
    ).toEqual([])
    expect(order.map((_, n) => out[2 * n])).toEqual(order)
    expect(cache.place(textKey('another'))).toBe(-1)
    // What this run adds is found beside what was there.
    cache.put([textKey('new')], Float32Array.of(9, 9))
    expect(cache.read(Int32Array.of(cache.place(textKey('new')), cache.place(keys[0]!)), out)).toEqual([])
    expect([...out.subarray(0, 4)]).toEqual([9, 9, 0, -0])
    cache.close()
  })

  test('of unit length are not mixed with those of another scale', async () => {
    const directory = join(root, 'scales')
    const raw = await openVectorCache(directory, space, 2)
    raw.put([textKey('t')], Float32Array.of(3, 4))
    raw.close()
    const unit = await openVectorCache(directory, { ...space, scale: 'unit' }, 2)
    expect(unit.place(textKey('t'))).toBe(-1)
    unit.close()
  })
})

test('search over several blocks of the pool equals one product over all of it', async () => {
  const [size, queries, k] = [40_000, 5, 25]
  const device = await openDevice({ device: 'cpu', threads: 1 })
  const texts = openTextStore(join(root, 'pool.bin'))
  for (let i = 0; i < size; i++) texts.push(`p${i % 39_000}`) // equal texts have equal vectors: ties
  const model = { dims: 8, device, encode: hashModel().encode, fingerprint: async () => 'f' }
  const vectors = await keptVectors(model, 'f', { directory: join(root, 'search'), instruction: '', signal: undefined })
  const passages = passageVectors(vectors, { texts })
  await passages.prepareUpTo(size, () => {})
  expect(vectors.encoded).toBe(39_000)
  const all = new Float32Array(8 * size)
  vectors.read(passages.places, all)
  const q = all.slice(0, 8 * queries)
  const searched: number[] = []
  const found = await searchPool(device, q, passages, { size, k, onProgress: (n) => searched.push(n), signal: undefined })
  expect(searched).toEqual([16_384, 32_768, 40_000])
  for (let b = 0; b < queries; b++) {
    const scores = Array.from({ length: size }, (_, j) => {
      let sum = 0
      for (let d = 0; d < 8; d++) sum += q[8 * b + d]! * all[8 * j + d]!
      return sum
    })
    const best = [...scores.keys()].sort((i, j) => scores[j]! - scores[i]! || i - j).slice(0, k)
    expect([...found.indices.subarray(b * k, (b + 1) * k)]).toEqual(best)
    expect(found.indices[b * k]).toBe(b)
    expect(found.indices[b * k + 1]).toBe(39_000 + b)
  }
  vectors.close()
  texts.close()
  device.dispose()
})

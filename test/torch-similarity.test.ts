import { readFileSync } from 'node:fs'
import { describe, expect, test } from 'vitest'
import { RandomState } from '../lib/eval/numeric/mt19937.js'
import { torchCosine, torchNorm, torchSum } from '../lib/eval/numeric/torch.js'

interface Case {
  seed: number
  n: number
  d: number
  sums: number[]
  /** where d is a multiple of eight */
  norms?: number[]
  cosines?: number[]
}
const { torch, cases } = JSON.parse(readFileSync(new URL('./fixtures/torch_similarity/cases.json', import.meta.url), 'utf8')) as {
  torch: string
  cases: Case[]
}

describe(`the bits of torch ${torch}`, () => {
  test.each(cases)('$n rows of $d', ({ seed, n, d, sums, norms, cosines }) => {
    const random = new RandomState(seed)
    const rows = (): Float32Array[] => Array.from({ length: n }, () => Float32Array.from(random.uniform(d), (u) => u - 0.5))
    const x = rows()
    const y = rows().map((row, i) => (i % 4 === 0 ? x[i]! : row))
    expect(x.map(torchSum)).toEqual(sums)
    if (norms) expect(x.map(torchNorm)).toEqual(norms)
    if (cosines) expect(x.map((row, i) => torchCosine(row, y[i]!))).toEqual(cosines)
  })

  test('a zero vector has cosine 0', () => {
    expect(torchCosine(new Float32Array(8), new Float32Array(8).fill(1))).toBe(0)
  })
})

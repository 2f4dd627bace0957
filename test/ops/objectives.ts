import { dot } from '../support/math.js'
import type { Random } from '../support/random.js'
import {
  asIs,
  attribute,
  floats,
  inBfloat16,
  inFloat16,
  inFloat64,
  type Inputs,
  ints,
  type OpCase,
  type OpSpec,
  type Operand,
  type Operands,
  type Outputs,
  type Round,
  size,
} from '../support/spec.js'

// ---- cross-entropy ----

/** sum over labelled rows of logsumexp - logit of the label; gradient (softmax - onehot) scale. */
function crossEntropyReference(inputs: Operands, c: OpCase, round: Round): Outputs {
  const width = size(c, 'cols')
  const [logits, labels] = [floats(inputs, 'logits'), ints(inputs, 'labels')]
  const scale = attribute(c, 'scale', 1)
  const dLogits = new Float64Array(logits.length)
  let [loss, correct, count] = [0, 0, 0]
  for (const [r, label] of labels.entries()) {
    if (label === -100) continue
    const row = logits.subarray(r * width, (r + 1) * width)
    const max = row.reduce((a, b) => Math.max(a, b), -Infinity)
    let sum = 0
    for (const x of row) sum = round(sum + round(Math.exp(round(x - max))))
    loss = round(loss + round(round(max + round(Math.log(sum))) - row[label]!))
    correct += row.indexOf(max) === label ? 1 : 0
    count += 1
    for (let i = 0; i < width; i++) {
      const p = round(round(Math.exp(round(row[i]! - max))) / sum)
      dLogits[r * width + i] = round(round(p - (i === label ? 1 : 0)) * scale)
    }
  }
  return { loss: Float64Array.of(loss), correct: Int32Array.of(correct), count: Int32Array.of(count), dLogits }
}

// data: 'ties' small whole logits, so that the argmax is often shared; 'large' logits far beyond what exp can hold
const crossEntropy: OpSpec = {
  name: 'cross_entropy',
  kind: 'gradient',
  cases: [
    { attributes: { rows: 1, cols: 3 } },
    { attributes: { rows: 17, cols: 59, scale: 0.1, pad: 3 } },
    { attributes: { rows: 59, cols: 7, scale: 0.5 }, data: 'ties' },
    { attributes: { rows: 7, cols: 1003, scale: 0.25, pad: 1 }, data: 'large' },
    { attributes: { rows: 5, cols: 2049, scale: 0.25, pad: 7 } }, // an odd vocabulary, rows at multiples of 8
  ],
  inputs(c, random) {
    const [rows, width] = [size(c, 'rows'), size(c, 'cols')]
    const logits =
      c.data === 'ties' ? Float32Array.from(random.ints(rows * width, 4)) : random.floats(rows * width, c.data === 'large' ? 100 : 2)
    return { logits, labels: random.ints(rows, width).map((label, r) => (r % 3 === 1 ? -100 : label)) }
  },
  reference: crossEntropyReference,
  proof: {
    loss: (inputs, c) => floats(crossEntropyReference(inputs, c, inFloat64), 'loss')[0]! * attribute(c, 'scale', 1),
    of: { dLogits: 'logits' },
  },
  benchmarks: [{ attributes: { rows: 256, cols: 21128 }, bytes: 3 * 4 * 256 * 21128 }],
}

// ---- contrastive ----

/**
 * Which columns of a row are no candidates (native/core/backend.h, Contrastive): those of other sources; by identity or number; by score, with
 * the comparison in fp32 as the op makes it.
 */
function removedColumns(
  inputs: Operands,
  c: OpCase,
  query: number,
  row: Float64Array,
): { foreign: Set<number>; identity: Set<number>; score: Set<number> } {
  const [columns, group] = [size(c, 'cols'), c.attributes['groupSize'] ?? 1]
  const target = query * group
  const [foreign, removed, score] = [new Set<number>(), new Set<number>(), new Set<number>()]
  const sources = inputs['sourceIds'] && ints(inputs, 'sourceIds')
  const listed = inputs['removedColumns'] && ints(inputs, 'removedColumns')
  const margin = c.attributes['falseNegativeMargin']
  const ids = inputs['passageIds'] && ints(inputs, 'passageIds')
  const queries = inputs['queryIds'] && ints(inputs, 'queryIds')
  const own = (j: number): boolean => j >= target && j < target + group
  for (let j = 0; j < columns; j++) {
    if (j === target || (c.attributes['ownGroupOnly'] && !own(j))) continue
    if (sources && sources[Math.floor(j / group)] !== sources[query]) {
      foreign.add(j)
      continue
    }
    if (listed) {
      const offsets = ints(inputs, 'removedOffsets')
      if (listed.subarray(offsets[query], offsets[query + 1]).includes(j)) removed.add(j)
    }
    if (ids && ids[j] === ids[target]) removed.add(j)
    if (ids && inputs['positiveOffsets']) {
      const offsets = ints(inputs, 'positiveOffsets')
      if (
        ints(inputs, 'positiveIds')
          .subarray(offsets[query], offsets[query + 1])
          .includes(ids[j]!)
      )
        removed.add(j)
    }
    if (queries && !own(j) && j % group === 0 && queries[j / group] === queries[query]) removed.add(j)
    const guided = margin !== undefined && !removed.has(j) && (!own(j) || c.attributes['falseNegativesInGroup'] === 1)
    if (guided && Math.fround(row[j]!) > Math.fround(Math.fround(row[target]!) + Math.fround(margin))) score.add(j)
  }
  return { foreign, identity: removed, score }
}

/**
 * Mean over the queries of infoNceWeight (lse - z_target) + klWeight sum_g t_g (lse_group - z_g) + m3Weight sum_g t_g (lse without own
 * columns 0 .. g-1, minus z_g), z = score / temperature. Removed columns are in no sum.
 */
function contrastiveReference(inputs: Operands, c: OpCase, round: Round): Outputs {
  const [rows, columns, queries] = [size(c, 'rows'), size(c, 'cols'), size(c, 'queries')]
  const [group, first] = [c.attributes['groupSize'] ?? 1, c.attributes['firstRow'] ?? 0]
  const temperature = attribute(c, 'temperature', 1)
  const scale = round(attribute(c, 'lossScale', 1) / queries)
  const scores = floats(inputs, 'scores')
  const compared = inputs['comparedScores'] ? floats(inputs, 'comparedScores') : scores
  const dScores = new Float64Array(scores.length)
  let [loss, correct, masked, falseNegatives] = [0, 0, 0, 0]
  for (let r = 0; r < rows; r++) {
    const query = first + r
    const target = query * group
    const { foreign, identity, score } = removedColumns(inputs, c, query, compared.subarray(r * columns, (r + 1) * columns))
    const removed = new Set([...foreign, ...identity, ...score])
    const z = Array.from(scores.subarray(r * columns, (r + 1) * columns), (score) => round(score / temperature))
    const own = z.map((_, j) => j).filter((j) => j >= target && j < target + group && !removed.has(j))
    const candidates = c.attributes['ownGroupOnly'] ? own : z.map((_, j) => j).filter((j) => !removed.has(j))
    const gradient = new Float64Array(columns)
    let rowLoss = 0
    const term = (weight: number, among: readonly number[], label: number): void => {
      const max = among.reduce((high, j) => Math.max(high, z[j]!), -Infinity)
      const exps = among.map((j) => round(Math.exp(round(z[j]! - max))))
      const sum = exps.reduce((a, b) => round(a + b), 0)
      rowLoss = round(rowLoss + round(weight * round(round(max + round(Math.log(sum))) - z[label]!)))
      for (const [a, j] of among.entries()) {
        gradient[j] = round(gradient[j]! + round(weight * round(round(exps[a]! / sum) - (j === label ? 1 : 0))))
      }
    }
    if (c.attributes['infoNceWeight'] !== 0) term(attribute(c, 'infoNceWeight', 1), candidates, target)
    for (const j of own) {
      const teacher = inputs['teacher'] ? floats(inputs, 'teacher')[j]! : 0
      if (c.attributes['klWeight']) term(round(attribute(c, 'klWeight') * teacher), own, j)
      if (c.attributes['m3Weight']) {
        term(
          round(attribute(c, 'm3Weight') * teacher),
          candidates.filter((other) => !(other >= target && other < j)),
          j,
        )
      }
    }
    loss = round(loss + round(rowLoss * scale))
    for (let j = 0; j < columns; j++) dScores[r * columns + j] = round(gradient[j]! * round(scale / temperature))
    masked += identity.size
    falseNegatives += score.size
    const best = candidates.reduce((a, j) => (scores[r * columns + j]! > scores[r * columns + a]! ? j : a), candidates[0]!)
    correct += best === target ? 1 : 0
  }
  return {
    loss: Float64Array.of(loss),
    correct: Int32Array.of(correct),
    masked: Int32Array.of(masked),
    falseNegatives: Int32Array.of(falseNegatives),
    dScores,
  }
}

// data: 'ids' equal passages, inside groups and across; 'queries' equal queries; 'positives' listed positives; 'numbers' columns removed by
// number, some targets among them; 'sources' three sources; 'teacher'; 'ties'
function contrastiveInputs(c: OpCase, random: Random): Inputs {
  const [rows, columns, queries] = [size(c, 'rows'), size(c, 'cols'), size(c, 'queries')]
  const group = c.attributes['groupSize'] ?? 1
  const has = (word: string): boolean => c.data?.split(' ').includes(word) ?? false
  const listed = Array.from({ length: queries }, () => Array.from(random.choose(random.integer(4), 10)).sort((a, b) => a - b))
  const offsets = new Int32Array(queries + 1)
  for (const [i, ids] of listed.entries()) offsets[i + 1] = offsets[i]! + ids.length
  const teacher = random.floats(queries * group).map(Math.exp)
  for (let i = 0; i < queries; i++) {
    const own = teacher.subarray(i * group, (i + 1) * group)
    const sum = own.reduce((a, b) => a + b, 0)
    own.forEach((value, g) => {
      own[g] = value / sum
    })
  }
  return {
    scores: has('ties') ? Float32Array.from(random.ints(rows * columns, 3), (x) => x / 4) : random.floats(rows * columns, 0.3),
    ...(has('teacher') ? { teacher } : {}),
    ...(has('ids') || has('positives') ? { passageIds: random.ints(columns, Math.ceil(columns / 2)) } : {}),
    ...(has('queries') ? { queryIds: random.ints(queries, Math.ceil(queries / 2)) } : {}),
    ...(has('positives') ? { positiveOffsets: offsets, positiveIds: Int32Array.from(listed.flat()) } : {}),
    ...(has('numbers') ? removedByNumber(random, queries, columns) : {}),
    ...(has('sources') ? { sourceIds: random.ints(queries, 3) } : {}),
  }
}

function removedByNumber(random: Random, queries: number, columns: number): Inputs {
  const rows = Array.from({ length: queries }, () => Array.from(random.choose(random.integer(6), columns)).sort((a, b) => a - b))
  const offsets = new Int32Array(queries + 1)
  for (const [i, row] of rows.entries()) offsets[i + 1] = offsets[i]! + row.length
  return { removedOffsets: offsets, removedColumns: Int32Array.from(rows.flat()) }
}

const contrastive: OpSpec = {
  name: 'contrastive',
  kind: 'gradient',
  cases: [
    { attributes: { rows: 3, cols: 3, queries: 3 } },
    { attributes: { rows: 17, cols: 59, queries: 59, firstRow: 24, temperature: 0.02, pad: 3 } },
    { attributes: { rows: 17, cols: 51, queries: 17, groupSize: 3, temperature: 0.05, lossScale: 0.25 } },
    { attributes: { rows: 7, cols: 56, queries: 7, groupSize: 8, temperature: 0.02, ownGroupOnly: 1, pad: 1 } },
    { attributes: { rows: 59, cols: 59, queries: 59, temperature: 0.1 }, data: 'ids queries positives' },
    { attributes: { rows: 20, cols: 60, queries: 30, groupSize: 2, firstRow: 10, temperature: 0.5 }, data: 'ids queries' },
    { attributes: { rows: 17, cols: 68, queries: 17, groupSize: 4, temperature: 0.05, klWeight: 1 }, data: 'teacher' },
    { attributes: { rows: 17, cols: 68, queries: 17, groupSize: 4, temperature: 0.05, infoNceWeight: 0, m3Weight: 1 }, data: 'teacher' },
    {
      attributes: { rows: 17, cols: 68, queries: 17, groupSize: 4, temperature: 0.3, klWeight: 0.5, m3Weight: 0.7 },
      data: 'teacher ids queries positives',
    },
    { attributes: { rows: 7, cols: 21, queries: 7, groupSize: 3, temperature: 0.1, ownGroupOnly: 1, m3Weight: 1 }, data: 'teacher ids' },
    { attributes: { rows: 40, cols: 80, queries: 40, groupSize: 2 }, data: 'ties' },
    { attributes: { rows: 20, cols: 40, queries: 40, firstRow: 20, temperature: 0.1, pad: 1 }, data: 'numbers' },
    {
      attributes: { rows: 20, cols: 60, queries: 30, groupSize: 2, firstRow: 10, temperature: 0.1 },
      data: 'numbers ids queries positives',
    },
    { attributes: { rows: 17, cols: 51, queries: 17, groupSize: 3, temperature: 0.05 }, data: 'sources' },
    { attributes: { rows: 40, cols: 40, queries: 40, temperature: 0.1, falseNegativeMargin: 0.1 } },
    {
      attributes: { rows: 17, cols: 51, queries: 17, groupSize: 3, temperature: 0.1, falseNegativeMargin: -0.05, falseNegativesInGroup: 1 },
    },
    { attributes: { rows: 40, cols: 80, queries: 40, groupSize: 2, falseNegativeMargin: 0 }, data: 'ties' },
    { attributes: { rows: 40, cols: 80, queries: 40, groupSize: 2, falseNegativeMargin: -2, falseNegativesInGroup: 1 } },
    {
      attributes: {
        rows: 7,
        cols: 28,
        queries: 7,
        groupSize: 4,
        temperature: 0.1,
        ownGroupOnly: 1,
        falseNegativeMargin: 0,
        falseNegativesInGroup: 1,
      },
      data: 'sources',
    },
    {
      attributes: {
        ...{ rows: 17, cols: 68, queries: 17, groupSize: 4, temperature: 0.3, klWeight: 0.5, m3Weight: 0.7, pad: 3 },
        ...{ falseNegativeMargin: 0.1, falseNegativesInGroup: 1 },
      },
      data: 'teacher ids queries positives numbers sources',
    },
  ],
  inputs: contrastiveInputs,
  reference: contrastiveReference,
  proof: {
    loss: (inputs, c) => floats(contrastiveReference(inputs, c, inFloat64), 'loss')[0]!,
    of: { dScores: 'scores' },
    extra: (inputs) => ({ comparedScores: floats(inputs, 'scores') }), // what is removed by score does not move with the scores
  },
  benchmarks: [{ attributes: { rows: 256, cols: 16384, queries: 16384, temperature: 0.02 }, bytes: 2 * 4 * 256 * 16384 }],
}

// ---- contrastive pass ----

/** The columns of a pass, and of the scores that a block of all its rows would have. */
const passages = (c: OpCase): number => size(c, 'queries') * (c.attributes['groupSize'] ?? 1)
const asScores = (c: OpCase): OpCase => ({ ...c, attributes: { ...c.attributes, rows: size(c, 'queries'), cols: passages(c) } })

/** q (B, D) p (M, D)^T */
function scoresOf(q: Float64Array, p: Float64Array, width: number, round: Round): Float64Array {
  const [rows, columns] = [q.length / width, p.length / width]
  return Float64Array.from({ length: rows * columns }, (_, at) =>
    dot(q, Math.floor(at / columns) * width, 1, p, (at % columns) * width, 1, width, round),
  )
}

/**
 * contrastiveReference on q p^T, and the products back. CUDA rounds the operands of the three products to f16: q and p times 16, gradients of
 * the scores times the power of two that brings the sum of the weights to 2^14 at most. The CPU with products in bf16 rounds them to that.
 */
function contrastivePassReference(inputs: Operands, c: OpCase, round: Round, store: Round, operand: Operand = asIs): Outputs {
  const rounded = (values: Float64Array, width: number, scale: number): Float64Array =>
    store === inBfloat16 ? values.map((x) => inFloat16(x * scale) / scale) : operand(values, width, 'activation')
  const [rows, columns, width] = [size(c, 'queries'), passages(c), size(c, 'width')]
  const [q, p] = (['q', 'p'] as const).map((name) => rounded(floats(inputs, name), width, 16)) as [Float64Array, Float64Array]
  const { dScores, ...outputs } = contrastiveReference({ ...inputs, scores: scoresOf(q, p, width, round) }, asScores(c), round)
  const weights = attribute(c, 'infoNceWeight', 1) + attribute(c, 'klWeight') + attribute(c, 'm3Weight')
  const scale = (2 ** (13 - Math.floor(Math.log2(weights))) * rows * attribute(c, 'temperature', 1)) / attribute(c, 'lossScale', 1)
  const g = rounded(dScores as Float64Array, columns, scale)
  const gradient = (name: string, n: number, sum: (row: number, column: number) => number): Float64Array => {
    const before = inputs[name] ? floats(inputs, name) : undefined
    return Float64Array.from({ length: n * width }, (_, at) => round((before?.[at] ?? 0) + sum(Math.floor(at / width), at % width)))
  }
  const only = c.attributes['only']
  if (only !== 2) outputs['dQ'] = gradient('dQ', rows, (i, d) => dot(g, i * columns, 1, p, d, width, columns, round))
  if (only !== 1) outputs['dP'] = gradient('dP', columns, (j, d) => dot(g, j, columns, q, d, width, rows, round))
  return outputs
}

/** Rows of length 1; 'grid': of sixteen values of a quarter, so that f16 holds them and every device's scores are exact. */
function unitRows(c: OpCase, rows: number, random: Random): Float32Array {
  const width = size(c, 'width')
  const values = new Float32Array(rows * width)
  for (let r = 0; r < rows; r++) {
    const row = values.subarray(r * width, (r + 1) * width)
    if (c.data?.includes('grid')) {
      for (const d of random.choose(16, width)) row[d] = random.integer(2) ? 0.25 : -0.25
      continue
    }
    row.set(random.floats(width))
    const norm = Math.hypot(...row)
    for (let d = 0; d < width; d++) row[d]! /= norm
  }
  return values
}

const contrastivePass: OpSpec = {
  name: 'contrastive_pass',
  kind: 'gradient',
  cases: [
    { attributes: { queries: 3, width: 5 } },
    { attributes: { queries: 59, groupSize: 3, width: 41, temperature: 0.05, pad: 3 } },
    { attributes: { queries: 32, width: 64, temperature: 0.01, lossScale: 0.25 } },
    { attributes: { queries: 40, groupSize: 2, width: 24, temperature: 0.1, accumulate: 1, pad: 1 }, data: 'ids queries positives grid' },
    { attributes: { queries: 30, groupSize: 2, width: 17, temperature: 0.1, only: 1 }, data: 'numbers ids queries positives grid' },
    { attributes: { queries: 17, groupSize: 3, width: 33, temperature: 0.05, only: 2 }, data: 'sources' },
    {
      attributes: {
        ...{ queries: 17, groupSize: 4, width: 40, temperature: 0.3, infoNceWeight: 3, klWeight: 0.5, m3Weight: 0.7, pad: 3 },
        ...{ falseNegativeMargin: 0.0625, falseNegativesInGroup: 1 },
      },
      data: 'teacher ids queries positives numbers sources grid',
    },
    { attributes: { queries: 7, width: 1100, temperature: 0.05 } }, // two blocks of depth
    { attributes: { queries: 610, width: 19, temperature: 0.05 }, large: true }, // blocks of rows, parts of the passages
  ],
  inputs(c, random) {
    const [rows, columns, width] = [size(c, 'queries'), passages(c), size(c, 'width')]
    const { scores: _, ...ids } = contrastiveInputs({ ...c, attributes: { ...asScores(c).attributes, rows: 0 } }, random)
    return {
      ...ids,
      q: unitRows(c, rows, random),
      p: unitRows(c, columns, random),
      ...(c.attributes['accumulate'] && { dQ: random.floats(rows * width, 0.1), dP: random.floats(columns * width, 0.1) }),
    }
  },
  reference: contrastivePassReference,
  proof: {
    loss: (inputs, c) => floats(contrastivePassReference(inputs, c, inFloat64, inFloat64), 'loss')[0]!,
    of: { dQ: 'q', dP: 'p' },
    extra: (inputs, c) => ({ comparedScores: scoresOf(floats(inputs, 'q'), floats(inputs, 'p'), size(c, 'width'), inFloat64) }),
  },
  benchmarks: [{ attributes: { queries: 2048, width: 512, temperature: 0.02 }, flops: 6 * 2048 * 2048 * 512 }],
}

// ---- top-k ----

// data: 'ties' whole numbers, so that scores are exact and often equal; 'merge' an earlier result of fewer than k, then slots without one
const topK: OpSpec = {
  name: 'top_k',
  kind: 'value',
  cases: [
    { attributes: { rows: 1, candidates: 1, cols: 1, k: 1 } },
    { attributes: { rows: 7, candidates: 203, cols: 40, k: 17, firstIndex: 1000, pad: 3 } },
    { attributes: { rows: 59, candidates: 113, cols: 3, k: 7 }, data: 'ties' },
    { attributes: { rows: 17, candidates: 59, cols: 7, k: 24, firstIndex: 500, pad: 1 }, data: 'ties merge' },
    { attributes: { rows: 3, candidates: 7, cols: 24, k: 17 } },
  ],
  inputs(c, random) {
    const [rows, candidates, width, k] = [size(c, 'rows'), size(c, 'candidates'), size(c, 'cols'), size(c, 'k')]
    const values = (n: number): Float32Array => (c.data ? Float32Array.from(random.ints(n, 4)) : random.floats(n))
    const filled = Math.floor(k / 2)
    const earlier = {
      indices: Int32Array.from({ length: rows * k }, (_, at) => (at % k < filled ? 3 * (at % k) : -1)),
      scores: Float32Array.from({ length: rows * k }, (_, at) => (at % k < filled ? 20 - Math.floor((at % k) / 3) * 3 : -Infinity)),
    }
    return { q: values(rows * width), p: values(candidates * width), ...(c.data?.includes('merge') ? earlier : {}) }
  },
  reference(inputs, c, round) {
    const [rows, candidates, width, k] = [size(c, 'rows'), size(c, 'candidates'), size(c, 'cols'), size(c, 'k')]
    const first = c.attributes['firstIndex'] ?? 0
    const [q, p] = [floats(inputs, 'q'), floats(inputs, 'p')]
    const indices = new Int32Array(rows * k).fill(-1)
    const scores = new Float64Array(rows * k).fill(-Infinity)
    for (let r = 0; r < rows; r++) {
      const found = Array.from({ length: candidates }, (_, j) => ({
        index: first + j,
        score: dot(q, r * width, 1, p, j * width, 1, width, round),
      }))
      if (inputs['indices']) {
        ints(inputs, 'indices')
          .subarray(r * k, (r + 1) * k)
          .forEach((index, i) => {
            if (index >= 0) found.push({ index, score: floats(inputs, 'scores')[r * k + i]! })
          })
      }
      found.sort((a, b) => b.score - a.score || a.index - b.index)
      for (const [i, hit] of found.slice(0, k).entries()) {
        indices[r * k + i] = hit.index
        scores[r * k + i] = hit.score
      }
    }
    return { indices, scores }
  },
  benchmarks: [{ attributes: { rows: 64, candidates: 100_000, cols: 512, k: 100 }, flops: 2 * 64 * 100_000 * 512 }],
}

export const objectiveSpecs: readonly OpSpec[] = [crossEntropy, contrastive, contrastivePass, topK]

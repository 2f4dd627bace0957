import type { Device } from '../native.js'

/** Type of a matrix that an operation reads: a hidden state in the device's own type, or float32 */
export type Stored = 'hidden' | 'float'

/**
 * Workspace that a device's operations take, as lists of bytes that are held together while the operation runs: native/ops/*.cc for the CPU,
 * native/ops/*.cu for CUDA. An operation that is not here takes none.
 */
export interface OpMemory {
  /** bytes of one value of a hidden state: 4 on the CPU, 2 on CUDA */
  readonly hiddenBytes: 2 | 4
  /** rows of the feed-forward part that inference takes at a time (Backend::chainRows) */
  readonly chainRows: number
  /** a block's size on the device is a multiple of this */
  readonly rounding: number
  /** released bytes that the device keeps for the next request */
  readonly kept: number
  /** bytes of the copies of a weight (out, in) that the device keeps to multiply with */
  weightCopies(out: number, input: number): number
  /** rows of a chunk of logits over `vocab` tokens: native/model/mlm_head.cc */
  logitRows(vocab: number): number
  /** (rows, input) -> (rows, out) */
  linear(rows: number, out: number, input: number, x: Stored): number[]
  linearBackwardInput(rows: number, out: number, input: number, dOut: Stored): number[]
  linearBackwardWeight(rows: number, out: number, input: number, dOut: Stored, x: Stored): number[]
  /** c (rows, cols) = a b over `depth`, all float32 */
  matmul(rows: number, cols: number, depth: number, a: 'plain' | 'transposed'): number[]
  attention(call: AttentionShape): number[]
  attentionBackward(call: AttentionShape): number[]
  layerNormBackward(rows: number, cols: number): number[]
  embeddingBackward(rows: number, cols: number): number[]
  crossEntropy(rows: number): number[]
  /** of `rows` rows of scores whose groups hold `groupSize` */
  contrastive(rows: number, groupSize: number): number[]
  /** of all pairs of (queries, cols) and (queries * groupSize, cols). `added`: 0, or the row stride of the dQ of another pass that is added to */
  contrastivePass(queries: number, groupSize: number, cols: number, added: number): number[]
  /** one step over modules of so many parameters */
  adamw(modules: readonly number[]): number[]
}

export interface AttentionShape {
  /** rows of queries, sequences, longest sequence of keys */
  readonly queries: number
  readonly sequences: number
  readonly longest: number
  readonly heads: number
  /** columns of a head */
  readonly size: number
}

/** Bytes of one value of a hidden state. */
export const hiddenBytes = ({ kind }: Pick<Device, 'kind'>): 2 | 4 => (kind === 'cpu' ? 4 : 2)

const logitRows = (vocab: number, mib: number, tile: number, least: number): number =>
  Math.max(least, Math.floor(Math.floor((mib << 20) / (vocab * F32)) / tile) * tile)
const ceil = (n: number, m: number): number => Math.ceil(n / m)
const roundUp = (n: number, m: number): number => ceil(n, m) * m
const F32 = 4

// native/ops/cpu/matmul.inl: rows of a register tile, columns of a panel, bytes of A in the second-level cache
const INSTRUCTION_SETS: Readonly<Record<string, { tile: number; panel: number; block: number }>> = {
  avx512: { tile: 6, panel: 64, block: 384 << 10 },
  avx512bf16: { tile: 6, panel: 64, block: 384 << 10 },
  avx2: { tile: 6, panel: 16, block: 192 << 10 },
  base: process.arch === 'arm64' ? { tile: 6, panel: 16, block: 192 << 10 } : { tile: 4, panel: 8, block: 192 << 10 },
}

/**
 * The CPU's operations.
 * @param description the device's, `cpu avx512, 2 threads` or `cpu avx512bf16 bf16, 2 threads`: a product's panels depend on all of it
 * @param shapes 'known': what exactly these shapes take. 'most': what these or any smaller ones may take (cutting a product into tasks is not
 *   monotone in its rows)
 */
export function cpuOps(description: string, shapes: 'known' | 'most'): OpMemory {
  const found = /^cpu (\w+)( bf16)?, (\d+) thread/.exec(description)
  const isa = INSTRUCTION_SETS[found?.[1] ?? '']
  if (!found || !isa) throw new Error(`unknown CPU device: ${description}`)
  const threads = Number(found[3])
  const group = found[2] === undefined ? 1 : 2 // values of an operand in a word of 4 bytes
  const { tile, panel } = isa
  const depthBlock = 512 // kDepth
  const tileGap = 16 // kTileGap
  const taskRows = 8 * tile
  const padded = (cols: number): number => roundUp(cols, panel)

  const wanted = threads === 1 ? 1 : threads * 8
  const mostRows = (depth: number): number => Math.max(Math.floor(Math.floor(isa.block / (F32 * depth)) / tile), 1) * tile
  /** Rows of a task of multiplyManyRows: Grid of products.h. `transposed`: manyRows. */
  const rowsOfTask = (rows: number, depth: number, transposed: boolean): number => {
    let tasks = ceil(rows, mostRows(depth))
    if (transposed) tasks = Math.max(tasks, Math.min(wanted, ceil(rows, taskRows)))
    if (tasks > 1 && tasks < wanted) tasks = Math.min(roundUp(tasks, threads), ceil(rows, tile))
    return roundUp(ceil(rows, tasks), tile)
  }
  /** multiplyManyRows: B's panels, and for a transposed A each thread's tiles of it */
  const manyRows = (rows: number, cols: number, depth: number, transposed: boolean): number[] => {
    const block = Math.max(Math.min(depth, depthBlock), 1)
    let each = 0
    if (transposed && shapes === 'known') each = (rowsOfTask(rows, block, true) / tile) * (block * tile + tileGap)
    // A task's rows fill at most the block of cache, or are one tile, and there are no more of them than rows.
    else if (transposed) each = Math.max(isa.block / F32, tile * block) + tileGap * ceil(rows, tile)
    return [padded(cols) * block * F32, each * threads * F32]
  }
  /** Words of a row of `values` in bf16 */
  const rowWords = (values: number): number => roundUp(ceil(values, 2), 16) + 16
  /** multiplyLow of matmul_low.cc: rows of x in bf16, of all at once or for each thread of the task it is at */
  const operand = (rows: number, depth: number): number[] => {
    if (group === 1 || rows === 0) return []
    const words = ceil(depth, group)
    const bytes = (count: number): number => roundUp(count * rowWords(depth), 16) * F32
    const few = bytes(Math.min(rows, 1023))
    if (rows < 1024) return [few]
    const block = Math.min(words, 1024) // kWeightDepth
    if (shapes === 'known') return [bytes(rowsOfTask(rows, block, true)) * threads]
    // There are at least as many tasks as are wanted, or as there are runs of taskRows.
    const shared = Math.max(taskRows, roundUp(ceil(rows, wanted), tile))
    return [Math.max(few, bytes(Math.min(mostRows(block), shared)) * threads)]
  }
  const heads = (floats: number): number[] => [roundUp(floats, 16) * threads * F32]
  const keysAndValues = ({ longest, size }: AttentionShape): [byKey: number, bySize: number, scores: number] => [
    padded(longest) * size,
    padded(size) * longest,
    padded(longest),
  ]
  /** ColumnSumChunks of row_tasks.h. `most`: of this or fewer rows */
  const chunks = (rows: number): number => {
    if (shapes === 'most') return Math.min(ceil(rows, 32), 256)
    return ceil(rows, Math.max(32, ceil(rows, 256)))
  }
  const contrastive = (rows: number, groupSize: number): number[] => [rows * 32, rows * 2 * groupSize * 8]
  return {
    hiddenBytes: F32,
    chainRows: 512,
    rounding: 1,
    kept: 0,
    weightCopies: (out, input) => (padded(out) * ceil(input, group) + padded(input) * ceil(out, group)) * F32,
    linear: (rows, _, input) => operand(rows, input),
    linearBackwardInput: (rows, out) => operand(rows, out),
    linearBackwardWeight: (rows, out, input) => (rows === 0 ? [] : manyRows(out, input, ceil(rows, group), true)),
    logitRows: (vocab) => logitRows(vocab, 24, 8, 16),
    matmul: (rows, cols, depth, a) => {
      const few = [panel * Math.max(Math.min(depth, depthBlock), 1) * threads * F32]
      if (a === 'plain' && rows <= 512) return few
      return manyRows(rows, cols, depth, a === 'transposed')
    },
    attention: (call) => {
      const [byKey, bySize, scores] = keysAndValues(call)
      const floats = byKey + bySize + 2 * tile * scores
      if (group === 1) return heads(floats)
      const { longest, size } = call // attention_bf16.inl: kQueryRows rows of queries, scores and probabilities
      const rows = 2 * tile * (rowWords(size) + scores + rowWords(longest))
      return heads(Math.max(floats, padded(longest) * ceil(size, 2) + padded(size) * ceil(longest, 2) + rows))
    },
    attentionBackward: (call) => {
      const [byKey, bySize, scores] = keysAndValues(call)
      const copies = group === 1 ? [] : heads(2 * call.longest * call.size) // rounded queries and keys
      return [...copies, ...heads(2 * byKey + bySize + 16 * tile * (scores + padded(call.size)))]
    },
    layerNormBackward: (rows, cols) => [chunks(rows) * 2 * cols * F32],
    embeddingBackward: (rows, cols) => [chunks(rows) * 3 * cols * F32, rows * cols * F32, chunks(rows) * cols * F32],
    crossEntropy: (rows) => [rows * 16],
    contrastive,
    contrastivePass: (queries, groupSize, cols) => {
      const passages = queries * groupSize
      const fit = Math.min(512, Math.max(48, Math.floor((20 << 20) / F32 / passages)))
      const rows = Math.min(queries, roundUp(ceil(queries, ceil(queries, Math.min(queries, fit))), tile))
      const parts = Math.min(16, Math.max(1, Math.floor(passages / 256)))
      const part = ceil(passages, parts)
      const run = ceil(part, ceil(part, 512))
      const words = (depth: number): number => ceil(depth, group)
      const left = (depth: number): number => (group === 1 ? 0 : roundUp(words(depth), 16) + 16)
      const tiles = (mostRows(words(rows)) / tile) * (words(rows) * tile + tileGap)
      const each = Math.max(
        256 * words(Math.min(cols, 1024)),
        words(run) * padded(cols) + Math.max(tiles, mostRows(words(run)) * left(run)),
      )
      const values = [rows * passages, each * threads, rows * left(cols), padded(cols) * words(rows), parts * rows * cols]
      return [...values.map((n) => n * F32), ...contrastive(rows, groupSize)]
    },
    adamw: (modules) => [ceil(Math.max(...modules), 32768) * 8],
  }
}

/** CUDA's operations: what they take at most, whatever the GPU and whether cuBLASLt is there. */
export function cudaOps(): OpMemory {
  const BF16 = 2
  const asBf16 = (rows: number, cols: number, type: Stored): number[] => (type === 'float' ? [rows * roundUp(cols, 8) * BF16] : [])
  // cuBLASLt's workspace, and when algorithms are timed a copy of what is added to. The parts of an own product that is cut by depth are fewer:
  // at most two tiles of 128 x 128 for each multiprocessor.
  const product = (rows: number, cols: number): number[] => [rows * cols * F32, 32 << 20]
  const partials = (rows: number, cols: number, kinds: number): number[] => [Math.min(132 * 16, ceil(rows, 2)) * kinds * cols * F32]
  const contrastive = (rows: number, groupSize: number): number[] => [rows * 32, rows * groupSize * 8, rows * groupSize * 8]
  return {
    hiddenBytes: BF16,
    chainRows: Number.POSITIVE_INFINITY,
    rounding: 512,
    kept: 256 << 20,
    weightCopies: (out, input) => out * input * BF16,
    logitRows: (vocab) => logitRows(vocab, 37, 64, 64),
    linear: (rows, out, input, x) => [...asBf16(rows, input, x), ...product(rows, out)],
    linearBackwardInput: (rows, out, input, dOut) => [...asBf16(rows, out, dOut), ...product(rows, input)],
    linearBackwardWeight: (rows, out, input, dOut, x) => [
      Math.min(176, ceil(rows, 64)) * out * F32,
      ...asBf16(rows, out, dOut),
      ...asBf16(rows, input, x),
      ...product(out, input),
    ],
    matmul: () => [],
    attention: () => [],
    attentionBackward: ({ queries, sequences, heads, size }) => [
      heads * queries * F32,
      heads * (Math.floor(queries / 16) + sequences) * 16 * size * F32,
    ],
    layerNormBackward: (rows, cols) => partials(rows, cols, 2),
    embeddingBackward: (rows, cols) => {
      const tiles = 2 * ceil(rows, 32) * cols * F32 // heads and tails of runs, for words and positions
      return [rows * cols * F32, ...partials(rows, cols, 3), ...Array(4).fill(2 * rows * 4), 2 * 256 * ceil(rows, 2048) * 4, tiles, tiles]
    },
    crossEntropy: (rows) => [rows * 32],
    contrastive,
    contrastivePass: (queries, groupSize, cols, added) => {
      const F16 = 2
      const passages = queries * groupSize
      const stride = roundUp(passages, 8)
      const fit = Math.max(128, Math.floor((38 << 20) / (stride * F32)))
      const rows = ceil(queries, ceil(queries, Math.min(queries, fit)))
      const copy = added > 0 ? Math.max(passages * cols, rows * added) * F32 : 0 // cuBLASLt's algorithms are timed on one
      const operands = [rows * stride * F32, passages * cols * F16, rows * cols * F16]
      return [...operands, ...contrastive(rows, groupSize), copy, 8 << 20]
    },
    adamw: () => [1024 * 8, 256 << 10], // partial sums; the table of parts and of the copies of weights in them
  }
}

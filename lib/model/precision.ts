import { BgeError, invalidArgument, show } from '../errors.js'

/** float32; int8: a byte a component, 256 steps between `ranges`; ubinary: a bit a component, 1 where it is above 0, the first in the highest bit */
export type Precision = 'float32' | 'int8' | 'ubinary'

/** The array that holds vectors of each precision. */
export interface VectorArrays {
  float32: Float32Array
  int8: Int8Array
  ubinary: Uint8Array
}

/** Smallest and largest value of every component, (D) each: what int8 spreads its 256 steps over. */
export interface Int8Ranges {
  readonly min: ArrayLike<number>
  readonly max: ArrayLike<number>
}

/** What becomes of a model's vector, in this order: cut to `dimensions`, normalised, stored as `precision`. */
export interface OutputOptions<P extends Precision = 'float32'> {
  /** Keep the first n components (Matryoshka). Default: all D */
  dimensions?: number
  /** L2-normalise, after the cut. Default: as the model folder says (BGE: true) */
  normalize?: boolean
  /** As sentence-transformers' quantize_embeddings. Default 'float32' */
  precision?: P
  /** For 'int8'. Default: those of the model's calibration */
  ranges?: Int8Ranges
}

const arrays = { float32: Float32Array, int8: Int8Array, ubinary: Uint8Array } as const

/** How rows of one width become rows of another. */
export interface VectorFormat<P extends Precision> {
  readonly precision: P
  /** components kept */
  readonly dimensions: number
  /** array elements of a row: dimensions, or dimensions / 8 bytes of 'ubinary' */
  readonly columns: number
  create(rows: number): VectorArrays[P]
  /** Writes `vector` (at least `dimensions` components) to row `row`. False where a component kept is NaN or infinite. */
  write(target: VectorArrays[P], row: number, vector: Float32Array): boolean
}

/**
 * @param width D, the model's
 * @param unit whether the vectors are written with length 1; those given are normalised already where nothing is cut off
 * Errors: ERR_BGE_ARGUMENT.
 */
export function vectorFormat<P extends Precision>(width: number, unit: 'as given' | 'unit', options: OutputOptions<P>): VectorFormat<P> {
  const { dimensions = width, precision = 'float32' as P } = options
  if (!Number.isSafeInteger(dimensions) || dimensions < 1 || dimensions > width)
    throw invalidArgument('dimensions', `an integer from 1 to ${width}, the model's width`, dimensions)
  if (!Object.hasOwn(arrays, precision)) throw invalidArgument('precision', "'float32', 'int8' or 'ubinary'", precision)
  if (precision === 'ubinary' && dimensions % 8 !== 0)
    throw invalidArgument('dimensions', 'a multiple of 8 for ubinary vectors', dimensions)
  const columns = precision === 'ubinary' ? dimensions / 8 : dimensions
  const encodeRow = rowEncoder(precision, dimensions, options.ranges) as (target: VectorArrays[P], start: number, x: Float32Array) => void
  const buffer = new Float32Array(dimensions)
  return {
    precision,
    dimensions,
    columns,
    create: (rows) => new arrays[precision](rows * columns) as VectorArrays[P],
    write(target, row, vector) {
      buffer.set(dimensions === vector.length ? vector : vector.subarray(0, dimensions))
      const finite = unit === 'unit' ? normalizeVector(buffer) : isFiniteVector(buffer)
      encodeRow(target, row * columns, buffer)
      return finite
    },
  }
}

/**
 * float32 vectors stored with fewer bits, as quantize_embeddings of sentence-transformers 6.0.1 has it: int8 is floor((x - min) / ((max - min) / 255)), in
 * float32, clipped to 0..255, minus 128.
 * @param vectors (n, dimensions) @param ranges for 'int8'; see int8Ranges
 * Errors: ERR_BGE_ARGUMENT, ERR_BGE_SHAPE.
 */
export function quantize<P extends Precision>(
  vectors: Float32Array,
  dimensions: number,
  precision: P,
  ranges?: Int8Ranges,
): VectorArrays[P] {
  const format = vectorFormat(dimensions, 'as given', { precision, ...(ranges && { ranges }) })
  const rows = vectors.length / dimensions
  if (!Number.isInteger(rows))
    throw new BgeError('ERR_BGE_SHAPE', `vectors must be rows of ${dimensions} numbers, but there are ${vectors.length} numbers`)
  const data = format.create(rows)
  for (let r = 0; r < rows; r++) format.write(data, r, vectors.subarray(r * dimensions, (r + 1) * dimensions))
  return data
}

/** The ranges of vectors (n, dimensions), n >= 1: take them from texts like those that will be stored, 100 or more. Errors: ERR_BGE_SHAPE. */
export function int8Ranges(vectors: Float32Array, dimensions: number): { min: Float32Array; max: Float32Array } {
  const rows = vectors.length / dimensions
  if (!Number.isInteger(rows) || rows < 1)
    throw new BgeError(
      'ERR_BGE_SHAPE',
      `vectors must be one or more rows of ${dimensions} numbers, but there are ${vectors.length} numbers`,
    )
  const [min, max] = [vectors.slice(0, dimensions), vectors.slice(0, dimensions)]
  for (let i = dimensions; i < vectors.length; i++) {
    const c = i % dimensions
    if (vectors[i]! < min[c]!) min[c] = vectors[i]!
    if (vectors[i]! > max[c]!) max[c] = vectors[i]!
  }
  return { min, max }
}

type RowEncoder = (target: Float32Array | Int8Array | Uint8Array, start: number, x: Float32Array) => void

function rowEncoder(precision: Precision, dimensions: number, ranges: Int8Ranges | undefined): RowEncoder {
  if (precision === 'float32') return (target, start, x) => target.set(x, start)
  if (precision === 'ubinary') {
    return (target, start, x) => {
      for (let byte = 0; byte < dimensions / 8; byte++) {
        let bits = 0
        for (let i = 0; i < 8; i++) bits = (bits << 1) | (x[8 * byte + i]! > 0 ? 1 : 0)
        target[start + byte] = bits
      }
    }
  }
  const { starts, steps } = int8Steps(dimensions, ranges)
  const { fround } = Math
  return (target, start, x) => {
    for (let c = 0; c < dimensions; c++) {
      const step = Math.floor(fround(fround(x[c]! - starts[c]!) / steps[c]!))
      target[start + c] = Math.min(255, Math.max(0, step)) - 128
    }
  }
}

function int8Steps(dimensions: number, ranges: Int8Ranges | undefined): { starts: Float32Array; steps: Float32Array } {
  if (ranges === undefined) {
    throw new BgeError(
      'ERR_BGE_ARGUMENT',
      `ranges must be given for int8 vectors of ${dimensions} dimensions (int8Ranges of some hundred typical vectors, or calibrate the model at ` +
        'this width), but are missing',
      { details: { name: 'ranges' } },
    )
  }
  for (const end of ['min', 'max'] as const) {
    const length = ranges[end]?.length
    if (length !== dimensions)
      throw invalidArgument(`ranges.${end}`, `${dimensions} numbers`, length === undefined ? undefined : `${length} numbers`)
  }
  const starts = Float32Array.from(ranges.min)
  const steps = Float32Array.from(ranges.max, (high, c) => Math.fround(Math.fround(high) - starts[c]!) / 255)
  const bad = steps.findIndex((step) => !(step >= 0 && Number.isFinite(step)))
  if (bad >= 0) throw invalidArgument(`ranges.max[${bad}]`, `a finite number of at least ${ranges.min[bad]}`, show(ranges.max[bad]))
  // A component that never varied has no steps: any will do.
  return { starts, steps: steps.map((step) => step || 1) }
}

/** x / max(|x|, 1e-12) in place, as torch.nn.functional.normalize; false where x is not finite. */
function normalizeVector(x: Float32Array): boolean {
  let sum = 0
  for (let i = 0; i < x.length; i++) sum += x[i]! * x[i]!
  const norm = Math.max(Math.sqrt(sum), 1e-12)
  for (let i = 0; i < x.length; i++) x[i] = x[i]! / norm
  return Number.isFinite(sum)
}

function isFiniteVector(x: Float32Array): boolean {
  let sum = 0
  for (let i = 0; i < x.length; i++) sum += x[i]! * 0
  return sum === 0
}

import type { FileHandle } from 'node:fs/promises'
import { BgeError } from '../errors.js'

/** Where a tensor comes from: one tensor is read at a time, so that a large model never lies in memory twice. */
export interface WeightSource {
  /** The file, for messages. */
  readonly file: string
  /** Stored tensors of floating-point type (integers, such as position_ids, are left out). */
  readonly tensors: ReadonlyMap<string, { readonly shape: readonly number[] }>
  /** A new row-major float32 array. Errors: ERR_BGE_MODEL_FORMAT. */
  read(name: string): Promise<Float32Array>
  close(): Promise<void>
}

export type FloatType = 'F32' | 'F16' | 'BF16' | 'F64'
/** Bytes of one element. */
export const bytesOf: Readonly<Record<FloatType, number>> = { F64: 8, F32: 4, F16: 2, BF16: 2 }

/** Elements of a tensor of this shape; 1 for a scalar. */
export function elements(shape: readonly number[]): number {
  return shape.reduce((product, size) => product * size, 1)
}

/** Little-endian elements to float32. `bytes` is a whole buffer of its own. */
export function toFloat32(bytes: ArrayBuffer, type: FloatType): Float32Array {
  if (type === 'F32') return new Float32Array(bytes)
  if (type === 'F64') return Float32Array.from(new Float64Array(bytes))
  const half = new Uint16Array(bytes)
  const values = new Float32Array(half.length)
  const bits = new Uint32Array(values.buffer)
  if (type === 'BF16') {
    for (let i = 0; i < half.length; i++) bits[i] = (half[i] as number) << 16
    return values
  }
  for (let i = 0; i < half.length; i++) {
    const h = half[i] as number
    const sign = (h & 0x8000) << 16
    const exponent = (h >> 10) & 0x1f
    const fraction = h & 0x3ff
    if (exponent === 0) values[i] = (h & 0x8000 ? -1 : 1) * fraction * 2 ** -24
    else if (exponent === 31) bits[i] = sign | 0x7f800000 | (fraction << 13)
    else bits[i] = sign | ((exponent + 112) << 23) | (fraction << 13)
  }
  return values
}

/** IEEE half precision, rounded to nearest even; beyond 65504 infinity. */
export function toFloat16(values: Float32Array): Uint16Array {
  const bits = new Uint32Array(values.buffer, values.byteOffset, values.length)
  const half = new Uint16Array(values.length)
  for (let i = 0; i < half.length; i++) {
    const sign = (bits[i]! >>> 16) & 0x8000
    const magnitude = bits[i]! & 0x7fffffff
    if (magnitude >= 0x477ff000)
      half[i] = sign | (magnitude > 0x7f800000 ? 0x7e00 : 0x7c00) // 65520 and above
    else if (magnitude < 0x38800000)
      half[i] = sign | roundHalfEven(Math.abs(values[i]!) * 2 ** 24) // subnormal: a multiple of 2^-24
    else half[i] = sign | ((magnitude - 0x38000000 + 0xfff + ((magnitude >>> 13) & 1)) >>> 13)
  }
  return half
}

function roundHalfEven(x: number): number {
  const floor = Math.floor(x)
  const rest = x - floor
  return rest > 0.5 || (rest === 0.5 && floor % 2 === 1) ? floor + 1 : floor
}

/** Reads exactly `size` bytes. Errors: ERR_BGE_MODEL_FORMAT where the file ends before. */
export async function readExactly(handle: FileHandle, size: number, position: number, what: string): Promise<ArrayBuffer> {
  const bytes = new Uint8Array(size)
  // Node reads at most 2^31 - 1 bytes at once.
  for (let done = 0; done < size; ) {
    const { bytesRead } = await handle.read(bytes, done, Math.min(size - done, 2 ** 30), position + done)
    if (bytesRead === 0)
      throw new BgeError(
        'ERR_BGE_MODEL_FORMAT',
        `${what}: the file ends at byte ${position + done}, but ${size} bytes from ${position} are needed`,
      )
    done += bytesRead
  }
  return bytes.buffer
}

/** Errors: ERR_BGE_NON_FINITE naming the tensor and its first NaN or infinity. */
export function checkFinite(values: Float32Array, name: string, file: string): void {
  let sum = 0
  for (let i = 0; i < values.length; i++) sum += (values[i] as number) * 0
  if (sum === 0) return
  const index = values.findIndex((x) => !Number.isFinite(x))
  throw new BgeError('ERR_BGE_NON_FINITE', `${file}: tensor "${name}" must be finite, but element ${index} is ${values[index]}`, {
    details: { name, index },
  })
}

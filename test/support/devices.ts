import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { BgeError } from '../../lib/errors.js'
import { type Device, type Dtype, openDevice } from '../../lib/native.js'

/** Opens a CPU device of one instruction set; BGE_ISA is as it was afterwards. */
export async function openIsa(isa: string, threads: number, dtype: Dtype = 'fp32'): Promise<Device> {
  const before = process.env['BGE_ISA']
  process.env['BGE_ISA'] = isa
  try {
    return await openDevice({ device: 'cpu', threads, dtype })
  } finally {
    if (before === undefined) delete process.env['BGE_ISA']
    else process.env['BGE_ISA'] = before
  }
}

/**
 * The CUDA library that the tests run: BGE_CUDA_LIBRARY, or the emulator, which runs the same kernels on the CPU
 * (`npm run build:cuda -- --emulate`). Undefined where neither is there: then the CUDA column of the tests is absent.
 */
export const cudaLibrary: string | undefined = [
  process.env['BGE_CUDA_LIBRARY'],
  join(import.meta.dirname, '../../build-emulated/bge_cuda.so'),
].find((file) => file !== undefined && existsSync(file))

/** Which of its ways an operation of the CUDA device goes: BGE_CUDA_ATTENTION, BGE_CUDA_SIMILARITY. */
export interface CudaWays {
  attention?: 'mma' | 'wgmma'
  similarity?: 'f16' | 'f32'
}

/** Opens that library's device; the variables are then as they were. */
export async function openCuda({ attention, similarity }: CudaWays = {}): Promise<Device> {
  const variables = {
    BGE_CUDA_LIBRARY: cudaLibrary,
    ...(attention && { BGE_CUDA_ATTENTION: attention }),
    ...(similarity && { BGE_CUDA_SIMILARITY: similarity }),
  }
  const before = Object.keys(variables).map((name) => [name, process.env[name]] as const)
  Object.assign(process.env, variables)
  try {
    return await openDevice({ device: 'cuda' })
  } finally {
    for (const [name, value] of before) {
      if (value === undefined) delete process.env[name]
      else process.env[name] = value
    }
  }
}

/** Whether there is a library whose device has the second version of the attention. */
export async function hasWgmma(): Promise<boolean> {
  if (!cudaLibrary) return false
  try {
    ;(await openCuda({ attention: 'wgmma' })).dispose()
    return true
  } catch (error) {
    if (!(error instanceof BgeError && error.code === 'ERR_BGE_DEVICE_UNAVAILABLE')) throw error
    return false
  }
}

/** The instruction sets this machine can run; BGE_ISA, where set, leaves that one. */
export async function availableIsas(): Promise<string[]> {
  const forced = process.env['BGE_ISA']
  const found: string[] = []
  for (const isa of forced ? [forced] : ['base', 'avx2', 'avx512']) {
    try {
      ;(await openIsa(isa, 1)).dispose()
      found.push(isa)
    } catch (error) {
      if (!(error instanceof BgeError && error.code === 'ERR_BGE_DEVICE_UNAVAILABLE')) throw error
    }
  }
  return found
}

/** The types other than fp32 that linear layers can multiply in on this CPU, or under the BGE_ISA that is set. */
export async function availableLowTypes(): Promise<Exclude<Dtype, 'fp32'>[]> {
  const found: Exclude<Dtype, 'fp32'>[] = []
  for (const dtype of ['bf16', 'int8'] as const) {
    try {
      ;(await openDevice({ device: 'cpu', threads: 1, dtype })).dispose()
      found.push(dtype)
    } catch (error) {
      if (!(error instanceof BgeError && error.code === 'ERR_BGE_DEVICE_UNAVAILABLE')) throw error
    }
  }
  return found
}

import { BgeError } from '../../lib/errors.js'
import { type Device, openDevice } from '../../lib/native.js'

/** Opens a CPU device of one instruction set; BGE_ISA is as it was afterwards. */
export async function openIsa(isa: string, threads: number): Promise<Device> {
  const before = process.env['BGE_ISA']
  process.env['BGE_ISA'] = isa
  try {
    return await openDevice({ device: 'cpu', threads })
  } finally {
    if (before === undefined) delete process.env['BGE_ISA']
    else process.env['BGE_ISA'] = before
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

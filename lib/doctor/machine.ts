import { availableParallelism, freemem, totalmem } from 'node:os'
import { BgeError } from '../errors.js'
import { request } from '../hub/request.js'
import { hubSettings } from '../hub/settings.js'
import { type DeviceOptions, openDevice } from '../native.js'
import type { DoctorFinding } from './doctor.js'

type Say = (finding: DoctorFinding) => void
const GIB = 2 ** 30
const gib = (bytes: number): string => `${(bytes / GIB).toFixed(1)} GiB`

/** Node, addon, instruction set, number types, memory, CUDA. */
export async function checkMachine(device: string, say: Say): Promise<void> {
  say({
    area: 'node',
    status: 'ok',
    found: `Node ${process.versions.node}, Node-API ${process.versions.napi}, ${process.platform}-${process.arch}`,
  })
  const addon = await opened({ device: 'cpu' })
  if ('error' in addon) {
    const advice = 'the sentence above names the command; nothing else works before it'
    say({ area: 'addon', status: 'problem', found: addon.error.message, advice })
    return
  }
  say({ area: 'addon', status: 'ok', found: `loads; ${addon.description}` })
  const slow = /\bcpu base\b/.test(addon.description)
  if (slow) {
    const advice = 'set BGE_ISA to nothing, or use a machine with AVX2 or AVX-512'
    say({ area: 'cpu', status: 'warning', found: 'the portable kernels are in use, several times slower than those for AVX2', advice })
  }
  for (const dtype of ['bf16', 'int8'] as const) {
    const tried = await opened({ device: 'cpu', dtype } as DeviceOptions)
    const found = 'error' in tried ? tried.error.message : `available with dtype '${dtype}': ${tried.description}`
    say({ area: `cpu ${dtype}`, status: 'error' in tried ? 'note' : 'ok', found })
  }
  checkMemory(say)
  const cuda = await opened({ device: device.startsWith('cuda') ? device : 'cuda' })
  if (!('error' in cuda)) say({ area: 'cuda', status: 'ok', found: cuda.description })
  else {
    const status = device.startsWith('cuda') ? 'problem' : 'note'
    const advice = 'without CUDA everything runs on the CPU; docs/gpu-status.md and `npm run build:cuda` are the way to a GPU'
    say({ area: 'cuda', status, found: cuda.error.message, advice })
  }
}

async function opened(options: DeviceOptions): Promise<{ description: string } | { error: BgeError }> {
  try {
    const device = await openDevice(options)
    const { description } = device
    device.dispose()
    return { description }
  } catch (error) {
    if (error instanceof BgeError) return { error }
    throw error
  }
}

function checkMemory(say: Say): void {
  // constrainedMemory() is a limit of a container; absent or absurdly large where there is none.
  const limit = process.constrainedMemory?.() ?? 0
  const most = limit > 0 && limit < totalmem() ? limit : totalmem()
  const found = `${gib(most)} of memory${most < totalmem() ? ' (limit of the container)' : ''}, ${gib(freemem())} unused; ${availableParallelism()} CPU threads`
  if (most >= 2 * GIB) say({ area: 'memory', status: 'ok', found })
  else {
    const advice = 'training needs about 16 bytes a parameter and activations: --plan on a training command says how much'
    say({ area: 'memory', status: 'warning', found, advice })
  }
}

/** Whether the hub, or the mirror that the environment names, answers. */
export async function checkHub(signal: AbortSignal | undefined, say: Say): Promise<void> {
  const settings = hubSettings()
  const name = `${settings.endpoint}${process.env['HF_ENDPOINT'] ? ' (HF_ENDPOINT)' : ''}`
  if (settings.network === 'offline') {
    const advice = 'unset HF_HUB_OFFLINE to fetch models and data'
    say({ area: 'hub', status: 'note', found: `HF_HUB_OFFLINE is set: ${name} is never asked; cache ${settings.cache}`, advice })
    return
  }
  const limit = AbortSignal.timeout(10_000)
  const start = performance.now()
  try {
    const response = await request(settings, `${settings.endpoint}/api/models/BAAI/bge-small-zh-v1.5`, {
      method: 'HEAD',
      signal: signal ? AbortSignal.any([signal, limit]) : limit,
    })
    await response.body?.cancel()
    const found = `${name} answers ${response.status} in ${Math.round(performance.now() - start)} ms; cache ${settings.cache}`
    if (response.ok) say({ area: 'hub', status: 'ok', found })
    else say({ area: 'hub', status: 'problem', found, advice: 'choose a mirror, e.g. HF_ENDPOINT=https://hf-mirror.com' })
  } catch (cause) {
    if (signal?.aborted) throw cause
    const why = limit.aborted ? `${name} does not answer within 10 s` : (cause as Error).message
    say({
      area: 'hub',
      status: 'problem',
      found: why,
      advice: 'choose a mirror, e.g. HF_ENDPOINT=https://hf-mirror.com, or copy the folder by hand',
    })
  }
}

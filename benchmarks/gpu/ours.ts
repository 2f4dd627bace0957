// Our side of scripts/gpu/bench.ts: one JSON command a line in, one JSON answer a line out.
//   {"device": "cuda", "sizes": {...}}   one turn of a section (cases.ts); what it prepared stays for its next turn, until another section comes
//   {"close": true}                      gives the memory of the device back
import { createInterface } from 'node:readline'
import { type Device, openDevice } from '../../lib/native.js'
import type { Answer, Sizes } from './cases.js'
import { encode, latency, train } from './encoder.js'
import { infonce } from './infonce.js'
import { attention, layernorm, linear } from './kernels.js'
import { adamw, finetune, gradcache, mlm, retromae, topk } from './objectives.js'
import type { Prepared } from './support.js'

const sections: Record<string, (sizes: never, device: Device) => Promise<Prepared>> = {
  encode,
  latency,
  train,
  attention,
  linear,
  layernorm,
  infonce,
  mlm,
  retromae,
  gradcache,
  finetune,
  adamw,
  topk,
}

const gemm = process.env['BGE_CUDA_GEMM']
let open: { key: string; device: Device; prepared?: Prepared } | undefined

function close(): void {
  open?.prepared?.close()
  open?.device.dispose()
  open = undefined
}

async function turn(deviceName: string, sizes: Sizes): Promise<Answer & { device: string }> {
  const key = JSON.stringify([deviceName, sizes])
  if (open?.key !== key) {
    close()
    const section = sections[sizes.section]
    if (!section) throw new Error(`no section "${sizes.section}" on our side`)
    if (sizes.products !== undefined) process.env['BGE_CUDA_GEMM'] = sizes.products // read when a device is opened
    try {
      open = { key, device: await openDevice({ device: deviceName }) }
    } finally {
      if (gemm === undefined) delete process.env['BGE_CUDA_GEMM']
      else process.env['BGE_CUDA_GEMM'] = gemm
    }
    open.prepared = await section(sizes as never, open.device)
  }
  return { ...(await open.prepared!.measure()), device: open.device.description }
}

for await (const line of createInterface(process.stdin)) {
  const command = JSON.parse(line) as { device: string; sizes: Sizes } | { close: true }
  let answer: object
  try {
    if ('close' in command) {
      close()
      answer = {}
    } else answer = await turn(command.device, command.sizes)
  } catch (error) {
    close()
    answer = { failed: error instanceof Error ? error.message : String(error) }
  }
  process.stdout.write(`${JSON.stringify(answer)}\n`)
}
close()

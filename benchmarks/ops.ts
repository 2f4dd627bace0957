// Speed of every op at sizes of real use, from the specs that test them (test/ops).
//   npm run bench -- ops [words of the op or case ...] [--threads N] [--repeat 9] [--out NAME]
// GFLOP/s stand next to the machine's FMA peak of the same run; GB/s count each array once. --out writes benchmarks/results/NAME.json.
import { parseArgs } from 'node:util'
import { openDevice } from '../lib/native.js'
import { specs } from '../test/ops/index.js'
import { Random } from '../test/support/random.js'
import { inFloat64, type OpCase } from '../test/support/spec.js'
import { fmaPeak, machineFacts, writeResults } from './support.js'

const { values: options, positionals: words } = parseArgs({
  allowPositionals: true,
  options: { threads: { type: 'string' }, repeat: { type: 'string', default: '9' }, out: { type: 'string' } },
})

interface Result {
  op: string
  case: string
  milliseconds: number
  gflops?: number
  /** of the FMA peak, 0..1 */
  share?: number
  gigabytesPerSecond?: number
}

function titleOf({ attributes, lengths }: OpCase): string {
  const parts = Object.entries(attributes).map(([name, value]) => `${name} ${value}`)
  if (lengths) parts.push(`${lengths.length} x ${lengths[0]} tokens`)
  return parts.join(', ')
}

const device = await openDevice({ device: 'cpu', ...(options.threads ? { threads: Number(options.threads) } : {}) })
const facts = machineFacts(device)
const threads = Number(/(\d+) threads?$/.exec(device.description)?.[1] ?? 1)
const peak = fmaPeak(threads)
console.log(`${facts.cpu}, ${device.description}, Node ${facts.node}, ${facts.commit}`)
console.log(peak ? `FMA peak ${peak} GFLOP/s on ${threads} threads` : 'FMA peak unknown: no C++ compiler was found')

const results: Result[] = []
for (const spec of specs) {
  for (const c of spec.benchmarks ?? []) {
    const title = titleOf(c)
    if (!words.every((word) => `${spec.name} ${title}`.includes(word))) continue
    const { seconds } = await device.op(spec.name, spec.inputs(c, new Random(1), inFloat64), {
      ...c.attributes,
      repeat: Number(options.repeat),
    })
    const s = seconds![0]!
    const result: Result = {
      op: spec.name,
      case: title,
      milliseconds: s * 1e3,
      ...(c.flops ? { gflops: c.flops / s / 1e9, ...(peak ? { share: c.flops / s / 1e9 / peak } : {}) } : {}),
      ...(c.bytes ? { gigabytesPerSecond: c.bytes / s / 1e9 } : {}),
    }
    results.push(result)
    const speed = [
      result.gflops && `${result.gflops.toFixed(1)} GFLOP/s`,
      result.share && `${(100 * result.share).toFixed(1)} % of the peak`,
      result.gigabytesPerSecond && `${result.gigabytesPerSecond.toFixed(1)} GB/s`,
    ]
    console.log(`${spec.name}  ${title}: ${result.milliseconds.toFixed(3)} ms, ${speed.filter(Boolean).join(', ')}`)
  }
}
device.dispose()
if (results.length === 0) throw new Error(`no benchmark matches ${words.join(' ')}`)
if (options.out)
  console.log(
    `written to ${await writeResults(options.out, { machine: facts, peakGflops: peak ?? null, repeat: Number(options.repeat), results })}`,
  )

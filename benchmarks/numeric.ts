// Logistic regression and k-means at the sizes of C-MTEB, and how long they keep the event loop busy at a stretch.
//   npm run bench -- numeric [--dims 512] [--repeats 3] [--threads N] [--out NAME]
import { availableParallelism, loadavg } from 'node:os'
import { parseArgs } from 'node:util'
import { miniBatchKMeans } from '../lib/eval/numeric/kmeans.js'
import { fitLogisticRegression } from '../lib/eval/numeric/logistic_regression.js'
import { RandomState } from '../lib/eval/numeric/mt19937.js'
import { multiplyFloat64, openDevice } from '../lib/native.js'
import { machineFacts, median, writeResults } from './support.js'

const { values: args } = parseArgs({
  options: {
    dims: { type: 'string', default: '512' },
    repeats: { type: 'string', default: '3' },
    threads: { type: 'string', default: String(availableParallelism()) },
    out: { type: 'string' },
  },
  allowPositionals: true,
})
const [dims, repeats, threads] = [args.dims, args.repeats, args.threads].map(Number) as [number, number, number]

/** Rows of `classes` groups, and their groups. Spread so far that a fit needs tens of iterations, as with vectors of a model. */
function grouped(n: number, classes: number): { x: Float32Array; labels: Int32Array } {
  const random = new RandomState(1)
  const centers = random.uniform(classes * dims).map((u) => u - 0.5)
  const labels = Int32Array.from(random.randint(classes, n))
  const noise = random.uniform(n * dims)
  const x = Float32Array.from(noise, (u, i) => centers[labels[Math.floor(i / dims)]! * dims + (i % dims)]! + 5 * (u - 0.5))
  return { x, labels }
}

interface Result {
  name: string
  /** median */
  seconds: number
  /** median of the longest time between two turns of the event loop, milliseconds */
  busyMilliseconds: number
  [more: string]: unknown
}

async function measure(name: string, work: () => Promise<Record<string, unknown>>): Promise<Result> {
  const runs: { seconds: number; busy: number }[] = []
  let more: Record<string, unknown> = {}
  for (let i = 0; i < repeats; i++) {
    let [running, busy, last] = [true, 0, performance.now()]
    const turn = (): void => {
      const now = performance.now()
      busy = Math.max(busy, now - last)
      last = now
      if (running) setImmediate(turn)
    }
    setImmediate(turn)
    const start = performance.now()
    more = await work()
    runs.push({ seconds: (performance.now() - start) / 1000, busy })
    running = false
    await new Promise((resolve) => setImmediate(resolve))
  }
  const result = { name, seconds: median(runs.map((run) => run.seconds)), busyMilliseconds: median(runs.map((run) => run.busy)), ...more }
  console.log(JSON.stringify(result))
  return result
}

function classifier(name: string, [n, tests, classes]: [number, number, number]): Promise<Result> {
  const { x, labels } = grouped(n + tests, classes)
  return measure(`${name}: logistic regression, ${n} x ${dims}, ${classes} classes, ${tests} predictions`, async () => {
    const fitted = await fitLogisticRegression(x.subarray(0, n * dims), labels.subarray(0, n), '1.9', { threads })
    await fitted.predict(x.subarray(n * dims))
    return { iterations: fitted.iterations }
  })
}

const load = loadavg()[0]
const results = [await classifier('TNews', [480, 10_000, 15]), await classifier('IFlyTek', [3178, 2599, 119])]
const { x } = grouped(10_000, 14)
results.push(
  await measure(`one set of C-MTEB: mini-batch k-means, 10000 x ${dims}, 14 clusters`, async () => ({
    steps: (await miniBatchKMeans(x, dims, 14, '1.9', { threads })).steps,
  })),
)
const shape = { m: 3178, n: 119, k: dims, transposed: 'b' as const, threads }
const [c, a, b] = [new Float64Array(3178 * 119), new Float64Array(3178 * dims).fill(0.5), new Float64Array(119 * dims).fill(0.5)]
const product = await measure(`float64 product ${shape.m} x ${shape.n} x ${shape.k}, 100 times`, async () => {
  for (let i = 0; i < 100; i++) await multiplyFloat64(c, a, b, shape)
  return {}
})
results.push({ ...product, gflops: (2e-7 * shape.m * shape.n * shape.k) / product.seconds })
if (args.out) {
  const device = await openDevice({ device: 'cpu', threads })
  console.log(`written to ${await writeResults(args.out, { machine: machineFacts(device), threads, load, results })}`)
  device.dispose()
}

import { join } from 'node:path'
import type { Command } from 'commander'
import { writeFileAtomic } from '../data/atomic.js'
import { BgeError } from '../errors.js'
import { type Calibration, calibrationFile } from '../model/calibrate.js'
import { interruptible } from './interrupt.js'
import { addModelOptions, loadModel, type ModelFlags } from './model_options.js'
import { integer, number } from './options.js'
import { readPairs } from './pairs.js'

interface CalibrateFlags extends ModelFlags {
  pairs: string
  precision: number
  instruction?: string
  dimensions?: number
}

/** Adds `calibrate`. */
export function register(program: Command): void {
  addModelOptions(program.command('calibrate'))
    .description('measure on labelled pairs what cosines of a model mean: a threshold and probabilities, kept in its folder')
    .requiredOption('--pairs <file>', 'JSONL of rows {"text1","text2","label"} with label 0 or 1, or {"query","pos","neg"}')
    .option('--precision <share>', 'of the pairs above the threshold, how many should be right', number(0), 0.95)
    .option('--instruction <text>', "put before the first text; 'zh' and 'en' name BGE's (default: none)")
    .option('--dimensions <n>', 'of the vectors you will compare (default: all)', integer(1))
    .addHelpText('after', '\nExample:\n  bge calibrate --model my-model --pairs pairs.jsonl --precision 0.95')
    .action((flags: CalibrateFlags) => interruptible((signal) => run(flags, signal)))
}

async function run(flags: CalibrateFlags, signal: AbortSignal): Promise<void> {
  const { precision, instruction, dimensions } = flags
  const { a, b, labels } = await readPairs(flags.pairs)
  if (labels === undefined) throw new BgeError('ERR_BGE_DATA', `${flags.pairs}:1: field label expected 0 or 1, but was missing`)
  const model = await loadModel(flags)
  try {
    const options = {
      precision,
      signal,
      ...(instruction !== undefined && { instruction }),
      ...(dimensions !== undefined && { dimensions }),
    }
    const calibration = await model.calibrate({ a, b, labels }, options)
    const file = join(model.directory!, calibrationFile)
    await writeFileAtomic(file, `${JSON.stringify(calibration, null, 2)}\n`)
    process.stderr.write(describe(calibration))
    process.stdout.write(`${file}\n`)
  } finally {
    model.dispose()
  }
}

function describe({ pairs, positives, threshold, probability }: Calibration): string {
  const { cosine, precision, interval, recall } = threshold
  const percent = (share: number): string => `${(100 * share).toFixed(1)} %`
  const { x, y } = probability
  const points = [0.1, 0.25, 0.5, 0.75, 0.9].flatMap((share) => {
    const first = y.findIndex((value) => value >= share)
    return first < 0 ? [] : [`${percent(share)} from ${x[first]!.toFixed(4)}`]
  })
  return (
    `${pairs} pairs, ${positives} of them belong together\n` +
    `cosine from ${cosine.toFixed(4)}: ${percent(precision)} right (95 % interval ${percent(interval[0])} to ${percent(interval[1])}), ` +
    `${percent(recall)} of the positives found\n` +
    `probability that a pair belongs together: ${points.join(', ')}\n`
  )
}

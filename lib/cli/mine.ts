import type { Command } from 'commander'
import { mine, type MineResult } from '../mine/mine.js'
import { BgeModel } from '../model/model.js'
import { interruptible } from './interrupt.js'
import { integer, range } from './options.js'

interface MineFlags {
  model: string
  data: string
  out: string
  range: [low: number, high: number]
  negatives: number
  pool?: string
  seed: number
  instruction?: string
  device: string
  threads?: number
}

/** Adds `mine`. */
export function register(program: Command): void {
  program
    .command('mine')
    .description('mine hard negatives: rows {"query","pos"} in, the same rows with "neg" out')
    .requiredOption('--model <dir>', 'model folder')
    .requiredOption('--data <file>', 'JSONL of rows {"query","pos"}')
    .requiredOption('--out <file>', 'JSONL to write; may be the data file itself')
    .option('--range <low-high>', 'ranks to sample from, counted from 0', range, [10, 210])
    .option('--negatives <n>', 'negatives per row', integer(1), 15)
    .option('--pool <file>', 'JSONL of {"text"} to mine from (default: every pos and neg of the data file)')
    .option('--seed <n>', 'seed of the sampling', integer(0), 42)
    .option('--instruction <text>', "put before queries; 'zh' and 'en' name BGE's, '' is none (default: the model folder's)")
    .option('--device <device>', 'auto, cpu, cuda or cuda:N', 'auto')
    .option('--threads <n>', 'CPU threads (default: as many as the process may use)', integer(1))
    .action((flags: MineFlags) => interruptible((signal) => run(flags, signal)))
}

async function run(flags: MineFlags, signal: AbortSignal): Promise<void> {
  const { pool, instruction, threads } = flags
  const model = await BgeModel.load(flags.model, { device: flags.device, ...(threads !== undefined && { threads }) })
  try {
    const result = await mine(model, {
      data: flags.data,
      out: flags.out,
      range: flags.range,
      negatives: flags.negatives,
      seed: flags.seed,
      ...(pool !== undefined && { pool }),
      ...(instruction !== undefined && { instruction }),
      onProgress: (done, total) => process.stderr.write(`mined ${done} of ${total} rows\n`),
      signal,
    })
    process.stderr.write(describe(result))
    process.stdout.write(`${flags.out}\n`)
  } finally {
    model.dispose()
  }
}

/** What was taken and what each rule rejected. */
export function describe(result: MineResult): string {
  const lines = [
    `${result.rows} rows, ${result.pool} passages in the pool`,
    `negatives: ${result.mined} mined, ${result.random} random because the range left too few${result.missing > 0 ? `, ${result.missing} missing because the pool has no more` : ''}`,
    `rejected hits: ${result.beforeRange} ranked before the range, ${result.positive} a positive of the query, ${result.query} equal to the query`,
  ]
  return lines.map((text) => `${text}\n`).join('')
}

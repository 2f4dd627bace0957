import { type Command, Option } from 'commander'
import { bench, type BenchResult } from '../bench/bench.js'
import type { ModelSize } from '../model/config.js'
import type { Dtype } from '../native.js'
import { interruptible } from './interrupt.js'
import { dtypeOption, integer, number } from './options.js'

interface BenchFlags {
  size: ModelSize
  device: string
  dtype?: Dtype
  threads?: number
  seconds: number
  json?: true
}

/** Adds `bench`. */
export function register(program: Command): void {
  program
    .command('bench')
    .description('how fast this machine encodes: a single query, a batch, mixed lengths; random weights, no files needed')
    .addOption(
      new Option('--size <size>', 'tiny 2x128, small 4x512, base 12x768, large 24x1024')
        .choices(['tiny', 'small', 'base', 'large'])
        .default('small'),
    )
    .option('--device <device>', 'auto, cpu, cuda or cuda:N', 'auto')
    .addOption(dtypeOption())
    .option('--threads <n>', 'CPU threads (default: as many as the process may use)', integer(1))
    .option('--seconds <s>', 'time of each measurement', number(0), 3)
    .option('--json', 'as JSON')
    .addHelpText('after', '\nExample:\n  bge bench --size base --dtype bf16')
    .action((flags: BenchFlags) => interruptible((signal) => run(flags, signal)))
}

async function run({ json, ...options }: BenchFlags, signal: AbortSignal): Promise<void> {
  const result = await bench({ ...options, signal })
  process.stdout.write(json ? `${JSON.stringify(result, null, 2)}\n` : table(result))
}

function table({ device, size, query, batch, mixed, memory }: BenchResult): string {
  const rate = ({ textsPerSecond, tokensPerSecond }: BenchResult['batch']): string =>
    `${textsPerSecond.toFixed(1)} texts/s, ${Math.round(tokensPerSecond)} tokens/s`
  return [
    `${size} on ${device}`,
    `one query of 16 tokens   ${query.p50.toFixed(2)} ms (99 %: ${query.p99.toFixed(2)} ms)`,
    `32 texts of 128 tokens   ${rate(batch)}`,
    `mixed lengths            ${rate(mixed)}`,
    `memory                   ${(memory / 2 ** 20).toFixed(0)} MiB`,
    '',
  ].join('\n')
}

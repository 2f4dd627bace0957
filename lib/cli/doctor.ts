import type { Command } from 'commander'
import { doctor, type DoctorFinding } from '../doctor/doctor.js'
import { interruptible } from './interrupt.js'

interface DoctorFlags {
  model?: string
  data?: string[]
  device: string
  network?: true
  json?: true
}

/** Adds `doctor`. */
export function register(program: Command): void {
  program
    .command('doctor')
    .description(
      'look for what commonly goes wrong: addon, instruction set, GPU, memory, model folder, data; exit code 1 when something does not work',
    )
    .option('--model <dir>', 'also look at this model folder, or name on the hub')
    .option('--data <files...>', 'also look at these training files, or folders of .jsonl files')
    .option('--device <device>', 'with cuda or cuda:N a GPU that cannot be used is a problem, else a note', 'auto')
    .option('--network', 'ask whether the hub or its mirror (HF_ENDPOINT) answers')
    .option('--json', 'as JSON')
    .addHelpText('after', '\nExample:\n  bge doctor --model run3/model --data train.jsonl')
    .action((flags: DoctorFlags) => interruptible((signal) => run(flags, signal)))
}

async function run({ json, network, ...asked }: DoctorFlags, signal: AbortSignal): Promise<void> {
  const findings = await doctor({
    ...asked,
    network: network ? 'ask' : 'leave',
    signal,
    ...(!json && { onFinding: (finding: DoctorFinding) => process.stdout.write(text(finding)) }),
  })
  if (json) process.stdout.write(`${JSON.stringify(findings, null, 2)}\n`)
  if (findings.some(({ status }) => status === 'problem')) process.exitCode = 1
}

function text({ area, status, found, advice }: DoctorFinding): string {
  const mark = { ok: 'ok     ', note: 'note   ', warning: 'warning', problem: 'PROBLEM' }[status]
  return `${mark}  ${area}: ${found}\n${advice ? `         -> ${advice}\n` : ''}`
}

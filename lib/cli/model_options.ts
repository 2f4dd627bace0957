import { type Command, Option } from 'commander'
import type { Pooling } from '../model/config.js'
import { BgeModel } from '../model/model.js'
import { integer } from './options.js'

/** Options of every command that computes vectors. */
export interface ModelFlags {
  model: string
  pooling?: Pooling
  device: string
  dtype?: 'fp32' | 'bf16'
  threads?: number
}

export function addModelOptions(command: Command): Command {
  return command
    .requiredOption('--model <dir>', 'model folder')
    .addOption(new Option('--pooling <how>', 'for a folder that does not say (default: what the folder says)').choices(['cls', 'mean']))
    .option('--device <device>', 'auto, cpu, cuda or cuda:N', 'auto')
    .addOption(
      new Option('--dtype <type>', 'number type of the computation (default: fp32 on the CPU, bf16 with fp32 sums on CUDA)').choices([
        'fp32',
        'bf16',
      ]),
    )
    .option('--threads <n>', 'CPU threads (default: as many as the process may use)', integer(1))
}

/** The model that the flags name. Errors: as BgeModel.load. */
export function loadModel({ model, device, pooling, dtype, threads }: ModelFlags): Promise<BgeModel> {
  return BgeModel.load(model, {
    device,
    ...(pooling && { pooling }),
    ...(dtype && { dtype }),
    ...(threads !== undefined && { threads }),
  })
}

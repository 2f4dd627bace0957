import { type Command, Option } from 'commander'
import type { Pooling } from '../model/config.js'
import { BgeModel } from '../model/model.js'
import type { Dtype } from '../native.js'
import { dtypeOption, integer } from './options.js'

/** Options of every command that computes vectors. */
export interface ModelFlags {
  model: string
  pooling?: Pooling
  device: string
  dtype?: Dtype
  threads?: number
}

export function addModelOptions(command: Command): Command {
  return command
    .requiredOption('--model <dir>', 'model folder, or a name on the hub such as BAAI/bge-small-zh-v1.5')
    .addOption(new Option('--pooling <how>', 'for a folder that does not say (default: what the folder says)').choices(['cls', 'mean']))
    .option('--device <device>', 'auto, cpu, cuda or cuda:N', 'auto')
    .addOption(dtypeOption())
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

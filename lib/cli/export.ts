import { join } from 'node:path'
import { type Command, Option } from 'commander'
import { exportHalf } from '../export/half.js'
import { exportOnnx } from '../export/onnx.js'
import { modelFolder } from '../hub/model.js'
import type { Pooling } from '../model/config.js'

interface OnnxFlags {
  model: string
  out?: string
  pooling?: Pooling
}

/** Adds `export`. */
export function register(program: Command): void {
  const command = program.command('export').description('write a model for other runtimes')
  command
    .command('onnx')
    .description('ONNX with pooled and normalised output (sentence_embedding) beside last_hidden_state')
    .requiredOption('--model <dir>', 'model folder, or a name on the hub')
    .option(
      '--out <file>',
      '.onnx to write (default: onnx/model.onnx in the model folder, where sentence-transformers and transformers.js look)',
    )
    .addOption(new Option('--pooling <how>', 'for a folder that does not say').choices(['cls', 'mean']))
    .addHelpText('after', '\nExample:\n  bge export onnx --model run3/model --out model.onnx')
    .action(onnx)
  command
    .command('safetensors')
    .description('a model folder with half-precision weights: half the size, read by Hugging Face, sentence-transformers and here')
    .requiredOption('--model <dir>', 'model folder, or a name on the hub')
    .requiredOption('--out <dir>', 'model folder to write')
    .addOption(new Option('--pooling <how>', 'for a folder that does not say').choices(['cls', 'mean']))
    .addHelpText('after', '\nExample:\n  bge export safetensors --model run3/model --out half')
    .action(safetensors)
}

async function safetensors({ model, out, pooling }: OnnxFlags & { out: string }): Promise<void> {
  await exportHalf(await modelFolder(model), out, { ...(pooling && { pooling }) })
  process.stdout.write(`${out}\n`)
}

async function onnx({ model, out, pooling }: OnnxFlags): Promise<void> {
  const folder = await modelFolder(model)
  const file = out ?? join(folder, 'onnx', 'model.onnx')
  await exportOnnx(folder, file, { ...(pooling && { pooling }) })
  process.stdout.write(`${file}\n`)
}

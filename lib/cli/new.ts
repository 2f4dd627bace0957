import { type Command, Option } from 'commander'
import type { ModelSize } from '../model/config.js'
import { BgeModel } from '../model/model.js'
import { elements } from '../model/weights.js'
import { integer } from './options.js'

interface NewFlags {
  size: ModelSize
  tokenizer: string
  out: string
  seed: number
}

/** Adds `new`. */
export function register(program: Command): void {
  program
    .command('new')
    .description('make a model with new, untrained weights')
    .addOption(
      new Option('--size <size>', 'layers x width: tiny 2x128, small 4x512, base 12x768, large 24x1024')
        .choices(['tiny', 'small', 'base', 'large'])
        .makeOptionMandatory(),
    )
    .requiredOption('--tokenizer <dir>', "folder with tokenizer.json or vocab.txt; its vocabulary becomes the model's")
    .requiredOption('--out <dir>', 'model folder to write')
    .option('--seed <n>', 'the same seed gives the same weights', integer(0), 42)
    .action(run)
}

async function run({ size, tokenizer, out, seed }: NewFlags): Promise<void> {
  const model = await BgeModel.createNew({ size, tokenizerDir: tokenizer, seed, device: 'cpu' })
  try {
    await model.save(out)
    const parameters = model.encoder.parameters.list.reduce((sum, { shape }) => sum + elements(shape), 0)
    process.stderr.write(
      `${size}: ${model.config.layers} layers x ${model.dims}, vocabulary ${model.config.vocab}, ${parameters} parameters without the pooler\n`,
    )
    process.stdout.write(`${out}\n`)
  } finally {
    model.dispose()
  }
}

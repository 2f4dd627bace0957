import { type Command, Option } from 'commander'
import { modelFolder } from '../hub/model.js'
import type { Pooling } from '../model/config.js'
import { type ModelInfo, modelInfo } from '../model/info.js'

interface InfoFlags {
  pooling?: Pooling
  json?: true
}

/** Adds `info`. */
export function register(program: Command): void {
  program
    .command('info')
    .description('what a model folder is: shape, parameters, pooling, instruction, tokenizer')
    .argument('<model>', 'model folder, or a name on the hub')
    .addOption(new Option('--pooling <how>', 'for a folder that does not say').choices(['cls', 'mean']))
    .option('--json', 'as JSON')
    .addHelpText('after', '\nExample:\n  bge info run3/model')
    .action(run)
}

async function run(model: string, { pooling, json }: InfoFlags): Promise<void> {
  const info = await modelInfo(await modelFolder(model), pooling)
  process.stdout.write(json ? `${JSON.stringify(info, null, 2)}\n` : table(info))
}

function table(info: ModelInfo): string {
  const rows: [string, string][] = [
    ['folder', info.folder],
    ['encoder', `BERT, ${info.layers} layers x ${info.hidden}, ${info.heads} heads, feed-forward ${info.intermediate}`],
    ['parameters', `${(info.parameters / 1e6).toFixed(1)} M (${(info.weightBytes / 1e6).toFixed(1)} MB on disk)`],
    [
      'vectors',
      `${info.hidden} wide, ${info.pooling === 'cls' ? '[CLS]' : 'mean'} pooling, ${info.normalize ? 'L2-normalised' : 'not normalised'}`,
    ],
    ['longest text', `${info.maxLength} tokens`],
    ['instruction', info.instruction === '' ? 'none' : info.instruction],
    [
      'tokenizer',
      `${info.tokenizer.vocabulary} tokens, ${info.tokenizer.engine === 'native' ? 'native WordPiece' : 'through @huggingface/tokenizers'}`,
    ],
    ['MLM head', info.mlmHead ? 'yes: pre-training can go on' : 'no'],
  ]
  return `${rows.map(([key, value]) => `${key.padEnd(14)}${value}`).join('\n')}\n`
}

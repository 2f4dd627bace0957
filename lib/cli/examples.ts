import type { Command } from 'commander'

/** What a command's help shows at its end, by its path below `bge`, where the command's own file does not say it. */
const EXAMPLES: Readonly<Record<string, readonly string[]>> = {
  new: ['bge new --size small --tokenizer bge-small-zh-v1.5 --out init --seed 42'],
  pretrain: ['bge pretrain --model init --data text.jsonl --out run1', 'bge pretrain --model init --data text.jsonl --out run1 --plan'],
  contrastive: ['bge contrastive --model run1/model --data pairs.jsonl --out run2 --set batchSize=256'],
  finetune: ['bge finetune --model run2/model --data mined.jsonl --out run3'],
  mine: ['bge mine --model run2/model --data train.jsonl --out mined.jsonl --range 10-210 --negatives 15'],
  eval: [
    'bge eval --model run3/model --benchmark cmteb --out scores',
    'bge eval --model run3/model --data eval --tasks sts,retrieval --out scores',
  ],
  'cmteb list': ['bge cmteb list --tasks retrieval'],
  'cmteb pull': ['bge cmteb pull --to bundle --mirror https://hf-mirror.com'],
  curate: ['bge curate --recipe recipe.json --out curated'],
  'data validate': ['bge data validate train.jsonl --fix'],
  'data stats': ['bge data stats train.jsonl --tokenizer run3/model'],
  'data split': ['bge data split rows.jsonl --out split --dev 0.1'],
  report: ['bge report run2'],
  quickstart: ['bge quickstart --out quickstart-run'],
}

/** Puts an example at the end of the help of every command that has none of its own. */
export function addExamples(program: Command, path: readonly string[] = []): void {
  for (const command of program.commands) {
    const name = [...path, command.name()]
    const examples = EXAMPLES[name.join(' ')]
    if (examples)
      command.addHelpText('after', `\nExample${examples.length > 1 ? 's' : ''}:\n${examples.map((line) => `  ${line}`).join('\n')}`)
    addExamples(command, name)
  }
}

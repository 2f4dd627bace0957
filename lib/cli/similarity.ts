import type { Command } from 'commander'
import { BgeError } from '../errors.js'
import type { Similarities } from '../model/model.js'
import { interruptible } from './interrupt.js'
import { addModelOptions, loadModel, type ModelFlags } from './model_options.js'
import { integer } from './options.js'
import { readPairs } from './pairs.js'

interface SimilarityFlags extends ModelFlags {
  pairs?: string
  instruction?: string
  dimensions?: number
}

/** Adds `similarity`. */
export function register(program: Command): void {
  addModelOptions(program.command('similarity'))
    .description('how alike texts are: a line of JSON per pair with its cosine, and its probability where the model is calibrated')
    .argument('[texts...]', 'two texts')
    .option('--pairs <file>', 'instead: JSONL of rows {"text1","text2"} or {"query","pos","neg"}')
    .option('--instruction <text>', "put before the first text; 'zh' and 'en' name BGE's (default: the calibration's, or none)")
    .option('--dimensions <n>', "compare the first n components (default: the calibration's, or all)", integer(1))
    .addHelpText(
      'after',
      '\nExamples:\n  bge similarity --model my-model 今天天气好 天气不错\n  bge similarity --model my-model --pairs pairs.jsonl > scores.jsonl',
    )
    .action((texts: string[], flags: SimilarityFlags) => interruptible((signal) => run(texts, flags, signal)))
}

async function run(texts: readonly string[], flags: SimilarityFlags, signal: AbortSignal): Promise<void> {
  const { pairs: file, instruction, dimensions } = flags
  if ((file === undefined) !== (texts.length === 2) || (file !== undefined && texts.length > 0)) {
    throw new BgeError(
      'ERR_BGE_ARGUMENT',
      `similarity must be given two texts, or else --pairs, but was given ${texts.length} texts${file ? ' and --pairs' : ''}`,
    )
  }
  const { a, b } = file === undefined ? { a: [texts[0]!], b: [texts[1]!] } : await readPairs(file)
  const model = await loadModel(flags)
  try {
    const options = { signal, ...(instruction !== undefined && { instruction }), ...(dimensions !== undefined && { dimensions }) }
    process.stdout.write(lines(await model.similarity(a, b, options)))
    if (model.calibration === undefined)
      process.stderr.write('this model is not calibrated, so there are no probabilities; see bge calibrate --help\n')
  } finally {
    model.dispose()
  }
}

function lines({ cosines, probabilities }: Similarities): string {
  return Array.from(
    cosines,
    (cosine, i) => `${JSON.stringify({ cosine, ...(probabilities && { probability: probabilities[i] }) })}\n`,
  ).join('')
}

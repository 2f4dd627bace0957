import { type Command, Option } from 'commander'
import { fieldError, readJsonLines, readLines } from '../data/jsonl.js'
import { writeNpy } from '../data/npy.js'
import { BgeError, show } from '../errors.js'
import type { EncodeProgress, EncodeResult } from '../model/encode.js'
import type { Precision } from '../model/precision.js'
import { interruptible } from './interrupt.js'
import { addModelOptions, loadModel, type ModelFlags } from './model_options.js'
import { integer } from './options.js'

interface EmbedFlags extends ModelFlags {
  input: string
  out: string
  instruction?: string
  maxLength?: number
  truncation: 'end' | 'error'
  dimensions?: number
  precision: Precision
  microBatchTokens?: number
}

/** Adds `embed`. */
export function register(program: Command): void {
  addModelOptions(program.command('embed'))
    .description('turn texts into vectors: one row of a NumPy file per text')
    .requiredOption('--input <file>', '.jsonl with {"text"} or a JSON string per line, or .txt with a text per line')
    .requiredOption('--out <file>', '.npy to write: (texts, width), float32 unless --precision says otherwise')
    .option('--instruction <text>', "put before every text; 'zh' and 'en' name BGE's (default: none)")
    .option('--max-length <n>', "tokens per text (default: the model's)", integer(3))
    .addOption(new Option('--truncation <how>', 'longer texts: cut at the end, or an error').choices(['end', 'error']).default('end'))
    .option('--dimensions <n>', 'keep the first n components and normalise again (Matryoshka; default: all)', integer(1))
    .addOption(
      new Option('--precision <type>', 'int8 needs a calibrated model (bge calibrate); ubinary: a bit a component')
        .choices(['float32', 'int8', 'ubinary'])
        .default('float32'),
    )
    .option(
      '--micro-batch-tokens <n>',
      'tokens computed at a time: memory, not the result (default: 2048 on the CPU, 16384 on CUDA)',
      integer(1),
    )
    .addHelpText('after', '\nExample:\n  bge embed --model my-model --input texts.jsonl --out vectors.npy')
    .action((flags: EmbedFlags) => interruptible((signal) => run(flags, signal)))
}

async function run(flags: EmbedFlags, signal: AbortSignal): Promise<void> {
  const { instruction, maxLength, microBatchTokens, dimensions, precision, truncation } = flags
  const texts = await readInput(flags.input)
  const model = await loadModel(flags)
  try {
    const start = performance.now()
    const result = await model.encode(texts, {
      signal,
      truncation,
      onProgress: reporter(),
      output: { precision, ...(dimensions !== undefined && { dimensions }) },
      ...(microBatchTokens !== undefined && { microBatchTokens }),
      ...(instruction !== undefined && { instruction }),
      ...(maxLength !== undefined && { maxLength }),
    })
    const seconds = (performance.now() - start) / 1000
    await writeNpy(flags.out, result.data, [texts.length, result.data.length / Math.max(1, texts.length)])
    process.stderr.write(summary(result, maxLength ?? model.maxLength, seconds))
    process.stdout.write(`${flags.out}\n`)
  } finally {
    model.dispose()
  }
}

/** The texts of a .jsonl or .txt file. Errors: ERR_BGE_FILE; ERR_BGE_DATA `file:line: ...`. */
async function readInput(file: string): Promise<string[]> {
  const kind = /\.(jsonl|txt)$/.exec(file)?.[1]
  if (kind === undefined) throw new BgeError('ERR_BGE_ARGUMENT', `--input must end in .jsonl or .txt, but was ${show(file)}`)
  const texts: string[] = []
  // In a .txt an empty line is a text, so that row i of the result is line i; in a .jsonl it is nothing.
  if (kind === 'txt') for await (const text of readLines(file)) texts.push(text)
  else for await (const row of readJsonLines(file, 'a JSON object or string')) texts.push(textOf({ file, ...row }))
  return texts
}

function textOf(row: { file: string; line: number; value: unknown }): string {
  const { file, line, value } = row
  if (typeof value === 'string') return value
  if (value === null || typeof value !== 'object' || Array.isArray(value)) {
    throw new BgeError('ERR_BGE_DATA', `${file}:${line}: expected {"text": ...} or a JSON string, but was ${show(value)}`)
  }
  const { text } = value as { text?: unknown }
  if (typeof text !== 'string') throw fieldError(row, 'text', 'a string', text)
  return text
}

/** Rewrites one line on a terminal; elsewhere writes a line every ten seconds. */
function reporter(): (progress: EncodeProgress) => void {
  const terminal = process.stderr.isTTY === true
  let last = performance.now()
  return ({ done, total }) => {
    const now = performance.now()
    if (done < total && now - last < (terminal ? 200 : 10_000)) return
    last = now
    if (terminal) process.stderr.write(`\rembedded ${done} of ${total} texts${done === total ? '\n' : ''}`)
    else if (done < total) process.stderr.write(`embedded ${done} of ${total} texts\n`)
  }
}

function summary({ dims, truncated, tokens, unknownTokens }: EncodeResult<Precision>, maxLength: number, seconds: number): string {
  const share = (part: number, whole: number): string => `${whole === 0 ? '0.0' : ((100 * part) / whole).toFixed(1)} %`
  const [texts, width] = dims
  const speed = seconds > 0 ? Math.round(tokens / seconds) : 0
  return (
    `${texts} texts x ${width}, ${tokens} tokens in ${seconds.toFixed(1)} s (${speed} tokens/s); ` +
    `${truncated} cut at ${maxLength} tokens (${share(truncated, texts)}), unknown tokens ${share(unknownTokens, tokens)}\n`
  )
}

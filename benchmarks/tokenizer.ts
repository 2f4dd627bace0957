// Tokens a second of the package's tokenizer against @huggingface/tokenizers, the JavaScript library, on one thread and the same texts, in turns.
//   npm run bench -- tokenizer --tokenizer MODEL_FOLDER [--texts FILE.jsonl] [--repeats 7] [--out NAME]
// --texts: lines with a string "text" (or any strings); default: Chinese and English sentences made of the vocabulary's own pieces.
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { Tokenizer as HuggingFaceTokenizer } from '@huggingface/tokenizers'
import { random } from '../lib/data/random.js'
import { openDevice } from '../lib/native.js'
import { Tokenizer } from '../lib/tokenizer/tokenizer.js'
import { machineFacts, median, writeResults } from './support.js'

const { values: args } = parseArgs({
  options: {
    tokenizer: { type: 'string' },
    texts: { type: 'string' },
    repeats: { type: 'string', default: '7' },
    out: { type: 'string' },
  },
  allowPositionals: true,
})
if (args.tokenizer === undefined) throw new Error('--tokenizer must name a folder with tokenizer.json and tokenizer_config.json')
const folder = args.tokenizer
const json = (file: string): Record<string, unknown> => JSON.parse(readFileSync(join(folder, file), 'utf8')) as Record<string, unknown>
const definition = json('tokenizer.json')
const texts = args.texts === undefined ? madeTexts() : readTexts(args.texts)
const ours = await Tokenizer.load(folder)
const library = new HuggingFaceTokenizer(definition, json('tokenizer_config.json'))

function readTexts(file: string): string[] {
  const strings = (value: unknown): string[] =>
    typeof value === 'string' ? [value] : value !== null && typeof value === 'object' ? Object.values(value).flatMap(strings) : []
  return readFileSync(file, 'utf8')
    .split('\n')
    .filter((line) => line.trim() !== '')
    .flatMap((line) => strings(JSON.parse(line)))
}

function madeTexts(): string[] {
  const pieces = Object.keys((definition['model'] as { vocab: Record<string, number> }).vocab).filter((piece) => !/^\[.*\]$/.test(piece))
  const draw = random(1, 'tokenizer')
  return Array.from({ length: 2000 }, () =>
    Array.from({ length: 60 }, () => pieces[draw.int(pieces.length)]!.replace(/^##/, '')).join(draw.chance(0.5) ? '' : ' '),
  )
}

const whole = 2 ** 20 // nothing is cut: both sides do the same work
const sides: Record<string, () => Promise<number>> = {
  ours: async () => (await ours.encodeBatch(texts, { maxLength: whole })).tokens,
  '@huggingface/tokenizers': async () => texts.reduce((sum, text) => sum + library.encode(text).ids.length - 2, 0),
}
const runs: Record<string, number[]> = {}
const tokens: Record<string, number> = {}
for (let i = -1; i < Number(args.repeats); i++) {
  for (const [side, run] of Object.entries(sides)) {
    const start = performance.now()
    tokens[side] = await run()
    if (i >= 0) (runs[side] ??= []).push((performance.now() - start) / 1000)
  }
}
const characters = texts.reduce((sum, text) => sum + text.length, 0)
const rates = Object.fromEntries(Object.entries(runs).map(([side, seconds]) => [side, tokens[side]! / median(seconds)]))
const ratio = rates['ours']! / rates['@huggingface/tokenizers']!
for (const [side, rate] of Object.entries(rates)) console.log(`${side}: ${(rate / 1e6).toFixed(2)} M tokens/s, ${tokens[side]} tokens`)
console.log(`ratio ${ratio.toFixed(1)}`)
if (args.out) {
  const device = await openDevice({ device: 'cpu' })
  const content = { machine: machineFacts(device), texts: texts.length, characters, tokens, tokensPerSecond: rates, ratio, seconds: runs }
  console.log(`written to ${await writeResults(args.out, content)}`)
  device.dispose()
}

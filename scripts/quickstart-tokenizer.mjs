// Writes examples/quickstart/tokenizer/: the WordPiece vocabulary of the quickstart. Small on purpose: the MLM head costs as much as the vocabulary
// is long. The same input gives the same file.
//
//   node scripts/quickstart-tokenizer.mjs
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'

const corpus = new URL('../examples/quickstart/corpus/', import.meta.url)
const out = new URL('../examples/quickstart/tokenizer/', import.meta.url)
const HELD_OUT = 2 // the last articles of each topic, as in lib/quickstart/prepare.ts: the vocabulary must not know them

const special = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]']
const ascii = Array.from({ length: 94 }, (_, i) => String.fromCharCode(33 + i)).filter((c) => !/[A-Z]/.test(c))
const words = new Set()
const characters = new Set('，。、；：？！“”‘’（）《》〈〉【】—…·～％℃°×÷±≈≤≥→αβγπ')

// The 3,755 most used characters: level 1 of GB 2312 (rows 16 to 55 of its table, the last row shorter).
const gb2312 = new TextDecoder('gb18030', { fatal: true })
for (let row = 0xb0; row <= 0xd7; row++) {
  for (let column = 0xa1; column <= (row === 0xd7 ? 0xf9 : 0xfe); column++) characters.add(gb2312.decode(Uint8Array.of(row, column)))
}

// What the training articles have besides.
for (const name of readdirSync(corpus).sort()) {
  if (!name.endsWith('.jsonl') || name.startsWith('sts-')) continue
  const articles = readFileSync(new URL(name, corpus), 'utf8')
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line))
  for (const { title, text, summary, questions } of articles.slice(0, -HELD_OUT)) {
    const all = [title, text, summary, ...questions.flatMap(({ q, a }) => [q, a])].join(' ').toLowerCase()
    for (const character of all) if (character > '\x7f' && !/\s/u.test(character)) characters.add(character)
    for (const [word] of all.matchAll(/[a-z]{2,}/g)) words.add(word)
  }
}

const pieces = ascii.filter((c) => /[a-z0-9]/.test(c)).map((c) => `##${c}`)
const vocabulary = [
  ...special,
  ...ascii,
  ...pieces,
  ...[...words].sort(),
  ...[...characters].sort((a, b) => a.codePointAt(0) - b.codePointAt(0)),
]
const config = {
  clean_up_tokenization_spaces: true,
  cls_token: '[CLS]',
  do_lower_case: true,
  mask_token: '[MASK]',
  model_max_length: 512,
  pad_token: '[PAD]',
  sep_token: '[SEP]',
  strip_accents: null,
  tokenize_chinese_chars: true,
  tokenizer_class: 'BertTokenizer',
  unk_token: '[UNK]',
}
mkdirSync(out, { recursive: true })
writeFileSync(new URL('vocab.txt', out), vocabulary.map((token) => `${token}\n`).join(''))
writeFileSync(new URL('tokenizer_config.json', out), `${JSON.stringify(config, null, 2)}\n`)
process.stdout.write(`${vocabulary.length} tokens\n`)

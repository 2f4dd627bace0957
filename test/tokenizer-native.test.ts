import { createHash } from 'node:crypto'
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { random } from '../lib/data/random.js'
import { Tokenizer } from '../lib/tokenizer/tokenizer.js'

const fixtures = new URL('./fixtures/tokenizer/', import.meta.url).pathname
const reference = JSON.parse(await readFile(join(fixtures, 'code_points.json'), 'utf8')) as Record<
  string,
  { flags: Record<string, boolean>; blocks: Record<string, string> }
>
/** The vocabulary of code_points.py. */
const ranges = [
  [0x21, 0x24f],
  [0x370, 0x52f],
  [0x5d0, 0x5ea],
  [0x620, 0x64a],
  [0x1100, 0x11ff],
  [0x1e00, 0x1fff],
  [0x3041, 0x30fe],
  [0x4e00, 0x9fff],
  [0x20000, 0x20fff],
] as const
const vocabulary = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]']
for (const [first, last] of ranges) {
  for (let point = first; point <= last; point++) vocabulary.push(String.fromCodePoint(point), `##${String.fromCodePoint(point)}`)
}

let root = ''
beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), 'bge-native-tokenizer-'))
})
afterAll(() => rm(root, { recursive: true, force: true }))

async function folder(name: string, flags: Record<string, unknown>): Promise<string> {
  const path = join(root, name)
  await mkdir(path, { recursive: true })
  await writeFile(join(path, 'vocab.txt'), `${vocabulary.join('\n')}\n`)
  await writeFile(join(path, 'tokenizer_config.json'), JSON.stringify({ tokenizer_class: 'BertTokenizer', ...flags }))
  return path
}

describe('every code point is treated as the reference treats it', () => {
  for (const [name, { flags, blocks }] of Object.entries(reference)) {
    test(name, async () => {
      const tokenizer = await Tokenizer.load(await folder(name, flags))
      expect(tokenizer.engine).toBe('native')
      expect(Object.keys(blocks).length).toBeGreaterThan(250)
      const wrong: string[] = []
      for (const [block, digest] of Object.entries(blocks)) {
        const first = Number.parseInt(block, 16)
        const texts: string[] = []
        for (let point = first; point < first + 4096; point++) {
          if (point >= 0xd800 && point <= 0xdfff) continue
          const c = String.fromCodePoint(point)
          texts.push(`a${c}b${c}${c} `)
        }
        const { ids } = await tokenizer.encodeBatch(texts)
        const hash = createHash('sha256')
        for (const sequence of ids) hash.update(sequence.slice(1, -1))
        if (hash.digest('hex').slice(0, 16) !== digest) wrong.push(block)
      }
      expect(wrong).toEqual([])
    })
  }
})

describe('native and library', () => {
  // Old enough to be in every version of Unicode: there the library is right.
  const alphabet = [...'abAB09 ,.!?()"\'-_中文字。，！？「」\u3000\t\n\u00a0éÀßøñ\u0301\u0308ΑΒσλжщИあアンﾊｶ한글각🙂€½ﬁ①…—']

  test('agree on random texts, prefixes and lengths', async () => {
    for (const flags of [{ do_lower_case: true }, { do_lower_case: false }, { do_lower_case: true, strip_accents: false }]) {
      const path = await folder(`random ${JSON.stringify(flags)}`, flags)
      const [native, library] = [await Tokenizer.load(path), await Tokenizer.load(path, { engine: 'library' })]
      expect([native.engine, library.engine]).toEqual(['native', 'library'])
      const draws = random(7, 'texts')
      const texts = Array.from({ length: 600 }, () =>
        Array.from({ length: draws.int(90) }, () => alphabet[draws.int(alphabet.length)]).join(''),
      )
      for (const maxLength of [3, 17, 64, 512]) {
        for (const prefix of ['', '为：', 'word']) {
          const [a, b] = [await native.encodeBatch(texts, { maxLength, prefix }), await library.encodeBatch(texts, { maxLength, prefix })]
          expect(a).toEqual(b)
        }
      }
    }
  })

  test('agree where the native tokenizer hands a text over: added tokens, lone surrogates', async () => {
    const path = await folder('handed over', {})
    const [native, library] = [await Tokenizer.load(path), await Tokenizer.load(path, { engine: 'library' })]
    const texts = ['a[MASK]b', '[CLS]', '[MASK', `${'中'.repeat(40)}[MASK]`, '[[MASK]]', '文\ud840', '\udc00文', '中[mask]', '']
    for (const maxLength of [3, 8, 512]) {
      const [a, b] = [await native.encodeBatch(texts, { maxLength }), await library.encodeBatch(texts, { maxLength })]
      expect(a.ids).toEqual(b.ids)
      expect([...a.ids[3]!].includes(native.maskId)).toBe(maxLength === 512)
    }
  })

  test('a definition that is more than BERT is left to the library', async () => {
    const path = await folder('other', {})
    await (await Tokenizer.load(path)).save(path)
    const definition = JSON.parse(await readFile(join(path, 'tokenizer.json'), 'utf8'))
    const engineOf = async (change: object): Promise<string> => {
      await writeFile(join(path, 'tokenizer.json'), JSON.stringify({ ...definition, ...change }))
      return (await Tokenizer.load(path)).engine
    }
    expect(await engineOf({})).toBe('native')
    expect(await engineOf({ pre_tokenizer: { type: 'Whitespace' } })).toBe('library')
    expect(await engineOf({ normalizer: { type: 'Sequence', normalizers: [{ type: 'NFC' }, definition.normalizer] } })).toBe('library')
    expect(await engineOf({ added_tokens: definition.added_tokens.map((token: object) => ({ ...token, normalized: true })) })).toBe(
      'library',
    )
  })
})

import { copyFile, mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { Tokenizer } from '../lib/tokenizer/tokenizer.js'

const fixtures = new URL('./fixtures/tokenizer/', import.meta.url).pathname
const reference = JSON.parse(await readFile(join(fixtures, 'ids.json'), 'utf8')) as {
  texts: string[]
  cases: { name: string; flags: Record<string, boolean>; ids: number[][]; maxLength8: number[][] }[]
}

let root = ''
beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), 'bge-tokenizer-'))
})
afterAll(() => rm(root, { recursive: true, force: true }))

/** A folder with the fixture's vocabulary and these flags. */
async function folder(name: string, flags: Record<string, unknown>): Promise<string> {
  const path = join(root, name)
  await mkdir(path, { recursive: true })
  await copyFile(join(fixtures, 'vocab.txt'), join(path, 'vocab.txt'))
  await writeFile(join(path, 'tokenizer_config.json'), JSON.stringify({ tokenizer_class: 'BertTokenizer', ...flags }))
  return path
}

describe('ids equal those of transformers', () => {
  for (const { name, flags, ids, maxLength8 } of reference.cases) {
    test(`${name}: ${reference.texts.length} texts`, async () => {
      const tokenizer = await Tokenizer.load(await folder(name, flags))
      for (const [i, text] of reference.texts.entries()) {
        expect([...tokenizer.encode(text)], JSON.stringify(text)).toEqual(ids[i])
        expect([...tokenizer.encode(text, 8)], JSON.stringify(text)).toEqual(maxLength8[i])
      }
    })
  }

  test('through a saved folder, whose tokenizer.json is read instead of vocab.txt', async () => {
    const path = await folder('again', { do_lower_case: true })
    const saved = join(root, 'saved')
    await mkdir(saved)
    await (await Tokenizer.load(path)).save(saved)
    await rm(join(saved, 'vocab.txt'))
    const tokenizer = await Tokenizer.load(saved)
    const expected = reference.cases[0]!.ids
    for (const [i, text] of reference.texts.entries()) expect([...tokenizer.encode(text)]).toEqual(expected[i])
  })

  test('flags of tokenizer_config.json win over tokenizer.json, and are true where absent', async () => {
    const path = await folder('flags', { do_lower_case: false })
    await (await Tokenizer.load(path)).save(path)
    const lower = async (config: object): Promise<boolean> => {
      await writeFile(join(path, 'tokenizer_config.json'), JSON.stringify(config))
      const tokenizer = await Tokenizer.load(path)
      return tokenizer.encode('THE')[1] === tokenizer.encode('the')[1]
    }
    expect(await lower({ do_lower_case: false })).toBe(false)
    expect(await lower({ do_lower_case: true })).toBe(true)
    expect(await lower({})).toBe(true)
    expect(await lower({ tokenizer_class: 'PreTrainedTokenizerFast' })).toBe(false)
  })
})

describe('Tokenizer', () => {
  test('knows its special tokens, pieces and size', async () => {
    const tokenizer = await Tokenizer.load(await folder('plain', {}))
    const { padId, unkId, clsId, sepId, maskId } = tokenizer
    expect([padId, unkId, clsId, sepId, maskId]).toEqual([0, 1, 2, 3, 4])
    const piece = tokenizer.encode('jumps')[2]!
    expect(tokenizer.tokenOf(piece)).toBe('##s')
    expect(tokenizer.isContinuation(piece)).toBe(true)
    expect(tokenizer.isContinuation(tokenizer.encode('the')[1]!)).toBe(false)
    expect(tokenizer.isSpecial(maskId)).toBe(true)
    expect(tokenizer.isSpecial(piece)).toBe(false)
    expect(tokenizer.tokenOf(tokenizer.vocabSize)).toBeUndefined()
    expect(tokenizer.tokenOf(tokenizer.vocabSize - 1)).toBeTypeOf('string')
  })

  test('a long text is cut early, with the ids of the whole', async () => {
    const tokenizer = await Tokenizer.load(await folder('long', {}))
    const texts = {
      chinese: '今天的天气真不错，'.repeat(12_000),
      english: 'the quick brown fox jumps. '.repeat(4000),
      'one word': 'a'.repeat(100_000),
      'white space first': `${' \n'.repeat(30_000)}${'猫喜欢在阳光下睡觉。'.repeat(3000)}`,
      'words of 150 letters': `${'b'.repeat(150)} `.repeat(700),
      accents: 'e\u0301\u0300 résumé café'.repeat(5000),
      masks: '我[MASK]'.repeat(20_000),
    }
    for (const [name, text] of Object.entries(texts)) {
      // A maximal length that no text reaches makes the tokenizer read it whole.
      const whole = tokenizer.encode(text, 1_000_000)
      for (const maxLength of [3, 17, 128, 512]) {
        const expected = whole.length <= maxLength ? [...whole] : [...whole.subarray(0, maxLength - 1), tokenizer.sepId]
        expect([...tokenizer.encode(text, maxLength)], `${name}, ${maxLength}`).toEqual(expected)
      }
    }
    const start = performance.now()
    for (let i = 0; i < 20; i++) tokenizer.encode(texts.chinese, 512)
    const cut = performance.now() - start
    const wholeStart = performance.now()
    tokenizer.encode(texts.chinese, 1_000_000)
    expect(cut).toBeLessThan(10 * (performance.now() - wholeStart)) // twenty cut texts cost less than ten whole ones: about 1/50 each
  })

  test('encodeBatch counts, prefixes, gives way to the event loop and stops', async () => {
    const tokenizer = await Tokenizer.load(await folder('batch', {}))
    const result = await tokenizer.encodeBatch(['今天', '今天的天气真不错', '囗囗'], { maxLength: 6, prefix: '我' })
    expect([...result.ids[0]!]).toEqual([...tokenizer.encode('我今天')])
    expect([...result.truncated]).toEqual([0, 1, 0])
    const unknown = result.ids.flatMap((ids) => [...ids]).filter((id) => id === tokenizer.unkId).length
    expect(unknown).toBeGreaterThanOrEqual(2)
    expect(result).toMatchObject({ truncatedTexts: 1, tokens: 3 + 4 + 3, unknownTokens: unknown })

    const many = Array.from({ length: 100_000 }, () => '今天的天气真不错，适合出门走走。')
    let turns = 0
    const timer = setInterval(() => turns++, 1)
    await tokenizer.encodeBatch(many)
    clearInterval(timer)
    expect(turns).toBeGreaterThan(2)

    const controller = new AbortController()
    const work = tokenizer.encodeBatch(many, { signal: controller.signal })
    controller.abort()
    await expect(work).rejects.toMatchObject({ name: 'AbortError' })
  })

  test('lowerCase works as sentence-transformers does it: before everything, special tokens excepted', async () => {
    const path = await folder('lower', { do_lower_case: false })
    const cased = await Tokenizer.load(path)
    const lowered = await Tokenizer.load(path, { lowerCase: true })
    expect([...lowered.encode('THE Quick[MASK]')]).toEqual([...cased.encode('the quick[MASK]')])
    expect(lowered.fingerprint).not.toBe(cased.fingerprint)
  })

  test('refuses what is not a string, and folders that are no tokenizer', async () => {
    const tokenizer = await Tokenizer.load(await folder('bad', {}))
    const texts = ['a', 'b', 'c', ['a', 'b']] as unknown as string[]
    await expect(tokenizer.encodeBatch(texts)).rejects.toMatchObject({
      code: 'ERR_BGE_TOKENIZER',
      message: 'texts[3] must be a string, but was an array of 2',
    })
    expect(() => tokenizer.encode(null as unknown as string)).toThrow('text must be a string, but was null')
    expect(() => tokenizer.encode('a', 2)).toThrow('maxLength must be an integer of at least 3')

    const empty = join(root, 'empty')
    await mkdir(empty)
    await expect(Tokenizer.load(empty)).rejects.toMatchObject({
      code: 'ERR_BGE_TOKENIZER',
      message: expect.stringContaining('holds neither'),
    })
    await writeFile(join(empty, 'vocab.txt'), '[PAD]\n[UNK]\n[CLS]\n[SEP]\n我\n')
    await expect(Tokenizer.load(empty)).rejects.toThrow('vocab.txt must hold the special token "[MASK]"')
    await writeFile(join(empty, 'tokenizer.json'), '{"model": {"type": "BPE"}}')
    await expect(Tokenizer.load(empty)).rejects.toThrow('model.type must be "WordPiece", but was "BPE"')
    await writeFile(join(empty, 'tokenizer.json'), '{')
    await expect(Tokenizer.load(empty)).rejects.toThrow('tokenizer.json is not valid JSON')

    const model = { type: 'WordPiece', vocab: { '[UNK]': 0 } }
    for (const [changes, message] of [
      [{ model: { ...model, vocab: { 我: -5 } } }, 'the id of token "我" must be an integer from 0 to 16777215, but was -5'],
      [{ model: { ...model, vocab: { 我: 'abc' } } }, 'the id of token "我" must be an integer from 0 to 16777215, but was "abc"'],
      [{ model: { ...model, vocab: { 我: 1e9 } } }, 'the id of token "我" must be an integer from 0 to 16777215, but was 1000000000'],
      [{ model, added_tokens: [{ id: 1.5, content: '你' }] }, 'the id of token "你" must be an integer from 0 to 16777215, but was 1.5'],
      [{ model, added_tokens: [3] }, 'added_tokens must be a list of {id, content}, but was an array of 1'],
      [{ model, normalizer: { type: 'Sequence' } }, 'normalizer.normalizers must be a list, but was undefined'],
    ] as const) {
      await writeFile(join(empty, 'tokenizer.json'), JSON.stringify(changes))
      await expect(Tokenizer.load(empty)).rejects.toMatchObject({ code: 'ERR_BGE_TOKENIZER', message: expect.stringContaining(message) })
    }
  })
})

import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { loadReranking, loadRetrieval, loadSts } from '../lib/eval/data.js'
import { listTasks } from '../lib/eval/tasks.js'
import { bm25, evaluateBm25 } from '../lib/quickstart/bm25.js'
import { type Corpus, readCorpus } from '../lib/quickstart/corpus.js'
import { prepare, type QuickstartData } from '../lib/quickstart/prepare.js'
import { Tokenizer } from '../lib/tokenizer/tokenizer.js'

const quickstart = fileURLToPath(new URL('../examples/quickstart', import.meta.url))
const out = mkdtempSync(join(tmpdir(), 'bge-quickstart-'))
afterAll(() => rmSync(out, { recursive: true, force: true }))

let corpus: Corpus
let data: QuickstartData
beforeAll(async () => {
  corpus = await readCorpus(join(quickstart, 'corpus'))
  data = await prepare(corpus, out, 42)
})

describe('the data of the quickstart', () => {
  test('the corpus: several hundred articles, ids, titles and texts occur once', () => {
    const all = [...corpus.train, ...corpus.heldOut]
    expect(all.length).toBeGreaterThanOrEqual(280)
    for (const field of ['id', 'title', 'text'] as const) expect(new Set(all.map((article) => article[field])).size).toBe(all.length)
    expect(new Set(all.flatMap(({ questions }) => questions.map(({ q }) => q))).size).toBe(3 * all.length)
    expect(new Set(corpus.heldOut.map(({ topic }) => topic))).toEqual(new Set(corpus.train.map(({ topic }) => topic)))
    expect(corpus.sts.length).toBeGreaterThanOrEqual(80)
  })

  test('nothing of a held-out article and no STS pair is in a training file', () => {
    const training = [data.pretrain, data.pairs, data.train].map((file) => readFileSync(file, 'utf8')).join('')
    const texts = new Set([...training.matchAll(/"(?:[^"\\\\]|\\\\.)*"/g)].map(([text]) => JSON.parse(text) as string))
    const inside = (text: string): boolean => training.includes(JSON.stringify(text).slice(1, -1))
    const sentences = corpus.heldOut.flatMap(({ text }) => text.split(/[。！？]/).filter((part) => part.length >= 12))
    const leaks = [
      ...corpus.heldOut.flatMap(({ text, summary, questions }) => [text, summary, ...questions.map(({ q }) => q)]).filter(inside),
      ...corpus.heldOut.flatMap(({ title, questions }) => [title, ...questions.map(({ a }) => a)]).filter((text) => texts.has(text)),
      ...sentences.filter(inside),
      ...corpus.sts.flatMap(({ text1, text2 }) => [text1 as string, text2 as string]).filter(inside),
    ]
    expect(leaks).toEqual([])
  })

  test('the evaluation folder is what `bge eval` reads', async () => {
    expect((await listTasks(data.evaluation)).map(({ type, name }) => `${type}/${name}`)).toEqual([
      'sts/quickstart',
      'retrieval/heldout',
      'reranking/heldout',
    ])
    const retrieval = await loadRetrieval(join(data.evaluation, 'retrieval/heldout'))
    const reranking = await loadReranking(join(data.evaluation, 'reranking/heldout.jsonl'))
    expect(retrieval.corpus.size).toBe(corpus.train.length + corpus.heldOut.length)
    expect(retrieval.queries.size).toBe(3 * corpus.heldOut.length)
    expect(reranking).toMatchObject({ skipped: 0 })
    expect((await loadSts(join(data.evaluation, 'sts/quickstart.jsonl'))).labels.every((label) => label >= 0 && label <= 5)).toBe(true)
    // Words alone find much, but not everything: the tasks can tell models apart.
    const { ndcg_at_10 } = evaluateBm25(retrieval, reranking)
    expect(ndcg_at_10).toBeGreaterThan(0.3)
    expect(ndcg_at_10).toBeLessThan(0.98)
  })

  test('the tokenizer knows the corpus', async () => {
    expect(existsSync(join(quickstart, 'tokenizer/vocab.txt'))).toBe(true)
    const tokenizer = await Tokenizer.load(join(quickstart, 'tokenizer'))
    expect([tokenizer.padId, tokenizer.unkId, tokenizer.clsId, tokenizer.sepId, tokenizer.maskId]).toEqual([0, 1, 2, 3, 4])
    const trained = await tokenizer.encodeBatch(corpus.train.map(({ text }) => text))
    expect(trained.unknownTokens).toBe(0)
    expect(trained.truncatedTexts).toBe(0)
    const unseen = await tokenizer.encodeBatch(corpus.heldOut.map(({ text }) => text))
    expect(unseen.unknownTokens / unseen.tokens).toBeLessThan(0.002)
  })
})

test('BM25 by hand', () => {
  const scores = bm25(['月食', '日食'])('月食')
  // one of two documents has the bigram: idf = ln(1 + 1.5 / 1.5); frequency 1 in a document of mean length
  expect(scores[0]).toBeCloseTo(Math.log(2), 12)
  expect(scores[1]).toBe(0)
})

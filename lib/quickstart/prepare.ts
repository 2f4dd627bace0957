import { join } from 'node:path'
import { writeFileAtomic } from '../data/atomic.js'
import { type Random, random } from '../data/random.js'
import type { Article, Corpus } from './corpus.js'

/** What the three stages and the evaluation read. */
export interface QuickstartData {
  /** stage 1: {"text"}, a sentence a row */
  readonly pretrain: string
  /** stage 2, pairs that come without labelling: {"query","pos"} */
  readonly pairs: string
  /** stage 3, before mining: {"query","pos"} of every question and its text */
  readonly train: string
  /** folder in the layout of `bge eval`: sts/quickstart, retrieval/heldout, reranking/heldout */
  readonly evaluation: string
}

/** Crops of each text, as in Contriever (Izacard et al. 2022, arXiv 2112.09118, independent cropping): lengths in characters. */
const CROPS = { perText: 60, query: [6, 24], passage: [40, 120] } as const

/**
 * Writes the data of the quickstart below `out`. Training files hold nothing of a held-out article. Its questions are the evaluation queries;
 * all passages, trained on or not, are the corpus to search.
 */
export async function prepare({ train, heldOut, sts }: Corpus, out: string, seed: number): Promise<QuickstartData> {
  const data = {
    pretrain: join(out, 'pretrain.jsonl'),
    pairs: join(out, 'pairs.jsonl'),
    train: join(out, 'train.jsonl'),
    evaluation: join(out, 'eval'),
  }
  await writeRows(
    data.pretrain,
    train.flatMap(({ title, text, summary, questions }) =>
      [title, summary, ...sentences(text), ...questions.map(({ q, a }) => q + a)].map((row) => ({ text: row })),
    ),
  )
  await writeRows(
    data.pairs,
    train.flatMap((article, i) => [...structurePairs(article), ...cropPairs(article.text, random(seed, 'crops', 0, i))]),
  )
  await writeRows(
    data.train,
    train.flatMap(({ text, questions }) => questions.map(({ q }) => ({ query: q, pos: [text] }))),
  )
  await writeEvaluation([...train, ...heldOut], heldOut, sts, data.evaluation)
  return data
}

/** What C-MTP's unlabelled part takes from web pages: title and body, summary and body, questions and answers (C-Pack section 2.2). */
function structurePairs({ title, text, summary, questions }: Article): object[] {
  return [
    { query: title, pos: [text] },
    { query: summary, pos: [text] },
    { query: questions[0]!.q, pos: [text] },
    ...questions.flatMap(({ q, a }) => [
      { query: q, pos: [a] },
      { query: a, pos: [text] },
    ]),
  ]
}

/** Two spans of the same text, drawn apart from each other: what belongs together shares words. */
function cropPairs(text: string, draw: Random): object[] {
  const characters = [...text]
  const crop = ([shortest, longest]: readonly [number, number]): string => {
    const length = Math.min(characters.length, shortest + draw.int(longest - shortest + 1))
    const start = draw.int(characters.length - length + 1)
    return characters.slice(start, start + length).join('')
  }
  return Array.from({ length: CROPS.perText }, () => ({ query: crop(CROPS.query), pos: [crop(CROPS.passage)] }))
}

function sentences(text: string): string[] {
  return text.split(/(?<=[。！？])/).filter((sentence) => [...sentence].length >= 6)
}

async function writeEvaluation(all: readonly Article[], heldOut: readonly Article[], sts: Corpus['sts'], out: string): Promise<void> {
  const queries = heldOut.flatMap((article) => article.questions.map(({ q }, i) => ({ article, id: `${article.id}-q${i + 1}`, text: q })))
  const retrieval = join(out, 'retrieval', 'heldout')
  await writeRows(
    join(retrieval, 'corpus.jsonl'),
    all.map(({ id, text }) => ({ id, text })),
  )
  await writeRows(
    join(retrieval, 'queries.jsonl'),
    queries.map(({ id, text }) => ({ id, text })),
  )
  await writeRows(
    join(retrieval, 'qrels.jsonl'),
    queries.map(({ id, article }) => ({ qid: id, did: article.id, score: 1 })),
  )
  await writeRows(
    join(out, 'reranking', 'heldout.jsonl'),
    queries.map(({ text, article }) => ({
      query: text,
      positive: [article.text],
      negative: all.filter(({ id, topic }) => topic === article.topic && id !== article.id).map((other) => other.text),
    })),
  )
  await writeRows(join(out, 'sts', 'quickstart.jsonl'), sts)
}

function writeRows(file: string, rows: readonly object[]): Promise<void> {
  return writeFileAtomic(file, rows.map((row) => JSON.stringify(row) + '\n').join(''))
}

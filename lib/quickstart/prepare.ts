import { join } from 'node:path'
import { writeFileAtomic } from '../data/atomic.js'
import type { Article, Corpus } from './corpus.js'

/** What the three stages and the evaluation read. */
export interface QuickstartData {
  /** stage 1: {"text"} */
  readonly pretrain: string
  /** stage 2, pairs that need no labels: {"query","pos"} of title and text, summary and text, question and answer, answer and text */
  readonly pairs: string
  /** stage 3, before mining: {"query","pos"} of question and text */
  readonly train: string
  /** folder in the layout of `bge eval`: sts/quickstart, retrieval/heldout, reranking/heldout */
  readonly evaluation: string
}

/**
 * Writes the data of the quickstart below `out`. Training files hold nothing of a held-out article. Its questions are the evaluation queries;
 * all passages, trained on or not, are the corpus to search.
 */
export async function prepare({ train, heldOut, sts }: Corpus, out: string): Promise<QuickstartData> {
  const data = {
    pretrain: join(out, 'pretrain.jsonl'),
    pairs: join(out, 'pairs.jsonl'),
    train: join(out, 'train.jsonl'),
    evaluation: join(out, 'eval'),
  }
  await writeRows(
    data.pretrain,
    train.flatMap(({ title, text, summary, questions }) => [
      { text: `${title}。${text}` },
      { text: [summary, ...questions.map(({ q, a }) => q + a)].join('') },
    ]),
  )
  await writeRows(
    data.pairs,
    train.flatMap(({ title, text, summary, questions }) => [
      { query: title, pos: [text] },
      { query: summary, pos: [text] },
      ...questions.flatMap(({ q, a }) => [
        { query: q, pos: [a] },
        { query: a, pos: [text] },
      ]),
    ]),
  )
  await writeRows(
    data.train,
    train.flatMap(({ text, questions }) => questions.map(({ q }) => ({ query: q, pos: [text] }))),
  )
  await writeEvaluation([...train, ...heldOut], heldOut, sts, data.evaluation)
  return data
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

import { readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { fieldError, type JsonlRow, readJsonl } from '../data/jsonl.js'
import { BgeError } from '../errors.js'

/** A short article of the shipped corpus with three questions that it answers and a summary in other words. */
export interface Article {
  readonly id: string
  readonly topic: string
  readonly title: string
  readonly text: string
  readonly questions: readonly { readonly q: string; readonly a: string }[]
  readonly summary: string
}

export interface Corpus {
  /** articles to train on */
  readonly train: readonly Article[]
  /** articles of the same topics that training never sees */
  readonly heldOut: readonly Article[]
  /** rows {"text1","text2","label"} for evaluation only */
  readonly sts: readonly Readonly<Record<string, unknown>>[]
}

/** The last articles of each topic file are held out. */
const HELD_OUT_PER_TOPIC = 2

/** Reads `TOPIC.jsonl` (articles) and `sts-N.jsonl` of a folder, in the order of their names. Throws ERR_BGE_FILE and ERR_BGE_DATA. */
export async function readCorpus(folder: string): Promise<Corpus> {
  const names = await readdir(folder).catch((cause: Error) => {
    throw new BgeError('ERR_BGE_FILE', `quickstart corpus ${folder} cannot be read: ${cause.message}`, { cause })
  })
  const corpus = { train: [] as Article[], heldOut: [] as Article[], sts: [] as JsonlRow['value'][] }
  for (const name of names.filter((entry) => entry.endsWith('.jsonl')).sort()) {
    const rows: JsonlRow[] = []
    for await (const row of readJsonl(join(folder, name))) rows.push(row)
    if (name.startsWith('sts-')) {
      corpus.sts.push(...rows.map((row) => row.value))
      continue
    }
    const articles = rows.map(article)
    corpus.train.push(...articles.slice(0, -HELD_OUT_PER_TOPIC))
    corpus.heldOut.push(...articles.slice(-HELD_OUT_PER_TOPIC))
  }
  if (corpus.train.length === 0 || corpus.heldOut.length === 0)
    throw new BgeError('ERR_BGE_FILE', `quickstart corpus ${folder} holds no articles`)
  return corpus
}

function article(row: JsonlRow): Article {
  const { questions } = row.value
  if (!Array.isArray(questions) || questions.length === 0) throw fieldError(row, 'questions', 'an array of {"q","a"}', questions)
  return {
    id: string(row, 'id', row.value.id),
    topic: string(row, 'topic', row.value.topic),
    title: string(row, 'title', row.value.title),
    text: string(row, 'text', row.value.text),
    summary: string(row, 'summary', row.value.summary),
    questions: questions.map((question: { q?: unknown; a?: unknown }, i) => ({
      q: string(row, `questions[${i}].q`, question?.q),
      a: string(row, `questions[${i}].a`, question?.a),
    })),
  }
}

function string(row: JsonlRow, field: string, value: unknown): string {
  if (typeof value !== 'string' || value.trim() === '') throw fieldError(row, field, 'a text that is not empty', value)
  return value
}

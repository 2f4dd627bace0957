import { emptyFile, fieldError, pairRow, readJsonl } from './jsonl.js'
import type { Source } from './plan.js'
import { random, type Random } from './random.js'

/** A row whose texts are numbered: equal strings have equal numbers in the whole data set. */
export interface PairExample {
  /** number of the query text */
  readonly query: number
  /** replaces the run's instruction */
  readonly prompt?: string
  /** numbers of passage texts */
  readonly pos: Int32Array
  readonly neg: Int32Array
  readonly posScores?: readonly number[]
  readonly negScores?: readonly number[]
}

export interface PairData {
  readonly rows: readonly PairExample[]
  /** one per file */
  readonly sources: readonly Source[]
  readonly queries: readonly string[]
  readonly passages: readonly string[]
  /** passage numbers, ascending, that any row lists as a positive of the query */
  positives(query: number): Int32Array
}

/**
 * Reads rows `{"query","pos",...}`. `groupSize` > 1 needs a non-empty `neg` in every row, `scores` needs teacher scores.
 * Throws ERR_BGE_DATA `file:line: ...`.
 */
export async function readPairs(files: readonly string[], needs: { groupSize: number; scores: boolean }): Promise<PairData> {
  const queries = numbering()
  const passages = numbering()
  const rows: PairExample[] = []
  const sources: Source[] = []
  const positives = new Map<number, number[]>()
  for (const file of files) {
    const start = rows.length
    for await (const line of readJsonl(file)) {
      const row = pairRow(line)
      if (needs.groupSize > 1 && row.neg.length === 0) {
        throw fieldError(
          row,
          'neg',
          `at least one negative text because groupSize is ${needs.groupSize} (bge mine finds some)`,
          line.value.neg,
        )
      }
      if (needs.scores && !row.posScores) throw fieldError(row, 'pos_scores', 'teacher scores because distillation is on', undefined)
      if (needs.scores && needs.groupSize > 1 && !row.negScores) {
        throw fieldError(row, 'neg_scores', 'teacher scores because distillation is on', undefined)
      }
      const query = queries.number(row.query)
      const pos = Int32Array.from(row.pos, passages.number)
      const known = positives.get(query)
      if (known) known.push(...pos)
      else positives.set(query, [...pos])
      rows.push({
        query,
        pos,
        neg: Int32Array.from(row.neg, passages.number),
        ...(row.prompt !== undefined && { prompt: row.prompt }),
        ...(needs.scores && row.posScores && { posScores: row.posScores }),
        ...(needs.scores && row.negScores && { negScores: row.negScores }),
      })
    }
    if (rows.length === start) throw emptyFile(file)
    sources.push({ name: file, start, end: rows.length })
  }
  return { rows, sources, queries: queries.texts, passages: passages.texts, positives: (query) => ascending(positives.get(query)!) }
}

/**
 * Chooses one positive and groupSize - 1 negatives of a row (recipe.md 3.4): indices into `pos` and `neg`. Negatives are drawn without
 * replacement; a list that is too short is repeated until it is long enough.
 */
export function chooseGroup(row: PairExample, groupSize: number, draw: Random): { positive: number; negatives: number[] } {
  const positive = draw.int(row.pos.length)
  const wanted = groupSize - 1
  if (wanted === 0) return { positive, negatives: [] }
  const copies = Math.ceil(wanted / row.neg.length)
  const pool = Array.from({ length: copies * row.neg.length }, (_, i) => i % row.neg.length)
  return { positive, negatives: draw.sample(pool, wanted) }
}

/** The passages of some rows and the identities of all texts, as the contrastive loss wants them. */
export interface ChosenBatch {
  /** (B*G) the positive of each query first */
  readonly passageIds: Int32Array
  /** (B) */
  readonly queryIds: Int32Array
  /** (B+1), and passage numbers ascending inside a row: everything listed as a positive of the query */
  readonly positiveOffsets: Int32Array
  readonly positiveIds: Int32Array
  /** (B*G) softmax of the teacher scores of each group; only with `distillation` */
  readonly teacher?: Float32Array
}

/** Chooses the group of each row for one epoch: a pure function of (seed, epoch, row). */
export function chooseBatch(
  data: PairData,
  rows: Int32Array,
  options: { groupSize: number; distillation: string; seed: number; epoch: number },
): ChosenBatch {
  const { groupSize, distillation, seed, epoch } = options
  const passageIds: number[] = []
  const teacher: number[] = []
  const positiveOffsets = [0]
  const positiveIds: number[] = []
  for (const index of rows) {
    const row = data.rows[index]!
    const { positive, negatives } = chooseGroup(row, groupSize, random(seed, 'group', epoch, index))
    passageIds.push(row.pos[positive]!, ...negatives.map((n) => row.neg[n]!))
    if (distillation !== 'none') teacher.push(...softmax([row.posScores![positive]!, ...negatives.map((n) => row.negScores![n]!)]))
    positiveIds.push(...data.positives(row.query))
    positiveOffsets.push(positiveIds.length)
  }
  return {
    passageIds: Int32Array.from(passageIds),
    queryIds: Int32Array.from(rows, (index) => data.rows[index]!.query),
    positiveOffsets: Int32Array.from(positiveOffsets),
    positiveIds: Int32Array.from(positiveIds),
    ...(teacher.length > 0 && { teacher: Float32Array.from(teacher) }),
  }
}

/** softmax of one group's teacher scores, in double precision */
export function softmax(scores: readonly number[]): number[] {
  const highest = Math.max(...scores)
  const exponentials = scores.map((score) => Math.exp(score - highest))
  const sum = exponentials.reduce((a, b) => a + b, 0)
  return exponentials.map((x) => x / sum)
}

function numbering(): { readonly texts: string[]; number: (text: string) => number } {
  const texts: string[] = []
  const numbers = new Map<string, number>()
  return {
    texts,
    number: (text) => {
      let n = numbers.get(text)
      if (n === undefined) {
        n = texts.push(text) - 1
        numbers.set(text, n)
      }
      return n
    },
  }
}

function ascending(values: number[]): Int32Array {
  return Int32Array.from(new Set(values)).sort()
}

import { readLines } from '../data/jsonl.js'
import { BgeError, invalidArgument } from '../errors.js'
import { EvaluationIndex, type EvaluationText, type Overlap, type OverlapRule, type OverlapSettings } from './evaluation_index.js'
import { shardWriter } from './shards.js'
import { parseRow } from './stored_row.js'

export type { EvaluationText, OverlapRule, OverlapSettings } from './evaluation_index.js'

export interface DecontaminateOptions {
  /** rows in an output file. Default 250,000 */
  shardRows?: number
  signal?: AbortSignal | undefined
  onProgress?: (done: number) => void
}

export interface OverlapSample {
  rule: OverlapRule
  similarity: number
  source: string
  at: string
  /** of the row */
  text: string
  /** of the evaluation, and where it is there */
  evaluation: string
  field: string
}

export interface TaskOverlap {
  /** evaluation texts looked for */
  texts: number
  /** evaluation texts of fewer than 6 characters: not looked for */
  short: number
  /** rows dropped for this task, by the strongest rule; a row may count for several tasks */
  rows: Record<OverlapRule, number>
  /** the first ten rows */
  samples: OverlapSample[]
}

export interface DecontaminationReport {
  read: number
  dropped: number
  kept: number
  bySource: Record<string, { read: number; dropped: number }>
  byTask: Record<string, TaskOverlap>
  files: string[]
}

/**
 * Drops every row whose query or one of whose positives repeats a text of an evaluation set, and writes the others in their order to
 * `outDir`/part-00000.jsonl, ... Texts are compared in the form of normaliseForIdentity. A row's text repeats an evaluation text when
 * - equal: both are the same;
 * - near: the Jaccard similarity of their sets of bigrams is at least `threshold`: short texts with a small change;
 * - ngram: of the n-grams of the shorter one (each at least `ngram` characters long) at least half are in the other one: an evaluation text inside a
 *   longer passage, or an excerpt of it.
 *
 * Why 13 characters: a Chinese word has 1.6 characters on average, so 13 are about 8 words, the n-gram of PaLM's overlap analysis (arXiv
 * 2204.02311, section 8: at least 70 % of the 8-grams); the 13 words of GPT-3 (arXiv 2005.14165, appendix C) would be 21 characters, longer than most
 * Chinese queries. One shared n-gram alone drops nothing: idioms, names of offices and set phrases reach 13 characters.
 *
 * Throws ERR_BGE_ARGUMENT, ERR_BGE_DATA `file:line: ...`, also where there is no evaluation text, ERR_BGE_FILE; then no output is left.
 */
export async function decontaminate(
  inputs: readonly string[],
  evaluationTexts: AsyncIterable<EvaluationText> | Iterable<EvaluationText>,
  outDir: string,
  settings: OverlapSettings,
  options: DecontaminateOptions = {},
): Promise<DecontaminationReport> {
  const { shardRows = 250_000, signal, onProgress = () => {} } = options
  const { ngram, threshold } = settings
  if (!Number.isSafeInteger(ngram) || ngram < 4) throw invalidArgument('decontaminate.ngram', 'an integer of at least 4', ngram)
  if (!(threshold > 0 && threshold <= 1)) throw invalidArgument('decontaminate.threshold', 'above 0, at most 1', threshold)
  const index = new EvaluationIndex(settings)
  for await (const text of evaluationTexts) {
    signal?.throwIfAborted()
    index.add(text)
  }
  if (index.tasks.size === 0)
    throw new BgeError('ERR_BGE_DATA', 'decontamination expected evaluation texts, but the evaluation set has none')
  index.build()
  const report: DecontaminationReport = { read: 0, dropped: 0, kept: 0, bySource: {}, byTask: {}, files: [] }
  for (const [task, counts] of [...index.tasks].sort(([a], [b]) => (a < b ? -1 : 1))) {
    report.byTask[task] = { ...counts, rows: { equal: 0, near: 0, ngram: 0 }, samples: [] }
  }
  const writer = shardWriter(outDir, shardRows)
  try {
    for (const file of inputs) {
      let number = 0
      for await (const line of readLines(file)) {
        number++
        if (line.trim() === '') continue
        const row = parseRow(line, file, number)
        const source = (report.bySource[row.source] ??= { read: 0, dropped: 0 })
        source.read++
        if (++report.read % 1000 === 0) {
          signal?.throwIfAborted()
          onProgress(report.read)
        }
        const overlaps = byTask([row.query, ...row.pos], index)
        if (overlaps.size === 0) {
          await writer.write(line)
          continue
        }
        source.dropped++
        report.dropped++
        for (const [task, { rule, similarity, evaluation, text }] of overlaps) {
          const { rows, samples } = report.byTask[task]!
          rows[rule]++
          if (samples.length < 10) {
            samples.push({ rule, similarity, source: row.source, at: row.at, text, evaluation: evaluation.text, field: evaluation.field })
          }
        }
      }
    }
    report.files = await writer.commit()
  } finally {
    await writer.discard()
  }
  report.kept = report.read - report.dropped
  return report
}

const STRENGTH: readonly OverlapRule[] = ['equal', 'near', 'ngram']

/** task -> the strongest overlap of any of the texts */
function byTask(texts: readonly string[], index: EvaluationIndex): Map<string, Overlap & { text: string }> {
  const found = new Map<string, Overlap & { text: string }>()
  for (const text of texts) {
    for (const overlap of index.find(text)) {
      const before = found.get(overlap.evaluation.task)
      if (before && STRENGTH.indexOf(before.rule) <= STRENGTH.indexOf(overlap.rule)) continue
      found.set(overlap.evaluation.task, { ...overlap, text })
    }
  }
  return found
}

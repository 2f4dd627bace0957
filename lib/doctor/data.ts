import { dataFiles } from '../data/jsonl.js'
import { dataStats } from '../data/stats.js'
import { describeFinding, type Finding, validateFiles } from '../data/validate.js'
import { BgeError } from '../errors.js'
import type { Tokenizer } from '../tokenizer/tokenizer.js'
import type { DoctorFinding } from './doctor.js'

type Say = (finding: DoctorFinding) => void
const percent = (share: number): string => `${(100 * share).toFixed(1)} %`

/** Rows that cannot be trained on, repetitions, truncation, unknown tokens; with a tokenizer the last two. */
export async function checkData(
  paths: readonly string[],
  tokenizer: Tokenizer | undefined,
  signal: AbortSignal | undefined,
  say: Say,
): Promise<void> {
  try {
    const files = await dataFiles(paths)
    let first: Finding | undefined
    const reports = await validateFiles(files, {
      onFinding: (finding) => {
        first ??= finding
      },
      ...(signal && { signal }),
    })
    for (const { file, rows, form, right, mendable, lost } of reports) {
      if (rows > 0 && right === rows) say({ area: 'data', status: 'ok', found: `${file}: ${rows} rows (${form}), all right` })
      else {
        const found = `${file}: ${rows} rows, ${mendable} mendable, ${lost} to be dropped; ${first?.file === file ? describeFinding(first) : ''}`
        say({
          area: 'data',
          status: 'problem',
          found,
          advice: `bge data validate ${file} names every row; with --fix it writes a mended file`,
        })
        first = undefined
      }
    }
    const stats = await dataStats(files, { ...(tokenizer && { tokenizer }), ...(signal && { signal }) })
    if (stats.positives === 0) return // texts for stage 1
    sayShare(
      stats.repeated / stats.rows,
      0.01,
      'of the rows repeat another row',
      'bge curate removes duplicates; equal texts are masked as negatives in any case',
      say,
    )
    sayShare(
      stats.queryIsPositive / stats.rows,
      0,
      'of the rows have their query as a positive',
      'such rows teach nothing: bge curate drops them',
      say,
    )
    if (stats.negatives === 0) {
      const advice = 'stage 2 needs none; for stage 3 run bge mine'
      say({ area: 'data', status: 'note', found: 'no row has hard negatives: only in-batch negatives can be used', advice })
    }
    if (stats.tokens) {
      const { query, pos } = stats.tokens
      const unknown = Math.max(query.unknown, pos.unknown)
      sayShare(unknown, 0.01, 'of the tokens are [UNK]', 'the vocabulary does not fit this text', say)
      const cut = pos.cut[512] ?? 0
      sayShare(
        cut,
        0.05,
        'of the positives are longer than 512 tokens and will be cut',
        'split long passages, or accept that their ends are unseen',
        say,
      )
    }
  } catch (error) {
    if (!(error instanceof BgeError)) throw error
    say({ area: 'data', status: 'problem', found: `[${error.code}] ${error.message}` })
  }
}

function sayShare(share: number, most: number, what: string, advice: string, say: Say): void {
  if (share > most) say({ area: 'data', status: 'warning', found: `${percent(share)} ${what}`, advice })
}

import { resolve } from 'node:path'
import { BgeError } from '../errors.js'
import { createBufferedAtomic } from './atomic.js'
import { detectForm, FORM_EXAMPLES, type FormColumns, type RawRow, readRawRows, type RowForm } from './forms.js'
import { checkRow, type FixedRow, type RowFinding } from './row_check.js'

export type { RowForm } from './forms.js'

/** Something that is wrong with a row, and what mending does about it. */
export interface Finding extends RowFinding {
  readonly file: string
  /** 1-based; of a CSV record its first line */
  readonly line: number
}

/** What is in a training file, and what is wrong with it. */
export interface FileReport {
  readonly file: string
  /** form of the first row that has one; null where none has */
  readonly form: RowForm | null
  readonly rows: number
  /** rows with nothing wrong */
  readonly right: number
  /** rows whose faults can all be mended */
  readonly mendable: number
  /** rows that must be dropped */
  readonly lost: number
  /** findings of a kind: `field expected ...`, without the place, and what mending does */
  readonly kinds: readonly { readonly kind: string; readonly fix: string; readonly count: number }[]
  /** the mended file; null unless asked for */
  readonly fixed: string | null
}

/** Of `validateFiles`. */
export interface ValidateOptions {
  /** 'write': mended rows go to FILE.fixed.jsonl as FlagEmbedding rows. Default 'none' */
  fix?: 'none' | 'write'
  /** told every finding, in order */
  onFinding?: (finding: Finding) => void
  signal?: AbortSignal
}

/**
 * Checks training rows: FlagEmbedding JSONL, triplets, pairs and texts as JSONL, CSV or TSV (forms.ts). A file holds one form, that of its first row.
 * Memory does not grow with the file. With fix 'write' every file gets a FILE.fixed.jsonl of FlagEmbedding rows (or {"text"}), which appears
 * whole or not at all; the input is never written to.
 * Errors: ERR_BGE_FILE, ERR_BGE_ARGUMENT where two files would be mended into the same one or into an input.
 */
export async function validateFiles(files: readonly string[], options: ValidateOptions = {}): Promise<FileReport[]> {
  const targets = files.map((file) => (options.fix === 'write' ? fixedName(file) : null))
  const taken = new Set(files.map((file) => resolve(file)))
  for (const [i, target] of targets.entries()) {
    if (target === null) continue
    if (taken.has(resolve(target))) {
      throw new BgeError(
        'ERR_BGE_ARGUMENT',
        `${files[i]} would be mended into ${target}, which is another file of this call: mend them one by one`,
      )
    }
    taken.add(resolve(target))
  }
  const reports: FileReport[] = []
  for (const [i, file] of files.entries()) reports.push(await validateFile(file, targets[i]!, options))
  return reports
}

/** train.csv -> train.fixed.jsonl */
function fixedName(file: string): string {
  return file.replace(/\.(jsonl?|csv|tsv)$/i, '') + '.fixed.jsonl'
}

async function validateFile(file: string, target: string | null, { onFinding, signal }: ValidateOptions): Promise<FileReport> {
  const counts = { rows: 0, right: 0, mendable: 0, lost: 0 }
  const kinds = new Map<string, { kind: string; fix: string; count: number }>()
  let columns: FormColumns | undefined
  const out = target === null ? undefined : await createBufferedAtomic(target)
  try {
    for await (const raw of readRawRows(file)) {
      signal?.throwIfAborted()
      counts.rows++
      if ('value' in raw && columns === undefined) {
        const found = detectForm(raw.value)
        if (found !== 'labelled') columns = found
      }
      const { row, findings } = check(raw, columns)
      for (const finding of findings) {
        onFinding?.({ file, line: raw.line, ...finding })
        const kind = `${finding.field === undefined ? 'row' : `field ${finding.field.replace(/\[\d+\]/, '[]')}`} expected ${finding.expected}`
        const known = kinds.get(kind + finding.fix) ?? { kind, fix: finding.fix, count: 0 }
        known.count++
        kinds.set(kind + finding.fix, known)
      }
      counts[findings.length === 0 ? 'right' : row ? 'mendable' : 'lost']++
      if (row) await out?.write(JSON.stringify(row) + '\n')
    }
    if (counts.rows === 0) onFinding?.({ file, line: 1, expected: 'at least one row', actual: 'nothing', fix: 'none' })
    if (counts.right + counts.mendable > 0) await out?.commit()
  } finally {
    await out?.discard()
  }
  const written = counts.right + counts.mendable > 0
  return { file, form: columns?.form ?? null, ...counts, kinds: [...kinds.values()], fixed: written ? target : null }
}

function check(raw: RawRow, columns: FormColumns | undefined): { row?: FixedRow | undefined; findings: readonly RowFinding[] } {
  if ('problem' in raw) return { findings: [{ ...raw.problem, fix: raw.problem.fatal ? 'rest of the file dropped' : 'row dropped' }] }
  const own = detectForm(raw.value)
  const names = Object.keys(raw.value).slice(0, 8).join(', ')
  const lost = (expected: string, actual: string): { findings: RowFinding[] } => ({ findings: [{ expected, actual, fix: 'row dropped' }] })
  if (own === 'labelled')
    return lost(`a row without label: labelled pairs become rows with pos and neg by bge curate`, `the fields ${names}`)
  if (own === undefined || columns === undefined) {
    // A FlagEmbedding row that lacks one of its two fields is most likely that, so name the field.
    const near = columns?.form === 'flagembedding' || 'query' in raw.value || 'pos' in raw.value
    if (near) {
      const field = 'query' in raw.value ? 'pos' : 'query'
      return {
        findings: [
          {
            field,
            expected: `to be there, as in ${FORM_EXAMPLES.flagembedding}`,
            actual: `missing (fields: ${names})`,
            fix: 'row dropped',
          },
        ],
      }
    }
    return lost(`one of ${Object.values(FORM_EXAMPLES).join(', ')}`, `the fields ${names === '' ? 'none' : names}`)
  }
  if (own.query !== columns.query || own.pos !== columns.pos) {
    return lost(
      `a row like the first, ${columns.form} by the fields ${[columns.query, columns.pos].filter(Boolean).join(' and ')}`,
      `the fields ${names}`,
    )
  }
  return checkRow(raw.value, own)
}

/** `file:line:column: field pos[1] expected a string, but was 12; mended: written as text` */
export function describeFinding({ file, line, column, field, expected, actual, fix }: Finding): string {
  const place = column === undefined ? `${file}:${line}` : `${file}:${line}:${column}`
  return `${place}: ${field === undefined ? '' : `field ${field} `}expected ${expected}, but was ${actual} (--fix: ${fix})`
}

import { emptyFile, fieldError, type JsonlRow, pairRow, readJsonl } from '../data/jsonl.js'

/** Pairs of a file, each with where it came from. */
export interface FilePairs {
  a: string[]
  b: string[]
  /** 0 or 1 of each pair; undefined where the file has no labels */
  labels: number[] | undefined
}

/**
 * Rows {"text1","text2"} with a "label" 0 or 1 in all of them or in none; or training rows {"query","pos","neg"}: each query with its positives (1) and
 * negatives (0). Throws ERR_BGE_FILE, ERR_BGE_DATA `file:line: ...`.
 */
export async function readPairs(file: string): Promise<FilePairs> {
  const pairs = { a: [] as string[], b: [] as string[] }
  const labels: number[] = []
  const add = (a: string, b: string, label: number | undefined): void => {
    pairs.a.push(a)
    pairs.b.push(b)
    if (label !== undefined) labels.push(label)
  }
  let labelled: boolean | undefined
  for await (const row of readJsonl(file)) {
    if ('query' in row.value) {
      const { query, pos, neg } = pairRow(row)
      labelled ??= true
      for (const text of pos) add(query, text, 1)
      for (const text of neg) add(query, text, 0)
      continue
    }
    const { label } = row.value
    labelled ??= label !== undefined
    if (labelled && ![0, 1, '0', '1'].includes(label as number)) throw fieldError(row, 'label', '0 or 1', label)
    add(text(row, 'text1'), text(row, 'text2'), labelled ? Number(label) : undefined)
  }
  if (pairs.a.length === 0) throw emptyFile(file)
  return { ...pairs, labels: labelled ? labels : undefined }
}

function text(row: JsonlRow, field: string): string {
  const value = row.value[field]
  if (typeof value !== 'string') throw fieldError(row, field, 'a string', value)
  return value
}

import { access } from 'node:fs/promises'
import { basename, dirname, join } from 'node:path'
import { fieldError, readJsonl, type JsonlRow } from '../data/jsonl.js'
import { BgeError } from '../errors.js'
import { type ClassificationData, classification, type ClusteringData, type Labeled, type PairClassificationData } from './cmteb/load.js'

/** Rows `{"text1","text2","label"}` with label 0 or 1. Throws ERR_BGE_DATA `file:line: ...`, also where only one label occurs. */
export async function loadPairs(file: string): Promise<PairClassificationData> {
  const data = { text1: [] as string[], text2: [] as string[], labels: [] as number[] }
  for await (const row of readJsonl(file)) {
    data.text1.push(text(row, 'text1'))
    data.text2.push(text(row, 'text2'))
    const label = Number(row.value.label)
    if (!['0', '1'].includes(String(row.value.label))) throw fieldError(row, 'label', '0 or 1', row.value.label)
    data.labels.push(label)
  }
  if (new Set(data.labels).size < 2) throw oneLabel(file, data.labels)
  return data
}

/** Rows `{"text","label"}`: one set. Throws ERR_BGE_DATA `file:line: ...`, also where only one label occurs. */
export async function loadClustering(file: string): Promise<ClusteringData> {
  const { texts, labels } = await labelled(file)
  return { sets: [{ texts, labels: labels.map(String) }] }
}

/**
 * Rows `{"text","label"}` of NAME.test.jsonl and of NAME.jsonl, the training half: beside it, or under `train/classification/` next to the data
 * folder. Throws ERR_BGE_FILE where there is no training half, ERR_BGE_DATA `file:line: ...`.
 */
export async function loadClassification(testFile: string): Promise<ClassificationData> {
  return classification(await labelled(await trainFile(testFile)), await labelled(testFile))
}

/** The training half that belongs to NAME.test.jsonl. */
export async function trainFile(testFile: string): Promise<string> {
  const name = basename(testFile).replace(/\.test\.jsonl$/, '.jsonl')
  const places = [join(dirname(testFile), name), join(dirname(testFile), '..', '..', 'train', 'classification', name)]
  for (const place of places) {
    const there = await access(place).then(
      () => true,
      () => false,
    )
    if (there) return place
  }
  throw new BgeError('ERR_BGE_FILE', `classification task ${testFile} needs its training half ${places.join(' or ')}, but neither is there`)
}

async function labelled(file: string): Promise<Labeled> {
  const data: Labeled = { texts: [], labels: [] }
  for await (const row of readJsonl(file)) {
    data.texts.push(text(row, 'text'))
    const { label } = row.value
    if (typeof label !== 'string' && !Number.isSafeInteger(label)) throw fieldError(row, 'label', 'an integer or a string', label)
    data.labels.push(label as string | number)
  }
  if (new Set(data.labels).size < 2) throw oneLabel(file, data.labels)
  return data
}

function oneLabel(file: string, labels: readonly unknown[]): BgeError {
  const count = new Set(labels).size
  return new BgeError(
    'ERR_BGE_DATA',
    `${file}: expected at least two different labels, but it has ${labels.length} rows and ${count} labels`,
  )
}

/** A text of a benchmark may be empty. */
function text(row: JsonlRow, field: string): string {
  const value = row.value[field]
  if (typeof value !== 'string') throw fieldError(row, field, 'a string', value)
  return value
}

import { readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { cleanSource } from '../../lib/curate/clean.js'
import type { Recipe } from '../../lib/curate/recipe.js'
import { type Row, textId } from '../../lib/curate/row.js'
import { scoredLines } from '../../lib/curate/semantic.js'
import { emptyTally } from '../../lib/curate/tally.js'
import { readLines } from '../../lib/data/jsonl.js'
import { averageRanks } from '../../lib/eval/metrics.js'
import type { DirtyRow, Kind, Pair } from './dirt.js'

/** The steps of a curation, as the folders of its work/. */
const STEPS = { clean: '1-clean', dedup: '2-dedup', decontaminate: '3-decontaminate' } as const

export interface Outcomes {
  /** kind -> planted rows, and what became of them; shares are of planted rows */
  readonly kinds: Readonly<Record<string, { planted: number; dropped: number; mended: number; left: number; recall: number }>>
  /** lines, glued and personal: kind -> added text -> [added, removed]. Personal data by its form */
  readonly added: Readonly<Record<string, Readonly<Record<string, readonly [number, number]>>>>
  /** rows without a planted fault that were dropped, by step; a row that still has a copy among the survivors is not lost */
  readonly lost: Readonly<Record<keyof typeof STEPS | 'rows' | 'share', number>>
  /** dropped rows that had a planted fault, of all dropped rows */
  readonly precision: number
}

/**
 * What a curation did to planted rows.
 * - exact, near: planted are the copies; left are the members of a group (the original and its copies) beyond one. Which of them stays does not matter.
 * - lines, glued, markup: mended when the passage is the original one after the same cleaning (compared by id: without white space and punctuation).
 * - personal: mended when what was planted is not in the text any more.
 * Lines, glued and personal also count what was added, line by line.
 */
export async function outcomes(
  recipe: Recipe,
  data: string,
  out: string,
  originals: readonly Pair[],
  planted: readonly DirtyRow[],
): Promise<Outcomes> {
  const steps = new Map<keyof typeof STEPS, Map<number, Row>>()
  for (const [step, folder] of Object.entries(STEPS)) steps.set(step as keyof typeof STEPS, await rowsOf(join(out, 'work', folder)))
  const survivors = steps.get('decontaminate')!
  const expected = await cleanedPassages(recipe, join(data, 'original.jsonl'))

  const kinds: Record<string, { planted: number; dropped: number; mended: number; left: number; recall: number }> = {}
  const added: Record<string, Record<string, [number, number]>> = {}
  const groups = new Map<number, number>()
  for (const [i, { kind, origin }] of planted.entries()) {
    const row = survivors.get(i)
    if (row && (kind === 'intact' || kind === 'exact' || kind === 'near')) groups.set(origin, (groups.get(origin) ?? 0) + 1)
  }
  const lost = { rows: 0, clean: 0, dedup: 0, decontaminate: 0, share: 0 }
  const excess: Partial<Record<Kind, Set<number>>> = {}
  for (const [i, { kind, origin, added: texts }] of planted.entries()) {
    const row = survivors.get(i)
    if (kind === 'intact') {
      lost.rows++
      if (row || groups.has(origin)) continue
      const step = (Object.keys(STEPS) as (keyof typeof STEPS)[]).find((name) => !steps.get(name)!.has(i))!
      lost[step]++
      continue
    }
    const count = (kinds[kind] ??= { planted: 0, dropped: 0, mended: 0, left: 0, recall: 0 })
    count.planted++
    for (const text of texts ?? []) {
      const tally = ((added[kind] ??= {})[kind === 'personal' ? form(text) : text] ??= [0, 0])
      tally[0]++
      if (row === undefined || !row.pos[0]!.includes(text)) tally[1]++
    }
    if (kind === 'exact' || kind === 'near') {
      ;(excess[kind] ??= new Set()).add(origin)
    } else if (!row) count.dropped++
    else if (mended(kind, row, originals[origin]!, expected.get(origin), texts)) count.mended++
    else count.left++
  }
  for (const kind of ['exact', 'near'] as const) {
    const count = kinds[kind]!
    for (const origin of excess[kind] ?? []) count.left += Math.max(0, (groups.get(origin) ?? 0) - 1)
    count.dropped = count.planted - count.left
  }
  for (const count of Object.values(kinds)) count.recall = (count.dropped + count.mended) / count.planted
  const [wrong, dropped] = [lost.clean + lost.dedup + lost.decontaminate, planted.length - survivors.size]
  lost.share = wrong / lost.rows
  return { kinds, added, lost, precision: (dropped - wrong) / dropped }
}

/** What a curation would have left if it had known the rows whose passage is not that of the query. */
export async function perfect(out: string, planted: readonly DirtyRow[]): Promise<Pick<Row, 'query' | 'pos'>[]> {
  const rows = [...(await rowsOf(join(out, 'work', STEPS.decontaminate)))]
  const right = rows.filter(([i]) => planted[i]!.kind !== 'mismatched' && planted[i]!.kind !== 'dead')
  return right.map(([, { query, pos }]) => ({ query, pos }))
}

/** 138 1234 5678 -> 000 0000 0000 */
function form(data: string): string {
  return data.replaceAll(/[0-9]/g, '0').replace(/X$/, '0')
}

function mended(kind: Kind, row: Row, original: Pair, expected: string | undefined, added: readonly string[] | undefined): boolean {
  if (kind === 'personal') return !added!.some((text) => row.pos[0]!.includes(text))
  if (kind === 'mismatched' || kind === 'dead') return false // the words are right, the pair is not
  return row.posIds[0] === (expected ?? textId(original.pos[0]))
}

/** Passage ids of the originals after cleaning, by index. */
async function cleanedPassages(recipe: Recipe, file: string): Promise<Map<number, string>> {
  const source = recipe.sources[0]!
  const found = new Map<number, string>()
  await cleanSource(source, file, source.clean, (row) => void found.set(indexOf(row), row.posIds[0]!), emptyTally())
  return found
}

/** Rows of a step by their index in the file that was curated. */
async function rowsOf(folder: string): Promise<Map<number, Row>> {
  const rows = new Map<number, Row>()
  for (const file of await filesOf(folder)) {
    for await (const line of readLines(file)) {
      const row = JSON.parse(line) as Row
      rows.set(indexOf(row), row)
    }
  }
  return rows
}

async function filesOf(folder: string): Promise<string[]> {
  return (await readdir(folder))
    .filter((name) => name.endsWith('.jsonl'))
    .sort()
    .map((name) => join(folder, name))
}

function indexOf({ at }: Row): number {
  return Number(at.slice(at.lastIndexOf(':') + 1)) - 1
}

export interface Filtering {
  readonly rows: number
  readonly kept: number
  readonly threshold: number
  /** kind -> rows that came in, rows that the filter dropped, their share */
  readonly kinds: Readonly<Record<string, { rows: number; dropped: number; share: number }>>
  /** dropped rows that were mismatched or dead, of all dropped rows */
  readonly precision: number
  /** probability that an intact row scores above a mismatched one */
  readonly auc: number
}

/** What the semantic filter of a curation did to planted rows. */
export async function filtering(out: string, planted: readonly DirtyRow[]): Promise<Filtering> {
  const { threshold, kept, rows } = (JSON.parse(await readFile(join(out, 'summary.json'), 'utf8')) as { semantic: Filtering }).semantic
  const scores = join(out, 'work/4-semantic')
  const [folder] = await readdir(scores)
  const kinds: Record<string, { rows: number; dropped: number; share: number }> = {}
  const byKind: Partial<Record<Kind, number[]>> = {}
  for await (const { line, score } of scoredLines(await filesOf(join(out, 'work', STEPS.decontaminate)), join(scores, folder!))) {
    const { kind } = planted[indexOf(JSON.parse(line) as Row)]!
    const count = (kinds[kind] ??= { rows: 0, dropped: 0, share: 0 })
    count.rows++
    if (score < threshold) count.dropped++
    ;(byKind[kind] ??= []).push(score)
  }
  for (const count of Object.values(kinds)) count.share = count.dropped / count.rows
  const wrong = (kinds['mismatched']?.dropped ?? 0) + (kinds['dead']?.dropped ?? 0)
  return { rows, kept, threshold, kinds, precision: wrong / (rows - kept), auc: areaUnder(byKind.intact ?? [], byKind.mismatched ?? []) }
}

/** Mann-Whitney: from the ranks of the better ones among all. */
function areaUnder(better: readonly number[], worse: readonly number[]): number {
  const ranks = averageRanks([...better, ...worse])
  let sum = 0
  for (let i = 0; i < better.length; i++) sum += ranks[i]!
  return (sum - (better.length * (better.length + 1)) / 2) / (better.length * worse.length)
}

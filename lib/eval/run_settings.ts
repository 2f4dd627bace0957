import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { writeFileAtomic } from '../data/atomic.js'

/** One line of run_settings.jsonl: how a task was run. */
export interface RunSettings {
  readonly task: string
  readonly splits: readonly string[]
  readonly subsets: readonly string[]
  /** package -> version; null: not used */
  readonly version: Readonly<Record<string, string | null>>
  readonly encode_kwargs: Readonly<Record<string, unknown>>
}

/** Packages that mteb 2 names there. None of them has a part in a run of ours, so they are null; our own version is beside them. */
const MTEB_PACKAGES = ['mteb', 'torch', 'sentence-transformers', 'flash-attn', 'transformers'] as const

/** The versions behind a run. @param sklearn the generation whose rules were followed */
export async function packageVersions(sklearn: string): Promise<RunSettings['version']> {
  const { name, version } = JSON.parse(await readFile(new URL('../../package.json', import.meta.url), 'utf8')) as Record<string, string>
  return { ...Object.fromEntries(MTEB_PACKAGES.map((each) => [each, null])), [name!]: version!, 'scikit-learn rules': sklearn }
}

/**
 * Puts a task into `run_settings.jsonl` of a results folder as mteb 2 does: each (task, split, subset) is there once, with the settings of its
 * last run; splits of a task that share settings and subsets share a line. A line that is no JSON object is left out. Throws ERR_BGE_FILE.
 */
export async function writeRunSettings(folder: string, settings: RunSettings): Promise<void> {
  const file = join(folder, 'run_settings.jsonl')
  const before = await readFile(file, 'utf8').catch(() => '')
  /** (task, split, subset) as JSON -> the other fields as JSON; a Map keeps the order of first insertion, as a dict does */
  const scopes = new Map<string, string>()
  for (const entry of [...before.split('\n').flatMap(entries), settings as unknown as Entry]) {
    const { task, splits, split, subsets, subset, ...rest } = entry
    for (const one of list(splits ?? split))
      for (const part of list(subsets ?? subset)) scopes.set(JSON.stringify([task, one, part]), JSON.stringify(rest))
  }
  const grouped = new Map<string, Map<string, string[]>>()
  for (const [scope, rest] of scopes) {
    const [task, split, subset] = JSON.parse(scope) as [string, string, string]
    const key = JSON.stringify([task, rest])
    const bySplit = grouped.get(key) ?? new Map<string, string[]>()
    grouped.set(key, bySplit.set(split, [...(bySplit.get(split) ?? []), subset]))
  }
  const lines: string[] = []
  for (const [key, bySplit] of grouped) {
    const [task, rest] = JSON.parse(key) as [string, string]
    const rows = new Map<string, string[]>()
    for (const [split, subsets] of bySplit) {
      const same = JSON.stringify([...subsets].sort())
      rows.set(same, [...(rows.get(same) ?? []), split])
    }
    for (const [subsets, splits] of rows)
      lines.push(JSON.stringify({ task, splits: splits.sort(), ...(JSON.parse(rest) as object), subsets: JSON.parse(subsets) as string[] }))
  }
  await writeFileAtomic(file, lines.map((line) => `${line}\n`).join(''))
}

type Entry = Record<string, unknown>

function entries(line: string): Entry[] {
  try {
    const value = JSON.parse(line) as unknown
    return value !== null && typeof value === 'object' && !Array.isArray(value) ? [value as Entry] : []
  } catch {
    return []
  }
}

function list(value: unknown): unknown[] {
  return Array.isArray(value) ? value : value === undefined || value === null ? [] : [value]
}

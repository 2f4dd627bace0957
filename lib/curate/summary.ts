import type { DecontaminationReport } from './decontaminate.js'
import type { DedupReport } from './dedup.js'
import type { OutputReport } from './output.js'
import type { NegativePolicy, Recipe } from './recipe.js'
import type { SemanticReport } from './semantic.js'
import type { Tally } from './tally.js'

/** Everything that a data card and a report say, as summary.json holds it. It holds no time and no absolute path: equal runs write equal bytes. */
export interface CurationSummary {
  readonly recipe: string
  readonly description: string | null
  readonly sources: readonly SourceSummary[]
  /** what ran, with its settings; null: did not run */
  readonly settings: {
    readonly dedup: Recipe['dedup'] | null
    readonly decontaminate: { readonly against: readonly string[]; readonly ngram: number; readonly threshold: number } | null
    readonly semantic: { readonly model: string; readonly modelHash: string } | null
    readonly output: Recipe['output']
  }
  readonly dedup: Omit<DedupReport, 'files'> | null
  readonly decontamination: Omit<DecontaminationReport, 'files'> | null
  readonly semantic: SemanticReport | null
  readonly output: OutputReport
  /** why there are no token counts; null where there are */
  readonly tokensAbsent: string | null
}

export interface SourceSummary {
  readonly name: string
  readonly licence: string
  readonly homepage: string | null
  readonly notes: string | null
  /** kind of pair */
  readonly type: string
  readonly negatives: NegativePolicy
  readonly priority: number
  readonly files: number
  /** pairs that the recipe says there should be */
  readonly expectedCount: number | null
  readonly tally: Tally
  /** rows after each step that ran, in order */
  readonly rows: {
    readonly read: number
    readonly extracted: number
    readonly clean: number
    readonly dedup: number | null
    readonly decontaminated: number | null
    readonly written: number
  }
}

/** The steps that ran, with a heading each: the columns of every table by source. */
export function steps(summary: CurationSummary): { key: keyof SourceSummary['rows']; title: string }[] {
  return [
    { key: 'read', title: 'read' },
    { key: 'extracted', title: 'pairs' },
    { key: 'clean', title: 'clean' },
    ...(summary.dedup ? [{ key: 'dedup' as const, title: 'de-duplicated' }] : []),
    ...(summary.decontamination ? [{ key: 'decontaminated' as const, title: 'de-contaminated' }] : []),
    { key: 'written', title: summary.semantic ? 'semantic filter = written' : 'written' },
  ]
}

/** The sum over all sources. */
export function total(summary: CurationSummary, key: keyof SourceSummary['rows']): number {
  return summary.sources.reduce((sum, source) => sum + (source.rows[key] ?? 0), 0)
}

/** Rows that one rule dropped, over all sources. */
export interface RuleDrops {
  /** 'clean: too-short' and so on */
  readonly rule: string
  readonly count: number
  readonly samples: readonly { readonly at: string; readonly text: string; readonly after?: string }[]
}

const SAMPLES = 10

/** Records that make no pair: the rules of reading and extraction (tally.ts). All others are rules of cleaning. */
const READING = new Set(['malformed', 'unnest', 'where', 'label', 'missing', 'missing-id', 'duplicate-id', 'no-positive'])

/** What `kind` selects: records that became no pair, pairs that cleaning dropped, pairs that it changed. */
export type RuleKind = 'unread' | 'dropped' | 'changed'

/** How often each rule of a kind applied, the most frequent first. */
export function ruleCounts(summary: CurationSummary, kind: RuleKind): RuleDrops[] {
  const rules = new Map<string, { count: number; samples: RuleDrops['samples'][number][] }>()
  for (const { tally } of summary.sources) {
    for (const [rule, { count, samples }] of Object.entries(tally[kind === 'changed' ? 'changed' : 'dropped'])) {
      if (kind !== 'changed' && READING.has(rule) !== (kind === 'unread')) continue
      const known = rules.get(rule) ?? { count: 0, samples: [] }
      known.count += count
      known.samples.push(...samples.slice(0, Math.max(2, Math.ceil(SAMPLES / summary.sources.length))))
      rules.set(rule, known)
    }
  }
  return [...rules]
    .map(([rule, { count, samples }]) => ({ rule, count, samples: samples.slice(0, SAMPLES) }))
    .sort((a, b) => b.count - a.count || (a.rule < b.rule ? -1 : 1))
}

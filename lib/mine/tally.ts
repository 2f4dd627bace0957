import { random } from '../data/random.js'
import { createSample, type Sample } from '../data/sample.js'

/** Why a candidate is no negative, in the order in which the rules are asked; the first one counts. */
export const RULES = ['rank', 'positive', 'positiveId', 'query', 'maxRelative', 'margin', 'maxScore', 'minScore'] as const
/** A rule that rejects candidates; their order and meaning: docs/mining.md. */
export type Rule = (typeof RULES)[number]

/** A rejected candidate. */
export interface Rejected {
  /** 'file:line' of the row */
  readonly at: string
  readonly query: string
  readonly passage: string
  /** 0-based; null: drawn at random */
  readonly rank: number | null
  /** null: no rule asked for it */
  readonly score: number | null
  /** the lowest of the row's positives */
  readonly positiveScore: number | null
}

export interface MiningCounts {
  /** negatives taken from the range */
  mined: number
  /** negatives drawn at random from the pool */
  random: number
  /** negatives that could not be found */
  missing: number
  /** rows with fewer negatives from the range than asked for */
  short: number
  /** rows to which maxRelative and margin left no passage: their negatives are random, and these two rules were not asked */
  weak: number
  /** rows that got no negative at all: training with negatives stops at them */
  empty: number
}

/** What was taken and what each rule rejected. */
export interface MiningReport extends MiningCounts {
  /** ten examples each, chosen by hash of seed and row */
  readonly rejected: Readonly<Record<Rule, { readonly count: number; readonly examples: readonly Rejected[] }>>
}

/** Counts that survive a kill: save() gives JSON. */
export interface Tally {
  readonly counts: MiningCounts
  /** `make` runs only where the example is kept; one a row and rule at most */
  reject(rule: Rule, row: number, make: () => Rejected): void
  save(): SavedTally
  report(): MiningReport
}

type Kept = Rejected & { readonly key: number }
export interface SavedTally {
  readonly counts: MiningCounts
  readonly rejected: Readonly<Record<Rule, { readonly count: number; readonly examples: readonly Kept[] }>>
}

const EXAMPLES = 10

export function createTally(seed: number, saved?: SavedTally): Tally {
  const counts = { ...(saved?.counts ?? { mined: 0, random: 0, missing: 0, short: 0, weak: 0, empty: 0 }) }
  const rules = new Map<Rule, { count: number; row: number; sample: Sample<Kept> }>()
  for (const rule of RULES) {
    const sample = createSample<Kept>(EXAMPLES)
    for (const example of saved?.rejected[rule].examples ?? []) sample.offer(example.key, () => example)
    rules.set(rule, { count: saved?.rejected[rule].count ?? 0, row: -1, sample })
  }
  const perRule = <T>(make: (state: { count: number; sample: Sample<Kept> }) => T): Record<Rule, T> =>
    Object.fromEntries(RULES.map((rule) => [rule, make(rules.get(rule)!)])) as Record<Rule, T>
  return {
    counts,
    reject(rule, row, make) {
      const state = rules.get(rule)!
      state.count++
      if (state.row === row) return
      state.row = row
      const key = random(seed, `mine-${rule}`, 0, row).next()
      if (key < state.sample.bound) state.sample.offer(key, () => ({ ...make(), key }))
    },
    save: () => ({ counts: { ...counts }, rejected: perRule(({ count, sample }) => ({ count, examples: sample.items() })) }),
    report: () => ({
      ...counts,
      rejected: perRule(({ count, sample }) => ({ count, examples: sample.items().map(({ key: _, ...example }) => example) })),
    }),
  }
}

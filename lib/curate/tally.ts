/** What a rule met: how often, and the first ten. */
export interface Count {
  count: number
  samples: Sample[]
}

export interface Sample {
  /** file:line */
  at: string
  /** the text it was about, cut to 200 characters */
  text: string
  /** what the text became, where a rule changed it */
  after?: string
}

/**
 * Counts of one reading, extraction and cleaning; plain JSON. Rules before the cleaning: `malformed` (not UTF-8, not of the format), `unnest`
 * (no entry in the list), `where`, `label` (neither positive nor negative), `missing` (no text for a role), `missing-id` (a join has no such
 * id), `duplicate-id` (a join has it twice), `no-positive` (a group without one). The others are keys of CleanSettings.
 */
export interface Tally {
  /** records of the file, after `unnest`; those that are malformed are not among them */
  read: number
  /** rows made of them */
  extracted: number
  /** rows that passed every rule */
  kept: number
  /** rule -> rows (before extraction: records) that it dropped */
  dropped: Record<string, Count>
  /** rule -> rows that it changed */
  changed: Record<string, Count>
  /** rows kept by length in characters, one entry per bucket of LENGTH_BOUNDS; passages: of every positive */
  lengths: { query: number[]; passage: number[] }
}

/** Upper bounds of the buckets of a length histogram (a length of 8 is in the second); one more bucket holds the rest. */
export const LENGTH_BOUNDS: readonly number[] = [8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192]

const SAMPLES = 10
const SAMPLE_LENGTH = 200

export function emptyTally(): Tally {
  const empty = (): number[] => new Array<number>(LENGTH_BOUNDS.length + 1).fill(0)
  return { read: 0, extracted: 0, kept: 0, dropped: {}, changed: {}, lengths: { query: empty(), passage: empty() } }
}

/** Counts one case of a rule. A text that takes work to write is a function: only the first ten are needed. */
export function count(counts: Record<string, Count>, rule: string, at: string, text: string | (() => string), after?: string): void {
  const entry = (counts[rule] ??= { count: 0, samples: [] })
  entry.count++
  if (entry.samples.length >= SAMPLES) return
  const before = typeof text === 'string' ? text : text()
  entry.samples.push({ at, text: short(before), ...(after !== undefined && { after: short(after) }) })
}

export function countLength(histogram: number[], length: number): void {
  let bucket = 0
  while (bucket < LENGTH_BOUNDS.length && length >= LENGTH_BOUNDS[bucket]!) bucket++
  histogram[bucket]!++
}

/** Adds the counts of `more` to `tally`. */
export function addTally(tally: Tally, more: Tally): void {
  for (const key of ['read', 'extracted', 'kept'] as const) tally[key] += more[key]
  for (const key of ['dropped', 'changed'] as const) {
    for (const [rule, { count, samples }] of Object.entries(more[key])) {
      const entry = (tally[key][rule] ??= { count: 0, samples: [] })
      entry.count += count
      entry.samples.push(...samples.slice(0, SAMPLES - entry.samples.length))
    }
  }
  for (const key of ['query', 'passage'] as const) {
    more.lengths[key].forEach((n, i) => {
      tally.lengths[key][i]! += n
    })
  }
}

/** Not in the middle of a surrogate pair. */
function short(text: string): string {
  return text.length <= SAMPLE_LENGTH ? text : `${text.slice(0, SAMPLE_LENGTH).replace(/[\ud800-\udbff]$/, '')}…`
}

import { join } from 'node:path'
import { writeFileAtomic } from '../data/atomic.js'
import { LENGTH_EDGES } from '../data/lengths.js'
import type { TokenCache } from '../data/tokens.js'
import { readIfThere } from '../data/optional_file.js'
import { BgeError } from '../errors.js'
import type { StageName } from './config.js'

/** What became of a run, and what it was fed with: summary.json of a run folder. Rewritten at every checkpoint and at the end. */
export interface RunSummary {
  readonly stage: StageName
  /** 'running' in the folder of a process that was killed */
  status: 'running' | 'done' | 'stopped' | 'failed'
  /** of 'failed' */
  error?: { readonly code: string; readonly message: string }
  /** steps done */
  step: number
  readonly totalSteps: number
  readonly stepsPerEpoch: number
  readonly device: string
  /** as they were given */
  readonly started: { readonly model: string; readonly data: readonly string[]; readonly out: string }
  readonly rows: number
  /** by what the texts are: 'text'; 'query', 'passage' */
  texts: Readonly<Record<string, TextCard>>
  /** of dev evaluations, in order of their steps */
  scores: { readonly step: number; readonly score: number }[]
}

/** Texts of one kind as they were tokenized. Counts are those of the process that wrote the file: after a resume, of what came since. */
export interface TextCard {
  /** different texts in the data */
  readonly different: number
  /** texts tokenized, and how many of them were longer than `maxLength` and were cut */
  readonly tokenized: number
  readonly truncated: number
  readonly maxLength: number
  /** tokens after cutting, [CLS] and [SEP] included */
  readonly lengths: {
    readonly mean: number
    readonly p50: number
    readonly p90: number
    readonly max: number
    readonly bins: readonly number[]
  }
}

/** What a cache has seen so far. */
export function textCard({ stats }: TokenCache, different: number, maxLength: number): TextCard {
  const { texts, truncated, lengths } = stats
  const { mean, max } = lengths
  return {
    different,
    tokenized: texts,
    truncated,
    maxLength,
    lengths: { mean, p50: lengths.percentile(0.5), p90: lengths.percentile(0.9), max, bins: lengths.bins(LENGTH_EDGES) },
  }
}

/** Throws ERR_BGE_FILE. */
export async function writeSummary(out: string, summary: RunSummary): Promise<void> {
  await writeFileAtomic(join(out, 'summary.json'), `${JSON.stringify(summary, null, 2)}\n`)
}

/** undefined where there is none: a run of an earlier version. Throws ERR_BGE_DATA for what is not JSON, ERR_BGE_FILE. */
export async function readSummary(out: string): Promise<RunSummary | undefined> {
  const file = join(out, 'summary.json')
  const text = await readIfThere(file)
  if (text === undefined) return undefined
  try {
    return JSON.parse(text) as RunSummary
  } catch (cause) {
    throw new BgeError('ERR_BGE_DATA', `${file} must hold the JSON object that training wrote: ${(cause as Error).message}`, { cause })
  }
}

/** How a run ended that threw `error`; `signal` is the one that could stop it. */
export function ending(error: unknown, signal?: AbortSignal): Pick<RunSummary, 'status' | 'error'> {
  if (signal?.aborted) return { status: 'stopped' }
  const { message } = error instanceof Error ? error : new Error(String(error))
  return { status: 'failed', error: { code: error instanceof BgeError ? error.code : 'ERR_BGE_INTERNAL', message } }
}

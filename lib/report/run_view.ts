import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { BgeError } from '../errors.js'
import type { StageName, TrainConfig } from '../train/config.js'
import { type MetricsRow, readMetrics } from '../train/run_folder.js'
import { type RunSummary, readSummary } from '../train/summary.js'

/** A training run as charts and advice see it. */
export interface RunView {
  readonly stage: StageName
  /** keys that the stage does not use are absent */
  readonly config: TrainConfig
  /** in order of their steps; some may have been left out */
  readonly rows: readonly MetricsRow[]
  readonly summary: RunSummary
}

/**
 * Reads a run folder: finished, stopped or still running. Throws ERR_BGE_FILE for a folder that holds no run, ERR_BGE_DATA for files of it that
 * are not what training writes.
 */
export async function readRun(folder: string): Promise<RunView> {
  const config = await readConfig(folder)
  const summary = await readSummary(folder)
  if (!summary)
    throw new BgeError('ERR_BGE_FILE', `${folder} must be a run folder of this version, but has no summary.json; resume the run`)
  return { stage: summary.stage, config, rows: await readMetrics(folder), summary }
}

async function readConfig(folder: string): Promise<TrainConfig> {
  const file = join(folder, 'config.json')
  let text: string
  try {
    text = await readFile(file, 'utf8')
  } catch (cause) {
    throw new BgeError('ERR_BGE_FILE', `${folder} must be a run folder, but ${file} cannot be read: ${(cause as Error).message}`, { cause })
  }
  try {
    return JSON.parse(text) as TrainConfig
  } catch (cause) {
    throw new BgeError('ERR_BGE_DATA', `${file} must hold the JSON object that training wrote: ${(cause as Error).message}`, { cause })
  }
}

/**
 * Means of at most `points` stretches of rows of equal length, so that a long run can be drawn: of the gradient norm the largest, because a spike
 * is what one looks for; the step is that of the last row. A value that a stretch has not measured stays absent.
 */
export function thin(rows: readonly MetricsRow[], points: number): MetricsRow[] {
  const size = Math.ceil(rows.length / points)
  if (size <= 1) return [...rows]
  const thinned: MetricsRow[] = []
  for (let i = 0; i < rows.length; i += size) {
    const stretch = rows.slice(i, i + size)
    const merged: Record<string, number> = {}
    for (const name of new Set(stretch.flatMap((row) => Object.keys(row)))) {
      const values = stretch.map((row) => row[name]).filter((value) => value !== undefined)
      merged[name] = values.reduce((sum, value) => sum + value, 0) / values.length
    }
    const { step, epoch, seconds } = stretch.at(-1)!
    thinned.push({ ...(merged as MetricsRow), step, epoch, seconds, gradNorm: Math.max(...stretch.map((row) => row.gradNorm)) })
  }
  return thinned
}

/** Exponential mean over about `window` values, without a bias to the first; null stays null. */
export function smooth(values: readonly (number | null)[], window: number): (number | null)[] {
  const keep = 1 - 1 / Math.max(1, window)
  let sum = 0
  let weight = 0
  return values.map((value) => {
    if (value === null) return null
    sum = keep * sum + value
    weight = keep * weight + 1
    return sum / weight
  })
}

import { advise } from '../report/advice.js'
import { runCharts } from '../report/run_charts.js'
import type { RunView } from '../report/run_view.js'
import { configPairs, subtitle, tiles } from '../report/training.js'
import type { StageName } from '../train/config.js'
import type { RunStart } from '../train/loop.js'
import type { MetricsRow } from '../train/run_folder.js'
import { livePage, type LiveState } from './page.js'
import { openLive } from './server.js'

/** A run on a live page. */
export interface LiveRun {
  readonly url: string
  start(run: RunStart): void
  row(row: MetricsRow, secondsLeft: number): void
  note(text: string): void
  /** Shows how the run ended, then closes. */
  close(): Promise<void>
}

/** Points along a curve, rows kept, lines of text kept. */
const POINTS = 600
const ROWS = 4096
const NOTES = 200

/** Opens the page before a run: it waits for the first step. Errors: those of openLive. */
export async function openLiveRun(stage: StageName, name: string, options: { port: number; host?: string }): Promise<LiveRun> {
  let run: RunStart | undefined
  let left: number | null = null
  const rows = keptRows(ROWS)
  const notes: string[] = []
  const state = (): LiveState => {
    if (!run)
      return { name, status: 'starting', line: 'Reading model and data', progress: 0, tiles: [], advice: [], notes, config: [], charts: [] }
    const shown = rows.all()
    const step = shown.at(-1)?.step ?? run.step
    const view: RunView = { stage, config: run.config, rows: shown, summary: { ...run.summary, step } }
    return {
      name,
      status: view.summary.status,
      line: subtitle(view, left),
      progress: run.totalSteps === 0 ? 1 : step / run.totalSteps,
      tiles: tiles(view),
      advice: advise(view),
      notes: view.summary.error ? [...notes, view.summary.error.message] : notes,
      config: configPairs(run.config),
      charts: runCharts(view, POINTS),
    }
  }
  const server = await openLive({ ...options, page: livePage(name), state })
  return {
    url: server.url,
    start(started) {
      run = started
      for (const row of started.rows) rows.add(row)
      server.changed()
    },
    row(row, secondsLeft) {
      rows.add(row)
      left = secondsLeft
      server.changed()
    },
    note(text) {
      notes.push(text)
      if (notes.length > NOTES) notes.shift()
      server.changed()
    },
    async close() {
      server.changed()
      await server.close()
    },
  }
}

/** Every row of a short run, of a long one every second, fourth, ...; always the newest. */
function keptRows(limit: number): { add(row: MetricsRow): void; all(): MetricsRow[] } {
  let kept: MetricsRow[] = []
  let newest: MetricsRow | undefined
  let seen = 0
  let stride = 1
  return {
    add(row) {
      newest = row
      if (seen++ % stride !== 0) return
      kept.push(row)
      if (kept.length < limit) return
      kept = kept.filter((_, i) => i % 2 === 0)
      stride *= 2
    },
    all: () => (newest === undefined || kept.at(-1) === newest ? kept : [...kept, newest]),
  }
}

import { createLogUpdate } from 'log-update'
import type { MetricsRow } from './run_folder.js'

/** Shows a run on a terminal. */
export interface Progress {
  update(row: MetricsRow): void
  /** a line that stays */
  note(text: string): void
  /** leaves the last state standing */
  end(): void
}

/** Seconds between plain lines where the output is not a terminal. */
const PLAIN_INTERVAL = 5

/** @param stream a terminal gets one line that is rewritten (bar, ETA, tokens/s, loss, accuracy), anything else a plain line now and then */
export function createProgress(stream: NodeJS.WriteStream, run: { label: string; firstStep: number; totalSteps: number }): Progress {
  const start = performance.now()
  const render = (row: MetricsRow): string => {
    const perStep = (performance.now() - start) / 1000 / (row.step - run.firstStep)
    const accuracies = Object.entries(row).filter(([name]) => /accuracy$/i.test(name))
    return [
      `${run.label} ${row.step}/${run.totalSteps}`,
      `ETA ${duration(perStep * (run.totalSteps - row.step))}`,
      `${Math.round(row.tokensPerSecond).toLocaleString('en')} tokens/s`,
      `loss ${row.loss.toFixed(4)}`,
      ...accuracies.map(([name, value]) => `${name} ${value.toFixed(3)}`),
      ...(row.masked === undefined ? [] : [`masked ${row.masked}`]),
      ...(row.falseNegatives === undefined ? [] : [`false negatives ${row.falseNegatives}`]),
      `lr ${row.learningRate.toExponential(1)}`,
    ].join(' · ')
  }
  return stream.isTTY ? bar(stream, run.totalSteps, render) : lines(stream, run.totalSteps, render)
}

function bar(stream: NodeJS.WriteStream, totalSteps: number, render: (row: MetricsRow) => string): Progress {
  const log = createLogUpdate(stream)
  return {
    update: (row) => {
      const filled = Math.round((20 * row.step) / totalSteps)
      log(`${'█'.repeat(filled)}${'░'.repeat(20 - filled)} ${render(row)}`.slice(0, Math.max(20, (stream.columns ?? 80) - 1)))
    },
    note: (text) => {
      log.clear()
      stream.write(`${text}\n`)
    },
    end: () => log.done(),
  }
}

function lines(stream: NodeJS.WriteStream, totalSteps: number, render: (row: MetricsRow) => string): Progress {
  let shown = -Infinity
  return {
    update: (row) => {
      const now = performance.now() / 1000
      if (now - shown < PLAIN_INTERVAL && row.step !== totalSteps) return
      shown = now
      stream.write(`${render(row)}\n`)
    },
    note: (text) => void stream.write(`${text}\n`),
    end: () => {},
  }
}

function duration(seconds: number): string {
  const s = Math.round(seconds)
  if (s < 60) return `${s}s`
  if (s < 3600) return `${Math.floor(s / 60)}m${String(s % 60).padStart(2, '0')}s`
  return `${Math.floor(s / 3600)}h${String(Math.floor((s % 3600) / 60)).padStart(2, '0')}m`
}

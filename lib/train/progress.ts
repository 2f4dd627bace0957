import { createLogUpdate } from 'log-update'
import { chance } from './chance.js'
import type { TrainConfig } from './config.js'
import type { MetricsRow } from './run_folder.js'

/** Shows a run on a terminal. */
export interface Progress {
  /** Returns the seconds left, by the time of the last steps. */
  update(row: MetricsRow): number
  /** a line that stays */
  note(text: string): void
  /** leaves the last state standing */
  end(): void
}

/** What a run is, for those who watch it. */
export interface ProgressRun {
  readonly label: string
  /** steps done before, and in all */
  readonly firstStep: number
  readonly totalSteps: number
  /** for the chance line of stages 2 and 3; absent: no chance is shown */
  readonly config?: TrainConfig
}

/** Default seconds between plain lines where the output is not a terminal. */
const PLAIN_INTERVAL = 5

/** Steps whose mean time the ETA goes by. */
const WINDOW = 50

/**
 * @param stream a terminal gets a few lines that are rewritten (bar, ETA, speed; loss, accuracy and the rest), anything else a plain line now and then
 * @param interval seconds between plain lines; the first and the last step always get theirs
 */
export function createProgress(stream: NodeJS.WriteStream, run: ProgressRun, interval: number = PLAIN_INTERVAL): Progress {
  const estimated = estimate(run)
  const screen = stream.isTTY ? bar(stream, run.totalSteps) : lines(stream, run.totalSteps, interval)
  return {
    ...screen,
    update(row) {
      const left = estimated(row.step)
      screen.update(row.step, [speedLine(row, run, left), valueLine(row, run.config, run.label === 'pretrain' ? 'texts' : 'pairs')])
      return left
    },
  }
}

/** Seconds left after a step, by the mean of the last steps. */
function estimate({ firstStep, totalSteps }: ProgressRun): (step: number) => number {
  const times = [{ step: firstStep, at: performance.now() }]
  return (step) => {
    times.push({ step, at: performance.now() })
    // The first step waits for its data and warms everything up: it is left out as soon as there is another.
    if (times.length > WINDOW || (times.length === 3 && times[0]!.step === firstStep)) times.shift()
    const [first, last] = [times[0]!, times.at(-1)!]
    return step >= totalSteps ? 0 : ((last.at - first.at) / 1000 / (last.step - first.step)) * (totalSteps - step)
  }
}

function speedLine(row: MetricsRow, { label, totalSteps }: ProgressRun, seconds: number): string {
  return [
    `${label} ${row.step}/${totalSteps}`,
    `ETA ${duration(seconds)}`,
    `${count(row.tokensPerSecond)} tokens/s`,
    `${count(row.rowsPerSecond)} ${label === 'pretrain' ? 'texts' : 'pairs'}/s`,
    `data wait ${row.stallSeconds < 0.9995 ? `${Math.round(1000 * row.stallSeconds)} ms` : `${row.stallSeconds.toFixed(1)} s`}`,
  ].join(' · ')
}

function valueLine(row: MetricsRow, config: TrainConfig | undefined, unit: 'texts' | 'pairs'): string {
  const expected = config && unit === 'pairs' ? chance(config, row) : undefined
  const ofAccuracy = expected ? ` (chance ${small(expected.accuracy)})` : ''
  return [
    `loss ${row.loss.toFixed(4)}`,
    ...(row.accuracy === undefined ? [] : [`accuracy ${row.accuracy.toFixed(3)}${ofAccuracy}`]),
    ...(row.encoderLoss === undefined ? [] : [`encoder ${row.encoderLoss.toFixed(3)} (${row.encoderAccuracy!.toFixed(3)} right)`]),
    ...(row.decoderLoss === undefined ? [] : [`decoder ${row.decoderLoss.toFixed(3)} (${row.decoderAccuracy!.toFixed(3)} right)`]),
    ...(row.clsGainShuffled === undefined ? [] : [`CLS gain ${row.clsGainShuffled.toFixed(3)}`]),
    `gradient ${row.gradNorm.toPrecision(3)}`,
    `rate ${row.learningRate.toExponential(1)}`,
    ...(row.masked === undefined ? [] : [`masked ${count(row.masked)}`]),
    ...(row.falseNegatives === undefined ? [] : [`false negatives ${count(row.falseNegatives)}`]),
  ].join(' · ')
}

interface Screen extends Omit<Progress, 'update'> {
  update(step: number, lines: readonly [speed: string, values: string]): void
}

function bar(stream: NodeJS.WriteStream, totalSteps: number): Screen {
  const log = createLogUpdate(stream)
  return {
    update(step, [speed, values]) {
      const filled = Math.round((20 * step) / totalSteps)
      const width = Math.max(20, (stream.columns ?? 80) - 1)
      log([`${'█'.repeat(filled)}${'░'.repeat(20 - filled)} ${speed}`.slice(0, width), ...wrap(values, width)].join('\n'))
    },
    note(text) {
      log.clear()
      stream.write(`${text}\n`)
    },
    end: () => log.done(),
  }
}

/** Whole values on each line. */
function wrap(values: string, width: number): string[] {
  const lines: string[] = []
  for (const value of values.split(' · ')) {
    const longer = lines.length === 0 ? value : `${lines.at(-1)} · ${value}`
    if (lines.length > 0 && longer.length <= width) lines[lines.length - 1] = longer
    else lines.push(value.slice(0, width))
  }
  return lines
}

function lines(stream: NodeJS.WriteStream, totalSteps: number, interval: number): Screen {
  let shown = -Infinity
  return {
    update(step, parts) {
      const now = performance.now() / 1000
      if (now - shown < interval && step !== totalSteps) return
      shown = now
      stream.write(`${parts.join(' · ')}\n`)
    },
    note: (text) => void stream.write(`${text}\n`),
    end: () => {},
  }
}

function count(value: number): string {
  return value < 9.95 ? String(Number(value.toFixed(1))) : Math.round(value).toLocaleString('en')
}

function small(value: number): string {
  return value < 0.001 ? value.toExponential(0) : String(Number(value.toFixed(3)))
}

/** 42s, 5m03s, 2h07m, 3d04h */
export function duration(seconds: number): string {
  const s = Math.round(seconds)
  const two = (value: number): string => String(Math.floor(value)).padStart(2, '0')
  if (s < 60) return `${s}s`
  if (s < 3600) return `${Math.floor(s / 60)}m${two(s % 60)}s`
  if (s < 86_400) return `${Math.floor(s / 3600)}h${two((s % 3600) / 60)}m`
  return `${Math.floor(s / 86_400)}d${two((s % 86_400) / 3600)}h`
}

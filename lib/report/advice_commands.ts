import type { TrainConfig } from '../train/config.js'
import type { RunView } from './run_view.js'

/** The same run with other values, in a folder of its own. */
export function again({ stage, summary }: RunView, changes: Partial<TrainConfig>): string {
  const { model, data: files, out } = summary.started
  const sets = Object.entries(changes).map(
    ([key, value]) =>
      `--set ${key}=${typeof value === 'number' && !Number.isInteger(value) ? Number(value.toPrecision(3)) : String(value)}`,
  )
  return `bge ${stage} --model ${shell(model)} --data ${files.map(shell).join(' ')} --out ${shell(`${out}-2`)} --config ${shell(`${out}/config.json`)} ${sets.join(' ')}`
}

/** Twice as many steps. */
export function longer(view: RunView): string {
  return again(view, view.config.steps > 0 ? { steps: 2 * view.config.steps } : { epochs: 2 * view.config.epochs })
}

/** Goes on with a run. */
export function resume({ stage, summary }: RunView): string {
  const { model, data: files, out } = summary.started
  return `bge ${stage} --model ${shell(model)} --data ${files.map(shell).join(' ')} --out ${shell(out)} --resume`
}

/** The data files of a run, as words of a command. */
export function data({ summary }: RunView): string {
  return summary.started.data.map(shell).join(' ')
}

/** What the run made; of one that has made nothing yet, what it started from. */
export function modelOf({ summary }: RunView): string {
  return summary.status === 'done' ? `${summary.started.out}/model` : summary.started.model
}

/** A word as a POSIX shell takes it. */
export function shell(word: string): string {
  return /^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`
}

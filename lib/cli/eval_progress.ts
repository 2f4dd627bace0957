import { createLogUpdate } from 'log-update'
import type { TaskProgress } from '../eval/run.js'
import type { EvalTask } from '../eval/sources.js'

/** Shows the encoding of tasks on a terminal. */
export interface EvalProgress {
  update(task: EvalTask, progress: TaskProgress): void
  /** bytes of a file that is being downloaded */
  download(file: string, received: number, total: number): void
  /** a line that stays */
  note(text: string): void
  end(): void
}

/** Seconds between plain lines where the output is not a terminal; what is over sooner is not worth one. */
const PLAIN_INTERVAL = 15

/** @param stream a terminal gets one line that is rewritten, anything else a plain line now and then */
export function createEvalProgress(stream: NodeJS.WriteStream): EvalProgress {
  const log = stream.isTTY ? createLogUpdate(stream) : undefined
  let shown = performance.now() / 1000
  const show = (text: string): void => {
    const now = performance.now() / 1000
    if (log === undefined && now - shown < PLAIN_INTERVAL) return
    shown = now
    if (log) log(text.slice(0, Math.max(20, (stream.columns ?? 80) - 1)))
    else stream.write(`${text}\n`)
  }
  return {
    update(task, progress) {
      show(progressLine(task, progress))
    },
    download(file, received, total) {
      show(`${file}: ${(received / 1e6).toFixed(1)} of ${(total / 1e6).toFixed(1)} MB`)
    },
    note(text) {
      log?.clear()
      stream.write(`${text}\n`)
    },
    end() {
      log?.clear()
    },
  }
}

/** What matters most comes first: a narrow terminal cuts the end. */
export function progressLine(
  task: Pick<EvalTask, 'type' | 'name'>,
  { tokens, totalTokens, texts, totalTexts, seconds, run }: TaskProgress,
): string {
  const name = `${task.type}/${task.name}`
  const count = `${texts.toLocaleString('en')} of ${totalTexts.toLocaleString('en')} texts`
  const left = tokens === 0 ? undefined : duration((seconds / tokens) * (totalTokens - tokens))
  const speed = tokens === 0 ? [] : [`${Math.round(tokens / Math.max(seconds, 1e-3)).toLocaleString('en')} tokens/s`]
  if (run.tasks === 1) return [`${name}: ${count}`, ...(left === undefined ? [] : [`ETA ${left}`]), ...speed].join(' · ')
  const percent = Math.floor((100 * run.tokens) / Math.max(1, run.totalTokens))
  const all = run.secondsLeft === null ? [] : [`ETA ${duration(run.secondsLeft)}`]
  const here = left === undefined ? count : `${count}, ${left}`
  return [`[${run.task}/${run.tasks}] ${percent}%`, ...all, `${name}: ${here}`, ...speed].join(' · ')
}

function duration(seconds: number): string {
  const total = Math.round(seconds)
  const parts = [Math.floor(total / 3600), Math.floor(total / 60) % 60, total % 60]
  return parts[0]! > 0
    ? `${parts[0]}:${String(parts[1]).padStart(2, '0')}:${String(parts[2]).padStart(2, '0')}`
    : `${parts[1]}:${String(parts[2]).padStart(2, '0')}`
}

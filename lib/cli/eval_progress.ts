import { createLogUpdate } from 'log-update'
import type { EvalTask } from '../eval/sources.js'
import type { EncodingProgress } from '../eval/run_embedder.js'

/** Shows the encoding of tasks on a terminal. */
export interface EvalProgress {
  update(task: EvalTask, progress: EncodingProgress): void
  /** a line that stays */
  note(text: string): void
  end(): void
}

/** Seconds between plain lines where the output is not a terminal; what is over sooner is not worth one. */
const PLAIN_INTERVAL = 15

/** @param stream a terminal gets one line that is rewritten, anything else a plain line now and then */
export function createEvalProgress(stream: NodeJS.WriteStream, tasks: number): EvalProgress {
  const log = stream.isTTY ? createLogUpdate(stream) : undefined
  const started = new Set<EvalTask>()
  let shown = performance.now() / 1000
  return {
    update(task, { tokens, totalTokens, texts, totalTexts, seconds }) {
      started.add(task)
      const now = performance.now() / 1000
      if (log === undefined && now - shown < PLAIN_INTERVAL) return
      shown = now
      const left =
        tokens === 0
          ? ''
          : ` · ETA ${duration((seconds / tokens) * (totalTokens - tokens))} · ${Math.round(tokens / Math.max(seconds, 1e-3)).toLocaleString('en')} tokens/s`
      const count = tasks === 1 ? '' : `[${started.size}/${tasks}] `
      const text = `${count}${task.type}/${task.name}: ${texts.toLocaleString('en')} of ${totalTexts.toLocaleString('en')} texts${left}`
      if (log) log(text.slice(0, Math.max(20, (stream.columns ?? 80) - 1)))
      else stream.write(`${text}\n`)
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

function duration(seconds: number): string {
  const total = Math.round(seconds)
  const parts = [Math.floor(total / 3600), Math.floor(total / 60) % 60, total % 60]
  return parts[0]! > 0
    ? `${parts[0]}:${String(parts[1]).padStart(2, '0')}:${String(parts[2]).padStart(2, '0')}`
    : `${parts[1]}:${String(parts[2]).padStart(2, '0')}`
}

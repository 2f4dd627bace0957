import type { Work } from './run_embedder.js'

/** How far the encoding of a whole run is. Tokens are estimated from characters; those of finished and of failed tasks are no part of it. */
export interface RunProgress {
  /** tokens that have vectors, whether encoded now or known before, and tokens of all tasks */
  readonly tokens: number
  readonly totalTokens: number
  /** of encoding, at the speed so far; null before the first text */
  readonly secondsLeft: number | null
  /** the task that is being encoded, from 1, and how many there are */
  readonly task: number
  readonly tasks: number
}

/** Follows a run through its tasks. */
export interface RunMeter {
  /** the task at this index begins */
  begin(index: number): void
  progress(): RunProgress
}

/** @param plan tokens of each task @param work what the run's embedder has done; it changes as the run goes on */
export function runMeter(plan: readonly number[], work: Readonly<Work>): RunMeter {
  const total = plan.reduce((sum, tokens) => sum + tokens, 0)
  let current = 0
  let atBegin = 0
  let before = 0
  return {
    begin(index) {
      current = index
      atBegin = work.known + work.encoded
      before = plan.slice(0, index).reduce((sum, tokens) => sum + tokens, 0)
    },
    progress() {
      // A task that stopped halfway counts as done once the next begins.
      const tokens = before + Math.min(plan[current]!, work.known + work.encoded - atBegin)
      const secondsLeft = work.encoded === 0 ? null : (work.seconds / work.encoded) * (total - tokens)
      return { tokens, totalTokens: total, secondsLeft, task: current + 1, tasks: plan.length }
    },
  }
}

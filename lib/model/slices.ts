import { setImmediate as nextTurn } from 'node:timers/promises'

/** Time in ms after which work on the event loop gives way to whatever else waits for it. */
const sliceMs = 2

/** Cuts long work on the event loop into slices: `if (slices.over()) await slices.next()` between its parts. */
export interface Slices {
  /** whether the slice has had its time */
  over(): boolean
  /** Lets the event loop turn, then begins another slice. Throws the signal's reason. */
  next(): Promise<void>
}

export function slices(signal?: AbortSignal): Slices {
  let end = performance.now() + sliceMs
  return {
    over: () => performance.now() > end,
    async next() {
      await nextTurn()
      signal?.throwIfAborted()
      end = performance.now() + sliceMs
    },
  }
}

// Peak of the resident memory of a stretch of work, from the kernel's own counter.
import { readFileSync, writeFileSync } from 'node:fs'

const status = (name) => {
  const line = new RegExp(`^${name}:\\s*(\\d+) kB`, 'm').exec(readFileSync('/proc/self/status', 'utf8'))
  return Number(line?.[1] ?? Number.NaN) * 1024
}

export const residentBytes = () => status('VmRSS')
export const peakBytes = () => status('VmHWM')

/** From here on peakBytes() counts anew. */
export function resetPeak() {
  globalThis.gc?.()
  writeFileSync('/proc/self/clear_refs', '5')
}

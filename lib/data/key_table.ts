/** Numbers by 64-bit key, 12 bytes a slot, at most three slots in four taken: what a Map of ten million strings would need gigabytes for. */
export interface KeyTable {
  readonly size: number
  /** the number of a key, -1 where there is none */
  get(high: number, low: number): number
  /** @param value 0 .. 2^31 - 2; replaces an earlier one */
  set(high: number, low: number, value: number): void
}

/** Keys are two unsigned 32-bit halves of a hash: they must be spread evenly, because the slot is taken from `low`. */
export function createKeyTable(): KeyTable {
  let slots = 1024
  let highs = new Uint32Array(slots)
  let lows = new Uint32Array(slots)
  let values = new Int32Array(slots) // value + 1; 0: free
  let size = 0
  const slotOf = (high: number, low: number): number => {
    for (let slot = low & (slots - 1); ; slot = (slot + 1) & (slots - 1)) {
      if (values[slot] === 0 || (highs[slot] === high && lows[slot] === low)) return slot
    }
  }
  const grow = (): void => {
    const [oldHighs, oldLows, oldValues] = [highs, lows, values]
    slots *= 2
    highs = new Uint32Array(slots)
    lows = new Uint32Array(slots)
    values = new Int32Array(slots)
    for (let i = 0; i < oldValues.length; i++) {
      if (oldValues[i] === 0) continue
      const slot = slotOf(oldHighs[i]!, oldLows[i]!)
      highs[slot] = oldHighs[i]!
      lows[slot] = oldLows[i]!
      values[slot] = oldValues[i]!
    }
  }
  return {
    get size() {
      return size
    },
    get: (high, low) => values[slotOf(high, low)]! - 1,
    set(high, low, value) {
      let slot = slotOf(high, low)
      if (values[slot] === 0) {
        if (4 * (size + 1) > 3 * slots) {
          grow()
          slot = slotOf(high, low)
        }
        size++
        highs[slot] = high
        lows[slot] = low
      }
      values[slot] = value + 1
    },
  }
}

/** A typed array that grows at its end. */
export interface Growing<T extends Int32Array | Uint32Array | Float64Array> {
  readonly length: number
  push(value: number): void
  /** the entry, undefined beyond the end */
  at(index: number): number | undefined
  /** a view of what is there now; a later push may leave it behind */
  view(): T
}

/** @param make e.g. (length) => new Int32Array(length) */
export function growing<T extends Int32Array | Uint32Array | Float64Array>(make: (length: number) => T): Growing<T> {
  let values = make(256)
  let length = 0
  return {
    get length() {
      return length
    },
    push(value) {
      if (length === values.length) {
        const larger = make(2 * length)
        larger.set(values)
        values = larger
      }
      values[length++] = value
    },
    at: (index) => (index < length ? values[index] : undefined),
    view: () => values.subarray(0, length) as T,
  }
}

/** The `size` offered items with the smallest keys: with hashed keys a fair sample that does not depend on the order of the offers. */
export interface Sample<T> {
  /** `make` runs only when the item enters. Of equal keys the earlier stays. */
  offer(key: number, make: () => T): void
  /** by ascending key */
  items(): T[]
  /** the next key must be below this to enter */
  readonly bound: number
}

export function createSample<T>(size: number): Sample<T> {
  const heap: { key: number; order: number; item: T }[] = [] // the largest on top
  let order = 0
  const above = (i: number, j: number): boolean => {
    const [a, b] = [heap[i]!, heap[j]!]
    return a.key > b.key || (a.key === b.key && a.order > b.order)
  }
  const swap = (i: number, j: number): void => {
    ;[heap[i], heap[j]] = [heap[j]!, heap[i]!]
  }
  const sink = (): void => {
    for (let i = 0; ; ) {
      let top = i
      for (const child of [2 * i + 1, 2 * i + 2]) if (child < heap.length && above(child, top)) top = child
      if (top === i) return
      swap(i, top)
      i = top
    }
  }
  return {
    offer(key, make) {
      if (heap.length < size) {
        heap.push({ key, order: order++, item: make() })
        for (let i = heap.length - 1; i > 0 && above(i, (i - 1) >> 1); i = (i - 1) >> 1) swap(i, (i - 1) >> 1)
      } else if (size > 0 && key < heap[0]!.key) {
        heap[0] = { key, order: order++, item: make() }
        sink()
      }
    },
    items: () => [...heap].sort((a, b) => a.key - b.key || a.order - b.order).map(({ item }) => item),
    get bound() {
      return heap.length < size ? Number.POSITIVE_INFINITY : heap[0]!.key
    },
  }
}

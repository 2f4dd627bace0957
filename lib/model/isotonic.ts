/** A map that never falls: linear between its points, constant outside of them. */
export interface MonotoneMap {
  /** ascending */
  readonly x: readonly number[]
  /** not descending; as many as x, at least one */
  readonly y: readonly number[]
}

/**
 * Isotonic regression of y on x: the map that never falls with the least squared error, by pooling adjacent violators. Equal x count as one point with
 * their mean. Points inside a flat piece are left out (they change nothing), as in scikit-learn's IsotonicRegression.
 * @param x (n) @param y (n) n >= 1, all finite
 */
export function isotonicRegression(x: ArrayLike<number>, y: ArrayLike<number>): MonotoneMap {
  const order = Array.from(x, (_, i) => i).sort((a, b) => x[a]! - x[b]!)
  // Blocks of points with one value: the range of x, the sum of y and its weight.
  const blocks: { low: number; high: number; sum: number; weight: number }[] = []
  for (const i of order) {
    const last = blocks.at(-1)
    if (last !== undefined && last.low === x[i]) {
      last.sum += y[i]!
      last.weight++
    } else blocks.push({ low: x[i]!, high: x[i]!, sum: y[i]!, weight: 1 })
  }
  const pooled: typeof blocks = []
  for (let block of blocks) {
    for (let last = pooled.at(-1); last !== undefined && last.sum * block.weight >= block.sum * last.weight; last = pooled.at(-1)) {
      block = { low: last.low, high: block.high, sum: last.sum + block.sum, weight: last.weight + block.weight }
      pooled.pop()
    }
    pooled.push(block)
  }
  const map = { x: [] as number[], y: [] as number[] }
  for (const { low, high, sum, weight } of pooled) {
    for (const end of low === high ? [low] : [low, high]) {
      map.x.push(end)
      map.y.push(sum / weight)
    }
  }
  return map
}

/** The map's value at x. */
export function mapValue({ x: xs, y: ys }: MonotoneMap, x: number): number {
  let [low, high] = [0, xs.length] // xs[low - 1] < x <= xs[high]
  while (low < high) {
    const middle = (low + high) >> 1
    if (xs[middle]! < x) low = middle + 1
    else high = middle
  }
  if (low === 0) return ys[0]!
  if (low === xs.length) return ys.at(-1)!
  const [x0, x1, y0, y1] = [xs[low - 1]!, xs[low]!, ys[low - 1]!, ys[low]!]
  return y0 + ((y1 - y0) * (x - x0)) / (x1 - x0)
}

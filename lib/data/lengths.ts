/** How long texts are: exact counts, so that every share and percentile of them is exact. A fixed 64 KiB; longer texts count as `LONGEST`. */
export interface Lengths {
  add(length: number): void
  readonly count: number
  readonly mean: number
  readonly max: number
  /** smallest length that at least `share` of the texts do not exceed; 0 where there is no text */
  percentile(share: number): number
  /** share of texts longer than `length` */
  shareAbove(length: number): number
  /** texts with edges[i] <= length < edges[i+1], the last bin open */
  bins(edges: readonly number[]): number[]
}

const LONGEST = 16_383

/** Edges of length histograms in characters or tokens: fine where texts are, coarse above. */
export const LENGTH_EDGES: readonly number[] = [0, 5, 10, 15, 20, 30, 40, 60, 80, 120, 160, 240, 320, 480, 640, 960, 1280, 2560, 5120]

export function createLengths(): Lengths {
  const counts = new Float64Array(LONGEST + 1)
  let count = 0
  let sum = 0
  let max = 0
  return {
    add(length) {
      counts[Math.min(length, LONGEST)]!++
      count++
      sum += length
      max = Math.max(max, length)
    },
    get count() {
      return count
    },
    get mean() {
      return count === 0 ? 0 : sum / count
    },
    get max() {
      return max
    },
    percentile(share) {
      let seen = 0
      for (let length = 0; length < LONGEST; length++) {
        seen += counts[length]!
        if (seen >= share * count) return length
      }
      return max
    },
    shareAbove(length) {
      let above = 0
      for (let i = length + 1; i <= LONGEST; i++) above += counts[i]!
      return count === 0 ? 0 : above / count
    },
    bins(edges) {
      const bins = new Array<number>(edges.length).fill(0)
      for (let length = 0, bin = 0; length <= LONGEST; length++) {
        while (bin + 1 < edges.length && length >= edges[bin + 1]!) bin++
        bins[bin]! += counts[length]!
      }
      return bins
    },
  }
}

/** A bar of a histogram. */
export interface Bar {
  readonly count: number
  /** what it holds, for the tooltip */
  readonly title: string
  /** under the axis; none where '' */
  readonly label: string
  /** colour: a class of html.ts */
  readonly series: 's0' | 's1'
}

const WIDTH = 620
const HEIGHT = 210
const [LEFT, RIGHT, TOP, BOTTOM] = [52, 40, 10, 28]
const INNER = { width: WIDTH - LEFT - RIGHT, height: HEIGHT - TOP - BOTTOM }

export interface HistogramOptions {
  /** a vertical line before this bar, and what it is called */
  readonly mark?: { readonly at: number; readonly label: string }
  /** a line over the bars: 0 .. 1 at the left edge of each bar, and at the end */
  readonly curve?: readonly number[]
  readonly name: string
}

/** Bars side by side with counts on the left axis, as one SVG without text that needs escaping. '' without a count. */
export function histogram(bars: readonly Bar[], { mark, curve, name }: HistogramOptions): string {
  const most = Math.max(0, ...bars.map(({ count }) => count))
  if (most === 0) return ''
  const top = niceAbove(most)
  const step = INNER.width / bars.length
  const x = (bar: number): number => LEFT + bar * step
  const y = (share: number): number => TOP + INNER.height * (1 - share)
  const shapes = bars.map(({ count, series, title }, i) => {
    if (count === 0) return ''
    // A bar that is not nothing can be seen.
    const height = Math.max(1, (INNER.height * count) / top)
    return `<rect class="fill ${series}" x="${fixed(x(i) + step * 0.06)}" y="${fixed(y(0) - height)}" width="${fixed(step * 0.88)}" height="${fixed(height)}"><title>${title}: ${count.toLocaleString('en')}</title></rect>`
  })
  const labels = bars.map(({ label }, i) =>
    label === '' ? '' : `<text class="scale" x="${fixed(x(i))}" y="${HEIGHT - 12}" text-anchor="middle">${label}</text>`,
  )
  const grid = [0, 0.5, 1].map(
    (share) =>
      `<line class="ring" x1="${LEFT}" x2="${WIDTH - RIGHT}" y1="${fixed(y(share))}" y2="${fixed(y(share))}"/><text class="scale" x="${LEFT - 6}" y="${fixed(y(share) + 3)}" text-anchor="end">${short(top * share)}</text>`,
  )
  const marked = mark
    ? `<line class="mark" x1="${fixed(x(mark.at))}" x2="${fixed(x(mark.at))}" y1="${TOP}" y2="${fixed(y(0))}"/><text class="axis" x="${fixed(x(mark.at) + 5)}" y="${TOP + 11}">${mark.label}</text>`
    : ''
  const line = curve
    ? `<polyline class="curve" points="${curve.map((share, i) => `${fixed(x(i))},${fixed(y(share))}`).join(' ')}"/>${[0, 0.5, 1].map((share) => `<text class="scale" x="${WIDTH - RIGHT + 6}" y="${fixed(y(share) + 3)}">${100 * share} %</text>`).join('')}`
    : ''
  return `<svg viewBox="0 0 ${WIDTH} ${HEIGHT}" role="img" aria-label="${name}">${[...grid, ...shapes, ...labels, marked, line].join('')}</svg>`
}

/** 1, 2 or 5 times a power of ten, at least `value`. */
function niceAbove(value: number): number {
  const power = 10 ** Math.floor(Math.log10(value))
  return [1, 2, 5, 10].find((factor) => factor * power >= value)! * power
}

function short(value: number): string {
  for (const [unit, size] of [
    ['M', 1e6],
    ['k', 1e3],
  ] as const)
    if (value >= size) return `${Number((value / size).toFixed(1))} ${unit}`
  return String(Number(value.toFixed(1)))
}

function fixed(value: number): string {
  return value.toFixed(1)
}

import { escapeHtml } from './html.js'

/** A polygon: one value from 0 to 100 for each axis, null where there is none. */
export interface Series {
  readonly name: string
  readonly values: readonly (number | null)[]
}

const RADIUS = 130
const CENTER = { x: 270, y: 175 }
const RINGS = [20, 40, 60, 80, 100]

/**
 * A radar chart as SVG; '' with fewer than three axes, which would be no area, and where no series is whole. A series with a missing value is
 * left out and named as such, never drawn as 0.
 */
export function radar(axes: readonly string[], series: readonly Series[]): string {
  const numbered = series.map((one, number) => ({ ...one, number }))
  const drawn = numbered.filter(({ values }) => values.every((value) => value !== null))
  if (axes.length < 3 || drawn.length === 0) return ''
  const point = (axis: number, value: number): string => {
    const angle = (2 * Math.PI * axis) / axes.length - Math.PI / 2
    const length = (RADIUS * Math.max(0, value)) / 100
    return `${(CENTER.x + length * Math.cos(angle)).toFixed(1)},${(CENTER.y + length * Math.sin(angle)).toFixed(1)}`
  }
  const rings = RINGS.map((value) => `<polygon class="ring" points="${axes.map((_, axis) => point(axis, value)).join(' ')}"/>`)
  const spokes = axes.map((_, axis) => `<polyline class="ring" points="${CENTER.x},${CENTER.y} ${point(axis, 100)}"/>`)
  const scale = RINGS.map((value) => `<text class="scale" x="${CENTER.x + 4}" y="${CENTER.y - (RADIUS * value) / 100 - 2}">${value}</text>`)
  const names = axes.map((name, axis) => {
    const [x, y] = point(axis, axis === 0 ? 118 : 112)
      .split(',')
      .map(Number) as [number, number]
    const anchor = Math.abs(x - CENTER.x) < 10 ? 'middle' : x < CENTER.x ? 'end' : 'start'
    return `<text class="axis" x="${x}" y="${y + 4}" text-anchor="${anchor}">${escapeHtml(name)}</text>`
  })
  const areas = drawn.map(({ name, values, number }) => {
    const corners = values.map((value, axis) => point(axis, value!))
    const dots = corners.map((corner, axis) => {
      const [x, y] = corner.split(',')
      return `<circle class="dot s${number}" cx="${x}" cy="${y}" r="3"><title>${escapeHtml(`${name}: ${axes[axis]} ${values[axis]!.toFixed(2)}`)}</title></circle>`
    })
    return `<polygon class="area s${number}" points="${corners.join(' ')}"/>${dots.join('')}`
  })
  const label = `Scores by task type: ${drawn.map(({ name, values }) => `${name} ${axes.map((axis, i) => `${axis} ${values[i]!.toFixed(1)}`).join(', ')}`).join('; ')}`
  const missing = numbered
    .filter((one) => !drawn.includes(one))
    .map(({ name, values }) => {
      const without = axes.filter((_, axis) => values[axis] === null).join(', ')
      return `<span class="quiet">${escapeHtml(`${name}: not drawn, no mean of ${without}`)}</span>`
    })
  const legend = [...drawn.map(({ name, number }) => `<span class="key s${number}">${escapeHtml(name)}</span>`), ...missing].join('')
  return `<figure><svg viewBox="0 0 540 350" role="img" aria-label="${escapeHtml(label)}">${[...rings, ...spokes, ...scale, ...areas, ...names].join('')}</svg><figcaption>${legend}</figcaption></figure>`
}

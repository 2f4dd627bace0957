import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'

/** A chart over the steps of a run; what the page's script draws with uPlot. */
export interface Chart {
  readonly title: string
  /** under the title */
  readonly note?: string
  /** steps; absent: those of the run */
  readonly x?: readonly number[]
  readonly series: readonly Series[]
  /** default 'linear' */
  readonly scale?: 'linear' | 'log'
  /** of the values; default: plain numbers */
  readonly format?: 'percent' | 'count' | 'exponential'
}

export interface Series {
  readonly label: string
  /** null: not measured there */
  readonly values: readonly (number | null)[]
  readonly color: 0 | 1 | 2 | 'quiet'
  /** 'faint' lies under a 'line' of the same; 'points' are few, and joined; 'reference' is dashed */
  readonly style: 'line' | 'faint' | 'points' | 'reference'
}

const dist: string = dirname(createRequire(import.meta.url).resolve('uplot'))

/** uPlot as a page holds it: its style, and its script with its licence. Read when a page is written. */
export function uPlot(): { style: string; script: string } {
  const read = (...path: string[]): string => readFileSync(join(dist, ...path), 'utf8')
  const licence = read('..', 'LICENSE').replaceAll('*/', '* /')
  return { style: read('uPlot.min.css'), script: `/* uPlot:\n${licence}*/\n${read('uPlot.iife.min.js')}` }
}

/** What goes into a Content-Security-Policy for an inline script. */
export function scriptHash(script: string): string {
  return `'sha256-${createHash('sha256').update(script).digest('base64')}'`
}

/** A value as JSON inside a script element. */
export function scriptJson(value: unknown): string {
  return JSON.stringify(value, (_, item: unknown) => (typeof item === 'number' ? shorten(item) : item)).replaceAll('<', '\\u003c')
}

/** Six digits are more than a chart shows. */
function shorten(value: number): number {
  return Number.isInteger(value) ? value : Number(value.toPrecision(6))
}

/** Style of charts, after html.ts's. */
export const CHART_STYLE = `
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 420px), 1fr)); gap: .75rem; }
.chart { min-width: 0; padding: .7rem .8rem .4rem; background: var(--card); border: 1px solid var(--line); border-radius: 8px; }
.chart h3 { margin: 0; font-size: .95rem; } .chart p { margin: 0 0 .3rem; color: var(--quiet); font-size: .8rem; min-height: 1.2em; }
.u-legend { font-size: .78rem; text-align: left; color: var(--ink); } .u-legend th, .u-legend td { border: 0; padding: 0 .3rem 0 0; color: var(--ink); font-weight: 400; background: none; } .u-legend tr { margin-right: .6rem; } .u-legend .faint { display: none; } .u-legend .u-marker { width: .9em; height: .9em; } .u-legend .u-value { font-variant-numeric: tabular-nums; color: var(--quiet); }
.u-select { background: color-mix(in srgb, var(--s0) 18%, transparent); } .u-cursor-x, .u-cursor-y { border-color: var(--quiet) !important; }
@media print { .chart { break-inside: avoid; } }
`

/** Draws charts into an element: \`charts.show(element, charts)\`; the same charts with other values are only redrawn. Follows the reader's colours. */
export const CHART_SCRIPT = `
var charts = (() => {
  const HEIGHT = 190
  const drawn = new Map()
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim()
  const colour = (name) => css(name === 'quiet' ? '--quiet' : '--s' + name)
  const trim = (v, digits) => String(Number(v.toPrecision(digits)))
  const formats = {
    percent: (v) => trim(100 * v, 3) + ' %',
    count: (v) => (v >= 1e6 ? trim(v / 1e6, 3) + ' M' : v >= 1e4 ? trim(v / 1e3, 3) + ' k' : v >= 100 ? Math.round(v).toLocaleString('en') : trim(v, 3)),
    exponential: (v) => (v === 0 ? '0' : v.toExponential(1)),
    plain: (v) => (v !== 0 && Math.abs(v) < 1e-3 ? v.toExponential(1) : trim(v, 4)),
  }
  const data = (chart) => [chart.x, ...chart.series.map((s) => s.values)]
  const key = (chart) => JSON.stringify([chart.title, chart.note, chart.scale, chart.series.map((s) => [s.label, s.style])])

  function options(chart, width) {
    const format = formats[chart.format || 'plain']
    const shown = (u, v) => (v == null ? '' : format(v))
    const axis = { stroke: css('--quiet'), grid: { stroke: css('--line'), width: 1 }, ticks: { stroke: css('--line'), width: 1 }, font: '11px system-ui, sans-serif' }
    return {
      width, height: HEIGHT,
      scales: { x: { time: false }, y: chart.scale === 'log' ? { distr: 3 } : { range: range(chart) } },
      axes: [
        { ...axis, size: 28, values: (u, splits) => splits.map((v) => (Number.isInteger(v) ? formats.count(v) : '')) },
        { ...axis, size: 58, values: (u, splits) => splits.map((v) => (v == null ? '' : format(v))) },
      ],
      cursor: { sync: { key: 'run' }, points: { size: 6 } },
      series: [
        { label: 'step', value: (u, v) => (v == null ? '' : v.toLocaleString('en')) },
        ...chart.series.map((s) => ({
          label: s.label,
          class: s.style,
          stroke: colour(s.color),
          width: s.style === 'faint' ? 1 : s.style === 'reference' ? 1.25 : 2,
          alpha: s.style === 'faint' ? 0.35 : 1,
          dash: s.style === 'reference' ? [6, 4] : undefined,
          points: { show: s.style === 'points' || chart.x.length === 1, size: 6 },
          spanGaps: s.style !== 'line' || s.values.some((v) => v !== null),
          value: shown,
        })),
      ],
    }
  }
  // A flat curve gets room around it; a percentage never leaves 0 to 100.
  function range(chart) {
    return (u, low, high) => {
      if (low == null) return [0, 1]
      const room = high - low > 1e-12 * Math.abs(high) ? 0.08 * (high - low) : Math.abs(high) * 0.1 || 1
      const bottom = low >= 0 ? Math.max(0, low - room) : low - room
      return chart.format === 'percent' ? [bottom, Math.min(1.0001, high + room)] : [bottom, high + room]
    }
  }
  const room = (host) => ({ width: Math.max(200, host.querySelector('.plot').clientWidth), height: HEIGHT })
  function build(entry) {
    const box = entry.host.querySelector('.plot')
    if (entry.plot) entry.plot.destroy()
    entry.plot = new uPlot(options(entry.chart, room(entry.host).width), data(entry.chart), box)
  }
  function place(element, i, chart) {
    const host = document.createElement('section')
    host.className = 'chart'
    const title = document.createElement('h3'), note = document.createElement('p'), box = document.createElement('div')
    title.textContent = chart.title
    note.textContent = chart.note || ''
    box.className = 'plot'
    host.append(title, note, box)
    element.insertBefore(host, element.children[i] || null)
    return { host, chart }
  }
  function show(element, list) {
    const keys = list.map(key)
    for (const [k, entry] of drawn) if (!keys.includes(k)) { sizes.unobserve(entry.host); entry.plot.destroy(); entry.host.remove(); drawn.delete(k) }
    const fresh = []
    list.forEach((chart, i) => {
      const old = drawn.get(keys[i])
      if (old) { old.chart = chart; old.plot.setData(data(chart)); return }
      const entry = place(element, i, chart)
      drawn.set(keys[i], entry)
      fresh.push(entry)
    })
    // Only now are there as many columns as there will be: a chart that is drawn into a grid of one is as wide as the page.
    for (const entry of fresh) { build(entry); sizes.observe(entry.host) }
  }
  const sizes = new ResizeObserver((changed) => {
    for (const { plot, host } of drawn.values()) {
      if (changed.some(({ target }) => target === host) && plot.width !== room(host).width) plot.setSize(room(host))
    }
  })
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => drawn.forEach(build))
  return { show }
})()
`

import { escapeHtml as text, STYLE } from '../report/html.js'
import type { SweepPoint, SweepResult } from './sweep.js'

const WIDTH = 620
const HEIGHT = 400
const MARGIN = { left: 70, right: 30, top: 20, bottom: 50 }

/** A sweep as one page without script or network: the trade-off as a curve, and the numbers. */
export function sweepPage({ models, tasks, points, best }: SweepResult): string {
  const rows = points.map(
    (point) =>
      `<tr${point === best ? ' class="mean"' : ''}><td class="num">${point.alpha}</td>${point.scores.map((score) => `<td class="num">${(100 * score).toFixed(2)}</td>`).join('')}<td class="num">${(50 * (point.scores[0] + point.scores[1])).toFixed(2)}</td></tr>`,
  )
  const heads = tasks.map(({ name, metric }) => `<th class="num">${text(name)} <span class="metric">${text(metric)}</span></th>`).join('')
  return `<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>Merging two models</title><style>${STYLE}
.path { fill: none; stroke: var(--s0); stroke-width: 2; } .best { fill: var(--s1); } figure { margin: 1rem 0; }</style></head>
<body>
<header><h1>Merging two models</h1><p>alpha × ${text(models[0])} + (1 − alpha) × ${text(models[1])}</p></header>
${tradeOff(tasks, points, best)}
<div class="scroll"><table><thead><tr><th class="num">alpha</th>${heads}<th class="num">Mean</th></tr></thead><tbody>${rows.join('\n')}</tbody></table></div>
<p class="quiet">Chosen: alpha ${best.alpha}, the highest mean. It was chosen on these tasks, so its scores are a little flattered: report it on a third set.</p>
</body></html>
`
}

function tradeOff(tasks: SweepResult['tasks'], points: readonly SweepPoint[], best: SweepPoint): string {
  const [x, y] = [0, 1].map((axis) => {
    const values = points.map(({ scores }) => 100 * scores[axis as 0 | 1])
    return scale(values, axis === 0 ? [MARGIN.left, WIDTH - MARGIN.right] : [HEIGHT - MARGIN.bottom, MARGIN.top])
  }) as [Scale, Scale]
  const at = ({ scores: [a, b] }: SweepPoint): [number, number] => [x.place(100 * a), y.place(100 * b)]
  const grid = [
    ...x.ticks.map((value) => {
      const px = x.place(value).toFixed(1)
      return `<polyline class="ring" points="${px},${MARGIN.top} ${px},${HEIGHT - MARGIN.bottom}"/><text class="axis" x="${px}" y="${HEIGHT - MARGIN.bottom + 18}" text-anchor="middle">${value}</text>`
    }),
    ...y.ticks.map((value) => {
      const py = y.place(value).toFixed(1)
      return `<polyline class="ring" points="${MARGIN.left},${py} ${WIDTH - MARGIN.right},${py}"/><text class="axis" x="${MARGIN.left - 8}" y="${(Number(py) + 4).toFixed(1)}" text-anchor="end">${value}</text>`
    }),
  ]
  const path = `<polyline class="path" points="${points
    .map((point) =>
      at(point)
        .map((v) => v.toFixed(1))
        .join(','),
    )
    .join(' ')}"/>`
  const dots = points.map((point) => {
    const [px, py] = at(point)
    const isBest = point === best
    return `<circle class="${isBest ? 'best' : 'dot s0'}" cx="${px.toFixed(1)}" cy="${py.toFixed(1)}" r="${isBest ? 6 : 4}"/><text class="axis" x="${(px + 9).toFixed(1)}" y="${(py - 7).toFixed(1)}">${point.alpha}</text>`
  })
  const names = [
    `<text class="axis" x="${WIDTH / 2}" y="${HEIGHT - 8}" text-anchor="middle">${text(tasks[0].name)}</text>`,
    `<text class="axis" x="16" y="${HEIGHT / 2}" text-anchor="middle" transform="rotate(-90 16 ${HEIGHT / 2})">${text(tasks[1].name)}</text>`,
  ]
  const label = points
    .map(({ alpha, scores }) => `alpha ${alpha}: ${(100 * scores[0]).toFixed(1)} and ${(100 * scores[1]).toFixed(1)}`)
    .join('; ')
  return `<figure><svg viewBox="0 0 ${WIDTH} ${HEIGHT}" role="img" aria-label="${text(label)}">${[...grid, path, ...dots, ...names].join('')}</svg><figcaption class="quiet">each point is an alpha; up and to the right is better</figcaption></figure>`
}

interface Scale {
  place(value: number): number
  readonly ticks: readonly number[]
}

/** A linear axis over `values` from pixel `from` to `to`, with three to six round ticks. */
function scale(values: readonly number[], [from, to]: readonly [number, number]): Scale {
  const low = Math.min(...values)
  const span = Math.max(Math.max(...values) - low, 0.1)
  const raw = span / 4
  const power = 10 ** Math.floor(Math.log10(raw))
  const step = power * [1, 2, 5, 10].find((factor) => factor * power >= raw)!
  const first = Math.floor((low - 0.1 * span) / step)
  const last = Math.ceil((low + 1.1 * span) / step)
  const digits = Math.max(0, -Math.floor(Math.log10(step)))
  return {
    place: (value) => from + ((value - first * step) / ((last - first) * step)) * (to - from),
    ticks: Array.from({ length: last - first + 1 }, (_, i) => Number(((first + i) * step).toFixed(digits))),
  }
}

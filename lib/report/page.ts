import { CMTEB_TYPES } from '../eval/cmteb/tasks.js'
import type { Evaluation, TaskResult } from '../eval/evaluation.js'
import { limitNote } from '../eval/limit.js'
import { TASK_TYPES } from '../eval/tasks.js'
import { compare, type Comparison, type Other } from './comparison.js'
import { failureDetails, taskDetails } from './details.js'
import { escapeHtml as text, STYLE } from './html.js'
import { radar } from './radar.js'
import { shorten, signed } from './table.js'

/** Of `reportPage`. */
export interface PageOptions {
  /** the evaluated model's name */
  readonly model: string
  /** other models: a column each, and the first two in the radar */
  readonly others?: readonly Other[]
  /** default: now */
  readonly date?: Date
}

/** An evaluation as one HTML page that needs nothing else: no network, no script, light and dark. */
export function reportPage(evaluation: Evaluation, { model, others = [], date = new Date() }: PageOptions): string {
  const comparison = compare(evaluation, others)
  const title = `${shorten(model)}: C-MTEB scores`
  return `<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>${text(title)}</title><style>${STYLE}</style></head>
<body>
<header><h1>${text(model)}</h1><p class="quiet">${text(subtitle(evaluation, date))}</p></header>
${tiles(comparison, evaluation)}
${typeRadar(evaluation, comparison, model)}
<h2>Tasks</h2>
${scoreTable(comparison, evaluation, model)}
${sources(others)}
<h2>Details</h2>
${evaluation.tasks.map((task, i) => ('error' in task ? failureDetails(task, `task-${i}`) : taskDetails(task, `task-${i}`))).join('\n')}
</body></html>
`
}

function subtitle({ benchmark, tasks }: Evaluation, date: Date): string {
  const first = tasks.find((task) => !('error' in task)) as TaskResult | undefined
  const what =
    benchmark === null
      ? `${tasks.length} own tasks`
      : `${benchmark.set}: ${benchmark.tasks - benchmark.missing.length} of ${benchmark.tasks} tasks`
  const rules =
    first === undefined
      ? []
      : [`dialect ${first.dialect}`, `scikit-learn ${first.sklearn}`, ...(first.limit === null ? [] : [limitNote(first.limit)])]
  return [what, ...rules, date.toISOString().slice(0, 10)].join(' · ')
}

function tiles({ means }: Comparison, { benchmark }: Evaluation): string {
  const shown = means.filter((mean) => mean.score !== null).reverse()
  const missing = benchmark?.missing ?? []
  const hole =
    missing.length === 0
      ? ''
      : `<p class="failed">No mean of ${text(benchmark!.set)}: ${missing.length} of ${benchmark!.tasks} tasks have no score: ${text(missing.join(', '))}</p>`
  const tiles = shown.map(({ label, score }) => `<div class="tile"><b>${score!.toFixed(2)}</b><span>${text(label)}</span></div>`)
  return `${tiles.length === 0 ? '' : `<div class="tiles">${tiles.join('')}</div>`}${hole}`
}

/** An axis per task type that was run: its mean, of every model over the same tasks. */
function typeRadar({ tasks }: Evaluation, { rows, others }: Comparison, model: string): string {
  const types = TASK_TYPES.filter((type) => tasks.some((task) => task.type === type))
  const mean = (values: readonly (number | null)[]): number | null =>
    values.some((value) => value === null) ? null : values.reduce<number>((sum, value) => sum + value!, 0) / values.length
  const series = [
    { name: shorten(model), values: types.map((type) => mean(rows.filter((row) => row.type === type).map((row) => row.score))) },
    ...others.slice(0, 2).map(({ name }, i) => ({
      name: shorten(name),
      values: types.map((type) => mean(rows.filter((row) => row.type === type).map((row) => row.others[i]!))),
    })),
  ]
  const chart = radar(
    types.map((type) => CMTEB_TYPES[type].displayName),
    series,
  )
  return chart === '' ? '' : `<h2>By task type</h2>\n${chart}`
}

/** A row per task, under a row per type; the means of the set last. */
function scoreTable({ rows, means, others }: Comparison, { tasks }: Evaluation, model: string): string {
  const head =
    `<th>Task</th><th class="num">${text(shorten(model))}</th>` +
    others.map(({ name }) => `<th class="num">${text(shorten(name))}</th><th class="num">Difference</th>`).join('')
  const cells = (score: number | null, beside: readonly (number | null)[]): string => {
    const own =
      score === null
        ? '<td class="num failed">none</td>'
        : `<td class="num">${score.toFixed(2)}<span class="bar"><i style="width:${Math.min(100, Math.max(0, score)).toFixed(1)}%"></i></span></td>`
    return (
      own + beside.map((value) => `<td class="num">${value === null ? '–' : value.toFixed(2)}</td>${differenceCell(score, value)}`).join('')
    )
  }
  const body = rows.map(({ type, name, metric, score, others: beside }, i) => {
    const first = rows[i - 1]?.type !== type
    const group = first ? `<tr class="group"><th colspan="${2 + 2 * others.length}">${text(CMTEB_TYPES[type].displayName)}</th></tr>\n` : ''
    const task = tasks[i]!
    const notes = 'error' in task || task.notes.length === 0 ? '' : ` <span class="note" title="${text(task.notes.join(' '))}">note</span>`
    return `${group}<tr><td><a href="#task-${i}">${text(name)}</a>${notes} <span class="metric">${text(metric)}</span></td>${cells(score, beside)}</tr>`
  })
  const foot = means.map(
    ({ label, missing, score, others: beside }) =>
      `<tr class="mean"><td>${text(label)}${missing.length > 0 ? ` (${missing.length} without a score)` : ''}</td>${cells(score, beside)}</tr>`,
  )
  const end = foot.length === 0 ? '' : `<tbody>${foot.join('\n')}</tbody>`
  return `<div class="scroll"><table class="scores"><thead><tr>${head}</tr></thead><tbody>${body.join('\n')}</tbody>${end}</table></div>`
}

function differenceCell(ours: number | null, theirs: number | null): string {
  if (ours === null || theirs === null) return '<td class="num">–</td>'
  const difference = signed(ours - theirs)
  const way = difference.startsWith('+') ? ' up' : difference.startsWith('-') ? ' down' : ''
  return `<td class="num${way}">${difference}</td>`
}

function sources(others: readonly Other[]): string {
  return others.map(({ name, source }) => `<p class="quiet">${text(`${shorten(name)}: ${source}`)}</p>`).join('\n')
}

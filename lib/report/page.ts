import { CMTEB_TYPES } from '../eval/cmteb/tasks.js'
import type { Evaluation, TaskFailure, TaskResult } from '../eval/evaluation.js'
import type { Example } from '../eval/examples.js'
import { TASK_TYPES } from '../eval/tasks.js'
import { compare, type Comparison, type Other } from './comparison.js'
import { escapeHtml as text, STYLE } from './html.js'
import { radar } from './radar.js'
import { shorten, signed } from './table.js'

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
${scoreTable(comparison, model)}
${sources(evaluation, others)}
<h2>Details</h2>
${evaluation.tasks.map((task, i) => ('error' in task ? failed(task, `task-${i}`) : details(task, `task-${i}`))).join('\n')}
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
      : [
          `dialect ${first.dialect}`,
          `scikit-learn ${first.sklearn}`,
          ...(first.limit === null ? [] : [`limited to ${first.limit} a task: not comparable`]),
        ]
  return [what, ...rules, date.toISOString().slice(0, 10)].join(' · ')
}

function tiles({ means }: Comparison, { benchmark }: Evaluation): string {
  const shown = means.filter((mean) => mean.score !== null).reverse()
  const missing = benchmark?.missing ?? []
  const hole =
    missing.length === 0
      ? ''
      : `<p class="failed">No mean of ${text(benchmark!.set)}: ${missing.length} of ${benchmark!.tasks} tasks have no score: ${text(missing.join(', '))}</p>`
  return `<div class="tiles">${shown.map(({ label, score }) => `<div class="tile"><b>${score!.toFixed(2)}</b><span>${text(label)}</span></div>`).join('')}</div>${hole}`
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

function scoreTable({ rows, means, others }: Comparison, model: string): string {
  const head =
    ['Task', 'Type', 'Metric'].map((name) => `<th>${name}</th>`).join('') +
    `<th class="num">${text(shorten(model))}</th>` +
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
  const body = rows.map(
    (row, i) =>
      `<tr><td><a href="#task-${i}">${text(row.name)}</a></td><td>${text(CMTEB_TYPES[row.type].displayName)}</td><td>${text(row.metric)}</td>${cells(row.score, row.others)}</tr>`,
  )
  const foot = means.map(
    (mean) =>
      `<tr class="mean"><td colspan="3">${text(mean.label)}${mean.missing.length > 0 ? ` (${mean.missing.length} tasks without a score)` : ''}</td>${cells(mean.score, mean.others)}</tr>`,
  )
  return `<div class="scroll"><table><thead><tr>${head}</tr></thead><tbody>${[...body, ...foot].join('\n')}</tbody></table></div>`
}

function differenceCell(ours: number | null, theirs: number | null): string {
  if (ours === null || theirs === null) return '<td class="num">–</td>'
  const difference = signed(ours - theirs)
  const way = difference.startsWith('+') ? ' up' : difference.startsWith('-') ? ' down' : ''
  return `<td class="num${way}">${difference}</td>`
}

function sources({ tasks }: Evaluation, others: readonly Other[]): string {
  const notes = tasks.flatMap((task) => ('error' in task ? [] : task.notes))
  return [...others.map((other) => `${shorten(other.name)}: ${other.source}`), ...notes]
    .map((note) => `<p class="quiet">${text(note)}</p>`)
    .join('\n')
}

function failed({ task_name, type, error }: TaskFailure, id: string): string {
  return `<details id="${id}"><summary>${text(`${type}/${task_name}`)} <span class="failed">failed</span></summary><div><p class="failed">${text(`[${error.code}] ${error.message}`)}</p></div></details>`
}

function details(task: TaskResult, id: string): string {
  const metrics = Object.entries(task.scores).map(
    ([name, score]) => `<span>${text(name)}<b>${Number.isFinite(score) ? (100 * score).toFixed(2) : '–'}</b></span>`,
  )
  const counts = Object.entries(task.n).map(([name, count]) => `${count.toLocaleString('en')} ${name}`)
  const examples = task.examples.length === 0 ? '' : `<h4>${text(headline(task.examples[0]!))}</h4>${task.examples.map(example).join('')}`
  return `<details id="${id}"><summary>${text(`${task.type}/${task.task_name}`)} <b>${(100 * task.main_score).toFixed(2)}</b> <span class="quiet">${text(task.main_metric)}</span></summary>
<div><p class="quiet">${text([...counts, `${task.seconds.toFixed(1)} s`, ...(task.instruction === '' ? [] : [`instruction ${task.instruction}`])].join(' · '))}</p>
<div class="metrics">${metrics.join('')}</div>${examples}</div></details>`
}

function headline({ kind }: Example): string {
  return {
    ranking: 'Worst queries, and what was retrieved instead',
    pair: 'Pairs farthest from their labels',
    label: 'Texts with a wrong label',
  }[kind]
}

function example(one: Example): string {
  if (one.kind === 'pair')
    return `<div class="example">${text(one.text1)}<br>${text(one.text2)}<p class="quiet">label ${one.label}, cosine ${one.cosine.toFixed(3)}</p></div>`
  if (one.kind === 'label')
    return `<div class="example">${text(one.text)}<p class="quiet">is ${text(one.expected)}, was taken for ${text(one.predicted)}</p></div>`
  const expected = one.expected.map(
    ({ text: document, rank }) =>
      `<li><span class="quiet">${rank === null ? 'not retrieved' : `rank ${rank}`}</span> ${text(document)}</li>`,
  )
  const retrieved = one.retrieved.map(
    ({ text: document, relevant }, i) =>
      `<li><span class="${relevant ? 'up' : 'down'}">${i + 1}${relevant ? ', relevant' : ''}</span> ${text(document)}</li>`,
  )
  return `<div class="example"><b>${text(one.query)}</b> <span class="quiet">${(100 * one.score).toFixed(1)}</span>
<p class="quiet">Relevant</p><ul>${expected.join('')}</ul><p class="quiet">Retrieved first</p><ul>${retrieved.join('')}</ul></div>`
}

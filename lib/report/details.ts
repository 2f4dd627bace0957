import type { TaskFailure, TaskResult } from '../eval/evaluation.js'
import type { Example } from '../eval/examples.js'
import { escapeHtml as text } from './html.js'

/** The part of the page about a task that failed: why. */
export function failureDetails({ task_name, type, error }: TaskFailure, id: string): string {
  return `<details id="${id}"><summary>${text(`${type}/${task_name}`)} <span class="failed">failed</span></summary><div><p class="failed">${text(`[${error.code}] ${error.message}`)}</p></div></details>`
}

/** The part of the page about a task: what was scored, every metric x100, notes, and where the model was most wrong. */
export function taskDetails(task: TaskResult, id: string): string {
  const counts = Object.entries(task.n).map(([name, count]) => `${count.toLocaleString('en')} ${name}`)
  const facts = [...counts, `${task.seconds.toFixed(1)} s`, ...(task.instruction === '' ? [] : [`instruction ${task.instruction}`])]
  const notes = task.notes.map((note) => `<p class="quiet">${text(note)}</p>`).join('')
  const examples = task.examples.length === 0 ? '' : `<h4>${headline(task.examples[0]!)}</h4>${task.examples.map(example).join('')}`
  return `<details id="${id}"><summary>${text(`${task.type}/${task.task_name}`)} <b>${score(task.main_score)}</b> <span class="quiet">${text(task.main_metric)}</span></summary>
<div><p class="quiet">${text(facts.join(' · '))}</p>${notes}
${metrics(task.scores)}${examples}</div></details>`
}

/** Measures at cut-offs are tables, the others a list; what says how sure the model is of its answers folds away. */
function metrics(scores: TaskResult['scores']): string {
  const alone: string[] = []
  const at = new Map<string, Map<string, number>>()
  for (const [name, value] of Object.entries(scores)) {
    const [, measure, k, kind] = /^(\w+?)_at_(\d+)(_\w+)?$/.exec(name) ?? []
    if (measure === undefined) alone.push(`<span>${text(name)}<b>${score(value)}</b></span>`)
    else {
      const row = `${measure}_at_k${kind ?? ''}`
      at.set(row, (at.get(row) ?? new Map<string, number>()).set(k!, value))
    }
  }
  const isAbstention = (row: string): boolean => row.startsWith('nauc_')
  const rows = [...at]
  const sure = rows.filter(([row]) => isAbstention(row))
  const folded = `<details class="inner"><summary>nAUC: does confidence tell right answers from wrong ones?</summary><div>${cutoffTable(sure)}</div></details>`
  return `${alone.length === 0 ? '' : `<div class="metrics">${alone.join('')}</div>`}${cutoffTable(rows.filter(([row]) => !isAbstention(row)))}${sure.length === 0 ? '' : folded}`
}

function cutoffTable(rows: readonly (readonly [string, ReadonlyMap<string, number>])[]): string {
  if (rows.length === 0) return ''
  const cutoffs = [...new Set(rows.flatMap(([, values]) => [...values.keys()]))]
  const head = `<tr><th>k</th>${cutoffs.map((k) => `<th class="num">${k}</th>`).join('')}</tr>`
  const body = rows.map(([name, values]) => {
    const cells = cutoffs.map((k) => `<td class="num">${score(values.get(k))}</td>`)
    return `<tr><th scope="row">${text(name)}</th>${cells.join('')}</tr>`
  })
  return `<div class="scroll small"><table>${head}${body.join('')}</table></div>`
}

/** x100; a score that is none is a dash. */
function score(value: number | null | undefined): string {
  return Number.isFinite(value) ? (100 * value!).toFixed(2) : '–'
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
    return `<div class="example" lang="zh">${text(one.text1)}<br>${text(one.text2)}<p class="quiet" lang="en">label ${one.label}, cosine ${one.cosine.toFixed(3)}</p></div>`
  if (one.kind === 'label')
    return `<div class="example" lang="zh">${text(one.text)}<p class="quiet" lang="en">is ${text(one.expected)}, was taken for ${text(one.predicted)}</p></div>`
  const expected = one.expected.map(
    ({ text: document, rank }) =>
      `<li><span class="quiet">${rank === null ? 'not retrieved' : `rank ${rank}`}</span> ${text(document)}</li>`,
  )
  const retrieved = one.retrieved.map(
    ({ text: document, relevant }, i) =>
      `<li><span class="${relevant ? 'up' : 'down'}">${i + 1}${relevant ? ', relevant' : ''}</span> ${text(document)}</li>`,
  )
  return `<div class="example" lang="zh"><b>${text(one.query)}</b> <span class="quiet">${(100 * one.score).toFixed(1)}</span>
<p class="quiet" lang="en">Relevant</p><ul>${expected.join('')}</ul><p class="quiet" lang="en">Retrieved first</p><ul>${retrieved.join('')}</ul></div>`
}

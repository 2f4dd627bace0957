import { escapeHtml as text, STYLE } from '../report/html.js'
import { type Comparison, percent, signed, verdictSentence } from './compare.js'
import type { TaskScore } from './evaluate.js'
import type { RecipeSummary, StepSummary } from './summary.js'

const MORE = `
.verdict { margin: 1rem 0; padding: .9rem 1.1rem; background: var(--card); border: 1px solid var(--line); border-left: 5px solid var(--quiet); border-radius: 8px; } .verdict.better { border-left-color: var(--up); } .verdict.worse { border-left-color: var(--down); } .verdict b { font-size: 1.15rem; }
.whisker { stroke: var(--s0); stroke-width: 3; } .zero { stroke: var(--ink); stroke-dasharray: 4 3; } .point { fill: var(--s0); } pre { white-space: pre-wrap; overflow-wrap: anywhere; font-size: .82rem; }
`

/** A run as one HTML page that needs nothing else: no network, no script, light and dark. The same summary gives the same bytes. */
export function runPage(summary: RecipeSummary): string {
  const { recipe, description, steps, comparisons } = summary
  return `<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>${text(recipe)}: run</title><style>${STYLE}${MORE}</style></head>
<body>
<header><h1>${text(recipe)}</h1><p class="quiet">${text(description ?? 'A recipe of bge run')}</p></header>
${comparisons.map(({ step, against, comparison }) => verdict(step, against, comparison)).join('\n')}
${scores(steps)}
<h2>Steps</h2>
${stepTable(steps)}
<h2>Details</h2>
${steps.map(details).join('\n')}
</body></html>
`
}

/** What may be said, the numbers, and the interval as a line. */
function verdict(step: string, against: string, comparison: Comparison): string {
  const { before, after, difference, interval, queries, groups, counts, resamples, seed } = comparison
  const kind = comparison.verdict === 'no difference shown' ? '' : ` ${comparison.verdict}`
  const sure = interval === null ? 'no interval' : `95 % interval ${signed(interval[0])} to ${signed(interval[1])}`
  return `<section class="verdict${kind}"><b>${text(step)} against ${text(against)}: ${text(verdictSentence(comparison))}</b>
<p>nDCG@10 ${percent(before)} before, ${percent(after)} after: ${signed(difference)} (${sure})</p>
${interval === null ? '' : whisker(difference, interval)}
<p class="quiet">${queries} queries in ${groups} groups that share no passage: ${counts.better} ranked better, ${counts.worse} worse, ${counts.equal} the same. Paired bootstrap over groups, ${resamples.toLocaleString('en')} resamples, seed ${seed}. The interval is about other queries of this kind; another training seed may differ too.</p></section>`
}

function whisker(difference: number, [low, high]: readonly [number, number]): string {
  const reach = Math.max(Math.abs(low), Math.abs(high), 1e-9) * 1.15
  const x = (value: number): string => (300 + (270 * value) / reach).toFixed(1)
  const label = (value: number): string => `<text class="scale" x="${x(value)}" y="44" text-anchor="middle">${signed(value)}</text>`
  return `<svg viewBox="0 0 600 50" role="img" aria-label="difference with its interval"><line class="ring" x1="30" x2="570" y1="18" y2="18"/><line class="zero" x1="300" x2="300" y1="4" y2="32"/><line class="whisker" x1="${x(low)}" x2="${x(high)}" y1="18" y2="18"/><circle class="point" cx="${x(difference)}" cy="18" r="6"/>${label(low)}${label(high)}</svg>`
}

function table(head: readonly string[], rows: readonly (readonly string[])[], numbers: number): string {
  const cell = (tag: 'th' | 'td', value: string, i: number): string => `<${tag}${i >= numbers ? ' class="num"' : ''}>${value}</${tag}>`
  return `<div class="scroll"><table><thead><tr>${head.map((name, i) => cell('th', name, i)).join('')}</tr></thead><tbody>${rows.map((row) => `<tr>${row.map((value, i) => cell('td', value, i)).join('')}</tr>`).join('\n')}</tbody></table></div>`
}

function scores(steps: readonly StepSummary[]): string {
  const rows = steps.flatMap(({ name, facts }) =>
    ((facts['scores'] as readonly TaskScore[] | undefined) ?? []).map(({ task, type, metric, score, before }) => [
      text(name),
      text(`${type}/${task}`),
      text(metric),
      before === undefined ? '–' : percent(before),
      percent(score),
      before === undefined ? '–' : signed(score - before),
    ]),
  )
  if (rows.length === 0) return ''
  return `<h2>Scores</h2>\n${table(['Step', 'Task', 'Metric', 'Before', 'Score', 'Difference'], rows, 3)}<p class="quiet">A difference without an interval says nothing about other data.</p>`
}

function stepTable(steps: readonly StepSummary[]): string {
  const rows = steps.map((step) => [
    'trainSeconds' in step.facts ? `<a href="steps/${text(step.name)}/report.html">${text(step.name)}</a>` : text(step.name),
    text(step.do),
    text(
      Object.entries(step.from)
        .map(([slot, names]) => `${slot}: ${names.join(', ')}`)
        .join('; '),
    ),
    text(describeFacts(step)),
    step.seconds.toFixed(1),
  ])
  return table(['Step', 'Does', 'Reads', 'Came to', 'Seconds'], rows, 4)
}

/** What a step came to, in a few words. */
export function describeFacts({ do: verb, facts }: Pick<StepSummary, 'do' | 'facts'>): string {
  const count = (key: string): string => Number(facts[key] ?? 0).toLocaleString('en')
  switch (verb) {
    case 'curate':
      return `${count('rows')} rows of ${count('sources')} sources`
    case 'split':
      return `${count('train')} rows to train on, ${count('dev')} held out; ${count('groups')} groups, the largest of ${count('largestGroup')}`
    case 'new':
      return `${String(facts['layers'])} layers x ${String(facts['width'])}, vocabulary ${count('vocabulary')}`
    case 'mine':
      return [
        `${count('mined')} negatives mined, ${count('random')} random, ${count('missing')} not found; pool ${count('pool')}`,
        ...(facts['weak'] ? [`${count('weak')} rows with random negatives alone, which no rule compared with the positive`] : []),
        ...(facts['empty'] ? [`${count('empty')} rows without any negative`] : []),
      ].join('; ')
    case 'merge':
      return `weights ${(facts['weights'] as number[]).join(', ')}`
    case 'evaluate':
      return [
        ...(facts['scores'] as TaskScore[]).map(({ task, metric, score }) => `${task} ${metric} ${percent(score)}`),
        ...(facts['instruction'] === undefined ? [] : [describeInstruction(facts)]),
      ].join(', ')
    default: {
      const [first, last] = facts['loss'] as [number | null, number | null]
      return `${count('steps')} steps, loss ${first?.toFixed(3) ?? '–'} -> ${last?.toFixed(3) ?? '–'}`
    }
  }
}

/** Which instruction stood before the queries, and what others would have given. */
function describeInstruction(facts: StepSummary['facts']): string {
  const tried = facts['tried'] as readonly { instruction: string; score: number }[]
  const named = (instruction: string): string => (instruction === '' ? 'no instruction' : `instruction ${instruction}`)
  const others = tried
    .filter(({ instruction }) => instruction !== facts['instruction'])
    .map(({ instruction, score }) => `${named(instruction)} ${percent(score)}`)
  return `with ${named(facts['instruction'] as string)}${others.length > 0 ? ` (${others.join(', ')})` : ''}`
}

function details({ name, do: verb, settings, facts }: StepSummary): string {
  const shown = facts['config'] ?? settings
  return `<details><summary>${text(name)} (${text(verb)})</summary><div><pre>${text(JSON.stringify(shown, null, 2))}</pre></div></details>`
}

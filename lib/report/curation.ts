import type { DecontaminationReport } from '../curate/decontaminate.js'
import type { DuplicateSample } from '../curate/dedup.js'
import type { LengthSummary, OutputReport } from '../curate/output.js'
import type { ScoredSample, SemanticReport } from '../curate/semantic.js'
import { type CurationSummary, ruleCounts, type RuleDrops, type RuleKind, steps, total } from '../curate/summary.js'
import { LENGTH_EDGES } from '../data/lengths.js'
import { type Bar, histogram } from './histogram.js'
import { escapeHtml as text, STYLE } from './html.js'

const MORE = `
.fill.s0 { fill: var(--s0); } .fill.s1 { fill: var(--s1); } .mark { stroke: var(--ink); stroke-dasharray: 4 3; } .curve { fill: none; stroke: var(--ink); stroke-width: 1.5; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 400px), 1fr)); gap: .75rem; } .key.line::before { height: 2px; border-radius: 0; vertical-align: .25em; background: var(--ink); }
.pair span { white-space: pre-wrap; } .pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 300px), 1fr)); gap: .2rem 1.2rem; } .wide { display: block; width: 100%; min-width: 120px; height: 9px; margin: 0; } td:has(.wide) { width: 45%; } pre { white-space: pre-wrap; overflow-wrap: anywhere; font-size: .82rem; }
`

/** A curation as one HTML page that needs nothing else: no network, no script, light and dark. The same summary gives the same bytes. */
export function curationPage(summary: CurationSummary): string {
  const title = `${summary.recipe}: curation`
  const sections = [
    ['Step by step', funnel(summary)],
    ['Sources', sourceTable(summary)],
    ['Records that make no pair', rules(summary, 'unread', '')],
    ['Dropped by cleaning', rules(summary, 'dropped', 'No row was dropped.')],
    ['Changed by cleaning', rules(summary, 'changed', 'No row was changed.')],
    ['De-duplication', duplicates(summary)],
    ['De-contamination', contamination(summary)],
    ['Semantic filter', semantic(summary)],
    ['Lengths', lengths(summary.output)],
    ['Tokens', tokens(summary)],
    ['Rows to look at', rowSamples(summary.output)],
    ['Licences', licences(summary)],
    ['Files and settings', files(summary)],
  ] as const
  return `<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>${text(title)}</title><style>${STYLE}${MORE}</style></head>
<body>
<header><h1>${text(summary.recipe)}</h1><p class="quiet">${text(summary.description ?? 'Training pairs and how they were made')}</p></header>
${tiles(summary)}
${sections.map(([name, body]) => (body === '' ? '' : `<h2>${name}</h2>\n${body}`)).join('\n')}
</body></html>
`
}

const count = (value: number): string => value.toLocaleString('en')
const percent = (share: number, digits = 1): string => `${(100 * share).toFixed(digits)} %`
const share = (part: number, whole: number): string => (whole === 0 ? '–' : percent(part / whole))

function tiles(summary: CurationSummary): string {
  const { output } = summary
  const extracted = total(summary, 'extracted')
  const shown: [string, string][] = [
    [count(total(summary, 'read')), 'records read'],
    [count(extracted), 'pairs extracted'],
    [count(output.rows), 'rows written'],
    [share(output.rows, extracted), 'of the pairs kept'],
    ...(output.tokens ? [[percent(output.tokens.passage.unknown, 2), '[UNK] in passages'] as [string, string]] : []),
  ]
  return `<div class="tiles">${shown.map(([value, label]) => `<div class="tile"><b>${value}</b><span>${label}</span></div>`).join('')}</div>`
}

function table(head: readonly string[], rows: readonly (readonly string[])[], numbers: number): string {
  const cell = (tag: 'th' | 'td', value: string, i: number): string => `<${tag}${i >= numbers ? ' class="num"' : ''}>${value}</${tag}>`
  return `<div class="scroll"><table><thead><tr>${head.map((name, i) => cell('th', name, i)).join('')}</tr></thead><tbody>${rows.map((row) => `<tr>${row.map((value, i) => cell('td', value, i)).join('')}</tr>`).join('\n')}</tbody></table></div>`
}

function bar(part: number): string {
  return `<span class="bar wide"><i style="width:${(100 * Math.min(1, Math.max(0, part))).toFixed(1)}%"></i></span>`
}

function funnel(summary: CurationSummary): string {
  const all = steps(summary).map(({ key, title }) => ({ title, rows: total(summary, key) }))
  // Many records may never have been meant to be pairs (`where`), so the bars begin with the pairs.
  const most = Math.max(1, ...all.slice(1).map(({ rows }) => rows))
  const rows = all.map(({ title, rows }, i) => {
    const before = i === 0 ? undefined : all[i - 1]!.rows
    return [
      text(title),
      bar(rows / most),
      count(rows),
      before === undefined ? '–' : count(rows - before),
      before === undefined ? '–' : share(rows, before),
    ]
  })
  return table(['After', '', 'Rows', 'Change', 'Kept'], rows, 2)
}

function sourceTable(summary: CurationSummary): string {
  const columns = steps(summary)
  const rows = summary.sources.map((source) => [
    text(source.name),
    text(source.type),
    ...columns.map(({ key }) => count(source.rows[key] ?? 0)),
    share(source.rows.written, source.rows.extracted),
    source.expectedCount === null ? '–' : count(source.expectedCount),
  ])
  const sum = [
    '<b>all</b>',
    '',
    ...columns.map(({ key }) => `<b>${count(total(summary, key))}</b>`),
    share(total(summary, 'written'), total(summary, 'extracted')),
    '',
  ]
  return table(
    ['Source', 'Pairs of', ...columns.map(({ title }) => text(title)), 'kept', 'expected'],
    rows.length > 1 ? [...rows, sum] : rows,
    2,
  )
}

function rules(summary: CurationSummary, kind: RuleKind, none: string): string {
  const found = ruleCounts(summary, kind)
  if (found.length === 0) return none === '' ? '' : `<p class="quiet">${none}</p>`
  const whole = Math.max(1, total(summary, kind === 'unread' ? 'read' : 'extracted'))
  const names = summary.sources.map(({ name }) => name)
  const bySource = names.length > 1 && names.length <= 12
  const rows = found.map(({ rule, count: rows }) => [
    text(rule),
    bar(rows / whole),
    count(rows),
    ...(bySource ? summary.sources.map(({ tally }) => count(tally[kind === 'changed' ? 'changed' : 'dropped'][rule]?.count ?? 0)) : []),
  ])
  return table(['Rule', '', 'Rows', ...(bySource ? names.map(text) : [])], rows, 2) + found.map(ruleSamples).join('')
}

function ruleSamples({ rule, count: rows, samples }: RuleDrops): string {
  const one = ({ at, text: before, after }: RuleDrops['samples'][number]): string =>
    `<div class="example"><p class="quiet">${text(at)}</p>${after === undefined ? text(before) : `<div class="pair"><span>${text(before)}</span><span>${text(after)}</span></div>`}</div>`
  return `<details><summary>${text(rule)} <span class="quiet">${count(rows)} ${rows === 1 ? 'row' : 'rows'}${samples.length < rows ? `, ${samples.length} shown` : ''}</span></summary><div>${samples.map(one).join('')}</div></details>`
}

function duplicates({ dedup, settings }: CurationSummary): string {
  if (dedup === null) return '<p class="quiet">Was not asked for.</p>'
  const near = settings.dedup!.near
  const what = { pair: 'query and passage together', query: 'queries', passage: 'passages' }[settings.dedup!.on]
  const words = [
    `Compared: ${what}, over all sources.`,
    `${count(dedup.exact)} of ${count(dedup.read)} rows were exact copies,`,
    near === false
      ? 'near-duplicates were not looked for.'
      : `${count(dedup.near)} near-duplicates of Jaccard similarity ${near.threshold} or more.`,
  ]
  const side = ({ source, at, query, pos }: DuplicateSample['kept'], label: string): string =>
    `<div><p class="quiet">${label}: ${text(source)}, ${text(at)}</p>${text(query)}<br>${text(pos.slice(0, 200))}</div>`
  const block = (name: string, samples: readonly DuplicateSample[]): string =>
    samples.length === 0
      ? ''
      : `<details><summary>${name} <span class="quiet">${samples.length} shown</span></summary><div>${samples.map((sample) => `<div class="example">similarity ${sample.similarity.toFixed(3)}<div class="pair">${side(sample.dropped, 'dropped')}${side(sample.kept, 'kept')}</div></div>`).join('')}</div></details>`
  return `<p>${text(words.join(' '))}</p>${block('Exact copies', dedup.samples.exact)}${block('Near-duplicates', dedup.samples.near)}`
}

function contamination({ decontamination: report, settings }: CurationSummary): string {
  if (report === null) return '<p class="quiet">Was not asked for: rows may repeat texts of an evaluation set.</p>'
  const { against, ngram, threshold } = settings.decontaminate!
  const words = `Against ${against.join(', ')}: ${count(report.dropped)} of ${count(report.read)} rows repeat a text that is evaluated: equal, near (Jaccard similarity of bigrams ${threshold} or more), or sharing ${ngram}-grams.`
  const found = Object.entries(report.byTask)
  const hits = found.filter(([, { samples }]) => samples.length > 0)
  const tasks = (some: typeof found): string =>
    table(
      ['Task', 'Texts', 'Too short', 'Equal', 'Near', 'n-gram'],
      some.map(([task, { texts, short, rows }]) => [text(task), ...[texts, short, rows.equal, rows.near, rows.ngram].map(count)]),
      1,
    )
  const rest = found.filter((one) => !hits.includes(one))
  const none =
    rest.length === 0
      ? ''
      : `<details><summary>no overlap <span class="quiet">${rest.length} of ${found.length} tasks</span></summary><div>${tasks(rest)}</div></details>`
  const one = (sample: DecontaminationReport['byTask'][string]['samples'][number]): string =>
    `<div class="example">${text(sample.rule)}, ${sample.similarity.toFixed(3)}<div class="pair"><div><p class="quiet">${text(sample.source)}, ${text(sample.at)}</p>${text(sample.text.slice(0, 200))}</div><div><p class="quiet">${text(sample.field)}</p>${text(sample.evaluation.slice(0, 200))}</div></div></div>`
  const samples = hits.map(
    ([task, overlap]) =>
      `<details><summary>${text(task)} <span class="quiet">${overlap.samples.length} shown</span></summary><div>${overlap.samples.map(one).join('')}</div></details>`,
  )
  return `<p>${text(words)}</p>${hits.length > 0 ? tasks(hits) : ''}${none}${samples.join('')}`
}

function semantic(summary: CurationSummary): string {
  const report = summary.semantic
  if (report === null)
    return '<p class="quiet">Was not asked for: no model has looked at whether the two texts of a pair belong together.</p>'
  const { threshold, keepRate, kept, rows, ties, mean } = report
  const how = keepRate === null ? 'a threshold' : `the keep-rate ${percent(keepRate)}`
  const words = `Cosine of query and first positive by ${summary.settings.semantic!.model}; by ${how} rows from ${Number(threshold.toFixed(6))} are kept: ${count(kept)} of ${count(rows)} (${share(kept, rows)})${ties > 1 ? `; ${count(ties)} have that score exactly, and are kept` : ''}. Mean ${mean.toFixed(3)}.`
  const candidates = report.candidates.map((candidate) => [
    candidate.threshold.toFixed(4),
    text(candidate.why),
    bar(candidate.kept / Math.max(1, rows)),
    count(candidate.kept),
    share(candidate.kept, rows),
  ])
  const around = report.candidates.map(
    ({ threshold, samples }) =>
      `<details><summary>around ${threshold.toFixed(4)} <span class="quiet">${samples.length} pairs within 0.01</span></summary><div>${samples.map(scored).join('')}</div></details>`,
  )
  const dropped = `<details><summary>dropped <span class="quiet">${report.dropped.length} pairs chosen by hash</span></summary><div>${report.dropped.map(scored).join('')}</div></details>`
  return `<p>${text(words)}</p>${scoreChart(report)}<h4>What other thresholds would keep</h4>${table(['Threshold', 'Why', '', 'Rows', 'Kept'], candidates, 3)}${around.join('')}${dropped}`
}

function scored({ at, source, query, passage, score }: ScoredSample): string {
  return `<div class="example"><b>${score.toFixed(4)}</b> <span class="quiet">${text(source)}, ${text(at)}</span><br>${text(query)}<br>${text(passage)}</div>`
}

function scoreChart({ histogram: bins, threshold, rows }: SemanticReport): string {
  const used = bins.flatMap((value, i) => (value > 0 ? [i] : []))
  if (used.length === 0) return ''
  const first = Math.max(0, Math.min(used[0]!, Math.floor((threshold + 1) * 100)) - 2)
  const last = Math.min(bins.length - 1, Math.max(used.at(-1)!, Math.floor((threshold + 1) * 100)) + 2)
  const low = (bin: number): number => (bin - 100) / 100
  let above = rows - bins.slice(0, first).reduce((a, b) => a + b, 0)
  const curve = [above / rows]
  const bars: Bar[] = []
  for (let bin = first; bin <= last; bin++) {
    const title = `${low(bin).toFixed(2)} to ${low(bin + 1).toFixed(2)}`
    bars.push({
      count: bins[bin]!,
      title,
      label: bin % 10 === 0 ? low(bin).toFixed(1) : '',
      series: low(bin + 1) <= threshold + 1e-9 ? 's1' : 's0',
    })
    above -= bins[bin]!
    curve.push(above / rows)
  }
  const at = (threshold + 1) * 100 - first
  const chart = histogram(bars, { mark: { at, label: String(Number(threshold.toFixed(3))) }, curve, name: 'histogram of scores' })
  return `<figure>${chart}<figcaption><span class="key">kept</span><span class="key s1">dropped</span><span class="key line">share at or above a score</span></figcaption></figure>`
}

function lengths({ lengths, positives, negatives, rows, withNegatives }: OutputReport): string {
  const chart = (name: string, { bins, count: texts, mean, p50, p90, p99, max }: LengthSummary): string => {
    const last = bins.reduce((found, value, i) => (value > 0 ? i : found), 0)
    const bars = bins.slice(0, last + 1).map((value, i): Bar => {
      const next = LENGTH_EDGES[i + 1]
      return {
        count: value,
        title: next === undefined ? `${LENGTH_EDGES[i]} and more` : `${LENGTH_EDGES[i]} to ${next - 1}`,
        label: String(LENGTH_EDGES[i]),
        series: 's0',
      }
    })
    const words = `${name}: ${count(texts)} texts, mean ${mean.toFixed(1)} characters; half up to ${count(p50)}, 90 % up to ${count(p90)}, 99 % up to ${count(p99)}, longest ${count(max)}`
    return `<figure>${histogram(bars, { name: `lengths: ${name}` })}<figcaption><span>${words}</span></figcaption></figure>`
  }
  const per =
    rows === 0
      ? ''
      : `${(positives / rows).toFixed(2)} positives and ${(negatives / rows).toFixed(2)} negatives a row; ${count(withNegatives)} rows have negatives.`
  return `<div class="charts">${chart('queries', lengths.query)}${chart('passages', lengths.passage)}</div><p class="quiet">${per}</p>`
}

function tokens({ output: { tokens }, tokensAbsent }: CurationSummary): string {
  if (tokens === null) return `<p class="quiet">Not counted: ${text(tokensAbsent ?? '')}.</p>`
  const side = (name: string, { mean, unknown, cut }: typeof tokens.query): string[] => [
    name,
    mean.toFixed(1),
    percent(unknown, 3),
    ...Object.values(cut).map((value) => percent(value, 2)),
  ]
  const heads = ['', 'Tokens, mean', '[UNK]', ...Object.keys(tokens.query.cut).map((length) => `Cut at ${length}`)]
  const sources = Object.entries(tokens.unknownBySource)
  const bySource =
    sources.length < 2
      ? ''
      : `<h4>[UNK] by source</h4>${table(
          ['Source', '[UNK]'],
          sources.map(([name, value]) => [text(name), percent(value, 3)]),
          1,
        )}`
  return `<p class="quiet">Counted in ${count(tokens.rows)} rows, chosen by hash; [CLS] and [SEP] count towards the length.</p>${table(heads, [side('queries', tokens.query), side('passages', tokens.passage)], 1)}${bySource}`
}

function rowSamples({ samples }: OutputReport): string {
  return samples
    .map(
      ({ source, query, passage, score }) =>
        `<div class="example"><span class="quiet">${text(source)}${score === null ? '' : `, ${score.toFixed(4)}`}</span><br><b>${text(query)}</b><br>${text(passage)}</div>`,
    )
    .join('')
}

function licences({ sources }: CurationSummary): string {
  const rows = sources.map(({ name, licence, homepage, notes, negatives }) =>
    [name, licence, homepage ?? '–', negatives, notes ?? ''].map(text),
  )
  return table(['Source', 'Licence', 'Homepage', 'Negatives', 'Notes'], rows, 5)
}

function files({ output, settings }: CurationSummary): string {
  const rows = output.files.map(({ name, rows, bytes }) => [`data/${name}`, count(rows), count(bytes)])
  return `${table(['File', 'Rows', 'Bytes'], rows, 1)}<details><summary>Settings</summary><div><pre>${text(JSON.stringify(settings, null, 2))}</pre></div></details>`
}

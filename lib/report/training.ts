import { join } from 'node:path'
import { writeFileAtomic } from '../data/atomic.js'
import { LENGTH_EDGES } from '../data/lengths.js'
import { CMTEB_SETS } from '../eval/cmteb/tasks.js'
import type { Baseline } from '../eval/results.js'
import type { StageName } from '../train/config.js'
import { duration } from '../train/progress.js'
import type { TextCard } from '../train/summary.js'
import { type Advice, advise } from './advice.js'
import { CHART_SCRIPT, CHART_STYLE, scriptHash, scriptJson, uPlot } from './charts.js'
import { histogram } from './histogram.js'
import { escapeHtml as text, STYLE } from './html.js'
import { runCharts } from './run_charts.js'
import { readRun, type RunView } from './run_view.js'
import { shorten, signed } from './table.js'

/** Of `trainingReport`. */
export interface TrainingReportOptions {
  /** scores of the model that the run started from, and of the one that it made (`readBaseline`): a table beside each other */
  readonly before?: Baseline
  readonly after?: Baseline
  /** the page to write; default: report.html in the run folder */
  readonly file?: string
}

/** Points along a curve. */
const POINTS = 1500

/**
 * Writes the report of a training run, finished, stopped or still running, from what its folder holds: curves, advice, data card, configuration.
 * Returns the page's path. Throws ERR_BGE_FILE for a folder that holds no run or a page that cannot be written, ERR_BGE_DATA.
 */
export async function trainingReport(run: string, options: TrainingReportOptions = {}): Promise<string> {
  const { file = join(run, 'report.html'), ...scores } = options
  await writeFileAtomic(file, trainingPage(await readRun(run), scores))
  return file
}

/** A training run as one HTML page that needs nothing else: no network, light and dark; curves are drawn by the page's own script. */
export function trainingPage(view: RunView, { before, after }: Omit<TrainingReportOptions, 'file'> = {}): string {
  const { summary, stage } = view
  const title = runTitle(summary.started.out, stage)
  const plot = uPlot()
  const start = `charts.show(document.getElementById('charts'), JSON.parse(document.getElementById('curves').textContent))`
  const scripts = [plot.script, CHART_SCRIPT, start]
  const sections: [string, string][] = [
    ['Reading your loss', advise(view).map(adviceBox).join('\n')],
    ['Curves', view.rows.length === 0 ? '<p>No step was made.</p>' : curves(view)],
    [scoreTitle(before, after), scoreTable(before, after) + (stage === 'pretrain' && (before || after) ? STAGE_1_NOTE : '')],
    ['Data card', dataCard(view)],
    ['Configuration', configuration(view)],
  ]
  return `<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; script-src ${scripts.map(scriptHash).join(' ')}">
<title>${text(title)}</title><style>${plot.style}${STYLE}${CHART_STYLE}${RUN_STYLE}</style></head>
<body>
<header><h1>${text(title)}</h1><p class="quiet">${text(subtitle(view))}</p></header>
${summary.error ? `<p class="failed">${text(summary.error.message)}</p>` : ''}
${tileRow(view)}
${sections.map(([name, body]) => (body === '' ? '' : `<h2>${name}</h2>\n${body}`)).join('\n')}
<script type="application/json" id="curves">${scriptJson(runCharts(view, POINTS))}</script>
${scripts.map((script) => `<script>${script}</script>`).join('\n')}
</body></html>
`
}

/** What a run is called: its folder, and its stage where the folder does not say it. */
export function runTitle(out: string, stage: StageName): string {
  const name = shorten(out)
  return name.includes(stage) ? name : `${name}: ${stage}`
}

/** Style of advice and tiles, after html.ts's and that of charts. */
export const RUN_STYLE = `
.advice { margin: .6rem 0; padding: .6rem .9rem; background: var(--card); border: 1px solid var(--line); border-left: 5px solid var(--s0); border-radius: 8px; } .advice.problem { border-left-color: var(--down); } .advice.look { border-left-color: var(--s1); } .advice.good { border-left-color: var(--up); }
.advice h3 { margin: 0; font-size: 1rem; } pre { margin: .5rem 0 .2rem; padding: .5rem .7rem; background: var(--paper); border: 1px solid var(--line); border-radius: 6px; white-space: pre-wrap; overflow-wrap: anywhere; font-size: .82rem; }
.config { display: grid; grid-template-columns: repeat(auto-fill, minmax(240px, 1fr)); gap: 0 1.5rem; padding: .5rem .9rem; background: var(--card); border: 1px solid var(--line); border-radius: 8px; font-size: .88rem; } .config span { display: flex; justify-content: space-between; gap: 1rem; border-bottom: 1px dotted var(--line); overflow-wrap: anywhere; } .config b { font-weight: 500; text-align: right; }
.below { margin-top: .6rem; } .fill.s0 { fill: var(--s0); } .cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 400px), 1fr)); gap: .75rem; margin-top: .75rem; }
`

function curves({ rows }: RunView): string {
  const last = rows.at(-1)!
  const numbers = Object.entries(last).map(([name, value]) => `${name} ${Number(value.toPrecision(6))}`)
  return `<div id="charts" class="charts"></div><noscript><p>The curves are drawn by this page's script, which is switched off. The last row: ${text(numbers.join(', '))}.</p></noscript>
<p class="quiet below">Drag to enlarge, double-click to go back. Every step is in metrics.jsonl, and for TensorBoard in tensorboard/.</p>`
}

/** How a run stands, in words. @param left of a run that is watched: seconds left, null: not known yet */
export function subtitle({ summary, rows, stage }: RunView, left?: number | null): string {
  const { status, step, totalSteps, device, started } = summary
  const state = { running: left === undefined ? 'running, or killed' : 'running', done: 'finished', stopped: 'stopped', failed: 'failed' }[
    status
  ]
  const seconds = rows.at(-1)?.seconds
  return [
    `${stage} from ${shorten(started.model)}`,
    `${state} at step ${count(step)} of ${count(totalSteps)}`,
    ...(seconds === undefined ? [] : [duration(seconds)]),
    ...(left === undefined || left === null || status !== 'running' ? [] : [`${duration(left)} left`]),
    device,
  ].join(' · ')
}

/** The numbers that matter most, and what they are. */
export function tiles({ rows, summary, stage }: RunView): [value: string, label: string][] {
  const last = rows.at(-1)
  if (!last) return []
  const part = rows.slice(-Math.max(1, Math.floor(rows.length / 10)))
  const mean = (name: string): number | undefined => {
    const values = part.map((row) => row[name]).filter((value) => value !== undefined)
    return values.length === 0 ? undefined : values.reduce((sum, value) => sum + value, 0) / values.length
  }
  const gain = rows.filter((row) => row.clsGainShuffled !== undefined).at(-1)?.clsGainShuffled
  const percent = (value: number | undefined): string | undefined => (value === undefined ? undefined : `${(100 * value).toFixed(1)} %`)
  const best = summary.scores.length === 0 ? undefined : Math.max(...summary.scores.map(({ score }) => score))
  const shown: [string | undefined, string][] = [
    [mean('loss')?.toFixed(3), 'loss, last tenth'],
    [percent(mean('accuracy')), 'accuracy, last tenth'],
    [percent(mean('encoderAccuracy')), 'encoder accuracy, last tenth'],
    [gain?.toFixed(3), 'CLS gain at the end'],
    [best?.toFixed(4), 'best dev score'],
    [count(tokensPerSecond(rows)), 'tokens a second'],
    [count(last.epoch * summary.rows), stage === 'pretrain' ? 'texts seen' : 'pairs seen'],
    [duration(last.seconds), 'of training'],
  ]
  return shown.flatMap(([value, label]) => (value === undefined ? [] : [[value, label] as [string, string]]))
}

function tileRow(view: RunView): string {
  const shown = tiles(view).map(([value, label]) => `<div class="tile"><b>${text(value)}</b><span>${text(label)}</span></div>`)
  return shown.length === 0 ? '' : `<div class="tiles">${shown.join('')}</div>`
}

/** Median, so that waiting at the start and checkpoints do not weigh. */
function tokensPerSecond(rows: RunView['rows']): number {
  return rows.map((row) => row.tokensPerSecond).sort((a, b) => a - b)[rows.length >> 1]!
}

export function adviceBox({ level, title, text: body, command }: Advice): string {
  return `<div class="advice ${level}"><h3>${text(title)}</h3><p>${text(body)}</p>${command === undefined ? '' : `<pre>${text(command)}</pre>`}</div>`
}

const STAGE_1_NOTE = `<p class="quiet">Stage 1 does not train vectors to be compared with each other: what it is worth shows after stage 2.</p>`

function scoreTitle(...models: readonly (Baseline | undefined)[]): string {
  const known = new Set(CMTEB_SETS['paper-35'].map(({ name }) => name))
  const tasks = models.flatMap((model) => [...(model?.scores.keys() ?? [])]).map((task) => task.replace(/^.*\//, ''))
  return `${tasks.every((task) => known.has(task)) ? 'C-MTEB' : 'Scores'} before and after`
}

/** Scores x100 of two models, and a mean over the tasks that both have. */
function scoreTable(before: Baseline | undefined, after: Baseline | undefined): string {
  const given = [before, after].filter((one) => one !== undefined)
  if (given.length === 0) return ''
  // Own results are keyed TYPE/NAME and NAME: the longer key is enough.
  const names = [...new Set(given.flatMap(({ scores }) => [...scores.keys()]))]
  const tasks = names.filter((name) => !names.some((other) => other.endsWith(`/${name}`))).sort()
  const score = (one: Baseline | undefined, task: string): number | undefined => {
    const value = one?.scores.get(task) ?? one?.scores.get(task.replace(/^.*\//, ''))
    return value === undefined ? undefined : 100 * value
  }
  const cells = (a: number | undefined, b: number | undefined): string => {
    const change = a === undefined || b === undefined ? undefined : signed(b - a)
    const way = change?.startsWith('+') ? ' up' : change?.startsWith('-') ? ' down' : ''
    const cell = (value: string | undefined, more = ''): string => `<td class="num${more}">${value ?? '–'}</td>`
    return cell(a?.toFixed(2)) + cell(b?.toFixed(2)) + cell(change, way)
  }
  const rows = tasks.map((task) => `<tr><td>${text(task)}</td>${cells(score(before, task), score(after, task))}</tr>`)
  const both = tasks.filter((task) => score(before, task) !== undefined && score(after, task) !== undefined)
  const mean = (one: Baseline): number => both.reduce((sum, task) => sum + score(one, task)!, 0) / both.length
  const foot =
    before && after && both.length > 1
      ? `<tbody><tr class="mean"><td>mean of the ${both.length} tasks that both have</td>${cells(mean(before), mean(after))}</tr></tbody>`
      : ''
  const head = `<tr><th>Task</th><th class="num">Before</th><th class="num">After</th><th class="num">Difference</th></tr>`
  const who = [before && `before: ${before.name}`, after && `after: ${after.name}`].filter((one) => one !== undefined).join(' · ')
  return `<div class="scroll"><table><thead>${head}</thead><tbody>${rows.join('\n')}</tbody>${foot}</table></div><p class="quiet">${text(who)}</p>`
}

function dataCard({ summary, config, rows, stage }: RunView): string {
  const masked = rows.filter((row) => row.masked !== undefined)
  const share = (part: number, whole: number): string => (whole === 0 ? '–' : `${Number(((100 * part) / whole).toPrecision(3))} %`)
  const perQuery = masked.reduce((sum, row) => sum + row.masked!, 0) / Math.max(1, masked.length) / config.batchSize
  const facts: [string, string][] = [
    ['files', summary.started.data.join(', ')],
    ['rows', count(summary.rows)],
    ['steps an epoch', count(summary.stepsPerEpoch)],
    ['epochs seen', String(Number((rows.at(-1)?.epoch ?? 0).toPrecision(3)))],
    ...Object.entries(summary.texts).flatMap(([kind, card]): [string, string][] => [
      [`different ${plural(kind)}`, count(card.different)],
      [
        `${plural(kind)} cut at ${card.maxLength} tokens`,
        `${count(card.truncated)} of ${count(card.tokenized)} (${share(card.truncated, card.tokenized)})`,
      ],
      [
        `tokens of ${plural(kind)}: mean, median, 90 %, longest`,
        [card.lengths.mean.toFixed(1), card.lengths.p50, card.lengths.p90, card.lengths.max].join(', '),
      ],
    ]),
    ...(masked.length === 0 ? [] : [['duplicates masked, per query and step', perQuery.toPrecision(3)] as [string, string]]),
  ]
  const table = facts.map(([name, value]) => `<tr><td>${text(name)}</td><td class="num">${text(value)}</td></tr>`).join('\n')
  const figures = Object.entries(summary.texts).map(([kind, card]) => lengthFigure(kind, card))
  const note = stage === 'pretrain' && rows.some((row) => row.clsGain !== undefined) ? CLS_NOTE : ''
  return `<div class="scroll"><table><tbody>${table}</tbody></table></div><div class="cards">${figures.join('\n')}</div>${note}`
}

const CLS_NOTE = `<p class="quiet">CLS gain is measured on the batch that comes next, before it is trained on: in the first epoch these are texts that the model has never seen, in later epochs texts that it has seen under other masks.</p>`

function plural(kind: string): string {
  return kind.endsWith('y') ? `${kind.slice(0, -1)}ies` : `${kind}s`
}

function lengthFigure(kind: string, { lengths, tokenized }: TextCard): string {
  if (tokenized === 0) return ''
  const end = lengths.bins.findLastIndex((bin) => bin > 0) + 1
  const bars = lengths.bins.slice(0, end).map((bin, i) => {
    const next = LENGTH_EDGES[i + 1]
    return {
      count: bin,
      series: 's0' as const,
      label: String(LENGTH_EDGES[i]),
      title: `${LENGTH_EDGES[i]} to ${next === undefined ? 'more' : next - 1} tokens`,
    }
  })
  return `<figure>${histogram(bars, { name: `tokens of ${plural(kind)}` })}<figcaption>${text(plural(kind))} by tokens, as far as they were tokenized</figcaption></figure>`
}

/** Every key of a configuration and its value, as text. */
export function configPairs(config: RunView['config']): [key: string, value: string][] {
  return Object.entries(config).map(([key, value]) => [key, typeof value === 'string' && value !== '' ? value : JSON.stringify(value)])
}

function configuration({ config, summary, stage }: RunView): string {
  const pairs = configPairs(config).map(([key, value]) => `<span>${text(key)}<b>${text(value)}</b></span>`)
  const { model, data, out } = summary.started
  const command = `bge ${stage} --model ${model} --data ${data.join(' ')} --out ${out} --config ${join(out, 'config.json')}`
  return `<div class="config">${pairs.join('')}</div><pre>${text(command)}</pre>`
}

function count(value: number): string {
  return Math.round(value).toLocaleString('en')
}

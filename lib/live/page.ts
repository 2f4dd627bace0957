import type { Advice } from '../report/advice.js'
import { type Chart, CHART_SCRIPT, CHART_STYLE, scriptHash, uPlot } from '../report/charts.js'
import { escapeHtml as text, STYLE } from '../report/html.js'
import { RUN_STYLE } from '../report/training.js'
import type { RunSummary } from '../train/summary.js'

/** What the page's script shows. */
export interface LiveState {
  readonly name: string
  readonly status: RunSummary['status'] | 'starting'
  /** under the title */
  readonly line: string
  /** 0..1 */
  readonly progress: number
  readonly tiles: readonly (readonly [value: string, label: string])[]
  readonly advice: readonly Advice[]
  /** recent lines of text */
  readonly notes: readonly string[]
  readonly config: readonly (readonly [key: string, value: string])[]
  readonly charts: readonly Chart[]
}

const LIVE_STYLE = `
.track { height: 8px; margin: .8rem 0 .2rem; border-radius: 4px; background: var(--line); overflow: hidden; } .track i { display: block; height: 100%; width: 0; background: var(--s0); transition: width .4s; }
.state { display: inline-block; padding: .05rem .6rem; border-radius: 99px; border: 1px solid var(--line); font-size: .8rem; vertical-align: middle; } .state.lost, .state.failed { color: var(--down); border-color: var(--down); } .state.running, .state.done { color: var(--up); border-color: var(--up); }
#notes { max-height: 14rem; overflow: auto; } #notes:empty, .advice pre:empty { display: none; }
`

/** Puts each state into the page; comes back by itself when the connection is lost, and says so. */
const LIVE_SCRIPT = `
(() => {
  const at = (id) => document.getElementById(id)
  const put = (id, value) => { if (at(id).textContent !== value) at(id).textContent = value }
  const make = (tag, name, value) => { const e = document.createElement(tag); e.className = name; e.textContent = value; return e }
  const badge = (kind, words) => { at('state').className = 'state ' + kind; put('state', words) }
  let over = false
  const source = new EventSource('events')
  source.addEventListener('state', (event) => {
    const state = JSON.parse(event.data)
    put('line', state.line)
    badge(state.status, state.status)
    over = !['starting', 'running'].includes(state.status)
    at('filled').style.width = 100 * state.progress + '%'
    at('tiles').replaceChildren(...state.tiles.map(([value, label]) => { const e = make('div', 'tile', ''); e.append(make('b', '', value), make('span', '', label)); return e }))
    at('advice').replaceChildren(...state.advice.map((a) => { const e = make('div', 'advice ' + a.level, ''); e.append(make('h3', '', a.title), make('p', '', a.text)); if (a.command) e.append(make('pre', '', a.command)); return e }))
    const notes = at('notes'), atEnd = notes.scrollTop + notes.clientHeight >= notes.scrollHeight - 4
    put('notes', state.notes.join('\\n'))
    if (atEnd) notes.scrollTop = notes.scrollHeight
    if (!at('config').firstChild) at('config').append(...state.config.map(([key, value]) => { const e = make('span', '', key); e.append(make('b', '', value)); return e }))
    document.title = Math.floor(100 * state.progress) + ' % · ' + state.name
    charts.show(at('charts'), state.charts)
  })
  source.addEventListener('end', () => { source.close(); if (!over) badge('lost', 'ended') })
  source.onerror = () => { if (!over) badge('lost', 'no connection') }
})()
`

/** The live page of a run: everything that is not fixed comes as a LiveState. */
export function livePage(name: string): string {
  const plot = uPlot()
  const scripts = [plot.script, CHART_SCRIPT, LIVE_SCRIPT]
  return `<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; connect-src 'self'; style-src 'unsafe-inline'; script-src ${scripts.map(scriptHash).join(' ')}">
<title>${text(name)}</title><style>${plot.style}${STYLE}${CHART_STYLE}${RUN_STYLE}${LIVE_STYLE}</style></head>
<body>
<header><h1>${text(name)} <span class="state" id="state">waiting</span></h1><p class="quiet" id="line">Waiting for the first step</p></header>
<div class="track"><i id="filled"></i></div>
<div class="tiles" id="tiles"></div>
<div id="charts" class="charts"></div>
<h2>Reading your loss</h2>
<div id="advice"></div>
<h2>Messages</h2>
<pre id="notes"></pre>
<h2>Configuration</h2>
<div class="config" id="config"></div>
${scripts.map((script) => `<script>${script}</script>`).join('\n')}
</body></html>
`
}

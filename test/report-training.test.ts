import { createHash } from 'node:crypto'
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, describe, expect, test } from 'vitest'
import { advise } from '../lib/report/advice.js'
import { CHART_SCRIPT } from '../lib/report/charts.js'
import { runCharts } from '../lib/report/run_charts.js'
import { readRun, type RunView, smooth, thin } from '../lib/report/run_view.js'
import { trainingPage, trainingReport } from '../lib/report/training.js'
import { random } from '../lib/data/random.js'
import type { StageName, TrainConfig } from '../lib/train/config.js'
import type { MetricsRow } from '../lib/train/run_folder.js'
import { learningRateAt, warmupSteps } from '../lib/train/schedule.js'
import { stages } from '../lib/train/stages.js'
import type { RunSummary, TextCard } from '../lib/train/summary.js'
import { checkNesting } from './support/html.js'

const folder = mkdtempSync(join(tmpdir(), 'bge-report-'))
afterAll(() => rmSync(folder, { recursive: true, force: true }))

const card = (more: Partial<TextCard> = {}): TextCard => ({
  different: 900,
  tokenized: 1000,
  truncated: 10,
  maxLength: 128,
  lengths: { mean: 20, p50: 18, p90: 40, max: 128, bins: [0, 10, 200, 300, 490, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0] },
  ...more,
})

interface Synthetic {
  stage?: StageName
  config?: Partial<TrainConfig>
  summary?: Partial<RunSummary>
  steps?: number
  /** of progress 0..1 and the step */
  row?: (t: number, step: number) => Partial<MetricsRow>
}

/** A run that goes well, but for what is given: a batch of 256, the loss falling from 3 to 1 with noise. */
function run({ stage = 'contrastive', config = {}, summary = {}, steps = 400, row = () => ({}) }: Synthetic = {}): RunView {
  const all: TrainConfig = { ...stages[stage].defaults, learningRate: 2e-5, batchSize: 256, ...config }
  const draw = random(7, 'noise')
  const noise = (): number => 1 + (draw.int(2001) - 1000) / 20_000
  const own = (t: number): Partial<MetricsRow> => {
    const loss = Math.min(3, 1 + 2 * Math.exp(-6 * t)) * noise()
    if (stage !== 'pretrain') return { loss, accuracy: 0.3 + 0.4 * t, masked: 5 }
    return { loss: 2 * loss, encoderLoss: loss, decoderLoss: loss, encoderAccuracy: 0.3, decoderAccuracy: 0.2 }
  }
  const rows = Array.from({ length: steps }, (_, i): MetricsRow => {
    const t = i / Math.max(1, steps - 1)
    const learningRate = learningRateAt(i, all.learningRate, warmupSteps(steps, all.warmupRatio), steps)
    const common = { step: i + 1, epoch: t, loss: 0, learningRate, gradNorm: 0.8 * noise(), tokensPerSecond: 1e5, rowsPerSecond: 1000, stallSeconds: 0.001, tokens: 25_600, seconds: i }
    return { ...common, ...own(t), ...row(t, i + 1) } as MetricsRow
  }) // biome-ignore format: a row
  const texts: Record<string, TextCard> = stage === 'pretrain' ? { text: card() } : { query: card(), passage: card() }
  return {
    stage,
    config: all,
    rows,
    summary: {
      stage, status: 'done', step: steps, totalSteps: steps, stepsPerEpoch: steps, device: 'cpu', rows: 100_000, texts, scores: [],
      started: { model: 'models/base', data: ['data/pairs.jsonl'], out: 'runs/one' }, ...summary,
    },
  } // biome-ignore format: a summary
}

const rules = (view: RunView): string[] => advise(view).map(({ rule }) => rule)
const command = (view: RunView, rule: string): string | undefined => advise(view).find((advice) => advice.rule === rule)?.command

describe('advice', () => {
  test('a run that goes well is called so, with the next command', () => {
    expect(advise(run())).toMatchObject([{ rule: 'healthy', level: 'good' }])
    expect(command(run(), 'healthy')).toBe('bge eval --model runs/one/model --benchmark cmteb --out runs/one/eval')
    expect(command(run({ summary: { status: 'stopped', step: 300 } }), 'healthy')).toMatch(/ --out runs\/one --resume$/)
    expect(command(run({ summary: { status: 'running' } }), 'healthy')).toBeUndefined()
  })

  const ln256 = Math.log(256)
  const flat = { loss: ln256 * 0.998, accuracy: 0.004 }
  const pretrainGain = (gain: (t: number) => number) => (t: number, step: number) =>
    step % 20 === 0 ? { clsGain: 0.4, clsGainShuffled: gain(t) } : {}
  // A rule, a curve that it is for, and one beside it that it is not for.
  const cases: readonly [rule: string, seen: Synthetic, notSeen: Synthetic, command?: RegExp][] = [
    ['plateau', { row: () => flat }, { row: (t) => ({ ...flat, loss: ln256 * (1 - 0.3 * t) }) }, /--set learningRate=0\.0002$/],
    ['plateau', { row: () => flat, config: { temperature: 1 } }, { config: { temperature: 1 } }, /--set temperature=0\.02$/],
    ['plateau', { row: (t) => ({ ...flat, gradNorm: t < 0.1 ? 5 : 1e-3 }), config: { learningRate: 1e-2 } }, {}, /--set learningRate=0\.001$/],
    ['worse-than-chance', { row: (t) => ({ loss: 5 + 3 * t, accuracy: 0.01 }) }, { row: (t) => ({ loss: 7 - 3 * t, accuracy: 0.3 }) }, /--set learningRate=0\.000004$/],
    ['accuracy-at-chance', { row: () => ({ accuracy: 1 / 256 }) }, { row: () => ({ accuracy: 0.05 }) }, /^bge data stats data\/pairs\.jsonl$/],
    ['too-easy', { row: (t) => ({ accuracy: t < 0.1 ? 0.5 : 0.99 }) }, { row: (t) => ({ accuracy: t < 0.8 ? 0.5 : 0.99 }) }, /--set batchSize=1024$/],
    ['too-easy', { stage: 'finetune', row: () => ({ accuracy: 0.99 }) }, { stage: 'finetune' }, /^bge mine --model runs\/one\/model /],
    ['masked-share', { row: () => ({ masked: 0.05 * 256 * 255 }) }, { row: () => ({ masked: 0.005 * 256 * 255 }) }, /^bge data stats /],
    ['temperature', { config: { temperature: 0.5 } }, { config: { temperature: 0.05 } }, /temperature=0\.02$/],
    ['temperature', { config: { temperature: 0.001 } }, { config: { temperature: 0.01 } }, /temperature=0\.01$/],
    ['small-batch', { config: { batchSize: 16 } }, { config: { batchSize: 128 } }, /batchSize=256 --plan$/],
    ['no-progress', { stage: 'pretrain', row: () => ({ encoderLoss: 8 }) }, { stage: 'pretrain' }, /learningRate=0\.00006$/],
    ['no-cls-gain', { stage: 'pretrain', row: pretrainGain(() => 0.001) }, { stage: 'pretrain', row: pretrainGain(() => 0.2) }, /decoderMaskRatio=0\.7 --set epochs=4$/],
    ['cls-gain-rises', { stage: 'pretrain', row: pretrainGain((t) => t) }, { stage: 'pretrain', row: pretrainGain((t) => Math.min(t, 0.3)) }, /--set epochs=4$/],
    ['diverged', { row: (t) => ({ loss: 1 + 4 * (t - 0.4) ** 2 }) }, { row: (t) => ({ loss: 3 - 2 * t }) }, /learningRate=0\.00000667$/],
    ['gradient-explodes', { row: (t) => ({ gradNorm: Math.exp(5 * t) }) }, { row: (t) => ({ gradNorm: Math.exp(1 * t) }) }, /learningRate=0\.00000667$/],
    ['gradient-explodes', { row: (t) => ({ gradNorm: Math.exp(5 * t) }), config: { maxGradNorm: 0 } }, {}, /--set maxGradNorm=1$/],
    ['gradient-spikes', { row: (_, step) => (step % 150 === 0 ? { gradNorm: 30 } : {}) }, { row: (_, step) => (step === 5 ? { gradNorm: 30 } : {}) }, /^bge data validate /],
    ['no-warmup', { config: { warmupRatio: 0 }, row: (_, step) => (step === 1 ? { loss: 3 } : step < 8 ? { loss: 6 } : {}) }, { config: { warmupRatio: 0 } }, /warmupRatio=0\.1$/],
    ['still-falling', { row: (t) => ({ loss: 3 - 2 * t }) }, { row: (t) => ({ loss: 3 - 2 * t }), summary: { status: 'stopped' } }, /--set epochs=2$/],
    ['overfitting', { summary: { scores: [0.3, 0.5, 0.4, 0.35].map((score, i) => ({ step: 100 * (i + 1), score })) } }, { summary: { scores: [0.3, 0.5, 0.4].map((score, i) => ({ step: 100 * (i + 1), score })) } }, /patience=2$/],
    ['stall', { row: () => ({ stallSeconds: 0.03 }) }, { row: () => ({ stallSeconds: 0.01 }) }],
    ['stall', { config: { logEvery: 10 }, row: (_, step) => ({ step: 10 * step, stallSeconds: 0.3 }), summary: { totalSteps: 4000, step: 4000 } }, { config: { logEvery: 10 }, row: (_, step) => ({ step: 10 * step, stallSeconds: 0.03 }), summary: { totalSteps: 4000, step: 4000 } }],
    ['truncated', { summary: { texts: { query: card(), passage: card({ truncated: 300 }) } } }, { summary: { texts: { query: card(), passage: card({ truncated: 50 }) } } }, /--set passageMaxLength=256$/],
    ['not-finite', { summary: { status: 'failed', error: { code: 'ERR_BGE_NON_FINITE', message: 'loss must be finite' } } }, { summary: { status: 'failed', error: { code: 'ERR_BGE_OOM', message: 'no' } } }, /learningRate=0\.00000667$/],
    ['too-short', { steps: 19 }, { steps: 20 }],
  ] // biome-ignore format: a table
  test.each(cases)('%s (%#)', (rule, seen, notSeen, next) => {
    expect(rules(run(seen))).toContain(rule)
    expect(rules(run(notSeen))).not.toContain(rule)
    if (next) expect(command(run(seen), rule)).toMatch(next)
  })

  test('a problem comes first, and what is wrong is not called good', () => {
    const found = advise(run({ row: () => ({ ...flat, stallSeconds: 0.2 }) }))
    expect(found.map(({ level }) => level)).toEqual(['problem', 'look'])
  })

  test('commands are complete, and words are quoted as a shell takes them', () => {
    const started = { model: 'my models/base', data: ['a.jsonl', "it's.jsonl"], out: 'runs/一' }
    const view = run({ config: { temperature: 0.5 }, summary: { started } })
    expect(command(view, 'temperature')).toBe(
      `bge contrastive --model 'my models/base' --data a.jsonl 'it'\\''s.jsonl' --out 'runs/一-2' --config 'runs/一/config.json' --set temperature=0.02`,
    )
  })
})

describe('curves', () => {
  const view = run({ steps: 5000, row: (_, step) => (step === 2500 ? { gradNorm: 99 } : {}) })
  test('thinned to means, but a spike of the gradient stays; the newest step stays', () => {
    const thinned = thin(view.rows, 500)
    expect(thinned).toHaveLength(500)
    expect(Math.max(...thinned.map((row) => row.gradNorm))).toBe(99)
    expect(thinned.at(-1)!.step).toBe(5000)
    expect(thinned[3]!.loss).toBeCloseTo(view.rows.slice(30, 40).reduce((sum, row) => sum + row.loss, 0) / 10, 12)
    expect(thin(view.rows, 5000)).toEqual(view.rows)
  })
  test('smoothing has no bias to its start, and passes over holes', () => {
    expect(smooth([2, 2, null, 2], 10)).toEqual([2, 2, null, 2])
    expect(smooth([0, 1], 2)).toEqual([0, 1 / 1.5])
  })
  test('the chance lines: ln and one over the candidates that are left', () => {
    const [loss, accuracy] = runCharts(run({ steps: 30, row: () => ({ masked: 256 * 56 }) }), 100)
    expect(loss!.series.at(-1)).toMatchObject({ style: 'reference', values: new Array(30).fill(Math.log(200)) })
    expect(accuracy!.series.at(-1)!.values[0]).toBe(1 / 200)
    const unknown = runCharts(run({ steps: 30, config: { candidates: 'source' } }), 100)
    expect(unknown[0]!.series.some(({ style }) => style === 'reference')).toBe(false)
  })
  test('every stage has its charts; a series has a value or a hole for each step', () => {
    const titles = (view: RunView): string[] => {
      const charts = runCharts(view, 200)
      for (const { x, series } of charts) for (const { values } of series) expect(values).toHaveLength(x!.length)
      return charts.map(({ title }) => title)
    }
    const last = ['Gradient norm', 'Learning rate', 'Speed', 'Waiting for data']
    expect(titles(view)).toEqual(['Loss', 'Accuracy in the batch', ...last, 'Masked duplicates'])
    const pretrain = run({ stage: 'pretrain', steps: 30, row: (_, step) => (step === 20 ? { clsGain: 1, clsGainShuffled: 0.5 } : {}) })
    expect(titles(pretrain)).toEqual(['Loss', 'Accuracy', 'CLS gain', ...last])
    expect(titles(run({ stage: 'finetune', summary: { scores: [{ step: 1, score: 0.1 }, { step: 2, score: 0.2 }] } }))).toContain('Dev score') // biome-ignore format: one line
    expect(runCharts(run({ steps: 0 }), 10)).toEqual([])
  })
  test('the script is a script, and ends none', () => {
    expect(() => new Function(CHART_SCRIPT)).not.toThrow()
    expect(CHART_SCRIPT).not.toMatch(/<\/script/i)
  })
})

describe('the page', () => {
  const started = { model: 'm/<base>', data: ['</script><b>.jsonl'], out: 'runs/<one>' }
  const view = run({ summary: { started, texts: { query: card(), passage: card({ truncated: 300 }) } } })
  const baseline = (name: string, scores: Record<string, number>) => ({ name, scores: new Map(Object.entries(scores)) })
  const before = baseline('base', { 'sts/S': 0.5, S: 0.5, 'retrieval/R': 0.25, R: 0.25, 'sts/gone': 0.1, gone: 0.1 })
  const after = baseline('tuned', { 'sts/S': 0.625, S: 0.625, 'retrieval/R': 0.125, R: 0.125 })
  const page = trainingPage(view, { before, after })
  const scripts = [...page.matchAll(/<script>([\s\S]*?)<\/script>/g)].map(([, script]) => script!)

  test('stands alone: nothing to fetch, and the policy allows its own scripts alone', () => {
    expect(page).not.toMatch(/<link|<img|@import|url\(|\b(?:src|href)="/i)
    const policy = /http-equiv="Content-Security-Policy" content="([^"]+)"/.exec(page)![1]!
    expect(scripts).toHaveLength(3)
    const hashes = scripts.map((script) => `'sha256-${createHash('sha256').update(script).digest('base64')}'`)
    expect(policy).toBe(`default-src 'none'; style-src 'unsafe-inline'; script-src ${hashes.join(' ')}`)
    expect(page).toContain('prefers-color-scheme: dark')
    expect(scripts[0]).toMatch(/Permission is hereby granted/) // uPlot's licence goes where uPlot goes
  })
  test('is well-formed, and texts are texts', () => {
    checkNesting(page.replace(/<script[\s\S]*?<\/script>/g, '').replace(/<style>[\s\S]*<\/style>/, ''))
    expect(page).toContain('runs/&lt;one&gt;-2')
    expect(page).toContain('&lt;/script&gt;&lt;b&gt;.jsonl')
  })
  test('holds the curves', () => {
    const json = /<script type="application\/json" id="curves">([\s\S]*?)<\/script>/.exec(page)![1]!
    const charts = JSON.parse(json) as ReturnType<typeof runCharts>
    expect(charts.map(({ title }) => title)).toEqual(runCharts(view, 1500).map(({ title }) => title))
    expect(charts[0]!.series[0]!.values[3]).toBeCloseTo(view.rows[3]!.loss, 4)
  })
  test('scores before and after: differences, holes, a mean over what both have', () => {
    const line = (...cells: string[]): string => cells.map((cell) => `<td class="num${cell.startsWith('+') ? ' up' : cell.startsWith('-') ? ' down' : ''}">${cell}</td>`).join('') // biome-ignore format: one line
    expect(page).toContain(`<td>sts/S</td>${line('50.00', '62.50', '+12.50')}`)
    expect(page).toContain(`<td>retrieval/R</td>${line('25.00', '12.50', '-12.50')}`)
    expect(page).toContain(`<td>sts/gone</td>${line('10.00', '–', '–')}`)
    expect(page).toContain(`<td>mean of the 2 tasks that both have</td>${line('37.50', '37.50', '0.00')}`)
    expect(page).toContain('<h2>Scores before and after</h2>')
    expect(trainingPage(view, { after: baseline('x', { ATEC: 0.5 }) })).toContain('<h2>C-MTEB before and after</h2>')
    expect(trainingPage(view)).not.toContain('before and after')
  })
  test('data card, configuration, advice', () => {
    expect(page).toContain('300 of 1,000 (30 %)')
    expect(page).toContain('<span>temperature<b>0.02</b></span>')
    expect(page).toContain('30 % of the passages were cut')
  })
})

describe('from a run folder', () => {
  const write = (name: string, { config, summary, rows }: RunView, cut = ''): string => {
    const out = join(folder, name)
    mkdirSync(out)
    writeFileSync(join(out, 'config.json'), JSON.stringify(config))
    writeFileSync(join(out, 'summary.json'), JSON.stringify(summary))
    writeFileSync(join(out, 'metrics.jsonl'), rows.map((row) => JSON.stringify(row) + '\n').join('') + cut)
    return out
  }
  test('finished, stopped, failed, killed while a row was written, without a step', async () => {
    for (const [i, status] of (['done', 'stopped', 'failed', 'running'] as const).entries()) {
      const error = status === 'failed' ? { error: { code: 'ERR_BGE_SAVE', message: 'no <space>' } } : {}
      const out = write(status, run({ steps: 30 * i, summary: { status, ...error } }), '{"step": 4')
      expect(await trainingReport(out)).toBe(join(out, 'report.html'))
      const page = readFileSync(join(out, 'report.html'), 'utf8')
      expect(page).toContain(`${{ done: 'finished', stopped: 'stopped', failed: 'failed', running: 'running, or killed' }[status]} at step`)
      expect(page.includes('no &lt;space&gt;')).toBe(status === 'failed')
      expect(page.includes('No step was made.')).toBe(i === 0)
    }
  })
  test('what is no run folder is said in a sentence', async () => {
    await expect(trainingReport(join(folder, 'nowhere'))).rejects.toMatchObject({
      code: 'ERR_BGE_FILE',
      message: /nowhere must be a run folder/,
    })
    const old = write('old', run())
    rmSync(join(old, 'summary.json'))
    await expect(readRun(old)).rejects.toMatchObject({ code: 'ERR_BGE_FILE', message: /has no summary\.json/ })
    writeFileSync(join(old, 'summary.json'), '{')
    await expect(readRun(old)).rejects.toMatchObject({ code: 'ERR_BGE_DATA', message: /summary\.json/ })
  })
})

import { describe, expect, test } from 'vitest'
import { aggregate } from '../lib/eval/cmteb/aggregate.js'
import { CMTEB_SETS } from '../lib/eval/cmteb/tasks.js'
import type { Evaluation, TaskFailure, TaskResult } from '../lib/eval/evaluation.js'
import type { Other } from '../lib/report/comparison.js'
import { reportPage } from '../lib/report/page.js'
import { radar } from '../lib/report/radar.js'
import { shorten, signed, textTable } from '../lib/report/table.js'
import { checkNesting } from './support/html.js'

const result = (type: TaskResult['type'], name: string, main_score: number, more: Partial<TaskResult> = {}): TaskResult & { file: null } => ({
  task_name: name, type, main_score, main_metric: 'm', scores: { m: main_score, other: 0.25 }, n: { pairs: 1234 }, model: 'models/<b>', instruction: '', max_length: null,
  seconds: 1.5, dialect: 'mteb2', sklearn: '1.9', limit: null, notes: [], examples: [], key: null, file: null, ...more,
}) // biome-ignore format: a row
const failure: TaskFailure & { file: null } = {
  task_name: 'F',
  type: 'clustering',
  error: { code: 'ERR_BGE_DATA', message: 'f.jsonl:1: <wrong>' },
  file: null,
}

const evaluation: Evaluation = {
  model: 'models/<b>',
  tasks: [
    result('sts', 'S', 0.5, {
      notes: ['a <note>'],
      examples: [{ kind: 'pair', text1: '一<script>', text2: '二', label: 1, cosine: 0.25 }],
    }),
    result('sts', 'T', 0.75),
    result('retrieval', 'R', 0.4, {
      instruction: '问：',
      examples: [
        {
          kind: 'ranking',
          query: '问&题',
          score: 0,
          expected: [
            { text: '对', rank: null },
            { text: '也对', rank: 12 },
          ],
          retrieved: [{ text: '错', relevant: false }],
        },
      ],
    }),
    result('classification', 'K', 0.9, { examples: [{ kind: 'label', text: '字', expected: '甲', predicted: '乙' }] }),
    failure,
  ],
  averages: { sts: 0.625, retrieval: 0.4, classification: 0.9, clustering: null },
  benchmark: null,
}
const other: Other = {
  name: 'org/base"line',
  scores: new Map([
    ['sts/S', 0.6],
    ['T', 0.7],
    ['R', 0.4],
    ['K', 0.8],
  ]),
  source: 'somewhere',
}

describe('the page', () => {
  const page = reportPage(evaluation, { model: 'models/<b>', others: [other], date: new Date('2026-01-02') })
  test('stands alone: no script, no address, nothing to fetch', () => {
    expect(page).not.toMatch(/<script|<link|<img|@import|url\(|\b(?:src|href)="(?!#)/i)
    expect(page).not.toMatch(/https?:\/\//)
    expect(page).toContain("default-src 'none'")
    expect(page).toContain('prefers-color-scheme: dark')
  })
  test('is well-formed, and texts are texts', () => {
    checkNesting(page.replace(/<!doctype html>/, '').replace(/<style>[\s\S]*<\/style>/, ''))
    expect(page).toContain('models/&lt;b&gt;')
    expect(page).toContain('一&lt;script&gt;')
    expect(page).toContain('问&amp;题')
    expect(page).toContain('base&quot;line')
  })
  test('shows differences, failures, examples, and links each task to its details', () => {
    expect(page).toMatch(/<td class="num down">-10\.00<\/td>/)
    expect(page).toMatch(/<td class="num up">\+5\.00<\/td>/)
    expect(page).toContain('[ERR_BGE_DATA] f.jsonl:1: &lt;wrong&gt;')
    expect(page).toContain('not retrieved')
    expect(page).toContain('rank 12')
    expect(page).toContain('is 甲, was taken for 乙')
    expect(page).toContain('a &lt;note&gt;')
    for (let i = 0; i < evaluation.tasks.length; i++) {
      expect(page).toContain(`href="#task-${i}"`)
      expect(page).toContain(`id="task-${i}"`)
    }
  })
})

test('measures at cut-offs are a table, nAUC folds away, and what is no number is a dash', () => {
  const scores = { ndcg_at_1: 0.25, ndcg_at_10: 0.5, accuracy: 0.125, nauc_ndcg_at_1_max: Number.NaN, nauc_ndcg_at_10_max: -0.03 }
  const page = reportPage({ ...evaluation, tasks: [result('retrieval', 'R', 0.5, { scores })] }, { model: 'm' })
  const row = (name: string, ...cells: string[]): string =>
    `<th scope="row">${name}</th>${cells.map((cell) => `<td class="num">${cell}</td>`).join('')}</tr>`
  expect(page).toContain(row('ndcg_at_k', '25.00', '50.00'))
  expect(page).toContain('<span>accuracy<b>12.50</b></span>')
  expect(page.slice(page.indexOf('<details class="inner">'))).toContain(row('nauc_ndcg_at_k_max', '–', '-3.00'))
})

test('a page without any score has neither tiles nor an empty chart, and says why', () => {
  const missing = CMTEB_SETS['cmn-31'].map(({ name }) => name)
  const none: Evaluation = {
    ...evaluation,
    tasks: [failure, { ...failure, type: 'sts' }, { ...failure, type: 'retrieval' }],
    averages: {},
    benchmark: { ...aggregate('cmn-31', new Map()), dialect: 'mteb2', sklearn: '1.9', limit: null },
  }
  const page = reportPage(none, { model: '模型'.repeat(40) })
  expect(page).not.toMatch(/class="tiles"|<svg/)
  expect(page).toContain(`No mean of cmn-31: 31 of 31 tasks have no score: ${missing.join(', ')}`)
  checkNesting(page.replace(/<!doctype html>/, '').replace(/<style>[\s\S]*<\/style>/, ''))
})

test('a model of a training run is called by its stage', () => {
  expect(['runs/finetune/model', 'BAAI/bge-small-zh-v1.5', 'model/', '/'].map(shorten)).toEqual([
    'finetune/model', 'bge-small-zh-v1.5', 'model', '/',
  ]) // biome-ignore format: a list
})

test('the radar: a polygon for each whole series, none for one with a hole, nothing with two axes', () => {
  const svg = radar(
    ['A', 'B', 'C'],
    [
      { name: 'one', values: [100, 50, 0] },
      { name: 'two', values: [1, null, 2] },
    ],
  )
  expect(svg.match(/class="area/g)).toHaveLength(1)
  expect(svg).toContain('class="area s0" points="270.0,45.0 326.3,207.5 270.0,175.0"')
  expect(svg).toContain('two: not drawn, no mean of B')
  expect(radar(['A', 'B'], [{ name: 'one', values: [1, 2] }])).toBe('')
  expect(radar(['A', 'B', 'C'], [{ name: 'two', values: [1, null, 2] }])).toBe('')
})

test('the table of a terminal', () => {
  expect(textTable(evaluation, [other])).toBe(`                                 score  base"line    diff
sts/S             m              50.00      60.00  -10.00
sts/T             m              75.00      70.00   +5.00
retrieval/R       m              40.00      40.00    0.00
classification/K  m              90.00      80.00  +10.00
clustering/F      ERR_BGE_DATA  failed          -
mean of 2 sts                    62.50      65.00   -2.50
base"line: somewhere
note: a <note>
`)
  expect([0.004, -0.004, 1.005, -2].map(signed)).toEqual(['0.00', '0.00', '+1.00', '-2.00'])
})

import { describe, expect, test } from 'vitest'
import type { Evaluation, TaskFailure, TaskResult } from '../lib/eval/evaluation.js'
import type { Other } from '../lib/report/comparison.js'
import { reportPage } from '../lib/report/page.js'
import { radar } from '../lib/report/radar.js'
import { signed, textTable } from '../lib/report/table.js'

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

/** Every element that is opened is closed, in order. */
function checkNesting(html: string): void {
  const open: string[] = []
  for (const [, close, name, rest] of html.matchAll(/<(\/?)([a-z][a-z0-9]*)([^<>]*)>/g)) {
    if (rest!.endsWith('/') || ['meta', 'br'].includes(name!)) continue
    if (close) expect(open.pop()).toBe(name)
    else open.push(name!)
  }
  expect(open).toEqual([])
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
  expect(svg).not.toContain('two')
  expect(radar(['A', 'B'], [{ name: 'one', values: [1, 2] }])).toBe('')
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

import { afterEach, expect, test, vi } from 'vitest'
import { chance } from '../lib/train/chance.js'
import type { TrainConfig } from '../lib/train/config.js'
import { createProgress, duration } from '../lib/train/progress.js'
import { contrastive } from '../lib/train/contrastive.js'
import type { MetricsRow } from '../lib/train/run_folder.js'

afterEach(() => vi.useRealTimers())

const config: TrainConfig = { ...contrastive.defaults, learningRate: 1e-5, batchSize: 100, groupSize: 2 }
const row = (step: number, more: Partial<MetricsRow> = {}): MetricsRow => ({
  step, epoch: step / 10, loss: 1.25, learningRate: 2e-5, gradNorm: 0.5, tokensPerSecond: 12_345.6, rowsPerSecond: 321.4, stallSeconds: 0.0123, tokens: 99, seconds: 1,
  accuracy: 0.5, masked: 10_000, ...more,
}) as MetricsRow // biome-ignore format: a row

/** A stream that keeps what is written. */
function stream(more: { isTTY?: boolean; columns?: number } = {}): { text: () => string; stream: NodeJS.WriteStream } {
  const written: string[] = []
  const write = (text: string): boolean => written.push(text) > 0
  return { text: () => written.join(''), stream: { write, rows: 40, ...more } as unknown as NodeJS.WriteStream }
}

test('where the output is no terminal: a line for the first and the last step and one now and then, with everything in it', () => {
  vi.useFakeTimers({ toFake: ['performance'] })
  const out = stream()
  const progress = createProgress(out.stream, { label: 'contrastive', firstStep: 0, totalSteps: 10, config }, 5)
  for (let step = 1; step <= 10; step++) {
    vi.advanceTimersByTime(step === 1 ? 60_000 : 2000)
    const left = progress.update(row(step))
    if (step > 1) expect(left).toBe((10 - step) * 2) // the first step, which warms everything up, is left out
  }
  progress.note('a note')
  progress.end()
  const lines = out.text().split('\n')
  expect(lines.map((line) => /contrastive (\d+)\/10/.exec(line)?.[1] ?? line)).toEqual(['1', '4', '7', '10', 'a note', ''])
  expect(lines[1]).toBe(
    'contrastive 4/10 · ETA 12s · 12,346 tokens/s · 321 pairs/s · data wait 12 ms · loss 1.2500 · accuracy 0.500 (chance 0.01) · gradient 0.500 · rate 2.0e-5 · masked 10,000',
  )
})

test('a resumed run: the ETA does not count the steps that were made before', () => {
  vi.useFakeTimers({ toFake: ['performance'] })
  const progress = createProgress(stream().stream, { label: 'pretrain', firstStep: 900, totalSteps: 1000 })
  vi.advanceTimersByTime(3000)
  expect(progress.update(row(901))).toBe(3 * 99)
})

test('a terminal: lines that are rewritten, as wide as it is, with everything in them; notes stay', () => {
  const out = stream({ isTTY: true, columns: 60 })
  const progress = createProgress(out.stream, { label: 'pretrain', firstStep: 0, totalSteps: 4 })
  progress.note('starting')
  const losses = { encoderLoss: 2, decoderLoss: 3, encoderAccuracy: 0.25, decoderAccuracy: 0.125, clsGainShuffled: 0.5, clsGain: 0.75 }
  progress.update(row(2, losses))
  progress.end()
  const lines = out
    .text()
    // biome-ignore lint/suspicious/noControlCharactersInRegex: what a terminal understands
    .replace(/\u001B\[[0-9;?]*[A-Za-z]/g, '')
    .split('\n')
  expect(lines[0]).toBe('starting')
  expect(lines[1]).toMatch(/^█{10}░{10} pretrain 2\/4 · ETA /)
  expect(lines[2]).toMatch(/^loss 1\.2500 · accuracy 0\.500 · encoder 2\.000 \(0\.250 right\)/)
  expect(lines.slice(2).join('\n')).toMatch(
    /decoder 3\.000 \(0\.125 right\)\s.*CLS gain 0\.500.*gradient 0\.500\s.*rate 2\.0e-5 · masked 10,000/s,
  )
  for (const line of lines) expect(line.length).toBeLessThan(60)
})

test('durations', () => {
  expect([0, 59.4, 60, 3599, 3600, 86_399, 86_400 + 4 * 3600].map(duration)).toEqual([
    '0s', '59s', '1m00s', '59m59s', '1h00m', '23h59m', '1d04h',
  ]) // biome-ignore format: a list
})

test('chance: by the candidates that a query has left', () => {
  expect(chance(config)).toEqual({ candidates: 200, loss: Math.log(200), accuracy: 1 / 200 })
  expect(chance(config, { masked: 4000, falseNegatives: 1000 })!.candidates).toBe(150)
  expect(chance({ ...config, candidates: 'group' })!.candidates).toBe(2)
  expect(chance({ ...config, direction: 'symmetric' })!.loss).toBe((Math.log(200) + Math.log(100)) / 2)
  expect(chance({ ...config, distillation: 'kl_div' })).toEqual({ candidates: 200, accuracy: 1 / 200 })
  expect(chance({ ...config, candidates: 'source' })).toBeUndefined()
})

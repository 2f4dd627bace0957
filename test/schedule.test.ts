import { describe, expect, it } from 'vitest'
import { learningRateAt, warmupSteps } from '../lib/train/schedule.js'

describe('learning rate schedule (Hugging Face get_linear_schedule_with_warmup)', () => {
  it('equals the values that transformers gives for 10 steps, 4 of them warmup, peak 1', () => {
    const expected = [0, 0.25, 0.5, 0.75, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6, 0]
    for (const [step, rate] of expected.entries()) expect(learningRateAt(step, 1, 4, 10)).toBeCloseTo(rate, 15)
  })

  it('starts at the peak without warmup and ends at 0', () => {
    expect(learningRateAt(0, 2e-5, 0, 100)).toBe(2e-5)
    expect(learningRateAt(50, 2e-5, 0, 100)).toBeCloseTo(1e-5, 20)
    expect(learningRateAt(100, 2e-5, 0, 100)).toBe(0)
    expect(learningRateAt(101, 2e-5, 0, 100)).toBe(0)
  })

  it('never divides by zero when everything is warmup', () => {
    expect(learningRateAt(9, 1, 10, 10)).toBeCloseTo(0.9, 15)
    expect(learningRateAt(10, 1, 10, 10)).toBe(0)
  })

  it.each([
    [100, 0.1, 10],
    [101, 0.1, 11],
    [7, 0.5, 4],
    [50, 0, 0],
    [3, 1, 3],
  ])('of %i steps, ratio %f warms up for %i (rounded up)', (total, ratio, steps) => {
    expect(warmupSteps(total, ratio)).toBe(steps)
  })
})

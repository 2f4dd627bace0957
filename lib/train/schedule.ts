/**
 * Learning rate of a 0-based step: linear from 0 over the warmup steps, then linear to 0 at `totalSteps`
 * (Hugging Face get_linear_schedule_with_warmup; the very first update of a run with warmup has rate 0).
 */
export function learningRateAt(step: number, peak: number, warmupSteps: number, totalSteps: number): number {
  if (step < warmupSteps) return (peak * step) / Math.max(1, warmupSteps)
  return peak * Math.max(0, (totalSteps - step) / Math.max(1, totalSteps - warmupSteps))
}

/** ceil(totalSteps * warmupRatio), as Hugging Face's TrainingArguments.get_warmup_steps. */
export function warmupSteps(totalSteps: number, warmupRatio: number): number {
  return Math.ceil(totalSteps * warmupRatio)
}

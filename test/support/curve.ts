import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import type { TrainConfig } from '../../lib/train/config.js'
import { train } from '../../lib/train/loop.js'
import type { Stage } from '../../lib/train/stage.js'
import { fixtures } from './golden.js'
import { newTinyModel, tinyData } from './tiny_run.js'

export const CURVE_STEPS = 50
export type CurveStage = 'pretrain' | 'contrastive' | 'finetune'

/** curves.json, made by make_curves.py: what PyTorch makes of the same batches and starting weights. */
export interface TorchCurve {
  fp32: readonly number[]
  /** under autocast to bfloat16 */
  bf16: readonly number[]
  /** with hidden states, gradients and multiplied weights stored in bfloat16, as CUDA stores them: the rule of gpu-check's 50 steps */
  stored: readonly number[]
}
export const torchCurves = JSON.parse(readFileSync(join(fixtures, 'curves.json'), 'utf8')) as Readonly<Record<CurveStage, TorchCurve>>

/** The configuration of a curve, whatever the device. No dropout: PyTorch would draw other masks. */
export function curveConfig(stage: CurveStage, device: 'cpu' | 'cuda' | `cuda:${number}`): Partial<TrainConfig> {
  const lengths = stage === 'pretrain' ? { maxLength: 32 } : { queryMaxLength: 24, passageMaxLength: 32, instruction: '' }
  return {
    ...lengths,
    batchSize: 8,
    steps: CURVE_STEPS,
    learningRate: 1e-3,
    microBatchTokens: 96,
    dropout: 0,
    saveEvery: 0,
    device,
    threads: 1,
  }
}

/** The model and the data of all curves: 2 layers x 64, 29 tokens; 100 texts, 100 queries with two positives and three negatives. */
export async function curveFiles(folder: string): Promise<{ model: string; texts: string; pairs: string }> {
  return { model: await newTinyModel(join(folder, 'model')), ...(await tinyData(folder, 100)) }
}

/** Losses of the first `steps` of the 50 steps. */
export async function lossCurve(
  stage: Stage,
  files: { model: string; texts: string; pairs: string },
  out: string,
  device: 'cpu' | 'cuda' | `cuda:${number}`,
  steps: number = CURVE_STEPS,
): Promise<number[]> {
  const losses: number[] = []
  const enough = new AbortController()
  const onStep = ({ loss }: { loss: number }): void => {
    losses.push(loss)
    if (losses.length === steps && steps < CURVE_STEPS) enough.abort()
  }
  const data = [stage.name === 'pretrain' ? files.texts : files.pairs]
  const config = curveConfig(stage.name as CurveStage, device)
  try {
    await train(stage, { model: files.model, data, out, config, hooks: { onStep }, signal: enough.signal })
  } catch (error) {
    if (!enough.signal.aborted) throw error
  }
  return losses
}

export const rootMeanSquare = (a: readonly number[], b: readonly number[]): number =>
  Math.sqrt(a.reduce((sum, x, i) => sum + (x - b[i]!) ** 2, 0) / a.length)

export interface CurveVerdict {
  ok: boolean
  /** root mean square of the differences: the device to the CPU, PyTorch's bf16 and stored to its fp32, the CPU to PyTorch's fp32 */
  ours: number
  bf16: number
  stored: number
  reference: number
}

/** `ok`, the rule of a few steps: a device's curve may be twice as far from the CPU's as bf16 puts PyTorch's from its own, and the CPU's must be PyTorch's. */
export function judgeCurve(stage: CurveStage, device: readonly number[], cpu: readonly number[]): CurveVerdict {
  const torch = torchCurves[stage]
  const bf16 = rootMeanSquare(torch.bf16.slice(0, cpu.length), torch.fp32)
  const stored = rootMeanSquare(torch.stored.slice(0, cpu.length), torch.fp32)
  const ours = rootMeanSquare(device, cpu)
  const reference = rootMeanSquare(cpu, torch.fp32)
  return { ok: device.length === cpu.length && ours > 0 && ours <= 2 * bf16 && reference <= bf16, ours, bf16, stored, reference }
}

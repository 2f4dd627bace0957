import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Parameters } from '../../lib/native.js'
import type { Stage } from '../../lib/train/stage.js'
import { stages } from '../../lib/train/stages.js'
import { curveFiles, lossCurve } from './curve.js'

/** What make_curves.py reads: of each stage the starting weights, every batch as the collator made it, and our losses on the CPU. */
export async function exportCurves(file: string): Promise<void> {
  const folder = await mkdtemp(join(tmpdir(), 'bge-curve-'))
  try {
    const files = await curveFiles(folder)
    const found: Record<string, unknown> = {}
    for (const stage of Object.values(stages)) {
      const batches: unknown[] = []
      const weights: Record<string, number[]> = {}
      const losses = await lossCurve(recording(stage, batches, weights), files, join(folder, stage.name), 'cpu')
      found[stage.name] = { weightDecay: stage.defaults.weightDecay, temperature: stage.defaults.temperature, weights, batches, losses }
    }
    const plain = (_: string, value: unknown): unknown =>
      typeof value === 'bigint' ? String(value) : ArrayBuffer.isView(value) ? Array.from(value as Int32Array) : value
    await writeFile(file, JSON.stringify(found, plain))
  } finally {
    await rm(folder, { recursive: true, force: true })
  }
}

function recording<Batch>(stage: Stage<Batch>, batches: unknown[], weights: Record<string, number[]>): Stage<Batch> {
  return {
    ...stage,
    async open(context) {
      const run = await stage.open(context)
      const sets: Parameters[] = Object.values(run.modules).map(({ parameters }) => parameters)
      for (const set of sets) for (const { name } of set.list) weights[name] = Array.from(await set.read(name))
      return {
        ...run,
        step(batch, ...rest) {
          batches.push(batch)
          return run.step(batch, ...rest)
        },
      }
    },
  }
}

import { basename, join } from 'node:path'
import { folderHash, once, sweep } from '../data/once.js'
import { BgeModel } from '../model/model.js'
import type { CurateOptions, Rows } from './curate.js'
import { decontaminate, type DecontaminationReport } from './decontaminate.js'
import { dedup, type DedupReport } from './dedup.js'
import { evaluationTasks, evaluationTexts } from './evaluation_texts.js'
import type { DecontaminateSettings, Recipe, SemanticSettings } from './recipe.js'
import { decide, scoreRows, type SemanticReport } from './semantic.js'
import { createMeter, keyOf, type Meter } from './stage.js'

export interface Deduplicated {
  readonly result: DedupReport
  readonly reused: boolean
  readonly rows: Rows
}

/** Removes duplicates over all sources (dedup.ts). */
export async function dedupStage(recipe: Recipe, rows: Rows, work: string, options: CurateOptions): Promise<Deduplicated> {
  const { threads, memoryLimit } = options.resources ?? {}
  const priorities = Object.fromEntries(recipe.sources.map(({ name, priority }) => [name, priority]))
  const key = keyOf('dedup', recipe.dedup, priorities, rows.key)
  const place = join(work, '2-dedup')
  const done = await once(join(work, '2-dedup.done.json'), key, place, () => {
    let step = ''
    let meter: Meter | undefined
    let before = 0
    return dedup(rows.files, place, recipe.dedup, {
      priorities,
      ...(threads !== undefined && { threads }),
      ...(memoryLimit !== undefined && { memoryLimit }),
      signal: options.signal,
      onProgress: (now, done, total) => {
        if (now !== step) {
          meter = createMeter('dedup', now === 'bands' || now === 'verify' ? 'steps' : 'rows', total ?? rows.count, options.onProgress, now)
          step = now
          before = 0
        }
        meter!.advance(done - before, undefined, now)
        before = done
      },
    })
  })
  const files = done.result.files.map((file) => join(place, basename(file)))
  return { ...done, rows: { files, count: done.result.kept, key } }
}

export interface Decontaminated {
  readonly result: DecontaminationReport
  readonly reused: boolean
  readonly rows: Rows
}

/** Removes rows that repeat an evaluation text (decontaminate.ts). */
export async function decontaminateStage(
  settings: DecontaminateSettings,
  rows: Rows,
  work: string,
  options: CurateOptions,
): Promise<Decontaminated> {
  const { signal } = options
  const tasks = await evaluationTasks(settings.against)
  const identities: [string, string][] = []
  for (const task of tasks) identities.push([`${task.type}/${task.name}`, await task.identity()])
  const key = keyOf('decontaminate', settings.ngram, settings.threshold, identities, rows.key)
  const place = join(work, '3-decontaminate')
  const done = await once(join(work, '3-decontaminate.done.json'), key, place, () => {
    const meter = createMeter('decontaminate', 'rows', rows.count, options.onProgress)
    let before = 0
    const onProgress = (done: number): void => {
      meter.advance(done - before)
      before = done
    }
    return decontaminate(rows.files, evaluationTexts(tasks, signal), place, settings, { signal, onProgress })
  })
  const files = done.result.files.map((file) => join(place, basename(file)))
  return { ...done, rows: { files, count: done.result.kept, key } }
}

export interface Scored {
  readonly result: SemanticReport
  readonly reused: boolean
  readonly key: string
  readonly modelHash: string
  /** of the score files */
  readonly folder: string
}

/** Scores all rows with a model folder and decides what to keep (semantic.ts). The scores stay when only threshold or keep-rate change. */
export async function semanticStage(settings: SemanticSettings, rows: Rows, work: string, options: CurateOptions): Promise<Scored> {
  const { signal, resources = {} } = options
  const modelHash = await folderHash(settings.model)
  const scores = keyOf('score', modelHash, rows.key)
  const key = keyOf('decide', scores, settings.threshold, settings.keepRate)
  const place = join(work, '4-semantic')
  const name = scores.slice(0, 16)
  const folder = join(place, name)
  const done = await once(join(work, '4-semantic.done.json'), key, undefined, async () => {
    await sweep(place, new Set([name]))
    let model: Promise<BgeModel> | undefined
    const load = (): Promise<BgeModel> =>
      (model ??= BgeModel.load(settings.model, {
        ...(resources.device !== undefined && { device: resources.device }),
        ...(resources.threads !== undefined && { threads: resources.threads }),
      }))
    try {
      await scoreRows(rows.files, folder, load, { meter: createMeter('score', 'rows', rows.count, options.onProgress), signal })
    } finally {
      await model?.then((loaded) => loaded.dispose())
    }
    return decide(rows.files, folder, settings, signal)
  })
  return { ...done, key, modelHash, folder }
}

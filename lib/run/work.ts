import { existsSync } from 'node:fs'
import { readFile, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { curate } from '../curate/curate.js'
import type { CurateProgress } from '../curate/curate.js'
import { readRecipe } from '../curate/recipe.js'
import { dataFiles } from '../data/jsonl.js'
import { splitData } from '../data/split.js'
import { BgeError } from '../errors.js'
import type { CmtebSet } from '../eval/cmteb/tasks.js'
import type { RunOptions } from '../eval/run.js'
import { mine, type MineOptions, type MineProgress } from '../mine/mine.js'
import type { ModelSize, Pooling } from '../model/config.js'
import { mergeModels } from '../model/merge.js'
import { BgeModel } from '../model/model.js'
import { trainingReport } from '../report/training.js'
import { stageKeys, type StageName, type TrainConfig } from '../train/config.js'
import { train, type TrainHooks } from '../train/loop.js'
import type { MetricsRow } from '../train/run_folder.js'
import { stages } from '../train/stages.js'
import { devScore, evaluateStep } from './evaluate.js'
import type { Node } from './graph.js'
import type { RunRecipe } from './recipe.js'

/** What a caller is told while a step works. */
export interface WorkHooks {
  /** before a training step; `place` is its run folder */
  onTrain?: (step: string, stage: StageName, place: string) => TrainHooks | Promise<TrainHooks>
  /** after training: texts tokenized by this process, and how many of them were cut at their maximal length */
  onTruncation?: (step: string, found: { texts: number; truncated: number }) => void
  onMine?: (step: string, progress: MineProgress) => void
  onCurate?: (step: string, progress: CurateProgress) => void
  onEvaluate?: (step: string) => Pick<RunOptions, 'onTask' | 'onProgress'>
}

/** What is worth telling of a finished step, in the summary and the report. */
export type Facts = Readonly<Record<string, unknown>>

export interface Work {
  readonly recipe: RunRecipe
  readonly node: Node
  /** the step's folder; holds what a stopped run of the same settings and inputs left */
  readonly place: string
  /** vectors that all steps share */
  readonly vectors: string
  /** files and folders of a slot */
  readonly paths: (slot: string) => readonly string[]
  readonly hooks: WorkHooks
  readonly signal: AbortSignal | undefined
}

/** Does a step, or goes on with it. What it gives is complete on disk when this returns. */
export async function doStep(work: Work): Promise<Facts> {
  switch (work.node.do) {
    case 'curate':
      return curateStep(work)
    case 'split':
      return splitStep(work)
    case 'new':
      return newStep(work)
    case 'pretrain':
    case 'contrastive':
    case 'finetune':
      return trainStep(work, work.node.do)
    case 'mine':
      return mineStep(work)
    case 'merge':
      return mergeStep(work)
    case 'evaluate':
      return evaluationStep(work)
  }
}

/** Where a step's output is. */
export function outputPath(place: string, node: Pick<Node, 'do'>, part: string): string {
  switch (node.do) {
    case 'curate':
      return join(place, 'data')
    case 'split':
      return join(place, `${part}.jsonl`)
    case 'mine':
      return join(place, 'mined.jsonl')
    case 'evaluate':
      return join(place, 'result.json')
    default:
      return join(place, 'model')
  }
}

async function curateStep({ node, place, paths, recipe, hooks, signal }: Work): Promise<Facts> {
  const { recipe: file, decontaminate } = node.options as { recipe: string; decontaminate?: string[] }
  const [[model], [tokenizer]] = [paths('model'), paths('tokenizer')]
  const { summary } = await curate(await readRecipe(file), {
    out: place,
    ...(model !== undefined && { model }),
    ...(decontaminate && { decontaminate }),
    ...(tokenizer !== undefined && { tokenizer }),
    resources: { device: recipe.device, ...(recipe.threads !== undefined && { threads: recipe.threads }) },
    onProgress: (progress) => hooks.onCurate?.(node.name, progress),
    ...(signal && { signal }),
  })
  return { rows: summary.output.rows, sources: summary.sources.length }
}

async function splitStep({ node, place, paths, signal }: Work): Promise<Facts> {
  const { dev, seed } = node.options as { dev?: number; seed: number }
  const { files: _, ...counts } = await splitData(await dataFiles(paths('data')), {
    out: place,
    seed,
    ...(dev !== undefined && { dev }),
    ...(signal && { signal }),
  })
  return counts
}

async function newStep({ node, place, paths, recipe }: Work): Promise<Facts> {
  const { size, seed } = node.options as { size: ModelSize; seed: number }
  await using model = await BgeModel.createNew({ size, tokenizerDir: paths('tokenizer')[0]!, seed, device: 'cpu', ...threadsOf(recipe) })
  await model.save(join(place, 'model'))
  return { size, layers: model.config.layers, width: model.dims, vocabulary: model.config.vocab }
}

async function trainStep({ node, place, paths, recipe, hooks, signal }: Work, stage: StageName): Promise<Facts> {
  const { pooling } = node.options as { pooling?: Pooling }
  const keys = new Set<string>(stageKeys(stage))
  const config = Object.fromEntries(Object.entries(node.options).filter(([key]) => keys.has(key))) as Partial<TrainConfig>
  const resume = existsSync(join(place, 'run.json'))
  if (!resume) await rm(place, { recursive: true, force: true }) // a kill before the first step: nothing to go on with
  const dev = paths('dev')
  const told = (await hooks.onTrain?.(node.name, stage, place)) ?? {}
  const result = await train(stages[stage], {
    model: paths('model')[0]!,
    ...(pooling && { pooling }),
    data: paths('data'),
    out: place,
    config,
    resume: resume ? 'continue' : 'never',
    hooks: {
      ...told,
      ...(dev.length > 0 && {
        onCheckpoint: ({ model }) => devScore(model, dev, { ...evaluationOptions(config.instruction, recipe, signal) }),
      }),
    },
    ...(signal && { signal }),
  })
  await trainingReport(place)
  hooks.onTruncation?.(node.name, result.truncation)
  const rows = (await readFile(join(place, 'metrics.jsonl'), 'utf8')).split('\n').filter(Boolean)
  const metrics = [rows.at(0), rows.at(-1)].map((row) => (row === undefined ? {} : (JSON.parse(row) as Partial<MetricsRow>)))
  const written = JSON.parse(await readFile(join(place, 'config.json'), 'utf8')) as Partial<TrainConfig>
  return {
    steps: result.steps,
    loss: metrics.map(({ loss }) => loss ?? null),
    accuracy: metrics.map(({ accuracy }) => accuracy ?? null),
    trainSeconds: metrics[1]!.seconds ?? 0,
    ...(result.best && { best: result.best }),
    config: written,
  }
}

async function mineStep({ node, place, vectors, paths, recipe, hooks, signal }: Work): Promise<Facts> {
  const model = await loadModel(paths('model')[0]!, recipe)
  try {
    const [teacher] = paths('teacher')
    const result = await mine(model, {
      ...(node.options as Partial<MineOptions>),
      data: paths('data'),
      ...(paths('pool').length > 0 && { pool: paths('pool') }),
      ...(teacher !== undefined && { teacher: { model: await BgeModel.load(teacher, { device: model.device }) } }),
      out: join(place, 'mined.jsonl'),
      storage: { cache: vectors },
      onProgress: (progress) => hooks.onMine?.(node.name, progress),
      ...(signal && { signal }),
    })
    const { rows, pool, mined, random, missing, short, weak, empty } = result
    return { rows, pool, mined, random, missing, short, weak, empty }
  } finally {
    model.dispose()
  }
}

async function mergeStep({ node, place, paths }: Work): Promise<Facts> {
  const { weights, instruction } = node.options as { weights: number[]; instruction?: string }
  const parts = paths('models').map((model, i) => ({ model, weight: weights[i]! }))
  await mergeModels(parts, { out: join(place, 'model'), ...(instruction !== undefined && { instruction }) })
  return { weights }
}

async function evaluationStep({ node, place, paths, recipe, hooks, signal }: Work): Promise<Facts> {
  const { instruction, maxLength, seed, cmteb } = node.options as {
    instruction?: string | string[]
    maxLength?: number
    seed: number
    cmteb?: CmtebSet
  }
  const model = await loadModel(paths('model')[0]!, recipe)
  const [[tasks], [cmtebData], [against]] = [paths('tasks'), paths('cmtebData'), paths('against')]
  try {
    const instructions = instruction === undefined ? [model.instruction] : [instruction].flat()
    const { scores, own, comparison } = await evaluateStep(model, {
      place,
      data: paths('data'),
      corpus: paths('corpus'),
      ...(tasks !== undefined && { tasks }),
      ...(cmteb !== undefined && { cmteb }),
      ...(cmtebData !== undefined && { cmtebData }),
      ...(against !== undefined && { against: { file: against, step: stepName(node, 'against') } }),
      seed,
      instructions,
      run: {
        ...evaluationOptions(undefined, recipe, signal),
        ...(maxLength !== undefined && { maxLength }),
        ...hooks.onEvaluate?.(node.name),
      },
    })
    return {
      scores,
      ...(own && { queries: own.queries.length, passages: own.passages, instruction: own.instruction, tried: own.tried }),
      ...(comparison && { comparison, against: stepName(node, 'against') }),
    }
  } finally {
    model.dispose()
  }
}

function stepName(node: Node, slot: string): string {
  const [source] = node.sources[slot] ?? []
  if (source?.kind !== 'step') throw new BgeError('ERR_BGE_INTERNAL', `${node.name}.${slot} is no step`)
  return source.step
}

function evaluationOptions(
  instruction: string | undefined,
  recipe: RunRecipe,
  signal: AbortSignal | undefined,
): Pick<RunOptions, 'instruction' | 'threads' | 'signal'> {
  return { ...(instruction !== undefined && { instruction }), ...threadsOf(recipe), ...(signal && { signal }) }
}

function loadModel(folder: string, recipe: RunRecipe): Promise<BgeModel> {
  return BgeModel.load(folder, { device: recipe.device, ...threadsOf(recipe) })
}

function threadsOf({ threads }: RunRecipe): { threads?: number } {
  return threads === undefined ? {} : { threads }
}

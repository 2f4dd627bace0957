import { mkdir, readdir, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { loadReranking, loadRetrieval } from '../eval/data.js'
import { evaluate } from '../eval/evaluate.js'
import { mine, type MineResult } from '../mine/mine.js'
import { BgeModel } from '../model/model.js'
import { BgeError } from '../errors.js'
import { train, type TrainHooks } from '../train/loop.js'
import type { StageName } from '../train/config.js'
import { Tokenizer } from '../tokenizer/tokenizer.js'
import { stages } from '../train/stages.js'
import { type Bm25Scores, evaluateBm25 } from './bm25.js'
import { type Corpus, readCorpus } from './corpus.js'
import { prepare, type QuickstartData } from './prepare.js'
import { mining, modelConfig, settings } from './settings.js'

export interface QuickstartOptions {
  /** folder with corpus/ and tokenizer/ */
  source: string
  /** folder for everything that is made; an earlier quickstart there is replaced */
  out: string
  seed: number
  device: string
  hooks?: QuickstartHooks
  signal?: AbortSignal
}

export interface QuickstartHooks {
  onPrepared?: (corpus: Corpus, data: QuickstartData) => void
  onStage?: (stage: StageName) => TrainHooks
  onMined?: (result: MineResult) => void
  onPhase?: (phase: Phase) => void
}

/** The held-out scores after a phase, and how long it took (training, mining and evaluation). */
export interface Phase {
  readonly phase: 'init' | StageName
  readonly scores: {
    readonly ndcg_at_10: number
    readonly mrr_at_10: number
    readonly map: number
    readonly cosine_spearman: number
  }
  readonly seconds: number
}

export interface QuickstartResult {
  readonly phases: readonly Phase[]
  readonly bm25: Bm25Scores
  /** the trained model folder */
  readonly model: string
  readonly corpus: Corpus
}

/** Marks a folder as made by the quickstart: only such a folder is ever replaced. */
const MARKER = 'quickstart.txt'

/**
 * The whole recipe on a small scale: a new, very small model, RetroMAE, contrastive training, mining with the model so far, fine-tuning; scored on
 * held-out articles before and after each stage. The same seed on the same device gives the same numbers.
 */
export async function quickstart(options: QuickstartOptions): Promise<QuickstartResult> {
  const { source, out, seed, device, hooks = {}, signal } = options
  const corpus = await readCorpus(join(source, 'corpus'))
  await emptyFolder(out)
  const data = await prepare(corpus, join(out, 'data'), seed)
  hooks.onPrepared?.(corpus, data)
  const phases: Phase[] = []
  let start = performance.now()
  const score = async (phase: Phase['phase'], model: string): Promise<string> => {
    const scores = await scoreModel(model, phase === 'finetune' ? 'zh' : '', options, data)
    const now = performance.now()
    phases.push({ phase, scores, seconds: (now - start) / 1000 })
    start = now
    hooks.onPhase?.(phases.at(-1)!)
    return model
  }
  const run = async (stage: StageName, model: string, file: string): Promise<string> => {
    const result = await train(stages[stage], {
      model,
      data: [file],
      out: join(out, stage),
      config: { ...settings[stage], seed, device },
      hooks: hooks.onStage?.(stage) ?? {},
      ...(signal && { signal }),
    })
    return result.model
  }

  const initial = join(out, 'init')
  const tokenizerDir = join(source, 'tokenizer')
  const { vocabSize } = await Tokenizer.load(tokenizerDir)
  const fresh = await BgeModel.createNew({ config: modelConfig(vocabSize), tokenizerDir, seed, device })
  await fresh.save(initial).finally(() => fresh.dispose())
  await score('init', initial)
  const pretrained = await score('pretrain', await run('pretrain', initial, data.pretrain))
  const contrasted = await score('contrastive', await run('contrastive', pretrained, data.pairs))
  const mined = join(out, 'data', 'mined.jsonl')
  await mineNegatives(contrasted, mined, options, data)
  const model = await score('finetune', await run('finetune', contrasted, mined))

  const { evaluation } = data
  const bm25 = evaluateBm25(
    await loadRetrieval(join(evaluation, 'retrieval/heldout')),
    await loadReranking(join(evaluation, 'reranking/heldout.jsonl')),
  )
  return { phases, bm25, model, corpus }
}

async function scoreModel(
  directory: string,
  instruction: string,
  { device, out, signal }: QuickstartOptions,
  data: QuickstartData,
): Promise<Phase['scores']> {
  const model = await BgeModel.load(directory, { device })
  try {
    const { tasks } = await evaluate(model, { data: data.evaluation, instruction, ...(signal && { signal }) })
    const scores: Record<string, number> = {}
    for (const task of tasks) {
      if ('error' in task)
        throw new BgeError(task.error.code, `${task.type}/${task.task_name}: ${task.error.message} (model ${directory} in ${out})`)
      Object.assign(scores, task.type === 'reranking' ? { map: task.main_score } : task.scores)
    }
    const { ndcg_at_10, mrr_at_10, map, cosine_spearman } = scores as Record<keyof Phase['scores'], number>
    return { ndcg_at_10, mrr_at_10, map, cosine_spearman }
  } finally {
    model.dispose()
  }
}

async function mineNegatives(
  directory: string,
  mined: string,
  { device, seed, hooks, signal }: QuickstartOptions,
  data: QuickstartData,
): Promise<void> {
  const model = await BgeModel.load(directory, { device })
  try {
    hooks?.onMined?.(await mine(model, { ...mining, data: data.train, out: mined, seed, ...(signal && { signal }) }))
  } finally {
    model.dispose()
  }
}

/** Makes the folder; removes what an earlier quickstart left there, and refuses to touch anything else. */
async function emptyFolder(out: string): Promise<void> {
  await mkdir(out, { recursive: true })
  const entries = await readdir(out)
  if (entries.length > 0 && !entries.includes(MARKER)) {
    throw new BgeError(
      'ERR_BGE_FILE',
      `folder ${out} must be empty, new, or made by an earlier quickstart, but holds ${entries.length} other entries`,
    )
  }
  for (const entry of entries) if (entry !== MARKER) await rm(join(out, entry), { recursive: true, force: true })
  await writeFile(join(out, MARKER), 'This folder was made by `bge quickstart`, which replaces it when it runs again.\n')
}

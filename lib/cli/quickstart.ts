import { resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { Command } from 'commander'
import { writeFileAtomic } from '../data/atomic.js'
import { type Phase, quickstart, type QuickstartResult } from '../quickstart/run.js'
import { searchDemo } from '../quickstart/search.js'
import type { StageName } from '../train/config.js'
import type { TrainHooks } from '../train/loop.js'
import { createProgress, type Progress } from '../train/progress.js'
import { interruptible } from './interrupt.js'
import { describe } from './mine.js'
import { integer } from './options.js'

interface QuickstartFlags {
  json?: string
  out: string
  seed: number
  device: string
}

const SOURCE = fileURLToPath(new URL('../../examples/quickstart', import.meta.url))

/** Adds `quickstart`. */
export function register(program: Command): void {
  program
    .command('quickstart')
    .description('the whole recipe in a few minutes: a tiny model, three stages, mining, scores before and after each stage')
    .option('--json <file>', 'write the table as JSON: one object per phase')
    .option('--out <dir>', 'folder for data, runs and models', 'quickstart-run')
    .option('--seed <n>', 'seed of everything that is random', integer(0), 42)
    .option('--device <device>', 'auto, cpu, cuda or cuda:N', 'auto')
    .action((flags: QuickstartFlags) => interruptible((signal) => run(flags, signal)))
}

async function run({ json, out, seed, device }: QuickstartFlags, signal: AbortSignal): Promise<void> {
  const say = (text: string): void => void process.stderr.write(`${text}\n`)
  const result = await quickstart({
    source: SOURCE,
    out,
    seed,
    device,
    signal,
    hooks: {
      onPrepared: ({ train, heldOut, sts }) =>
        say(`${train.length} articles to train on, ${heldOut.length} held out, ${sts.length} sentence pairs`),
      onStage: stageHooks,
      onMined: (mined) => process.stderr.write(describe(mined)),
      onPhase: (phase) => say(`${names[phase.phase]}: nDCG@10 ${percent(phase.scores.ndcg_at_10)} after ${phase.seconds.toFixed(0)} s`),
    },
  })
  if (json !== undefined) await writeFileAtomic(resolve(json), JSON.stringify(result.phases, null, 2) + '\n')
  process.stdout.write(table(result))
  const count = result.corpus.train.length + result.corpus.heldOut.length
  process.stdout.write(`\n${result.model}, loaded again, asked about articles it has never seen:\n`)
  for (const { question, top, score, expected, rank } of await searchDemo(result.model, result.corpus, 4, device)) {
    const verdict = rank === 1 ? 'right' : `the right one, ${expected.title}, is number ${rank} of ${count}`
    process.stdout.write(`  ${question}\n    ${score.toFixed(3)}  ${top.title}: ${[...top.text].slice(0, 32).join('')}…  (${verdict})\n`)
  }
}

const names: Readonly<Record<Phase['phase'], string>> = {
  init: 'new weights',
  pretrain: 'stage 1, RetroMAE',
  contrastive: 'stage 2, contrastive',
  finetune: 'stage 3, fine-tuned',
}

function stageHooks(stage: StageName): TrainHooks {
  let progress: Progress | undefined
  let last = 0
  return {
    onStart: ({ step, totalSteps, device, config }) => {
      last = totalSteps
      progress = createProgress(process.stderr, { label: stage, firstStep: step, totalSteps, config })
      progress.note(`${stage} on ${device}: ${totalSteps} steps`)
    },
    onStep: (row) => {
      progress?.update(row)
      if (row.step === last) progress?.end()
    },
  }
}

/** Scores x100 on held-out articles; in brackets what the phase added. */
function table({ phases, bm25 }: QuickstartResult): string {
  const columns = ['ndcg_at_10', 'mrr_at_10', 'map', 'cosine_spearman'] as const
  const lines = [['', 'retrieval nDCG@10', 'retrieval MRR@10', 'reranking MAP', 'STS Spearman', 'seconds']]
  for (const [i, { phase, scores, seconds }] of phases.entries()) {
    const before = phases[i - 1]?.scores
    const cells = columns.map((name) => percent(scores[name]) + (before ? ` (${signed(scores[name] - before[name])})` : ''))
    lines.push([names[phase], ...cells, seconds.toFixed(1)])
  }
  lines.push(['BM25, character bigrams', ...columns.slice(0, 3).map((name) => percent(bm25[name as keyof typeof bm25])), '', ''])
  const widths = lines[0]!.map((_, column) => Math.max(...lines.map((line) => line[column]!.length)))
  return lines
    .map((line) => line.map((cell, column) => (column === 0 ? cell.padEnd(widths[0]!) : cell.padStart(widths[column]!))).join('  ') + '\n')
    .join('')
}

function percent(score: number): string {
  return (100 * score).toFixed(1)
}

function signed(difference: number): string {
  return `${difference < 0 ? '-' : '+'}${percent(Math.abs(difference))}`
}

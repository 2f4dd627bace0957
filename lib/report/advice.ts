import { chance } from '../train/chance.js'
import type { MetricsRow } from '../train/run_folder.js'
import { again, resume, shell } from './advice_commands.js'
import {
  type Advice,
  COMMON_RULES,
  type Curve,
  fixed,
  median,
  PAIR_RULES,
  percent,
  PRETRAIN_RULES,
  problem,
  worthALook,
} from './advice_rules.js'
import { type RunView, smooth } from './run_view.js'

export type { Advice } from './advice_rules.js'

/** Steps below which a curve says nothing. */
const FEW = 20

/**
 * Reads the curves of a run as a colleague would: problems first. Rules are thresholds on what one can see in the charts, each stated in its text;
 * none of them needs a peer to compare with. Fewer than 20 rows: one sentence that says so.
 */
export function advise(view: RunView): Advice[] {
  const failed = nonFinite(view)
  if (view.rows.length < FEW) return [...(failed ? [failed] : []), tooShort(view)]
  const curve = look(view)
  const rules = view.stage === 'pretrain' ? PRETRAIN_RULES : PAIR_RULES
  const found = [failed, ...[...rules, ...COMMON_RULES].map((rule) => rule(curve))].filter((advice) => advice !== undefined)
  const order = { problem: 0, look: 1, good: 2 }
  const sorted = found.sort((a, b) => order[a.level] - order[b.level])
  return sorted.some(({ level }) => level === 'problem') ? sorted : [...sorted, healthy(curve)]
}

function look(view: RunView): Curve {
  const { rows, config, summary } = view
  const after = rows.filter(({ step }) => step > summary.totalSteps * config.warmupRatio)
  const tenth = Math.max(3, Math.floor(rows.length / 10))
  const of = (part: readonly MetricsRow[]) => (name: string) => median(part.map((row) => row[name]).filter((value) => value !== undefined))
  const loss = rows.map((row) => row.loss)
  return {
    view,
    config,
    rows,
    warm: after.length >= FEW ? after : rows,
    first: of(rows.slice(0, tenth)),
    last: of(rows.slice(-tenth)),
    smoothLoss: smooth(loss, Math.max(3, rows.length / 20)) as number[],
    chance: chance(config, rows.at(-1)),
  }
}

function nonFinite(view: RunView): Advice | undefined {
  const { error, status } = view.summary
  if (status !== 'failed' || error?.code !== 'ERR_BGE_NON_FINITE') return undefined
  return problem(
    'not-finite',
    'The run ended in NaN',
    `${error.message}. A lower learning rate is the usual cure; the gradient norm before it shows whether it built up or came from one batch.`,
    again(view, { learningRate: view.config.learningRate / 3 }),
  )
}

function tooShort({ rows }: RunView): Advice {
  const text = `${rows.length} rows of metrics say nothing about a trend. Let it run for some hundred steps, or log more often (logEvery).`
  return worthALook('too-short', 'Too short to read', text)
}

function healthy({ view, first, last }: Curve): Advice {
  const what =
    view.stage === 'pretrain'
      ? `the encoder's loss went from ${fixed(first('encoderLoss'))} to ${fixed(last('encoderLoss'))}, the decoder's from ${fixed(first('decoderLoss'))} to ${fixed(last('decoderLoss'))}`
      : `the loss went from ${fixed(first('loss'))} to ${fixed(last('loss'))}, in-batch accuracy from ${percent(first('accuracy'))} to ${percent(last('accuracy'))}`
  const text = `Nothing is wrong with the curves: ${what}. A training loss does not say how good a model is; an evaluation on texts that it has not seen does.`
  const { out } = view.summary.started
  if (view.summary.status === 'running') return { rule: 'healthy', level: 'good', title: 'It learns', text }
  if (view.summary.status !== 'done')
    return { rule: 'healthy', level: 'good', title: 'It learned, as far as it came', text, command: resume(view) }
  const command = `bge eval --model ${shell(`${out}/model`)} --benchmark cmteb --out ${shell(`${out}/eval`)}`
  return { rule: 'healthy', level: 'good', title: 'It learned', text, command }
}

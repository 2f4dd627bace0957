import type { Chance } from '../train/chance.js'
import type { TrainConfig } from '../train/config.js'
import type { MetricsRow } from '../train/run_folder.js'
import { again, data, longer, modelOf, shell } from './advice_commands.js'
import { STALL_ALARM, stallShare } from './run_charts.js'
import type { RunView } from './run_view.js'

/** What a curve says, and what to do about it. */
export interface Advice {
  /** name of the rule, for tests and for searching the documentation */
  readonly rule: string
  readonly level: 'good' | 'look' | 'problem'
  readonly title: string
  readonly text: string
  /** the next command to try */
  readonly command?: string
}

/** What rules look at, computed once. Stretches are of steps after warmup where there are enough of them. */
export interface Curve {
  readonly view: RunView
  readonly config: TrainConfig
  readonly rows: readonly MetricsRow[]
  /** rows after warmup */
  readonly warm: readonly MetricsRow[]
  /** medians of the first and the last tenth of the rows */
  readonly first: (name: string) => number
  readonly last: (name: string) => number
  readonly smoothLoss: readonly number[]
  /** of the last row */
  readonly chance: Chance | undefined
}

export type Rule = (curve: Curve) => Advice | undefined

// ---- stages 2 and 3 ----

/** ln(candidates) is the loss of a model that scores everything alike. */
const plateau: Rule = ({ view, config, last, chance: expected }) => {
  if (expected?.loss === undefined || last('loss') < 0.95 * expected.loss || last('loss') > 1.05 * expected.loss) return undefined
  if (last('accuracy') > 3 * expected.accuracy + 0.01) return undefined
  const at = `The loss stays at ${fixed(last('loss'))}, and ln(${whole(expected.candidates)} candidates) is ${fixed(expected.loss)}: every candidate scores alike, nothing is learned.`
  if (config.temperature > 0.1) {
    return problem(
      'plateau',
      'The loss is stuck at chance',
      `${at} At temperature ${config.temperature} cosines, which lie between -1 and 1, cannot tell candidates apart; BGE trains at 0.01 to 0.02.`,
      again(view, { temperature: 0.02 }),
    )
  }
  return problem(
    'plateau',
    'The loss is stuck at chance',
    `${at} If the rows are right (is "pos" an answer to "query"?), the learning rate is too low, or was so high that the model collapsed to one vector: try ten times ${collapsed(view) ? 'less' : 'more'}.`,
    again(view, { learningRate: config.learningRate * (collapsed(view) ? 0.1 : 10) }),
  )
}

const worseThanChance: Rule = ({ view, config, last, chance: expected }) => {
  if (expected?.loss === undefined || last('loss') <= 1.05 * expected.loss || last('accuracy') > 0.5) return undefined
  return problem(
    'worse-than-chance',
    'Worse than guessing',
    `The loss ends at ${fixed(last('loss'))}, above ln(${whole(expected.candidates)} candidates) = ${fixed(expected.loss)}: the model is sure of wrong answers. Either positives of the data are not answers (look at some rows), or the learning rate is too high.`,
    again(view, { learningRate: config.learningRate / 5 }),
  )
}

const atChance: Rule = ({ view, last, chance: expected }) => {
  if (
    !expected ||
    last('accuracy') > 2 * expected.accuracy + 0.002 ||
    (expected.loss !== undefined && last('loss') >= 0.95 * expected.loss)
  )
    return undefined
  return problem(
    'accuracy-at-chance',
    'The loss falls, but not the rank',
    `In-batch accuracy ends at ${percent(last('accuracy'))}, and guessing gets ${percent(expected.accuracy)}. Positives may be the same few texts again and again, or unrelated to their queries: count repetitions.`,
    `bge data stats ${data(view)}`,
  )
}

const tooEasy: Rule = ({ view, config, rows, last, chance: expected }) => {
  const early = rows.slice(0, Math.max(10, Math.floor(rows.length / 3)))
  if (!expected || median(early.slice(-5).map((row) => row.accuracy!)) < 0.97 || last('accuracy') < 0.97) return undefined
  const negatives =
    view.stage === 'contrastive'
      ? again(view, { batchSize: Math.min(4 * config.batchSize, view.summary.rows) })
      : `bge mine --model ${shell(modelOf(view))} --data ${data(view)} --out ${shell(`${view.summary.started.out}-mined.jsonl`)}`
  return worthALook(
    'too-easy',
    'The negatives are too easy',
    `Accuracy is ${percent(median(early.slice(-5).map((row) => row.accuracy!)))} after a third of the run: ${whole(expected.candidates)} candidates teach nothing more. ${view.stage === 'contrastive' ? 'More of them in a batch cost memory for embeddings only: activations are bounded by microBatchTokens.' : 'Mine negatives with this model, or take more of them (groupSize).'}`,
    negatives,
  )
}

const maskedMuch: Rule = ({ view, config, rows, chance: expected }) => {
  const candidates = config.candidates === 'group' ? config.groupSize : config.batchSize * config.groupSize
  const share = mean(rows.map((row) => row.masked ?? 0)) / (config.batchSize * Math.max(1, candidates - 1))
  if (!expected || share < 0.02) return undefined
  return worthALook(
    'masked-share',
    'Many duplicates in a batch',
    `${percent(share)} of the negatives are left out because they are a positive of their query: the same texts come again and again, and each batch has that many fewer negatives. De-duplicate the data (\`dedup\` of a curation recipe), or mix in other sources.`,
    `bge data stats ${data(view)}`,
  )
}

const temperature: Rule = ({ view, config }) => {
  if (config.temperature > 0.1) {
    return worthALook(
      'temperature',
      `Temperature ${config.temperature} is high`,
      `Cosines lie between -1 and 1, so scores differ by at most ${fixed(2 / config.temperature)} nats and hard negatives weigh little. BGE v1.5 trained at 0.02, v1 at 0.01.`,
      again(view, { temperature: 0.02 }),
    )
  }
  if (config.temperature < 0.005) {
    return worthALook(
      'temperature',
      `Temperature ${config.temperature} is low`,
      'A difference of 0.05 in cosine decides everything: gradients come from a few candidates, and all cosines end close to 1. BGE used 0.01 and 0.02.',
      again(view, { temperature: 0.01 }),
    )
  }
  return undefined
}

const smallBatch: Rule = ({ view, config }) => {
  if (view.stage !== 'contrastive' || config.candidates !== 'batch' || config.batchSize >= 64 || view.summary.rows < 128) return undefined
  return worthALook(
    'small-batch',
    `A batch of ${config.batchSize} has few negatives`,
    `Stage 2 learns from in-batch negatives: ${whole((config.batchSize - 1) * config.groupSize)} here, 19,199 for BGE. The batch may be far larger than memory for activations: microBatchTokens bounds that. --plan says what fits.`,
    `${again(view, { batchSize: Math.min(256, view.summary.rows) })} --plan`,
  )
}

// ---- stage 1 ----

const encoderStuck: Rule = ({ view, config, first, last }) => {
  if (last('encoderLoss') < 0.95 * first('encoderLoss')) return undefined
  return problem(
    'no-progress',
    'The encoder does not learn',
    `Its loss went from ${fixed(first('encoderLoss'))} to ${fixed(last('encoderLoss'))} only. A model that was pre-trained before starts low and moves slowly; a new one needs a higher rate and many steps.`,
    again(view, { learningRate: config.learningRate * 3 }),
  )
}

const noGain: Rule = ({ view, config, rows }) => {
  const gains = rows.map((row) => row.clsGainShuffled).filter((value) => value !== undefined)
  if (gains.length === 0) return undefined
  const gain = median(gains.slice(-3)) // of a few texts each
  if (gain < 0.02) {
    return problem(
      'no-cls-gain',
      'The decoder does not use [CLS]',
      `With another text's [CLS] it is only ${gain.toFixed(3)} nats per token worse: the vector says next to nothing about its text, and the decoder's loss comes from its other inputs. Train longer, or hide more of the text from the decoder.`,
      again(view, { decoderMaskRatio: Math.min(0.9, config.decoderMaskRatio + 0.2), epochs: 2 * config.epochs }),
    )
  }
  const half = median(gains.slice(Math.floor(gains.length / 2) - 2, Math.floor(gains.length / 2) + 1))
  if (gains.length >= 6 && gain > 1.1 * half) {
    return worthALook(
      'cls-gain-rises',
      '[CLS] still gains',
      `Another text's [CLS] costs the decoder ${gain.toFixed(3)} nats per token, ${half.toFixed(3)} half-way: the vector says more and more about its text. More steps are worth it.`,
      longer(view),
    )
  }
  return undefined
}

// ---- all stages ----

const diverged: Rule = ({ view, config, smoothLoss }) => {
  const lowest = Math.min(...smoothLoss)
  const end = smoothLoss.at(-1)!
  const at = smoothLoss.indexOf(lowest)
  if (end < 1.2 * lowest + 0.02 || at > 0.9 * smoothLoss.length) return undefined
  return problem(
    'diverged',
    'The loss rose again',
    `It was ${fixed(lowest)} at step ${whole(view.rows[at]!.step)} and ended at ${fixed(end)}: the learning rate is too high for this batch size.`,
    again(view, { learningRate: config.learningRate / 3 }),
  )
}

const exploding: Rule = ({ view, config, warm }) => {
  const norms = warm.map((row) => row.gradNorm)
  const usual = median(norms)
  const third = Math.floor(norms.length / 3)
  const [early, late] = [median(norms.slice(0, third)), median(norms.slice(-third))]
  if (late > 5 * early && late > config.maxGradNorm) {
    return problem(
      'gradient-explodes',
      'The gradient grows',
      `Its norm went from ${short(early)} to ${short(late)}. Lower the learning rate${config.maxGradNorm > 0 ? '' : ', and clip: maxGradNorm is 0'}.`,
      again(view, { learningRate: config.learningRate / 3, ...(config.maxGradNorm === 0 && { maxGradNorm: 1 }) }),
    )
  }
  const spikes = norms.filter((norm) => norm > 10 * usual).length
  if (spikes === 0) return undefined
  return worthALook(
    'gradient-spikes',
    spikes === 1 ? 'A gradient spike' : `${spikes} gradient spikes`,
    `The norm reached ${short(Math.max(...norms))}, the median is ${short(usual)}. ${config.maxGradNorm > 0 ? `Clipping at ${config.maxGradNorm} bounded what it did.` : 'Nothing was clipped.'} Often a few broken rows: look for very long, empty or repeated texts.`,
    config.maxGradNorm > 0 ? `bge data validate ${data(view)}` : again(view, { maxGradNorm: 1 }),
  )
}

const noWarmup: Rule = ({ view, config, rows }) => {
  const start = rows.slice(0, 10).map((row) => row.loss)
  if (config.warmupRatio > 0 || rows[0]!.step > 5 || Math.max(...start) < 1.3 * start[0]!) return undefined
  return worthALook(
    'no-warmup',
    'A start without warmup hurt',
    `The loss jumped from ${fixed(start[0]!)} to ${fixed(Math.max(...start))} in the first steps, when the optimizer knows no scale yet.`,
    again(view, { warmupRatio: 0.1 }),
  )
}

const stillFalling: Rule = ({ view, rows, smoothLoss }) => {
  const { status, step, totalSteps } = view.summary
  if (status !== 'done' || step < totalSteps || view.summary.scores.length > 1) return undefined
  const [from, to] = [smoothLoss[Math.floor(0.75 * rows.length)]!, smoothLoss.at(-1)!]
  if (to > 0.95 * from) return undefined
  return worthALook(
    'still-falling',
    'The loss was still falling',
    `It fell by ${percent(1 - to / from)} in the last quarter, while the learning rate went to 0. A longer run keeps the rate up for longer.`,
    longer(view),
  )
}

const overfitting: Rule = ({ view }) => {
  const { scores, started } = view.summary
  const best = scores.reduce((a, b) => (b.score > a.score ? b : a), scores[0] ?? { step: 0, score: 0 })
  const after = scores.filter(({ step }) => step > best.step)
  if (after.length < 2 || after.at(-1)!.score >= best.score) return undefined
  return worthALook(
    'overfitting',
    'The dev score fell again',
    `It was best at step ${whole(best.step)} (${best.score.toFixed(4)}) and ${after.at(-1)!.score.toFixed(4)} at the end: what came after fitted the training rows only. ${started.out}/model is the best one; patience ends such a run by itself.`,
    again(view, { patience: 2 }),
  )
}

const stalled: Rule = ({ config, rows }) => {
  const share = median(rows.slice(1).map((row) => stallShare(row, config.batchSize, config.logEvery)))
  if (share < STALL_ALARM) return undefined
  return worthALook(
    'stall',
    'The device waits for data',
    `${percent(share)} of the time no batch was ready. Tokenizing needs a core that the device does not use: leave it one (threads), or see what else the machine is doing.`,
  )
}

const truncated: Rule = ({ view }) => {
  const worst = Object.entries(view.summary.texts)
    .map(([kind, card]) => ({ kind, card, share: card.tokenized === 0 ? 0 : card.truncated / card.tokenized }))
    .sort((a, b) => b.share - a.share)[0]
  if (!worst || worst.share < 0.1) return undefined
  const key = worst.kind === 'query' ? 'queryMaxLength' : worst.kind === 'passage' ? 'passageMaxLength' : 'maxLength'
  return worthALook(
    'truncated',
    `${percent(worst.share)} of the ${worst.kind === 'query' ? 'queries' : `${worst.kind}s`} were cut`,
    `They are longer than ${key} = ${worst.card.maxLength} tokens, and what came after was never seen. Longer texts cost time, not memory.`,
    again(view, { [key]: Math.min(512, 2 * worst.card.maxLength) }),
  )
}

export const PAIR_RULES: readonly Rule[] = [plateau, worseThanChance, atChance, tooEasy, maskedMuch, temperature, smallBatch]
export const PRETRAIN_RULES: readonly Rule[] = [encoderStuck, noGain]
export const COMMON_RULES: readonly Rule[] = [diverged, exploding, noWarmup, stillFalling, overfitting, stalled, truncated]

export function problem(rule: string, title: string, text: string, command?: string): Advice {
  return { rule, level: 'problem', title, text, ...(command !== undefined && { command }) }
}

export function worthALook(rule: string, title: string, text: string, command?: string): Advice {
  return { rule, level: 'look', title, text, ...(command !== undefined && { command }) }
}

/** The gradient has all but vanished: nothing distinguishes one text from another. */
function collapsed({ rows, config }: RunView): boolean {
  const norms = rows.map((row) => row.gradNorm)
  return config.learningRate > 1e-4 && median(norms.slice(-10)) < 0.01 * Math.max(...norms)
}

export function median(values: readonly number[]): number {
  if (values.length === 0) return Number.NaN
  const sorted = [...values].sort((a, b) => a - b)
  const half = sorted.length >> 1
  return sorted.length % 2 === 1 ? sorted[half]! : (sorted[half - 1]! + sorted[half]!) / 2
}

function mean(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length
}

export const fixed = (value: number): string => value.toFixed(value < 0.1 ? 3 : 2)
const short = (value: number): string => String(Number(value.toPrecision(3)))
const whole = (value: number): string => Math.round(value).toLocaleString('en')
export const percent = (share: number): string => `${Number((100 * share).toPrecision(3))} %`

import type { Command } from 'commander'
import { writeFileAtomic } from '../data/atomic.js'
import { mine, type MineOptions, type MineProgress, type MineResult } from '../mine/mine.js'
import { type Rejected, type Rule, RULES } from '../mine/tally.js'
import { BgeModel } from '../model/model.js'
import type { Dtype } from '../native.js'
import { interruptible } from './interrupt.js'
import { dtypeOption, integer, number, numberOrNone, range } from './options.js'

interface MineFlags {
  model: string
  data: string[]
  out: string
  pool?: string[]
  range: [low: number, high: number]
  negatives: number
  sampling: 'random' | 'top' | 'pool'
  fill: 'random' | 'none'
  maxRelative: number | 'none'
  margin: number | 'none'
  maxScore: number | 'none'
  minScore: number | 'none'
  teacher?: string
  teacherInstruction?: string
  score?: true
  scoreTemperature: number
  seed: number
  instruction?: string
  cache?: string
  block?: number
  report?: string
  device: string
  dtype?: Dtype
  threads?: number
}

/** Adds `mine`. */
export function register(program: Command): void {
  program
    .command('mine')
    .description('mine hard negatives: rows {"query","pos"} in, the same rows with "neg" out; a killed run continues')
    .requiredOption('--model <dir>', 'model folder, or a name on the hub')
    .requiredOption('--data <files...>', 'JSONL of rows {"query","pos"}; files or folders')
    .requiredOption('--out <file>', 'JSONL to write; may be the data file itself')
    .option(
      '--pool <files...>',
      'passages to mine from: JSONL of {"text","id"?}, .txt with one a line, folders (default: every pos and neg of the data)',
    )
    .option('--range <low-high>', 'ranks to take negatives from, counted from 0', range, [10, 210])
    .option('--negatives <n>', 'negatives per row', integer(1), 15)
    .option('--sampling <how>', 'random or top of the range; pool: anything of the pool, without a search', 'random')
    .option(
      '--fill <how>',
      'where the range leaves too few: random passages of the pool, in a row without any other also such as --max-relative and --margin reject; or none',
      'random',
    )
    .option('--max-relative <share>', "reject above this share of the lowest positive's score; none: keep", numberOrNone, 0.95)
    .option('--margin <difference>', "reject above the lowest positive's score less this", numberOrNone, 'none')
    .option('--max-score <cosine>', 'reject above', numberOrNone, 'none')
    .option('--min-score <cosine>', 'reject below', numberOrNone, 'none')
    .option('--teacher <dir>', 'model folder whose cosines the score rules and --score use instead')
    .option('--teacher-instruction <text>', "as --instruction, for the teacher (default: the teacher folder's)")
    .option('--score', 'write pos_scores and neg_scores for distillation')
    .option('--score-temperature <t>', 'what --score divides the cosines by: training takes their softmax as they are', number(0), 0.02)
    .option('--seed <n>', 'seed of the sampling', integer(0), 42)
    .option('--instruction <text>', "put before queries; 'zh' and 'en' name BGE's, '' is none (default: the model folder's)")
    .option('--cache <dir>', 'vectors kept for other runs; none: they go with the run (default: mine-cache beside --out)')
    .option('--block <rows>', 'rows searched at a time: memory against passes over the pool (default: 16384, on CUDA 131072)', integer(1))
    .option('--report <file>', 'write counts and examples as JSON')
    .option('--device <device>', 'auto, cpu, cuda or cuda:N', 'auto')
    .addOption(dtypeOption())
    .option('--threads <n>', 'CPU threads (default: as many as the process may use)', integer(1))
    .action((flags: MineFlags) => interruptible((signal) => run(flags, signal)))
}

async function run(flags: MineFlags, signal: AbortSignal): Promise<void> {
  const { dtype, threads } = flags
  const model = await BgeModel.load(flags.model, {
    device: flags.device,
    ...(dtype && { dtype }),
    ...(threads !== undefined && { threads }),
  })
  try {
    const teacher = flags.teacher === undefined ? undefined : await BgeModel.load(flags.teacher, { device: model.device })
    const result = await mine(model, { ...optionsOf(flags, teacher), onProgress: progressLines(), signal })
    if (flags.report !== undefined) await writeFileAtomic(flags.report, `${JSON.stringify(result, null, 2)}\n`)
    process.stderr.write(describe(result) + describeRejected(result))
    process.stdout.write(`${flags.out}\n`)
  } finally {
    model.dispose() // and with its device the teacher
  }
}

function optionsOf(flags: MineFlags, teacher: BgeModel | undefined): MineOptions {
  const { data, out, pool, negatives, sampling, fill, seed, instruction, teacherInstruction, cache, block } = flags
  const valued = (value: number | 'none'): number | null => (value === 'none' ? null : value)
  const { maxRelative, margin, maxScore, minScore } = flags
  return {
    data,
    out,
    range: flags.range,
    negatives,
    sampling,
    fill,
    seed,
    rules: { maxRelative: valued(maxRelative), margin: valued(margin), maxScore: valued(maxScore), minScore: valued(minScore) },
    storage: { ...(cache !== undefined && { cache: cache === 'none' ? null : cache }), ...(block !== undefined && { block }) },
    ...(pool !== undefined && { pool }),
    ...(instruction !== undefined && { instruction }),
    ...(flags.score && { scoreTemperature: flags.scoreTemperature }),
    ...(teacher && { teacher: { model: teacher, ...(teacherInstruction !== undefined && { instruction: teacherInstruction }) } }),
  }
}

/** A line at each new stage and then every two seconds at most. */
function progressLines(): (progress: MineProgress) => void {
  let [stage, last] = ['', 0]
  const verbs = {
    read: 'read passages',
    encode: 'encoded passages',
    search: 'searched pairs of query and passage',
    choose: 'rows done',
  } as const
  return (progress) => {
    const now = performance.now()
    if (progress.stage === stage && now - last < 2000 && progress.done !== progress.total) return
    ;[stage, last] = [progress.stage, now]
    process.stderr.write(`${verbs[progress.stage]}: ${progress.done}${progress.total === null ? '' : ` of ${progress.total}`}\n`)
  }
}

/** What was taken and how many candidates each rule rejected. */
export function describe(result: MineResult): string {
  const { missing, short, weak, empty, rows } = result
  const lines = [
    `${rows} rows, ${result.pool} passages in the pool`,
    `${result.encoded} texts encoded${result.resumed > 0 ? `, ${result.resumed} rows done by an earlier run` : ''}`,
    `negatives: ${result.mined} mined, ${result.random} random${missing > 0 ? `, ${missing} not found` : ''}`,
    `rejected candidates: ${RULES.filter((rule) => result.rejected[rule].count > 0)
      .map((rule) => `${result.rejected[rule].count} ${REASONS[rule]}`)
      .join(', ')}`,
  ]
  const share = (count: number): string => `${count} rows (${((100 * count) / rows).toFixed(1)} %)`
  if (short > 0) lines.push(`${share(short)} got fewer negatives from the range than asked for: a deeper range or other rules give more`)
  if (weak > 0)
    lines.push(
      `${share(weak)} got random negatives alone, not compared with the positive: it scores so low that --max-relative or --margin rejected every passage; ` +
        'a better model, --teacher or --max-relative none gives harder ones',
    )
  if (empty > 0)
    lines.push(
      `${share(empty)} got no negative: bge finetune stops at such a row; a larger --pool, --fill random or fewer rules give some, --set groupSize=1 trains without`,
    )
  return lines.map((text) => `${text}\n`).join('')
}

const REASONS: Readonly<Record<Rule, string>> = {
  rank: 'ranked before the range',
  positive: 'a positive of the query by text',
  positiveId: 'a positive of the query by id',
  query: 'equal to the query',
  maxRelative: "above the share of the positive's score",
  margin: 'within the margin of the positive',
  maxScore: 'above the highest score',
  minScore: 'below the lowest score',
}

/** Ten examples of each rule. */
export function describeRejected({ rejected }: MineResult): string {
  return RULES.filter((rule) => rejected[rule].count > 0)
    .map((rule) => {
      const { count, examples } = rejected[rule]
      return `${REASONS[rule]}: ${count}, of them\n${examples.map((example) => `  ${exampleLine(example)}\n`).join('')}`
    })
    .join('')
}

function exampleLine({ at, query, passage, rank, score, positiveScore }: Rejected): string {
  const numbers = [
    rank === null ? 'drawn' : `rank ${rank}`,
    ...(score === null ? [] : [`score ${score.toFixed(3)}`]),
    ...(positiveScore === null ? [] : [`positive ${positiveScore.toFixed(3)}`]),
  ]
  return `${at} [${numbers.join(', ')}] ${cut(query)} | ${cut(passage)}`
}

function cut(text: string): string {
  const line = text.replaceAll(/\s+/g, ' ')
  return [...line].length <= 40 ? line : `${[...line].slice(0, 39).join('')}…`
}

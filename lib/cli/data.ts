import { type Command, InvalidArgumentError } from 'commander'
import { dataFiles } from '../data/jsonl.js'
import type { Lengths } from '../data/lengths.js'
import { splitData } from '../data/split.js'
import { type DataStats, dataStats } from '../data/stats.js'
import type { TokenStats } from '../data/token_stats.js'
import { describeFinding, type FileReport, type Finding, validateFiles } from '../data/validate.js'
import { BgeError } from '../errors.js'
import { loadTokenizer } from '../model/folder.js'
import { interruptible } from './interrupt.js'
import { integer } from './options.js'

/** Adds `data validate`, `data stats` and `data split`. */
export function register(program: Command): void {
  const data = program.command('data').description('look at training files: FlagEmbedding JSONL, triplets, pairs, texts; JSONL, CSV or TSV')
  data
    .command('validate')
    .description('check every row: file:line, field, what was expected; exit code 1 when something is wrong')
    .argument('<files...>', 'files, or folders of .jsonl files')
    .option('--fix', 'write what is right and what can be mended safely to FILE.fixed.jsonl, as FlagEmbedding rows')
    .option('--show <n>', 'findings printed per file; all are counted', integer(0), 20)
    .action((files: string[], flags: { fix?: true; show: number }) => interruptible((signal) => validate(files, flags, signal)))
  data
    .command('stats')
    .description('count rows, different queries and passages, repetitions, lengths; with --tokenizer also tokens, [UNK] and truncation')
    .argument('<files...>', 'files, or folders of .jsonl files')
    .option('--tokenizer <dir>', 'model folder or folder of tokenizer.json or vocab.txt')
    .option('--sample <rows>', 'rows that are tokenised, chosen by hash', integer(1), 20_000)
    .option('--json', 'print JSON')
    .action((files: string[], flags: { tokenizer?: string; sample: number; json?: true }) =>
      interruptible((signal) => stats(files, flags, signal)),
    )
  data
    .command('split')
    .description('split off a dev set that shares no query and no positive with the rest')
    .argument('<files...>', 'files, or folders of .jsonl files')
    .requiredOption('--out <dir>', 'folder for train.jsonl and dev.jsonl')
    .option('--dev <n>', 'below 1 a share of the rows, else rows', shareOrRows, 0.05)
    .option('--seed <n>', 'seed of the choice', integer(0), 42)
    .action((files: string[], flags: { out: string; dev: number; seed: number }) => interruptible((signal) => split(files, flags, signal)))
}

function shareOrRows(value: string): number {
  const number = Number(value)
  if (!(number > 0 && (number < 1 || Number.isSafeInteger(number)))) {
    throw new InvalidArgumentError('It must be a share below 1, as 0.05, or a number of rows.')
  }
  return number
}

async function validate(paths: readonly string[], flags: { fix?: true; show: number }, signal: AbortSignal): Promise<void> {
  const files = await dataFiles(paths)
  const shown = new Map<string, number>()
  const onFinding = (finding: Finding): void => {
    const count = (shown.get(finding.file) ?? 0) + 1
    shown.set(finding.file, count)
    if (count <= flags.show) process.stderr.write(`${describeFinding(finding)}\n`)
  }
  const reports = await validateFiles(files, { fix: flags.fix ? 'write' : 'none', onFinding, signal })
  for (const report of reports) process.stdout.write(describeReport(report))
  const wrong = reports.filter((report) => report.rows === 0 || report.mendable + report.lost > 0)
  if (flags.fix) {
    const empty = reports.filter((report) => report.fixed === null)
    if (empty.length > 0)
      throw new BgeError(
        'ERR_BGE_DATA',
        `${empty.map(({ file }) => file).join(', ')}: no row is left after mending, so no file was written`,
      )
  } else if (wrong.length > 0) {
    const count = wrong.reduce((sum, report) => sum + report.mendable + report.lost, 0)
    throw new BgeError(
      'ERR_BGE_DATA',
      `${wrong.map(({ file }) => file).join(', ')}: ${count} rows are not right; --fix writes the others and what can be mended`,
    )
  }
}

/** The result of one file, and how often each kind of fault occurred. */
export function describeReport({ file, form, rows, right, mendable, lost, kinds, fixed }: FileReport): string {
  const lines = [
    `${file}: ${rows} rows${form === null ? '' : ` (${form})`}, ${right} right, ${mendable} mendable, ${lost} lost`,
    ...kinds.map(({ kind, fix, count }) => `  ${count} x ${kind} (--fix: ${fix})`),
    ...(fixed === null ? [] : [`  wrote ${fixed}: ${right + mendable} rows`]),
  ]
  return lines.map((line) => `${line}\n`).join('')
}

async function stats(
  paths: readonly string[],
  flags: { tokenizer?: string; sample: number; json?: true },
  signal: AbortSignal,
): Promise<void> {
  const tokenizer = flags.tokenizer === undefined ? undefined : await loadTokenizer(flags.tokenizer)
  const result = await dataStats(await dataFiles(paths), { ...(tokenizer && { tokenizer }), sampleRows: flags.sample, signal })
  process.stdout.write(flags.json ? `${JSON.stringify(statsJson(result), null, 2)}\n` : describeStats(result))
}

const SHARES = [0.5, 0.9, 0.99] as const

function lengthsJson(lengths: Lengths): Record<string, number> {
  const { count, mean, max } = lengths
  return { count, mean, ...Object.fromEntries(SHARES.map((share) => [`p${100 * share}`, lengths.percentile(share)])), max }
}

function statsJson({ lengths, tokens, ...counts }: DataStats): unknown {
  const side = (stats: TokenStats): unknown => ({ ...stats, lengths: lengthsJson(stats.lengths) })
  return {
    ...counts,
    lengths: { query: lengthsJson(lengths.query), pos: lengthsJson(lengths.pos), neg: lengthsJson(lengths.neg) },
    tokens: tokens && { rows: tokens.rows, query: side(tokens.query), pos: side(tokens.pos) },
  }
}

/** The counts as a terminal shows them. */
export function describeStats(stats: DataStats): string {
  const { rows, faulty, lost, queries, passages, repeated, queryIsPositive, positives, negatives, lengths, tokens, sources } = stats
  const percent = (share: number): string => `${(100 * share).toFixed(2)} %`
  const per = (count: number): string => (rows === 0 ? '0' : (count / rows).toFixed(2))
  const length = (name: string, of: Lengths): string =>
    `${name.padEnd(9)} ${of.count} texts, characters: mean ${of.mean.toFixed(1)}, ${SHARES.map((share) => `${100 * share} % up to ${of.percentile(share)}`).join(', ')}, longest ${of.max}`
  const token = (name: string, of: TokenStats): string =>
    `${name.padEnd(9)} tokens: mean ${of.lengths.mean.toFixed(1)}, [UNK] ${percent(of.unknown)}, ${Object.entries(of.cut)
      .map(([at, share]) => `longer than ${at}: ${percent(share)}`)
      .join(', ')}`
  const lines = [
    positives === 0
      ? `${rows} rows, ${queries} different texts`
      : `${rows} rows, ${queries} different queries, ${passages} different passages; per row ${per(positives)} positives, ${per(negatives)} negatives`,
    `${repeated} rows repeat ${positives === 0 ? "another's text" : `another's query and first positive, ${queryIsPositive} have their query as a positive`}`,
    ...(faulty > 0 ? [`${faulty} rows are not right, ${lost} of them were left out: bge data validate names them`] : []),
    length(positives === 0 ? 'text' : 'query', lengths.query),
    ...(lengths.pos.count > 0 ? [length('positive', lengths.pos)] : []),
    ...(lengths.neg.count > 0 ? [length('negative', lengths.neg)] : []),
    ...(tokens
      ? [
          `of ${tokens.rows} rows chosen by hash:`,
          token(positives === 0 ? 'text' : 'query', tokens.query),
          ...(tokens.pos.texts > 0 ? [token('positive', tokens.pos)] : []),
        ]
      : []),
    ...Object.entries(sources)
      .sort(([, a], [, b]) => b - a)
      .map(([name, count]) => `source ${name}: ${count} rows`),
  ]
  return lines.map((line) => `${line}\n`).join('')
}

async function split(paths: readonly string[], flags: { out: string; dev: number; seed: number }, signal: AbortSignal): Promise<void> {
  const result = await splitData(await dataFiles(paths), { ...flags, signal })
  process.stderr.write(
    `${result.train} rows to train, ${result.dev} to dev; ${result.groups} groups share no query and no positive, the largest has ${result.largestGroup} rows\n`,
  )
  process.stdout.write(`${result.files.train}\n${result.files.dev}\n`)
}

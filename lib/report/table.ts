import type { Evaluation } from '../eval/evaluation.js'
import { limitNote } from '../eval/limit.js'
import { compare, type MeanRow, type Other } from './comparison.js'

/**
 * The table of a terminal, scores x100 as C-MTEB's tables print them: task, metric, score, and for each other model its score and how much higher
 * ours is. A mean without all its tasks is not printed: the tasks that it lacks are.
 */
export function textTable(evaluation: Evaluation, others: readonly Other[] = []): string {
  const { rows, means } = compare(evaluation, others)
  const beside = (score: number | null, values: readonly (number | null)[]): string[] =>
    values.flatMap((value) => [number(value), difference(score, value)])
  const lines = [
    ...(others.length === 0 ? [] : [['', '', 'score', ...others.flatMap(({ name }) => [shorten(name), 'diff'])]]),
    ...rows.map((row) => [
      `${row.type}/${row.name}`,
      row.metric,
      row.score === null ? 'failed' : number(row.score),
      ...beside(row.score, row.others),
    ]),
    ...means.map((mean) => [mean.label, '', mean.score === null ? 'none' : number(mean.score), ...beside(mean.score, mean.others)]),
  ]
  const widths = lines[0]!.map((_, column) => Math.max(...lines.map((line) => line[column]!.length), column === 2 ? 6 : 0))
  const text = lines.map((line) =>
    line
      .map((cell, column) => (column < 2 ? cell.padEnd(widths[column]!) : cell.padStart(widths[column]!)))
      .join('  ')
      .trimEnd(),
  )
  return `${[...text, ...footnotes(evaluation, means, others)].join('\n')}\n`
}

function footnotes({ benchmark, tasks }: Evaluation, means: readonly MeanRow[], others: readonly Other[]): string[] {
  const results = tasks.flatMap((task) => ('error' in task ? [] : [task]))
  const limit = results[0]?.limit
  // The last mean of a set is over all of it, and lacks whatever the others lack.
  const incomplete = (benchmark === null ? means : means.slice(-1)).filter((mean) => mean.score === null)
  return [
    ...(benchmark === null ? [] : [`set ${benchmark.set}, dialect ${benchmark.dialect}, scikit-learn ${benchmark.sklearn}`]),
    ...(limit ? [limitNote(limit)] : []),
    ...incomplete.map(({ label, missing }) => `no ${label}: ${missing.length} without a score: ${missing.join(', ')}`),
    ...others.map((other) => `${shorten(other.name)}: ${other.source}`),
    ...results.flatMap((task) => task.notes.map((note) => `note: ${note}`)),
  ]
}

function number(value: number | null): string {
  return value === null ? '-' : value.toFixed(2)
}

function difference(ours: number | null, theirs: number | null): string {
  return ours === null || theirs === null ? '' : signed(ours - theirs)
}

/** `+1.23`, `-1.23`, `0.00` */
export function signed(value: number): string {
  const text = value.toFixed(2)
  return Number(text) > 0 ? `+${text}` : text.replace(/^-(0\.00)$/, '$1')
}

/** The last part of a path or repository name; of `STAGE/model`, where training leaves a model, the last two. */
export function shorten(name: string): string {
  const parts = name.split(/[\\/]/).filter((part) => part !== '')
  return parts.slice(parts.at(-1) === 'model' ? -2 : -1).join('/') || name
}

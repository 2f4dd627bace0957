import { chance } from '../train/chance.js'
import type { MetricsRow } from '../train/run_folder.js'
import type { Chart, Series } from './charts.js'
import { type RunView, smooth, thin } from './run_view.js'

/** The curves of a run. `points`: values along each, at most. */
export function runCharts({ stage, config, rows: all, summary }: RunView, points: number): Chart[] {
  const rows = thin(all, points)
  if (rows.length === 0) return []
  const x = rows.map((row) => row.step)
  const window = Math.max(1, rows.length / 40)
  const pick = (value: (row: MetricsRow) => number | undefined): (number | null)[] => rows.map((row) => value(row) ?? null)
  /** as it was, faint, and a smooth line over it */
  const curve = (label: string, color: Series['color'], value: (row: MetricsRow) => number | undefined): Series[] => {
    const values = pick(value)
    if (window < 2) return [{ label, color, values, style: 'line' }]
    return [
      { label: `${label}, each step`, color, values, style: 'faint' },
      { label, color, values: smooth(values, window), style: 'line' },
    ]
  }
  const reference = (label: string, value: (row: MetricsRow) => number | undefined): Series[] => {
    const values = pick(value)
    return values.every((at) => at === null) ? [] : [{ label, color: 'quiet', values, style: 'reference' }]
  }
  const constant = (label: string, value: number | undefined): Series[] => reference(label, () => value)
  const share = (row: MetricsRow): number | undefined => stallShare(row, config.batchSize, config.logEvery)

  const charts: (Chart | undefined)[] =
    stage === 'pretrain'
      ? [
          {
            title: 'Loss',
            note: 'mean over predicted tokens, nats',
            series: [...curve('encoder', 0, (row) => row.encoderLoss), ...curve('decoder', 1, (row) => row.decoderLoss)],
          },
          {
            title: 'Accuracy',
            note: 'share of masked tokens predicted right',
            format: 'percent',
            series: [...curve('encoder', 0, (row) => row.encoderAccuracy), ...curve('decoder', 1, (row) => row.decoderAccuracy)],
          },
          has(rows, 'clsGain')
            ? {
                title: 'CLS gain',
                note: 'how much worse the decoder gets, in nats per token, on a batch before it is trained on',
                series: [
                  { label: "with another text's [CLS]", color: 0, values: pick((row) => row.clsGainShuffled), style: 'points' },
                  { label: 'with a zeroed [CLS]', color: 1, values: pick((row) => row.clsGain), style: 'points' },
                  ...constant('no gain', 0),
                ],
              }
            : undefined,
        ]
      : [
          {
            title: 'Loss',
            note: chanceNote(config),
            series: [...curve('loss', 0, (row) => row.loss), ...reference('chance: ln(candidates)', (row) => chance(config, row)?.loss)],
          },
          {
            title: 'Accuracy in the batch',
            note: 'share of queries whose positive scores highest',
            format: 'percent',
            series: [
              ...curve('accuracy', 0, (row) => row.accuracy),
              ...reference('chance: 1 / candidates', (row) => chance(config, row)?.accuracy),
            ],
          },
        ]
  charts.push(
    {
      title: 'Gradient norm',
      note: `before clipping${rows.length < all.length ? ', the largest of each stretch' : ''}`,
      scale: 'log',
      series: [
        ...curve('gradient norm', 0, (row) => (row.gradNorm > 0 ? row.gradNorm : undefined)),
        ...(config.maxGradNorm > 0 ? constant('clipped above', config.maxGradNorm) : []),
      ],
    },
    {
      title: 'Learning rate',
      format: 'exponential',
      series: [{ label: 'rate', color: 0, values: pick((row) => row.learningRate), style: 'line' }],
    },
    {
      title: 'Speed',
      note: 'tokens a second',
      format: 'count',
      series: [...curve('tokens/s', 0, (row) => row.tokensPerSecond)],
    },
    {
      title: 'Waiting for data',
      note: 'share of the time in which the device had no batch',
      format: 'percent',
      series: [...curve('waiting', 0, share), ...constant('alarm', STALL_ALARM)],
    },
    has(rows, 'masked')
      ? {
          title: 'Masked duplicates',
          note: `candidates left out of a step because they are a positive of the query`,
          format: 'count',
          series: [
            ...curve('masked', 0, (row) => row.masked),
            ...(has(rows, 'falseNegatives') ? curve('false negatives', 1, (row) => row.falseNegatives) : []),
          ],
        }
      : undefined,
    summary.scores.length > 1
      ? {
          title: 'Dev score',
          note: 'mean of the main scores of --dev',
          x: summary.scores.map(({ step }) => step),
          series: [{ label: 'score', color: 2, values: summary.scores.map(({ score }) => score), style: 'points' }],
        }
      : undefined,
  )
  return charts.filter((chart) => chart !== undefined).map((chart) => ({ x, ...chart }))
}

/** Share of the time lost to waiting above which something should be done. */
export const STALL_ALARM = 0.05

/** Share of the time since the row before in which the device waited. */
export function stallShare({ step, rowsPerSecond, stallSeconds }: MetricsRow, batchSize: number, logEvery: number): number {
  const steps = step % logEvery || logEvery
  return Math.min(1, (stallSeconds * rowsPerSecond) / (batchSize * steps))
}

function has(rows: readonly MetricsRow[], name: string): boolean {
  return rows.some((row) => row[name] !== undefined)
}

function chanceNote(config: RunView['config']): string {
  const expected = chance(config)
  return expected ? `${Math.round(expected.candidates).toLocaleString('en')} candidates a query, less what is masked` : ''
}

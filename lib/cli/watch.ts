import { resolve } from 'node:path'
import { InvalidArgumentError, Option } from 'commander'
import { isAbort } from '../errors.js'
import { type LiveRun, openLiveRun } from '../live/run.js'
import { runTitle, trainingReport } from '../report/training.js'
import type { StageName } from '../train/config.js'
import type { TrainHooks } from '../train/loop.js'
import { createProgress, type Progress } from '../train/progress.js'

/** Where `--live` listens when it names no port. */
export const LIVE_PORT = 7242

/** `--live`. @param what is shown */
export function liveOption(what: string): Option {
  return new Option(
    '--live [port]',
    `show ${what} on a page of this machine; default port ${LIVE_PORT}, the next ones where it is taken`,
  ).argParser(tcpPort)
}

/** Parser of a TCP port; 0: any that is free. */
function tcpPort(value: string): number {
  const port = Number(value)
  if (!/^\d+$/.test(value) || port > 65_535) throw new InvalidArgumentError('It must be a port, 0 to 65535.')
  return port
}

/** Everything that shows a run: terminal, live page, report. */
export interface Watch {
  readonly hooks: Pick<Required<TrainHooks>, 'onStart' | 'onStep'>
  /** true after the first step could have begun */
  readonly started: boolean
  /** a line that stays */
  note(text: string): void
  /** After the run, however it ended: leaves the last state standing, writes report.html, closes the live page. Never throws. */
  end(): Promise<void>
}

/** @param live port of the live page; a page that cannot be opened is a line of text, not the end of the run */
export async function watchRun(stage: StageName, out: string, live?: number): Promise<Watch> {
  const stderr = process.stderr
  const page = live === undefined ? undefined : await openPage(stage, out, live)
  let progress: Progress | undefined
  const note = (text: string): void => {
    if (progress) progress.note(text)
    else stderr.write(`${text}\n`)
    page?.note(text)
  }
  if (page) note(`live page: ${page.url}`)
  return {
    get started() {
      return progress !== undefined
    },
    hooks: {
      onStart: (run) => {
        progress = createProgress(stderr, { label: stage, firstStep: run.step, totalSteps: run.totalSteps, config: run.config })
        page?.start(run)
      },
      onStep: (row) => {
        const left = progress!.update(row)
        page?.row(row, left)
      },
    },
    note,
    async end() {
      progress?.end()
      if (progress) {
        await trainingReport(out).then(
          (file) => note(`report: ${file}`),
          (error: unknown) => note(`note: no report was written: ${(error as Error).message}`),
        )
      }
      await page?.close().catch(() => {}) // a browser that went away
    },
  }
}

/** The live page of a run, or a line of text and undefined. */
export async function openPage(stage: StageName, out: string, port: number): Promise<LiveRun | undefined> {
  try {
    return await openLiveRun(stage, runTitle(resolve(out), stage), { port })
  } catch (error) {
    if (isAbort(error)) throw error
    process.stderr.write(`note: no live page: ${(error as Error).message}; the run goes on without it\n`)
    return undefined
  }
}

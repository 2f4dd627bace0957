import { existsSync } from 'node:fs'
import { Worker } from 'node:worker_threads'
import { BgeError, type BgeErrorCode } from '../errors.js'
import { type CleanJob, cleanUnit } from './clean_unit.js'
import type { Tally } from './tally.js'

export type WorkerReply =
  | { readonly rows: number }
  | { readonly tally: Tally }
  | { readonly error: { readonly code: BgeErrorCode; readonly message: string; readonly details: Readonly<Record<string, unknown>> } }

/** Runs clean jobs side by side; at most `size` of them may be running. */
export interface CleanPool {
  readonly size: number
  run(job: CleanJob, onRows: (rows: number) => void): Promise<Tally>
  close(): Promise<void>
}

const WORKER = new URL('./clean_worker.js', import.meta.url)

/** One thread: jobs run on the caller's. Also where this is run from its TypeScript sources, which no worker thread can load. */
export function createCleanPool(threads: number, signal: AbortSignal | undefined): CleanPool {
  if (threads === 1 || !existsSync(WORKER)) {
    return { size: 1, run: (job, onRows) => cleanUnit(job, onRows, signal), close: async () => {} }
  }
  const all: Worker[] = []
  const idle: Worker[] = []
  return {
    size: threads,
    async run(job, onRows) {
      signal?.throwIfAborted()
      const worker = idle.pop() ?? new Worker(WORKER)
      if (!all.includes(worker)) all.push(worker)
      const tally = await runOn(worker, job, onRows, signal)
      idle.push(worker)
      return tally
    },
    close: async () => void (await Promise.all(all.map((worker) => worker.terminate()))),
  }
}

function runOn(worker: Worker, job: CleanJob, onRows: (rows: number) => void, signal: AbortSignal | undefined): Promise<Tally> {
  return new Promise((resolve, reject) => {
    const settle = (end: () => void): void => {
      // One by one: removeAllListeners would also remove what brings a Worker its messages, and its next job would never end.
      worker.off('message', receive).off('error', fail).off('exit', exited)
      signal?.removeEventListener('abort', stop)
      end()
    }
    const fail = (error: unknown): void => settle(() => reject(error as Error))
    const exited = (code: number): void =>
      fail(new BgeError('ERR_BGE_INTERNAL', `a thread that cleaned ${job.file} ended with code ${code}`))
    // What the thread had written stays as a .tmp file, which the next run sweeps away.
    const stop = (): void => fail(signal!.reason)
    const receive = (message: WorkerReply): void => {
      if ('rows' in message) onRows(message.rows)
      else if ('tally' in message) settle(() => resolve(message.tally))
      else fail(new BgeError(message.error.code, message.error.message, { details: message.error.details }))
    }
    worker.on('message', receive).on('error', fail).on('exit', exited)
    signal?.addEventListener('abort', stop)
    worker.postMessage(job)
  })
}

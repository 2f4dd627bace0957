import { parentPort } from 'node:worker_threads'
import { BgeError } from '../errors.js'
import type { WorkerReply } from './clean_pool.js'
import { type CleanJob, cleanUnit } from './clean_unit.js'

// The entry of a worker thread of clean_pool.ts: one job after the other.
const port = parentPort!
const reply = (message: WorkerReply): void => port.postMessage(message)
port.on('message', (job: CleanJob) => {
  cleanUnit(job, (rows) => reply({ rows })).then(
    (tally) => reply({ tally }),
    (error: Error) => {
      const { code, details } = error instanceof BgeError ? error : { code: 'ERR_BGE_INTERNAL' as const, details: {} }
      reply({ error: { code, message: error.message, details } })
    },
  )
})

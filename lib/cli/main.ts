#!/usr/bin/env node
import { readFileSync } from 'node:fs'
import tab from '@bomb.sh/tab/commander'
import { Command, CommanderError } from 'commander'
import { BgeError, isAbort } from '../errors.js'
import { register as registerBench } from './bench.js'
import { register as registerCalibrate } from './calibrate.js'
import { register as registerCmteb } from './cmteb.js'
import { register as registerCurate } from './curate.js'
import { register as registerData } from './data.js'
import { register as registerEmbed } from './embed.js'
import { register as registerEval } from './eval.js'
import { register as registerDoctor } from './doctor.js'
import { addExamples } from './examples.js'
import { register as registerExport } from './export.js'
import { register as registerInfo } from './info.js'
import { register as registerMerge } from './merge.js'
import { register as registerMine } from './mine.js'
import { register as registerNew } from './new.js'
import { register as registerQuickstart } from './quickstart.js'
import { register as registerReport } from './report.js'
import { register as registerRun } from './run.js'
import { register as registerServe } from './serve.js'
import { register as registerSimilarity } from './similarity.js'
import { register as registerTrain } from './train.js'

/** Exit codes: 0 done, 1 failed, 2 the command line is wrong, 130 stopped by Ctrl-C. */
const FAILED = 1
const USAGE = 2
const ABORTED = 130

const { version } = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8')) as { version: string }

const program = new Command('bge')
  .description('Train, evaluate and run BGE-style Chinese text-embedding models')
  .version(version)
  .option('--debug', 'show the stack of an error')
  .showHelpAfterError('(add --help for the options)')
  .configureOutput({ outputError: (text, write) => write(text.replace(/^error: /, 'error [ERR_BGE_ARGUMENT]: ')) })
  .exitOverride()
for (const register of [
  registerNew,
  registerEmbed,
  registerRun,
  registerSimilarity,
  registerCalibrate,
  registerServe,
  registerTrain,
  registerMine,
  registerEval,
  registerCmteb,
  registerCurate,
  registerData,
  registerMerge,
  registerInfo,
  registerDoctor,
  registerBench,
  registerExport,
  registerQuickstart,
  registerReport,
])
  register(program)

addExamples(program)
// bge completion zsh | bash | fish | powershell
tab(program, { completionCommandName: 'completion' })

// A reader that went away (`bge ... | head`) is not an error.
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code !== 'EPIPE') throw error
  process.exit(0)
})
// Nor does it end a run of hours that nobody reads the progress of any more.
process.stderr.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code !== 'EPIPE') throw error
})

try {
  await program.parseAsync()
} catch (error) {
  process.exitCode = report(error)
}

function report(error: unknown): number {
  if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : USAGE // commander has already printed it
  if (isAbort(error)) {
    process.stderr.write('stopped\n')
    return ABORTED
  }
  const code = error instanceof BgeError ? error.code : 'ERR_BGE_INTERNAL'
  const { message, stack } = error instanceof Error ? error : new Error(String(error))
  process.stderr.write(`error [${code}]: ${message}\n`)
  // An error nobody foresaw is a bug: its stack is what a report needs.
  if (program.opts<{ debug?: true }>().debug || !(error instanceof BgeError)) process.stderr.write(`${stack}\n`)
  return code === 'ERR_BGE_ARGUMENT' ? USAGE : FAILED
}

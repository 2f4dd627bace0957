import type { Command } from 'commander'
import { readBaseline } from '../eval/results.js'
import { trainingReport } from '../report/training.js'

/** Adds `report`. */
export function register(program: Command): void {
  program
    .command('report')
    .description('write the page of a training run again: curves, advice, data card; with scores before and after')
    .argument('<run>', 'run folder: finished, stopped or still running')
    .option('--before <dir>', 'results of the model that the run started from: what bge eval --out wrote, or a results folder of mteb')
    .option('--after <dir>', 'results of the trained model')
    .option('--out <file>', 'page to write; default: report.html in the run folder')
    .action(async (run: string, { before, after, out }: { before?: string; after?: string; out?: string }) => {
      const file = await trainingReport(run, {
        ...(before !== undefined && { before: await readBaseline(before) }),
        ...(after !== undefined && { after: await readBaseline(after) }),
        ...(out !== undefined && { file: out }),
      })
      process.stdout.write(`${file}\n`)
    })
}

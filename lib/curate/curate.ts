import { rm } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import { writeFileAtomic } from '../data/atomic.js'
import { readLines } from '../data/jsonl.js'
import { exclusively } from '../data/lock.js'
import { once } from '../data/once.js'
import { BgeError } from '../errors.js'
import { loadTokenizer } from '../model/folder.js'
import { curationPage } from '../report/curation.js'
import type { Tokenizer } from '../tokenizer/tokenizer.js'
import { dataCard } from './card.js'
import { cleanSources } from './clean_stage.js'
import { type OutputReport, writeOutput } from './output.js'
import { publish } from './publish.js'
import type { DecontaminateSettings, Recipe, SemanticSettings } from './recipe.js'
import type { Row } from './row.js'
import { scoredLines } from './semantic.js'
import { createMeter, type CurateProgress, keyOf, sweepUnfinished } from './stage.js'
import { type Decontaminated, decontaminateStage, type Deduplicated, dedupStage, type Scored, semanticStage } from './stages.js'
import type { CurationSummary, SourceSummary } from './summary.js'

export type { CurateProgress } from './stage.js'

/** Of `curate`. */
export interface CurateOptions {
  /** folder for data/, summary.json, data-card.md, report.html, and work/ with what has been done so far */
  out: string
  /** model folder of the semantic filter, instead of the recipe's; with a recipe that has none: threshold 0.43 */
  model?: string
  /** 'cmteb' or folders of evaluation data, instead of the recipe's */
  decontaminate?: readonly string[]
  /** folder whose tokenizer counts tokens for the report. Default: the model's; without either there are no token counts */
  tokenizer?: string
  /** of the model; for every step; of de-duplication. Default: 'auto', as many as the process may use, '4GB' */
  resources?: { readonly device?: string; readonly threads?: number; readonly memoryLimit?: string }
  onProgress?: (progress: CurateProgress) => void
  /** stops after the unit of work that is being done; a later call goes on from there */
  signal?: AbortSignal
}

/** What `curate` wrote. */
export interface CurateResult {
  summary: CurationSummary
  /** stages whose result an earlier call had left complete */
  reused: string[]
}

/** What a stage hands to the next one. */
export interface Rows {
  readonly files: readonly string[]
  readonly count: number
  /** of everything that decided them */
  readonly key: string
}

/**
 * From raw text to training pairs (C-Pack, section 3.1 and appendix B): read, extract and clean each file; remove duplicates over all sources; remove what
 * repeats an evaluation set; score pairs with a model and drop the weak ones; write shards with a data card and a report (docs/curation.md).
 *
 * Each unit of work (an input file, a stage, 2048 scores) is complete or absent on disk, so a call after a kill goes on where the last one was and writes the
 * same bytes. A unit is done again when its settings or inputs change; input files are recognised by name, size and time of change.
 * Errors: ERR_BGE_RECIPE, ERR_BGE_FILE, ERR_BGE_RESUME while another process works in `out`, ERR_BGE_DATA (also when no row is left: the report then says why), ERR_BGE_DEPENDENCY without DuckDB, ERR_BGE_OOM,
 * those of BgeModel.load and encode, and the reason of the signal.
 */
export async function curate(recipe: Recipe, options: CurateOptions): Promise<CurateResult> {
  const plan = await planOf(recipe, options)
  const work = join(options.out, 'work')
  return exclusively(work, () => runStages(recipe, plan, work, options))
}

async function runStages(recipe: Recipe, plan: Plan, work: string, options: CurateOptions): Promise<CurateResult> {
  const { out, signal } = options
  await sweepUnfinished(work)
  const cleaned = await cleanSources(recipe, join(work, '1-clean'), options)
  const deduped = plan.dedup ? await dedupStage(recipe, cleaned, work, options) : null
  let rows: Rows = deduped?.rows ?? cleaned
  const clean = plan.decontaminate ? await decontaminateStage(plan.decontaminate, rows, work, options) : null
  if (clean) rows = clean.rows
  const semantic = plan.semantic ? await semanticStage(plan.semantic, rows, work, options) : null
  const before: Before = { recipe, plan, cleaned, deduped, clean, semantic }

  const place = join(work, '5-output')
  const marker = `${place}.done.json`
  const key = keyOf('output', rows.key, semantic?.key, plan.tokenizer?.fingerprint, summarise(before, null))
  const write = async (): Promise<CurationSummary> => {
    const meter = createMeter('output', 'rows', semantic?.result.kept ?? rows.count, options.onProgress)
    const settings = { ...recipe.output, tokenizer: plan.tokenizer, meter, signal }
    const summary = summarise(before, await writeOutput(survivors(rows.files, semantic), join(place, 'data'), settings)) as CurationSummary
    await writeFileAtomic(join(place, 'data-card.md'), dataCard(summary))
    await writeFileAtomic(join(place, 'report.html'), curationPage(summary))
    await writeFileAtomic(join(place, 'summary.json'), `${JSON.stringify(summary, null, 2)}\n`)
    return summary
  }
  let written = await once(marker, key, place, write)
  if (!(await publish(place, out, written.result.output.files))) {
    await rm(marker) // what had been published was removed or changed
    written = await once(marker, key, place, write)
    await publish(place, out, written.result.output.files)
  }
  const summary = written.result
  if (summary.output.rows === 0) {
    const sentence = `expected at least one row after curation, but every one was dropped: ${join(out, 'report.html')} says by which rule`
    throw new BgeError('ERR_BGE_DATA', sentence)
  }
  const found = { clean: cleaned, dedup: deduped, decontaminate: clean, score: semantic, output: written }
  return { summary, reused: Object.entries(found).flatMap(([stage, done]) => (done?.reused ? [stage] : [])) }
}

/** What will run: the recipe, and what the call puts in its place. */
interface Plan {
  readonly dedup: boolean
  readonly decontaminate: DecontaminateSettings | null
  readonly semantic: SemanticSettings | null
  readonly tokenizer: Tokenizer | undefined
}

const STANDARD: Omit<DecontaminateSettings, 'against'> = { ngram: 13, threshold: 0.8 }

async function planOf(recipe: Recipe, { model, decontaminate, tokenizer }: CurateOptions): Promise<Plan> {
  const asked = recipe.semantic && { ...recipe.semantic, model: resolve(recipe.root, recipe.semantic.model) }
  const semantic = model === undefined ? asked : { threshold: 0.43, ...asked, model: resolve(model) }
  const against = recipe.decontaminate?.against.map((name) => (name === 'cmteb' ? name : resolve(recipe.root, name)))
  const chosen = decontaminate?.map((name) => (name === 'cmteb' ? name : resolve(name))) ?? against
  const words = tokenizer ?? semantic?.model
  return {
    dedup: recipe.dedup.exact || recipe.dedup.near !== false,
    decontaminate: chosen === undefined ? null : { ...STANDARD, ...recipe.decontaminate, against: chosen },
    // A keep-rate is instead of a threshold.
    semantic:
      semantic === undefined ? null : semantic.keepRate === undefined ? semantic : { model: semantic.model, keepRate: semantic.keepRate },
    tokenizer: words === undefined ? undefined : await loadTokenizer(words),
  }
}

/** The last two parts of a path: enough to know a folder again, nothing of the machine. */
function shortName(path: string): string {
  return path.split(/[\\/]/).filter(Boolean).slice(-2).join('/')
}

/** The rows that are written, with their scores. */
async function* survivors(files: readonly string[], semantic: Scored | null): AsyncGenerator<{ row: Row; score: number | null }> {
  if (semantic === null) {
    for (const file of files) for await (const line of readLines(file)) yield { row: JSON.parse(line) as Row, score: null }
    return
  }
  for await (const { line, score } of scoredLines(files, semantic.folder)) {
    if (score >= semantic.result.threshold) yield { row: JSON.parse(line) as Row, score }
  }
}

/** All that is known before the output is written. */
interface Before {
  readonly recipe: Recipe
  readonly plan: Plan
  readonly cleaned: Awaited<ReturnType<typeof cleanSources>>
  readonly deduped: Deduplicated | null
  readonly clean: Decontaminated | null
  readonly semantic: Scored | null
}

function summarise(
  { recipe, plan, cleaned, deduped, clean, semantic }: Before,
  output: OutputReport | null,
): Omit<CurationSummary, 'output'> & { output: OutputReport | null } {
  const without = <T extends { files: unknown }>(report: T): Omit<T, 'files'> => {
    const { files: _, ...rest } = report
    return rest
  }
  const sources = cleaned.sources.map(({ source, files, tally }): SourceSummary => {
    const { name, licence, homepage = null, notes = null, extract, negatives, priority, expectedCount = null } = source
    const overlaps = clean?.result.bySource[name]
    const rows = {
      read: tally.read,
      extracted: tally.extracted,
      clean: tally.kept,
      dedup: deduped && (deduped.result.bySource[name]?.kept ?? 0),
      decontaminated: clean && (overlaps ? overlaps.read - overlaps.dropped : 0),
      written: output?.bySource[name] ?? 0,
    }
    return { name, licence, homepage, notes, type: extract.type, negatives, priority, files, expectedCount, tally, rows }
  })
  const { decontaminate } = plan
  return {
    recipe: recipe.name,
    description: recipe.description ?? null,
    sources,
    settings: {
      dedup: plan.dedup ? recipe.dedup : null,
      decontaminate: decontaminate && { ...decontaminate, against: decontaminate.against.map(shortName) },
      semantic: semantic && { model: shortName(plan.semantic!.model), modelHash: semantic.modelHash },
      output: recipe.output,
    },
    dedup: deduped && without(deduped.result),
    decontamination: clean && without(clean.result),
    semantic: semantic?.result ?? null,
    output,
    tokensAbsent: plan.tokenizer ? null : 'no tokenizer was given: the model of the semantic filter or --tokenizer has one',
  }
}

import { mkdir } from 'node:fs/promises'
import { availableParallelism } from 'node:os'
import { join, resolve } from 'node:path'
import { once, sweep } from '../data/once.js'
import { createCleanPool } from './clean_pool.js'
import type { CurateOptions, Rows } from './curate.js'
import { sourceFiles } from './files.js'
import type { Recipe, Source } from './recipe.js'
import { createMeter, fileIdentity, keyOf } from './stage.js'
import { addTally, emptyTally, type Tally } from './tally.js'

/** What cleaning found in one source. */
export interface CleanedSource {
  readonly source: Source
  readonly files: number
  readonly tally: Tally
}

/** An input file to clean, and where its rows go. */
interface Unit {
  readonly source: Source
  readonly file: string
  /** of the files in work/1-clean, without ending */
  readonly name: string
  readonly key: string
  readonly bytes: number
}

/** Reads, extracts and cleans every file of every source: one unit of work each, so that a kill loses at most the files in hand. */
export async function cleanSources(
  recipe: Recipe,
  folder: string,
  options: CurateOptions,
): Promise<Rows & { sources: CleanedSource[]; reused: boolean }> {
  const units = await unitsOf(recipe)
  await mkdir(folder, { recursive: true })
  await sweep(folder, new Set(units.flatMap(({ name }) => [`${name}.jsonl`, `${name}.done.json`])))
  const meter = createMeter(
    'clean',
    'bytes',
    units.reduce((sum, { bytes }) => sum + bytes, 0),
    options.onProgress,
  )
  const pool = createCleanPool(Math.min(units.length, options.resources?.threads ?? availableParallelism()), options.signal)
  const done: { result: Tally; reused: boolean }[] = []
  const waiting = units.entries()
  let failure: { error: unknown } | undefined
  const cleanOne = async (i: number, { source, file, name, key, bytes }: Unit): Promise<void> => {
    options.signal?.throwIfAborted()
    const target = join(folder, `${name}.jsonl`)
    const onRows = (rows: number): void => meter.advance(0, undefined, source.name, rows)
    const job = { source, file, target, root: recipe.root }
    done[i] = await once(join(folder, `${name}.done.json`), key, target, () => pool.run(job, onRows))
    meter.advance(bytes, done[i].reused ? 'found' : undefined, source.name)
  }
  const work = async (): Promise<void> => {
    for (const [i, unit] of waiting) {
      if (failure) return
      try {
        await cleanOne(i, unit)
      } catch (error) {
        failure ??= { error } // the first one; the files in the hands of others are given up
        await pool.close()
      }
    }
  }
  await Promise.all(Array.from({ length: pool.size }, work))
  await pool.close()
  if (failure) throw (failure as { error: unknown }).error
  // In the order of the files, whichever was ready first.
  const tallies = new Map(recipe.sources.map((source) => [source.name, { source, files: 0, tally: emptyTally() }]))
  for (const [i, unit] of units.entries()) {
    const own = tallies.get(unit.source.name)!
    own.files++
    addTally(own.tally, done[i]!.result)
  }
  const reused = done.every((one) => one.reused)
  const sources = [...tallies.values()]
  return {
    files: units.map(({ name }) => join(folder, `${name}.jsonl`)),
    count: sources.reduce((sum, { tally }) => sum + tally.kept, 0),
    key: keyOf(
      'cleaned',
      units.map(({ key }) => key),
    ),
    sources,
    reused,
  }
}

async function unitsOf(recipe: Recipe): Promise<Unit[]> {
  const units: Unit[] = []
  for (const source of recipe.sources) {
    // What else decides the rows: the files of joins and of blocked words.
    const beside = [...source.clean.blockedFiles.map((file) => resolve(recipe.root, file))]
    for (const join of source.join) beside.push(...(await sourceFiles(join, recipe.root)))
    const besides = []
    for (const file of beside) besides.push(await fileIdentity(file, recipe.root))
    const { licence, homepage, expectedCount, priority, notes, files: _files, ...settings } = source
    for (const file of await sourceFiles(source, recipe.root)) {
      const identity = await fileIdentity(file, recipe.root)
      const name = `${source.name.replaceAll(/[^\w.-]+/g, '_')}-${keyOf(source.name, identity[0]).slice(0, 12)}`
      units.push({ source, file, name, key: keyOf('clean', settings, besides, identity), bytes: identity[1] })
    }
  }
  return units
}

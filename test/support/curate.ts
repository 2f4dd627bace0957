import { mkdtempSync, rmSync, writeFileSync, mkdirSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { cleanSource } from '../../lib/curate/clean.js'
import { sourceFiles } from '../../lib/curate/files.js'
import { readRecipe, type Recipe } from '../../lib/curate/recipe.js'
import type { Row } from '../../lib/curate/row.js'
import { emptyTally, type Tally } from '../../lib/curate/tally.js'

/** A folder for one test; removed by `remove`. */
export function scratch(): { folder: string; write(name: string, content: string | Uint8Array): string; remove(): void } {
  const folder = mkdtempSync(join(tmpdir(), 'bge-curate-'))
  return {
    folder,
    write(name, content) {
      const file = join(folder, name)
      mkdirSync(dirname(file), { recursive: true })
      writeFileSync(file, content)
      return file
    },
    remove: () => rmSync(folder, { recursive: true, force: true }),
  }
}

/** Stage 1 of every file of every source of a recipe. */
export async function runSources(recipe: Recipe): Promise<{ rows: Row[]; tallies: Record<string, Tally> }> {
  const rows: Row[] = []
  const tallies: Record<string, Tally> = {}
  for (const source of recipe.sources) {
    const tally = (tallies[source.name] = emptyTally())
    for (const file of await sourceFiles(source, recipe.root)) {
      await cleanSource(source, file, source.clean, (row) => void rows.push(row), tally, { root: recipe.root })
    }
  }
  return { rows, tallies }
}

/** Rows of one source made from one file: `source` is what a recipe would say about it. */
export async function runFile(
  place: ReturnType<typeof scratch>,
  name: string,
  content: string | Uint8Array,
  source: Record<string, unknown>,
  clean: Record<string, unknown> = {},
): Promise<{ rows: Row[]; tally: Tally }> {
  place.write(name, content)
  const recipe = { name: 'test', clean, sources: [{ name: 'one', files: [name], licence: 'test', ...source }] }
  const read = await readRecipe(place.write('recipe.json', JSON.stringify(recipe)))
  const { rows, tallies } = await runSources(read)
  return { rows, tally: tallies['one']! }
}

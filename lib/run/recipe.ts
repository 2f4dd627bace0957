import { existsSync } from 'node:fs'
import { readdir } from 'node:fs/promises'
import { basename, dirname, join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { check, didYouMean } from '../data/check.js'
import { assign, readSettings, type Settings } from '../data/config_file.js'
import { BgeError, show } from '../errors.js'
import { RUN_SCHEMA, type Verb } from './schema.js'

/** A step as it is written, with what holds for all steps put in. */
export interface Step {
  readonly name: string
  readonly do: Verb
  readonly settings: Readonly<Record<string, unknown>>
}

/** A recipe of `bge run` with all it extends. */
export interface RunRecipe {
  readonly name: string
  readonly description?: string
  /** in the order in which they run */
  readonly steps: readonly Step[]
  /** names for absolute paths; null: not given */
  readonly inputs: Readonly<Record<string, readonly string[] | null>>
  readonly seed: number
  readonly device: string
  readonly threads?: number
  /** absolute: what paths are relative to */
  readonly root: string
  /** where a path of it was written, `file:line` */
  at(path: string): string
}

/** Of `readRunRecipe`: what a caller changes of a recipe. */
export interface ReadOptions {
  /** `a.b=value`, in the order in which they are put in */
  readonly set?: readonly string[]
  /** paths of inputs, relative to the working folder; they go before the recipe's and --set */
  readonly inputs?: Readonly<Record<string, readonly string[]>>
}

const SHIPPED: string = fileURLToPath(new URL('../../recipes/', import.meta.url))

/** The names of the recipes of this package. */
export async function shippedRecipes(): Promise<string[]> {
  return (await readdir(SHIPPED))
    .flatMap((name) => (name.endsWith('.json5') && !name.startsWith('_') ? [basename(name, '.json5')] : []))
    .sort()
}

/**
 * Reads a recipe: a file (JSON, JSON5, .mjs) or the name of one of this package. What it extends is read first; objects are put together key by key, anything else is
 * replaced, and null takes a key away.
 * Errors: ERR_BGE_RECIPE `file:line: key must be ..., but was ...`, ERR_BGE_FILE.
 */
export async function readRunRecipe(nameOrFile: string, options: ReadOptions = {}): Promise<RunRecipe> {
  const { settings: read, root } = await readLayers(nameOrFile, '.', [])
  let settings = read
  for (const assignment of options.set ?? []) settings = assign(settings, assignment, 'ERR_BGE_RECIPE')
  settings = withoutNulls(settings)
  check(RUN_SCHEMA, settings.values, { code: 'ERR_BGE_RECIPE', what: 'a recipe', at: settings.at })
  const written = settings.values as unknown as Written
  const { name, description, device = 'auto', seed = 42, threads } = written
  const inputs = Object.fromEntries(
    Object.entries(written.inputs ?? {}).map(([key, value]) => [
      key,
      value === null ? null : [value].flat().map((path) => resolve(root, path)),
    ]),
  )
  for (const [key, paths] of Object.entries(options.inputs ?? {})) {
    if (!Object.hasOwn(inputs, key)) {
      const known = Object.keys(inputs)
      const hint = didYouMean(key, known) || `; it has ${known.join(', ') || 'none'}`
      throw new BgeError('ERR_BGE_ARGUMENT', `${show(key)} is not an input of ${name}${hint}`, { details: { input: key } })
    }
    inputs[key] = paths.map((path) => resolve(path))
  }
  return {
    name,
    ...(description !== undefined && { description }),
    steps: Object.entries(written.steps).map(([key, step]) => completeStep(key, step, written)),
    inputs,
    seed,
    device,
    ...(threads !== undefined && { threads }),
    root,
    at: settings.at,
  }
}

/** What the schema knows of a recipe. */
interface Written {
  readonly name: string
  readonly description?: string
  readonly inputs?: Readonly<Record<string, string | string[] | null>>
  readonly instruction?: string
  readonly seed?: number
  readonly device?: string
  readonly threads?: number
  readonly steps: Readonly<Record<string, Record<string, unknown>>>
}

const SEEDED: readonly Verb[] = ['split', 'new', 'pretrain', 'contrastive', 'finetune', 'mine', 'evaluate']
/** Stage 2 of BGE has no instruction, whatever comes after it (recipe.md 3.1). */
const INSTRUCTED: readonly Verb[] = ['finetune', 'mine', 'merge', 'evaluate']
const TRAINING: readonly Verb[] = ['pretrain', 'contrastive', 'finetune']

function completeStep(
  name: string,
  { do: given, ...own }: Record<string, unknown>,
  { seed = 42, instruction, device = 'auto', threads }: Written,
): Step {
  const verb = (given ?? name) as Verb
  const settings = {
    ...(SEEDED.includes(verb) && { seed }),
    ...(INSTRUCTED.includes(verb) && instruction !== undefined && { instruction }),
    ...(TRAINING.includes(verb) && { device, ...(threads !== undefined && { threads }) }),
    ...own,
  }
  return { name, do: verb, settings }
}

/** The file of a recipe: a path, or a name of this package. Throws ERR_BGE_FILE. */
async function recipeFile(nameOrFile: string, folder: string): Promise<{ file: string; isShipped: boolean }> {
  const file = resolve(folder, nameOrFile)
  if (existsSync(file)) return { file: folder === '.' ? nameOrFile : file, isShipped: dirname(file) === dirname(join(SHIPPED, 'x')) }
  const shipped = join(SHIPPED, `${basename(nameOrFile)}.json5`)
  if (basename(nameOrFile) === nameOrFile && existsSync(shipped)) return { file: shipped, isShipped: true }
  const known = await shippedRecipes()
  const hint = didYouMean(nameOrFile, known) || `; recipes of this package: ${known.join(', ')}`
  throw new BgeError('ERR_BGE_FILE', `recipe ${show(nameOrFile)} is neither a file nor a recipe of this package${hint}`, {
    details: { file: nameOrFile },
  })
}

async function readLayers(nameOrFile: string, folder: string, path: readonly string[]): Promise<{ settings: Settings; root: string }> {
  const { file, isShipped } = await recipeFile(nameOrFile, folder)
  if (path.includes(file)) throw new BgeError('ERR_BGE_RECIPE', `${file}: extends must not lead back to the recipe itself`)
  const settings = await readSettings(file, 'ERR_BGE_RECIPE')
  const { extends: below, root: given, $schema: _, ...values } = settings.values as { extends?: unknown; root?: unknown; $schema?: unknown }
  for (const [key, value] of Object.entries({ extends: below, root: given }))
    if (value !== undefined && (typeof value !== 'string' || value === ''))
      throw new BgeError('ERR_BGE_RECIPE', `${settings.at(key)}: ${key} must be a string that is not empty, but was ${show(value)}`)
  // A recipe of the package knows nothing of the caller's folders.
  const root = isShipped ? resolve('.') : resolve(dirname(file), (given as string | undefined) ?? '.')
  const own: Settings = { values, at: settings.at }
  if (below === undefined) return { settings: own, root }
  const { settings: base } = await readLayers(below as string, dirname(file), [...path, file])
  return { settings: overlay(base, own), root }
}

/** `over` where it says something, else `base`. */
function overlay(base: Settings, over: Settings): Settings {
  return {
    values: merged(base.values, over.values) as Settings['values'],
    at: (path) => (valueAt(over.values, path) === undefined ? base.at(path) : over.at(path)),
  }
}

function merged(base: unknown, over: unknown): unknown {
  if (!isObject(base) || !isObject(over)) return over
  const both: Record<string, unknown> = { ...base }
  for (const [key, value] of Object.entries(over)) both[key] = Object.hasOwn(base, key) ? merged(base[key], value) : value
  return both
}

/** The values without steps that are null, and without their settings that are; a null that means something is one the schema knows. */
function withoutNulls({ values, at }: Settings): Settings {
  const { steps } = values
  if (!isObject(steps)) return { values, at }
  const kept = Object.entries(steps).filter(([, step]) => step !== null)
  const clean = kept.map(([name, step]) => [
    name,
    isObject(step) ? Object.fromEntries(Object.entries(step).filter(([key, value]) => value !== null || key === 'dropout')) : step,
  ])
  return { values: { ...values, steps: Object.fromEntries(clean) as unknown }, at }
}

function valueAt(values: unknown, path: string): unknown {
  return path
    .split(/[.[\]]+/)
    .filter((part) => part !== '')
    .reduce<unknown>(
      (around, part) => (around !== null && typeof around === 'object' ? (around as Record<string, unknown>)[part] : undefined),
      values,
    )
}

function isObject(value: unknown): value is Record<string, unknown> {
  return value !== null && typeof value === 'object' && !Array.isArray(value)
}

import { resolve } from 'node:path'
import { sourceFiles } from '../curate/files.js'
import { readRecipe } from '../curate/recipe.js'
import { fileIdentity } from '../curate/stage.js'
import { show } from '../errors.js'
import { CONFIG_KEYS, type ConfigKey } from '../train/config.js'
import { stages } from '../train/stages.js'
import { type Node, nameOf } from './graph.js'
import type { Hashes } from './hashes.js'
import type { Verb } from './schema.js'

/** Raise one when a step would give another result for the same settings and inputs: then finished work of older versions is done again. */
const VERSIONS: Readonly<Record<Verb, number>> = {
  curate: 1,
  split: 1,
  new: 1,
  pretrain: 1,
  contrastive: 1,
  finetune: 1,
  mine: 2,
  merge: 1,
  evaluate: 1,
}

/** Everything that decides what a step gives, by name, so that a change can be named. */
export interface Parts {
  readonly version: number
  /** settings with the defaults of their stage; what does not change the numbers is left out */
  readonly settings: Readonly<Record<string, unknown>>
  /** slot -> SHA-256 of each input, in order */
  readonly inputs: Readonly<Record<string, readonly string[]>>
}

const COMPUTING: readonly Verb[] = ['mine', 'evaluate', 'pretrain', 'contrastive', 'finetune']

/** @param outputOf SHA-256 of a part of an earlier step, which is done */
export async function partsFor(
  node: Node,
  { hashes, device, outputOf }: { hashes: Hashes; device: string; outputOf: (step: string, part: string) => string },
): Promise<Parts> {
  const inputs: Record<string, string[]> = {}
  for (const [slot, sources] of Object.entries(node.sources)) {
    inputs[slot] = []
    for (const source of sources) {
      if (source.kind === 'step') inputs[slot].push(outputOf(source.step, source.part))
      else for (const path of source.paths) inputs[slot].push(await hashes.of(path))
    }
  }
  // Rounding differs between devices, and with it what is near a boundary.
  const settings = { ...(COMPUTING.includes(node.do) && { device }), ...(await decisive(node)) }
  return { version: VERSIONS[node.do], settings, inputs }
}

/** The settings that decide the numbers. */
async function decisive({ do: verb, options }: Node): Promise<Record<string, unknown>> {
  if (verb === 'curate') return curation(options)
  if (verb !== 'pretrain' && verb !== 'contrastive' && verb !== 'finetune') return options
  const all: Record<string, unknown> = { ...stages[verb].defaults, ...options }
  const used = Object.entries(all).filter(([key]) => {
    const rule = Object.hasOwn(CONFIG_KEYS, key) ? CONFIG_KEYS[key as ConfigKey] : undefined
    return !rule?.free && (rule?.stages?.includes(verb) ?? true)
  })
  return Object.fromEntries(used.sort(([a], [b]) => (a < b ? -1 : 1)))
}

/** A curation recipe and its files, known as `bge curate` knows them: by name, size and time of change. */
async function curation(options: Node['options']): Promise<Record<string, unknown>> {
  const recipe = await readRecipe(options['recipe'] as string)
  const files: unknown[] = []
  for (const source of recipe.sources)
    for (const part of [source, ...source.join])
      for (const file of await sourceFiles(part, recipe.root)) files.push(await fileIdentity(file, recipe.root))
  for (const file of recipe.clean.blockedFiles) files.push(await fileIdentity(resolve(recipe.root, file), recipe.root))
  const { root: _, file: _file, ...content } = recipe
  return { ...options, recipe: content, files }
}

/** Why a step is not what it was, in words; `''` where nothing differs. */
export function describeChange(before: Parts, now: Parts, { sources }: Node): string {
  const changes: string[] = []
  if (before.version !== now.version) changes.push('another version of this step')
  for (const key of union(before.settings, now.settings)) {
    const [was, is] = [before.settings[key], now.settings[key]]
    if (JSON.stringify(was) !== JSON.stringify(is))
      changes.push(isShort(was) && isShort(is) ? `${key} was ${brief(was)}, is ${brief(is)}` : `${key} has changed`)
  }
  for (const slot of union(before.inputs, now.inputs)) {
    if (JSON.stringify(before.inputs[slot]) === JSON.stringify(now.inputs[slot])) continue
    const from = (sources[slot] ?? []).map((source) =>
      source.kind === 'step' ? nameOf(source.step, source.part) : source.paths.map((path) => path.split(/[\\/]/).at(-1)).join(', '),
    )
    changes.push(`${slot}${from.length > 0 ? ` (${from.join(', ')})` : ''} has changed`)
  }
  return changes.join('; ')
}

function union(a: object, b: object): string[] {
  return [...new Set([...Object.keys(a), ...Object.keys(b)])]
}

function isShort(value: unknown): boolean {
  return value === undefined || value === null || typeof value !== 'object' || JSON.stringify(value).length <= 40
}

function brief(value: unknown): string {
  if (value === undefined) return 'not set'
  return typeof value === 'object' ? JSON.stringify(value) : show(value)
}

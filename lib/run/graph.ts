import { existsSync } from 'node:fs'
import { resolve } from 'node:path'
import { didYouMean } from '../data/check.js'
import { BgeError, show } from '../errors.js'
import type { RunRecipe, Step } from './recipe.js'
import type { Verb } from './schema.js'

/** What a step reads: the output of an earlier one, or files. */
export type Source =
  | { readonly kind: 'step'; readonly step: string; readonly part: string }
  /** absolute paths */
  | { readonly kind: 'files'; readonly paths: readonly string[] }

/** A step with its inputs found. */
export interface Node extends Step {
  /** slot (`model`, `data`, `models.NAME`) -> where it comes from, in order */
  readonly sources: Readonly<Record<string, readonly Source[]>>
  /** settings that are no inputs */
  readonly options: Readonly<Record<string, unknown>>
}

type Kind = 'model' | 'rows' | 'scores'

/** What a step gives: part -> kind. The part '' is the step's own name. */
export function partsOf(verb: Verb): Readonly<Record<string, Kind>> {
  switch (verb) {
    case 'split':
      return { train: 'rows', dev: 'rows' }
    case 'curate':
    case 'mine':
      return { '': 'rows' }
    case 'evaluate':
      return { '': 'scores' }
    default:
      return { '': 'model' }
  }
}

/** The slots of each kind of step, and what they take; 'path' is a file or folder only. */
const SLOTS: Readonly<Record<Verb, Readonly<Record<string, Kind | 'path'>>>> = {
  curate: { model: 'model', tokenizer: 'path' },
  split: { data: 'rows' },
  new: { tokenizer: 'path' },
  pretrain: { model: 'model', data: 'rows', dev: 'rows' },
  contrastive: { model: 'model', data: 'rows', dev: 'rows' },
  finetune: { model: 'model', data: 'rows', dev: 'rows' },
  mine: { model: 'model', data: 'rows', pool: 'rows', teacher: 'model' },
  merge: {},
  evaluate: { model: 'model', data: 'rows', corpus: 'rows', tasks: 'path', cmtebData: 'path', against: 'scores' },
}

/**
 * Finds what each step reads. A name is, in this order: an earlier step (or a part of it, `split.train`), an input, a path relative to the recipe's root.
 * Throws ERR_BGE_RECIPE `file:line: ...` for an input that is not given, a step that comes later or gives something else, and for what the schema cannot say.
 */
export function graphOf(recipe: RunRecipe): Node[] {
  const before: Step[] = []
  return recipe.steps.map((step) => {
    const node = nodeOf(recipe, step, before)
    before.push(step)
    return node
  })
}

function nodeOf(recipe: RunRecipe, step: Step, before: readonly Step[]): Node {
  const fail = (key: string, sentence: string): BgeError => {
    const path = `steps.${step.name}${key === '' ? '' : `.${key}`}`
    return new BgeError('ERR_BGE_RECIPE', `${recipe.at(path)}: ${path} ${sentence}`, { details: { path } })
  }
  if (!/^[A-Za-z][\w-]*$/.test(step.name)) throw fail('', 'must be a name of letters, digits, "_" and "-" that begins with a letter')
  const options: Record<string, unknown> = { ...step.settings }
  const sources: Record<string, Source[]> = {}
  for (const [slot, kind] of Object.entries(SLOTS[step.do])) {
    const given = options[slot]
    delete options[slot]
    const names = given === undefined ? [] : ([given].flat() as string[])
    if (names.length > 0) sources[slot] = names.map((name) => find(recipe, before, name, kind, (sentence) => fail(slot, sentence)))
    else if (slot === 'model' && step.do !== 'curate') sources[slot] = [currentModel(recipe, before, fail)]
    const count = (sources[slot] ?? []).reduce((sum, one) => sum + (one.kind === 'files' ? one.paths.length : 1), 0)
    if (kind !== 'rows' && count > 1) throw fail(slot, `must be one ${kind === 'path' ? 'path' : kind}, but is several`)
  }
  if (step.do === 'curate') {
    const recipes = find(recipe, before, options['recipe'] as string, 'path', (sentence) => fail('recipe', sentence))
    if (recipes.kind === 'files') options['recipe'] = recipes.paths[0]
    const against = options['decontaminate'] as string[] | undefined
    if (against) options['decontaminate'] = against.map((name) => (name === 'cmteb' ? name : resolve(recipe.root, name)))
  }
  if (step.do === 'merge') {
    const models = Object.entries(options['models'] as Record<string, number>)
    delete options['models']
    options['weights'] = models.map(([, weight]) => weight)
    sources['models'] = models.map(([name]) => find(recipe, before, name, 'model', (sentence) => fail(`models.${name}`, sentence)))
    const sum = models.reduce((total, [, weight]) => total + weight, 0)
    if (Math.abs(sum - 1) > 1e-6) throw fail('models', `must have weights that sum to 1, but they sum to ${sum}`)
  }
  if (step.do === 'evaluate') {
    if (!sources['data'] && !sources['tasks'] && options['cmteb'] === undefined)
      throw fail('', 'must have data, tasks or cmteb, but has none of them')
    if (Array.isArray(options['instruction']) && !sources['data'])
      throw fail('instruction', 'must be one where there is no data to choose by, but is a list')
    if (sources['corpus'] && !sources['data']) throw fail('corpus', 'also needs data, which is missing')
    if (sources['cmtebData'] && options['cmteb'] === undefined) throw fail('cmtebData', 'also needs cmteb, which is missing')
  }
  return { ...step, sources, options }
}

/** The last model that was made, else the input of that name. */
function currentModel(recipe: RunRecipe, before: readonly Step[], fail: (key: string, sentence: string) => BgeError): Source {
  const last = before.findLast(({ do: verb }) => partsOf(verb)[''] === 'model')
  if (last) return { kind: 'step', step: last.name, part: '' }
  if (!Object.hasOwn(recipe.inputs, 'model'))
    throw fail('model', 'must be given, because no step before makes a model and there is no input "model"')
  return find(recipe, [], 'model', 'model', (sentence) => fail('model', sentence))
}

function find(recipe: RunRecipe, before: readonly Step[], name: string, kind: Kind | 'path', fail: (sentence: string) => BgeError): Source {
  const dot = name.indexOf('.')
  const [head, part] = dot < 0 ? [name, ''] : [name.slice(0, dot), name.slice(dot + 1)]
  const step = before.find((one) => one.name === head)
  if (step && kind !== 'path' && (name === head || Object.hasOwn(partsOf(step.do), part))) {
    const parts = partsOf(step.do)
    const found = parts[part]
    if (found === kind) return { kind: 'step', step: head, part }
    const gives =
      found ??
      Object.keys(parts)
        .map((one) => `${head}.${one}`)
        .join(' and ')
    throw fail(`must be ${WORDS[kind]}, but ${show(name)} is a step that gives ${found ? WORDS[found] : gives}`)
  }
  if (kind !== 'path' && recipe.steps.some((one) => one.name === head && (name === head || Object.hasOwn(partsOf(one.do), part))))
    throw fail(`must come from an earlier step, but ${show(head)} does not run before`)
  if (Object.hasOwn(recipe.inputs, name)) {
    const paths = recipe.inputs[name]!
    const missing = paths?.find((path) => !existsSync(path))
    if (missing !== undefined) throw fail(`needs the input ${show(name)}, but ${missing} does not exist`)
    if (paths === null) throw fail(`needs the input ${show(name)}, which is not given: --input ${name}=PATH`)
    return { kind: 'files', paths }
  }
  if (kind === 'scores')
    throw fail(
      `must be an evaluate step before this one, but was ${show(name)}${didYouMean(
        name,
        before.map((one) => one.name),
      )}`,
    )
  const path = resolve(recipe.root, name)
  if (!existsSync(path)) {
    const known = [
      ...before.flatMap((one) => Object.keys(partsOf(one.do)).map((part) => nameOf(one.name, part))),
      ...Object.keys(recipe.inputs),
    ]
    throw fail(
      `must be ${kind === 'path' ? '' : 'a step before this one, '}an input or a path under ${recipe.root}, but ${show(name)} is none${didYouMean(name, known)}`,
    )
  }
  return { kind: 'files', paths: [path] }
}

/** `split.train`, `finetune` */
export function nameOf(step: string, part: string): string {
  return part === '' ? step : `${step}.${part}`
}

const WORDS: Readonly<Record<Kind | 'path', string>> = { model: 'a model', rows: 'rows', scores: 'scores', path: 'a path' }

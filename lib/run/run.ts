import { existsSync } from 'node:fs'
import { cp, mkdir, readdir, rename, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { writeFileAtomic } from '../data/atomic.js'
import { exclusively } from '../data/lock.js'
import { keyOf, once, readMarker } from '../data/once.js'
import { BgeError, show } from '../errors.js'
import { graphOf, type Node, partsOf, type Source } from './graph.js'
import { Hashes } from './hashes.js'
import { describeChange, type Parts, partsFor } from './key.js'
import type { RunRecipe } from './recipe.js'
import { runPage } from './report.js'
import { type RecipeSummary, summarise } from './summary.js'
import { doStep, type Facts, outputPath, type WorkHooks } from './work.js'

/** Whether a step has to work. */
export interface StepState {
  readonly name: string
  readonly do: string
  /** 'fresh': nothing has changed; 'resume': a stopped run goes on; 'depends': a step before it runs first, and may give what it gave before */
  readonly state: 'fresh' | 'run' | 'resume' | 'depends'
  /** why it is not fresh; '' where it is */
  readonly reason: string
}

/** What a recipe's run tells its caller. */
export interface RunHooks extends WorkHooks {
  /** before each step, and again with how long it took */
  onStep?: (state: StepState, done?: { seconds: number; facts: Facts }) => void
}

/** Of `runRecipe`. */
export interface RunRecipeOptions {
  /** run folder: new, empty, or of an earlier run of a recipe */
  out: string
  hooks?: RunHooks
  /** stops after the unit of work that is being done (training: a checkpoint); the same call goes on from there */
  signal?: AbortSignal
}

/** What `runRecipe` gives. */
export interface RunResult {
  readonly summary: RecipeSummary
  /** the final model folder; undefined for a recipe that makes none */
  readonly model: string | undefined
  readonly report: string
  /** steps that had nothing to do */
  readonly reused: readonly string[]
}

/** What a marker says of a finished step. */
export interface StepResult {
  readonly parts: Parts
  /** part -> SHA-256 */
  readonly outputs: Readonly<Record<string, string>>
  readonly facts: Facts
  /** of the call that finished it */
  readonly seconds: number
}

/** Marks a folder as made by this: only there is anything replaced. */
const MARKER = 'recipe.json'

/**
 * Runs a recipe: each step whose settings, inputs and output are as they were is passed over, a step that was stopped goes on where it was, everything else is done.
 * What a step is known by: the SHA-256 of its settings with the stage's defaults, of its input files, of what the steps before it gave, and a version of its code.
 * A step that gives the same bytes as before lets those after it rest.
 *
 * `out` gets steps/NAME/ (the folder of each step), model/ (the last model), summary.json and report.html.
 * Errors: ERR_BGE_RECIPE, ERR_BGE_RESUME while another process works in `out`, ERR_BGE_FILE for an `out` that holds something else, those of the steps, the reason of the signal.
 */
export async function runRecipe(recipe: RunRecipe, options: RunRecipeOptions): Promise<RunResult> {
  const nodes = graphOf(recipe)
  const { out } = options
  await requireOwn(out)
  await mkdir(out, { recursive: true })
  return exclusively(out, async () => {
    await writeFileAtomic(join(out, MARKER), `${JSON.stringify({ made: 'bge run', recipe: recipe.name })}\n`)
    const hashes = new Hashes(join(out, 'hashes.json'))
    const results = new Map<string, StepResult>()
    const reused: string[] = []
    for (const node of nodes) {
      options.signal?.throwIfAborted()
      if (await runStep(recipe, node, { ...options, hashes, results })) reused.push(node.name)
    }
    const last = nodes.findLast(({ do: verb }) => partsOf(verb)[''] === 'model')
    const model = last && (await publishModel(out, last, results.get(last.name)!.outputs['']!, hashes))
    await hashes.save()
    const summary = summarise(recipe, nodes, results)
    await writeFileAtomic(join(out, 'summary.json'), `${JSON.stringify(summary, null, 2)}\n`)
    const report = join(out, 'report.html')
    await writeFileAtomic(report, runPage(summary))
    return { summary, model, report, reused }
  })
}

/** What `runRecipe` would do, without doing or writing anything. */
export async function planRun(recipe: RunRecipe, out: string): Promise<StepState[]> {
  const nodes = graphOf(recipe)
  await requireOwn(out)
  const hashes = new Hashes(join(out, 'hashes.json'))
  const results = new Map<string, StepResult>()
  const states: StepState[] = []
  for (const node of nodes) {
    const { step, found } = await inspect(recipe, node, { out, hashes, results })
    states.push(step)
    if (step.state === 'fresh') results.set(node.name, found!)
  }
  return states
}

interface Known {
  readonly out: string
  readonly hashes: Hashes
  /** of the steps that are done */
  readonly results: Map<string, StepResult>
}

interface Inspected {
  readonly step: StepState
  /** undefined: a step before it is not done */
  readonly parts: Parts | undefined
  readonly found: StepResult | undefined
}

const folderOf = (out: string, node: Pick<Node, 'name'>): string => join(out, 'steps', node.name)
const markerOf = (out: string, node: Pick<Node, 'name'>): string => `${folderOf(out, node)}.done.json`
const startedOf = (out: string, node: Pick<Node, 'name'>): string => `${folderOf(out, node)}.started.json`
const stepKey = (node: Node, parts: Parts): string => keyOf(node.do, parts)

async function inspect(recipe: RunRecipe, node: Node, { out, hashes, results }: Known): Promise<Inspected> {
  const state = (state: StepState['state'], reason = ''): StepState => ({ name: node.name, do: node.do, state, reason })
  const marker = await readMarker<StepResult>(markerOf(out, node))
  const found = marker?.result
  const waiting = Object.values(node.sources)
    .flat()
    .find((source) => source.kind === 'step' && !results.has(source.step))
  if (waiting?.kind === 'step') {
    const reason = found ? `unless ${waiting.step} gives what it gave before` : `after ${waiting.step}`
    return { step: state(found ? 'depends' : 'run', reason), parts: undefined, found }
  }
  const outputOf = (step: string, part: string): string => results.get(step)!.outputs[part]!
  const parts = await partsFor(node, { hashes, device: recipe.device, outputOf })
  const key = stepKey(node, parts)
  if (marker?.key === key) {
    const changed = await changedOutput(out, node, marker.result, hashes)
    return { step: changed ? state('run', changed) : state('fresh'), parts, found }
  }
  const started = await readMarker<Parts>(startedOf(out, node))
  if (started?.key === key && existsSync(folderOf(out, node))) return { step: state('resume', 'it was stopped'), parts, found }
  const before = found?.parts ?? started?.result
  return { step: state('run', (before && describeChange(before, parts, node)) || 'for the first time'), parts, found }
}

/** Why a finished step's output can not be used; undefined where it can. */
async function changedOutput(out: string, node: Node, { outputs }: StepResult, hashes: Hashes): Promise<string | undefined> {
  for (const [part, sha256] of Object.entries(outputs)) {
    const path = outputPath(folderOf(out, node), node, part)
    if (!existsSync(path)) return `its ${path.split(/[\\/]/).at(-1)} was removed`
    if ((await hashes.of(path)) !== sha256) return `its ${path.split(/[\\/]/).at(-1)} was changed`
  }
  return undefined
}

/** True where there was nothing to do. */
async function runStep(recipe: RunRecipe, node: Node, known: Known & RunRecipeOptions): Promise<boolean> {
  const { out, hashes, results, hooks = {}, signal } = known
  const { step, parts, found } = await inspect(recipe, node, known)
  hooks.onStep?.(step)
  if (step.state === 'fresh') {
    results.set(node.name, found!)
    return true
  }
  const [place, marker, key] = [folderOf(out, node), markerOf(out, node), stepKey(node, parts!)]
  await rm(marker, { force: true }) // also one of this key, whose output was changed
  if (step.state !== 'resume') {
    // `bge curate` itself knows which parts of its work still hold.
    if (node.do !== 'curate') await rm(place, { recursive: true, force: true })
    await writeFileAtomic(startedOf(out, node), `${JSON.stringify({ key, result: parts })}\n`)
  }
  await mkdir(place, { recursive: true })
  await hashes.save()
  const { result } = await once(marker, key, undefined, async (): Promise<StepResult> => {
    const start = performance.now()
    const paths = (slot: string): string[] => (node.sources[slot] ?? []).flatMap((source) => pathsOf(source, out, recipe))
    const facts = await doStep({ recipe, node, place, vectors: join(out, 'vectors'), paths, hooks, signal })
    const outputs: Record<string, string> = {}
    for (const part of Object.keys(partsOf(node.do))) outputs[part] = await hashes.of(outputPath(place, node, part))
    return { parts: parts!, outputs, facts, seconds: (performance.now() - start) / 1000 }
  })
  await rm(startedOf(out, node), { force: true })
  results.set(node.name, result)
  hooks.onStep?.(step, result)
  return false
}

function pathsOf(source: Source, out: string, recipe: RunRecipe): readonly string[] {
  if (source.kind === 'files') return source.paths
  const { do: verb } = recipe.steps.find(({ name }) => name === source.step)!
  return [outputPath(join(out, 'steps', source.step), { do: verb }, source.part)]
}

/** Puts a copy of the last model where everybody finds it; a copy that is there already stays. */
async function publishModel(out: string, node: Node, sha256: string, hashes: Hashes): Promise<string> {
  const [target, temporary] = [join(out, 'model'), join(out, '.model.tmp')]
  if (existsSync(target) && (await hashes.of(target)) === sha256) return target
  await rm(temporary, { recursive: true, force: true })
  await cp(outputPath(folderOf(out, node), node, ''), temporary, { recursive: true })
  await rm(target, { recursive: true, force: true })
  await rename(temporary, target)
  return target
}

/** Nothing of anybody else's is ever removed. */
async function requireOwn(out: string): Promise<void> {
  const names = await readdir(out).catch((cause: NodeJS.ErrnoException): string[] => {
    if (cause.code === 'ENOENT') return []
    throw new BgeError('ERR_BGE_FILE', `run folder ${out} cannot be read: ${cause.message}`, { cause })
  })
  const foreign = names.filter((name) => name !== 'lock' && !name.endsWith('.tmp'))
  if (foreign.length > 0 && !names.includes(MARKER))
    throw new BgeError('ERR_BGE_FILE', `run folder ${out} must be new, empty, or of an earlier bge run, but holds ${show(foreign[0])}`)
}

import type { Comparison } from './compare.js'
import type { Node } from './graph.js'
import { nameOf } from './graph.js'
import type { RunRecipe } from './recipe.js'
import type { StepResult } from './run.js'
import type { Facts } from './work.js'

/** A finished step. */
export interface StepSummary {
  readonly name: string
  readonly do: string
  /** slot -> what it read: names of steps, or names of files */
  readonly from: Readonly<Record<string, readonly string[]>>
  /** with the defaults of its stage */
  readonly settings: Readonly<Record<string, unknown>>
  readonly facts: Facts
  readonly seconds: number
}

/** summary.json: what a recipe came to. It names no folder of the machine. */
export interface RecipeSummary {
  readonly recipe: string
  readonly description: string | null
  readonly steps: readonly StepSummary[]
  /** of the evaluations with `against` on data of one's own, in order */
  readonly comparisons: readonly { readonly step: string; readonly against: string; readonly comparison: Comparison }[]
}

export function summarise(
  { name, description }: RunRecipe,
  nodes: readonly Node[],
  results: ReadonlyMap<string, StepResult>,
): RecipeSummary {
  const steps = nodes.map((node): StepSummary => {
    const { parts, facts, seconds } = results.get(node.name)!
    const from = Object.entries(node.sources).map(([slot, sources]) => [
      slot,
      sources.flatMap((source) => (source.kind === 'step' ? [nameOf(source.step, source.part)] : source.paths.map(shortName))),
    ])
    return { name: node.name, do: node.do, from: Object.fromEntries(from) as StepSummary['from'], settings: parts.settings, facts, seconds }
  })
  const comparisons = steps.flatMap(({ name: step, facts }) => {
    const { comparison, against } = facts as { comparison?: Comparison; against?: string }
    return comparison && against !== undefined ? [{ step, against, comparison }] : []
  })
  return { recipe: name, description: description ?? null, steps, comparisons }
}

/** The last two parts of a path: enough to know a file again, nothing of the machine. */
function shortName(path: string): string {
  return path
    .split(/[\\/]/)
    .filter((part) => part !== '')
    .slice(-2)
    .join('/')
}

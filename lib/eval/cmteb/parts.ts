import { BgeError } from '../../errors.js'
import type { RepoTree, TaskRepos } from './repos.js'
import { type CmtebTask, DIALECTS } from './tasks.js'

export type Role = 'corpus' | 'queries' | 'qrels' | 'topRanked' | 'rows'

/** The files of one table that a task reads. */
export interface Part {
  readonly tree: RepoTree
  readonly files: readonly string[]
  /** where a multilingual repository has no config of its own for the subset: take the rows with this `lang` */
  readonly lang?: string
}

/** Every file that a task can need, for all splits of both dialects. */
export function allParts(task: CmtebTask, repos: TaskRepos): Part[] {
  const splits = new Set(DIALECTS.flatMap((dialect) => task.splits[dialect]))
  if (task.type === 'classification') splits.add('train')
  return [...splits].flatMap((split) => rolesOf(task, repos).map((role) => findPart(task, repos, role, split)))
}

/** The tables that a task's repositories hold for it. */
export function rolesOf(task: CmtebTask, { main }: TaskRepos): Role[] {
  if (task.type === 'retrieval') return ['corpus', 'queries', 'qrels']
  if (task.type === 'reranking' && main.configs.has('corpus')) return ['corpus', 'queries', 'qrels', 'topRanked']
  return ['rows']
}

/**
 * New retrieval layout: configs `corpus`, `queries`, `default` or `qrels`, `top_ranked`; a config with one split is taken whatever the split
 * is called, as mteb does. Old: splits `corpus` and `queries`, and a repository of judgments. Throws ERR_BGE_DATA naming what is there.
 */
export function findPart(task: CmtebTask, repos: TaskRepos, role: Role, split: string): Part {
  const { main, qrels } = repos
  if (role === 'rows') {
    const own = task.subset !== 'default' && main.configs.has(task.subset)
    const part = { tree: main, files: filesOf(main, [own ? task.subset : 'default'], split, 'exact') }
    return own || task.subset === 'default' ? part : { ...part, lang: task.subset }
  }
  if (role === 'topRanked') return { tree: main, files: filesOf(main, ['top_ranked'], split, 'only') }
  if (role === 'qrels') {
    if (main.configs.has('corpus')) return { tree: main, files: filesOf(main, ['default', 'qrels'], split, 'only') }
    if (qrels === undefined) {
      throw new BgeError(
        'ERR_BGE_DATA',
        `${name(main)}: expected the judgments of the old layout in ${task.oldQrels?.path ?? 'a second repository'}, but it is not there`,
      )
    }
    return { tree: qrels, files: filesOf(qrels, ['default'], split, 'only') }
  }
  if (main.configs.has('corpus'))
    return { tree: main, files: filesOf(main, role === 'queries' ? ['query', 'queries'] : ['corpus'], split, 'only') }
  return { tree: main, files: filesOf(main, ['default'], role, 'exact') }
}

function filesOf(tree: RepoTree, configs: readonly string[], split: string, match: 'exact' | 'only'): readonly string[] {
  const known = tree.configs
  const config =
    configs.find((config) => known.has(config)) ?? (configs[0] === 'default' && known.size === 1 ? [...known.keys()][0] : undefined)
  const splits = config === undefined ? undefined : known.get(config)
  const files = splits?.get(split) ?? (match === 'only' && splits?.size === 1 ? [...splits.values()][0] : undefined)
  if (files !== undefined) return files
  const there = [...known].map(([config, splits]) => `${config}: ${[...splits.keys()].join(', ')}`).join('; ')
  throw new BgeError(
    'ERR_BGE_DATA',
    `${name(tree)}: expected split ${split} of config ${configs.join(' or ')}, but it has ${there === '' ? 'no data files' : there}`,
  )
}

function name({ dataset }: RepoTree): string {
  return `${dataset.path}@${dataset.revision.slice(0, 8)}`
}

import { readFile } from 'node:fs/promises'
import { BgeError } from '../../errors.js'
import { type HubOptions, hubFile, listHubFiles } from '../../hub/hub.js'
import { hubSettings } from '../../hub/settings.js'
import { type DataFolder, folderFiles, openDataFolder, openFolderFile } from './bundle.js'
import { type RepoConfigs, repoConfigs } from './layout.js'
import type { CmtebTask, HubDataset } from './tasks.js'

/** A dataset repository that can be read, wherever it lies. */
export interface RepoTree {
  readonly dataset: HubDataset
  /** all its files, by path */
  readonly files: readonly string[]
  readonly configs: RepoConfigs
  /** the local path of a file, fetched and checked */
  open(path: string): Promise<string>
}

/** The repositories of a task. `qrels`: the second one of the old retrieval layout. */
export interface TaskRepos {
  readonly main: RepoTree
  readonly qrels?: RepoTree
}

/** Where the data of C-MTEB comes from: a folder, else the hub or its mirror. */
export interface TaskSource {
  /** a folder of `ORG/NAME/...`, such as `bge cmteb pull` makes; looked at first */
  data?: string
  hub?: HubOptions
}

/**
 * Where a task's data is: in the folder (current layout, then old), then in the hub's cache or on the hub (current; offline also the old one
 * where only that is cached). Throws ERR_BGE_HUB, ERR_BGE_FILE, ERR_BGE_DATA.
 */
export async function openRepos(task: CmtebTask, { data, hub = {} }: TaskSource): Promise<TaskRepos> {
  if (data !== undefined) {
    const folder = await openDataFolder(data)
    for (const layout of ['current', 'old'] as const) {
      const main = await folderTree(folder, task[layout])
      if (main === undefined) continue
      const qrels = layout === 'old' && task.oldQrels && (await folderTree(folder, task.oldQrels))
      return qrels ? { main, qrels } : { main }
    }
  }
  try {
    return { main: await hubTree(task.current, hub) }
  } catch (error) {
    if (!(error instanceof BgeError)) throw error
    const offline = hubSettings(hub).network === 'offline'
    const old = offline ? await oldRepos(task, hub).catch(() => undefined) : undefined
    if (old !== undefined) return old
    if (data === undefined) throw error
    const names = new Set([task.current, task.old].map(({ path, revision }) => `${path}@${revision.slice(0, 8)}`))
    const where = `data folder ${data} holds no ${[...names].join(' or ')}`
    throw new BgeError(offline ? 'ERR_BGE_FILE' : error.code, `${where}, and ${error.message}`, { cause: error })
  }
}

/** The repositories that C_MTEB and mteb 1 read. */
export async function oldRepos(task: CmtebTask, hub: HubOptions): Promise<TaskRepos> {
  const main = await hubTree(task.old, hub)
  return task.oldQrels ? { main, qrels: await hubTree(task.oldQrels, hub) } : { main }
}

/** A repository of the hub: asks for its list of files, and for its README. */
export async function hubTree(dataset: HubDataset, hub: HubOptions): Promise<RepoTree> {
  const repo = { kind: 'dataset', name: dataset.path, revision: dataset.revision } as const
  return tree(dataset, await listHubFiles(repo, hub), (path) => hubFile(repo, path, hub))
}

async function folderTree(folder: DataFolder, dataset: HubDataset): Promise<RepoTree | undefined> {
  const files = await folderFiles(folder, dataset.path, dataset.revision)
  return files && tree(dataset, files, (path) => openFolderFile(folder, dataset.path, path))
}

async function tree(dataset: HubDataset, files: readonly string[], open: RepoTree['open']): Promise<RepoTree> {
  const readme = files.includes('README.md') ? await readFile(await open('README.md'), 'utf8') : ''
  return { dataset, files, configs: repoConfigs(files, readme), open }
}

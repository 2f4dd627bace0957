import { copyFile, mkdir, rename, rm, stat } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { writeFileAtomic } from '../../data/atomic.js'
import { hashFile } from '../../data/jsonl.js'
import { BgeError } from '../../errors.js'
import type { HubOptions } from '../../hub/hub.js'
import { type BundleFile, MANIFEST, readManifest } from './bundle.js'
import { allParts } from './parts.js'
import { hubTree, oldRepos, type RepoTree } from './repos.js'
import type { CmtebTask } from './tasks.js'

/** Of `pullTasks`. */
export interface PullOptions {
  /** folder of the bundle; one that exists is completed, and what it holds already is not fetched again */
  to: string
  tasks: readonly CmtebTask[]
  /** which repositories: 'current' is what mteb 2 reads (default), 'old' what C_MTEB and mteb 1 read */
  layout?: 'current' | 'old'
  hub?: HubOptions
  /** called as each task is complete */
  onTask?: (task: CmtebTask, files: number) => void
}

/** What `pullTasks` fetched. */
export interface PullResult {
  readonly files: number
  readonly bytes: number
  /** tasks that could not be had, and why; the others are complete */
  readonly failures: readonly { readonly task: string; readonly error: BgeError }[]
}

/**
 * Makes an offline bundle: the data files that the tasks read, and `manifest.json` with size and SHA-256 of each. The manifest is written
 * after every task, so a stopped pull goes on. Throws ERR_BGE_FILE where the bundle cannot be written, and the signal's reason.
 */
export async function pullTasks(options: PullOptions): Promise<PullResult> {
  const { to, hub = {} } = options
  await mkdir(to, { recursive: true }).catch((cause: unknown) => {
    throw new BgeError('ERR_BGE_FILE', `${to} cannot be written: ${(cause as Error).message}`, { cause })
  })
  const files = new Map((await readManifest(to))?.files.map((file) => [file.path, file]) ?? [])
  const failures: { task: string; error: BgeError }[] = []
  for (const task of options.tasks) {
    try {
      const repos = options.layout === 'old' ? await oldRepos(task, hub) : { main: await hubTree(task.current, hub) }
      const wanted = new Map<string, { tree: RepoTree; path: string }>()
      const want = (tree: RepoTree, path: string): void => void wanted.set(`${tree.dataset.path}/${path}`, { tree, path })
      for (const { tree, files } of allParts(task, repos)) for (const path of files) want(tree, path)
      for (const tree of [repos.main, ...('qrels' in repos && repos.qrels ? [repos.qrels] : [])]) {
        if (tree.files.includes('README.md')) want(tree, 'README.md')
      }
      for (const [path, { tree, path: source }] of wanted) {
        if (!(await isThere(to, files.get(path), tree))) files.set(path, await copyIn(to, path, tree, source))
      }
      await writeFileAtomic(
        join(to, MANIFEST),
        `${JSON.stringify({ format: 'bge-cmteb-bundle', version: 1, files: [...files.values()] }, null, 2)}\n`,
      )
      options.onTask?.(task, wanted.size)
    } catch (error) {
      if (!(error instanceof BgeError) || (error.code !== 'ERR_BGE_HUB' && error.code !== 'ERR_BGE_DATA')) throw error
      failures.push({ task: task.name, error })
    }
  }
  const bytes = [...files.values()].reduce((sum, file) => sum + file.bytes, 0)
  return { files: files.size, bytes, failures }
}

async function isThere(to: string, listed: BundleFile | undefined, { dataset }: RepoTree): Promise<boolean> {
  if (listed === undefined || listed.repo !== dataset.path || listed.revision !== dataset.revision) return false
  const file = join(to, listed.path)
  const info = await stat(file).catch(() => undefined)
  return info?.size === listed.bytes && (await hashFile(file)) === listed.sha256
}

async function copyIn(to: string, path: string, tree: RepoTree, source: string): Promise<BundleFile> {
  const from = await tree.open(source)
  const file = join(to, path)
  const temporary = `${file}.${process.pid}.tmp`
  try {
    await mkdir(dirname(file), { recursive: true })
    await copyFile(from, temporary)
    await rename(temporary, file)
  } catch (cause) {
    throw new BgeError('ERR_BGE_FILE', `${file} cannot be written: ${(cause as Error).message}`, { cause })
  } finally {
    await rm(temporary, { force: true })
  }
  const { size } = await stat(file)
  return { path, bytes: size, sha256: await hashFile(file), repo: tree.dataset.path, revision: tree.dataset.revision }
}

import { copyFile, mkdir, open, readdir, readFile, rename, rm, stat, symlink, utimes } from 'node:fs/promises'
import { hostname } from 'node:os'
import { dirname, join, relative } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { writeFileAtomic } from '../data/atomic.js'
import { BgeError } from '../errors.js'

/** A repository of the hub. */
export interface HubRepo {
  readonly kind: 'model' | 'dataset'
  /** `organisation/name` */
  readonly name: string
  /** branch, tag or commit */
  readonly revision: string
}

/** Where Python's huggingface_hub keeps a repository: blobs by hash, a link per file and commit, a file per branch naming its commit. */
export interface RepoCache {
  readonly folder: string
  blob(etag: string): string
  snapshot(commit: string, path: string): string
}

export function repoCache(cache: string, { kind, name }: HubRepo): RepoCache {
  const folder = join(cache, `${kind}s--${name.replaceAll('/', '--')}`)
  return {
    folder,
    blob: (etag) => join(folder, 'blobs', etag),
    snapshot: (commit, path) => join(folder, 'snapshots', commit, path),
  }
}

/** The commit of a revision as far as the cache knows it. */
export async function cachedCommit(cache: RepoCache, revision: string): Promise<string | undefined> {
  if (isCommit(revision)) return revision
  const commit = await readFile(join(cache.folder, 'refs', revision), 'utf8').catch(() => '')
  return isCommit(commit.trim()) ? commit.trim() : undefined
}

/** The path of a cached file, or undefined. */
export async function cachedFile(cache: RepoCache, revision: string, path: string): Promise<string | undefined> {
  const commit = await cachedCommit(cache, revision)
  if (commit === undefined) return undefined
  const file = cache.snapshot(commit, path)
  return (await exists(file)) ? file : undefined
}

/** The cached files of a revision, by path; undefined where the revision is not cached. */
export async function cachedFiles(cache: RepoCache, revision: string): Promise<string[] | undefined> {
  const commit = await cachedCommit(cache, revision)
  if (commit === undefined) return undefined
  const root = join(cache.folder, 'snapshots', commit)
  const entries = await readdir(root, { recursive: true, withFileTypes: true }).catch(() => undefined)
  return entries
    ?.filter((entry) => !entry.isDirectory())
    .map((entry) => relative(root, join(entry.parentPath, entry.name)).replaceAll('\\', '/'))
    .sort()
}

/** Makes a finished blob visible as a file of a commit, and notes what commit a branch is at. */
export async function linkFile(cache: RepoCache, revision: string, commit: string, path: string, etag: string): Promise<string> {
  const file = cache.snapshot(commit, path)
  const blob = cache.blob(etag)
  await mkdir(dirname(file), { recursive: true })
  await rm(file, { force: true })
  await symlink(relative(dirname(file), blob), file).catch(async (error: NodeJS.ErrnoException) => {
    if (error.code === 'EEXIST') return // another process was first, with the same content
    await copyFile(blob, file) // a file system without links
  })
  if (revision !== commit) await writeFileAtomic(join(cache.folder, 'refs', revision), commit)
  return file
}

const BEAT_MS = 5_000
const STALE_MS = 30_000

/**
 * Runs `work` while no other process runs it for the same `file`. The lock is a file that names its owner, touched while it is held; one whose
 * process is gone, or that nobody touched for 30 s, is taken over.
 */
export async function withLock<T>(file: string, signal: AbortSignal | undefined, work: () => Promise<T>): Promise<T> {
  const lock = `${file}.bge-lock`
  const owner = JSON.stringify({ host: hostname(), pid: process.pid, id: Math.random() })
  await mkdir(dirname(lock), { recursive: true })
  while (!(await take(lock, owner))) {
    if (await isStale(lock)) {
      const old = `${lock}.${process.pid}.${Math.random()}`
      await rename(lock, old)
        .then(() => rm(old, { force: true }))
        .catch(() => {}) // someone else took it over
    } else await sleep(100, undefined, signal && { signal })
  }
  const beat = setInterval(() => utimes(lock, new Date(), new Date()).catch(() => {}), BEAT_MS)
  try {
    return await work()
  } finally {
    clearInterval(beat)
    if ((await readFile(lock, 'utf8').catch(() => '')) === owner) await rm(lock, { force: true })
  }
}

async function take(lock: string, owner: string): Promise<boolean> {
  try {
    const handle = await open(lock, 'wx')
    await handle.writeFile(owner)
    await handle.close()
    return true
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === 'EEXIST') return false
    throw new BgeError('ERR_BGE_FILE', `${lock} cannot be written: ${(cause as Error).message}`, { cause })
  }
}

async function isStale(lock: string): Promise<boolean> {
  const info = await stat(lock).catch(() => undefined)
  if (info === undefined) return false
  if (Date.now() - info.mtimeMs > STALE_MS) return true
  const text = await readFile(lock, 'utf8').catch(() => '')
  try {
    const { host, pid } = JSON.parse(text) as { host: string; pid: number }
    if (host === hostname()) process.kill(pid, 0)
    return false
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'ESRCH' // not where the text is no JSON: just made, or just gone
  }
}

export function isCommit(revision: string): boolean {
  return /^[0-9a-f]{40}$/.test(revision)
}

/** A path of a repository that stays inside it, whatever a server says. */
export function isSafePath(path: string): boolean {
  return path !== '' && !/[\\\0:]/.test(path) && path.split('/').every((part) => part !== '' && part !== '.' && part !== '..')
}

export async function exists(path: string): Promise<boolean> {
  return stat(path).then(
    () => true,
    () => false,
  )
}

import { createHash, type Hash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { open, rename, rm, stat } from 'node:fs/promises'
import { setTimeout as sleep } from 'node:timers/promises'
import { BgeError, isAbort } from '../errors.js'
import { cachedFile, cachedFiles, exists, type HubRepo, isCommit, isSafePath, linkFile, repoCache, withLock } from './cache.js'
import { request, statusError } from './request.js'
import { type HubOptions, type HubSettings, hubSettings } from './settings.js'

export type { HubRepo } from './cache.js'
export type { HubOptions } from './settings.js'

const ATTEMPTS = 5

/** What a hub says of a file before it is fetched. */
interface FileFacts {
  readonly commit: string
  /** SHA-256 of a large (LFS) file, git's SHA-1 of any other */
  readonly etag: string
  readonly size: number
}

/**
 * The local path of one file of a repository: from the cache in Python's layout where it is there (a commit never changes; a branch is asked
 * about unless offline), else downloaded into it. An interrupted download goes on where it stopped; what does not have the hash that the hub
 * names is thrown away. Two processes never write one file. Throws ERR_BGE_HUB and ERR_BGE_FILE.
 */
export async function hubFile(repo: HubRepo, path: string, options: HubOptions = {}): Promise<string> {
  checkName(repo, path)
  const settings = hubSettings(options)
  const cache = repoCache(settings.cache, repo)
  const what = `${repo.kind} ${repo.name}@${short(repo.revision)}, ${path}`
  if (isCommit(repo.revision) || settings.network === 'offline') {
    const file = await cachedFile(cache, repo.revision, path)
    if (file !== undefined) return file
    if (settings.network === 'offline')
      throw new BgeError('ERR_BGE_HUB', `${what} is not in the cache ${settings.cache}, and HF_HUB_OFFLINE forbids fetching it`)
  }
  const facts = await fileFacts(settings, repo, path, what, options.signal)
  const blob = cache.blob(facts.etag)
  if (!(await exists(blob))) {
    await withLock(blob, options.signal, async () => {
      if (!(await exists(blob))) await download(settings, fileUrl(settings, repo, facts.commit, path), blob, facts, { what, path, options })
    })
  }
  return linkFile(cache, repo.revision, facts.commit, path, facts.etag)
}

/** The paths of all files of a repository. Offline: those in the cache. Throws ERR_BGE_HUB. */
export async function listHubFiles(repo: HubRepo, options: HubOptions = {}): Promise<string[]> {
  checkName(repo)
  const settings = hubSettings(options)
  const what = `${repo.kind} ${repo.name}@${short(repo.revision)}`
  if (settings.network === 'offline') {
    const files = await cachedFiles(repoCache(settings.cache, repo), repo.revision)
    if (files === undefined)
      throw new BgeError('ERR_BGE_HUB', `${what} is not in the cache ${settings.cache}, and HF_HUB_OFFLINE forbids asking for it`)
    return files
  }
  const files: string[] = []
  let url: string | undefined =
    `${settings.endpoint}/api/${repo.kind}s/${repo.name}/tree/${encodeURIComponent(repo.revision)}?recursive=true`
  while (url !== undefined) {
    const response: Response = await request(settings, url, { signal: options.signal })
    if (!response.ok) throw statusError(settings, response, `the file list of ${what}`)
    const entries = (await response.json().catch(() => undefined)) as { type?: string; path?: string }[] | undefined
    if (!Array.isArray(entries)) throw new BgeError('ERR_BGE_HUB', `the file list of ${what} from ${settings.endpoint} is not a JSON array`)
    for (const { type, path } of entries) {
      if (type !== 'file') continue
      if (typeof path !== 'string' || !isSafePath(path))
        throw new BgeError('ERR_BGE_HUB', `${settings.endpoint} lists a file of ${what} outside of it: "${path}"`)
      files.push(path)
    }
    const next = /<([^>]+)>;\s*rel="next"/.exec(response.headers.get('link') ?? '')?.[1]
    // A mirror may pass on the hub's own address: the path is what counts.
    url =
      next === undefined
        ? undefined
        : settings.endpoint + new URL(next, settings.endpoint).pathname + new URL(next, settings.endpoint).search
  }
  return files.sort()
}

async function fileFacts(settings: HubSettings, repo: HubRepo, path: string, what: string, signal?: AbortSignal): Promise<FileFacts> {
  // The hub's own answer carries the facts; the storage that it redirects to does not know them.
  const known = (response: Response): boolean => response.headers.has('x-linked-etag')
  const response = await request(settings, fileUrl(settings, repo, repo.revision, path), { method: 'HEAD', signal }, known)
  if (!response.ok && !known(response)) throw statusError(settings, response, what)
  const { headers } = response
  const etag = (headers.get('x-linked-etag') ?? headers.get('etag') ?? '').replace(/^W\//, '').replaceAll('"', '')
  const size = Number(headers.get('x-linked-size') ?? headers.get('content-length') ?? Number.NaN)
  const commit = headers.get('x-repo-commit') ?? repo.revision
  if (!/^([0-9a-f]{40}|[0-9a-f]{64})$/.test(etag) || !Number.isSafeInteger(size) || !isCommit(commit)) {
    throw new BgeError(
      'ERR_BGE_HUB',
      `${settings.endpoint} must name commit, size and hash of ${what}, but said commit "${commit}", size ${size}, hash "${etag}": it does not answer as a hub does`,
    )
  }
  if (isCommit(repo.revision) && commit !== repo.revision)
    throw new BgeError('ERR_BGE_HUB', `${settings.endpoint} answered for ${what} with commit ${commit}`)
  return { commit, etag, size }
}

interface Context {
  readonly what: string
  readonly path: string
  readonly options: HubOptions
}

async function download(settings: HubSettings, url: string, blob: string, facts: FileFacts, context: Context): Promise<void> {
  // Not `<etag>.incomplete`: that one is Python's, which knows nothing of our lock.
  const partial = `${blob}.bge.incomplete`
  for (let attempt = 1; ; attempt++) {
    const before = await sizeOf(partial)
    try {
      await fetchRest(settings, url, partial, facts, context)
      break
    } catch (cause) {
      if (isAbort(cause) || context.options.signal?.aborted || cause instanceof BgeError) throw cause
      // A connection that broke: as long as bytes come, it is worth another try.
      if ((await sizeOf(partial)) > before) attempt = 1
      if (attempt >= ATTEMPTS) {
        const reason = (cause as Error).cause instanceof Error ? ((cause as Error).cause as Error).message : (cause as Error).message
        throw new BgeError(
          'ERR_BGE_HUB',
          `${context.what} broke off at ${await sizeOf(partial)} of ${facts.size} bytes (${reason}); the next run goes on from there`,
          { cause },
        )
      }
      await sleep(200 * attempt, undefined, context.options.signal && { signal: context.options.signal })
    }
  }
  const actual = await hashOf(partial, facts)
  if (actual !== facts.etag) {
    await rm(partial, { force: true })
    throw new BgeError(
      'ERR_BGE_HUB',
      `${context.what} from ${settings.endpoint} must have the hash ${facts.etag}, but has ${actual}; it was thrown away`,
    )
  }
  await rename(partial, blob)
}

/** Appends what is missing of a file. Throws what the connection throws. */
async function fetchRest(
  settings: HubSettings,
  url: string,
  partial: string,
  facts: FileFacts,
  { what, path, options }: Context,
): Promise<void> {
  let have = await sizeOf(partial)
  if (have > facts.size) {
    await rm(partial)
    have = 0
  }
  if (have === facts.size && have > 0) return
  const response = await request(settings, url, { headers: have > 0 ? { range: `bytes=${have}-` } : {}, signal: options.signal })
  const resumes = response.status === 206 && response.headers.get('content-range')?.startsWith(`bytes ${have}-`)
  if (have > 0 && !resumes) have = 0
  if (!resumes && response.status !== 200) {
    await response.body?.cancel()
    throw statusError(settings, response, what)
  }
  const handle = await open(partial, have > 0 ? 'a' : 'w').catch((cause: unknown) => {
    throw new BgeError('ERR_BGE_FILE', `${partial} cannot be written: ${(cause as Error).message}`, { cause })
  })
  try {
    for await (const chunk of response.body ?? []) {
      await handle.write(chunk).catch((cause: unknown) => {
        throw new BgeError('ERR_BGE_FILE', `${partial} cannot be written: ${(cause as Error).message}`, { cause })
      })
      have += chunk.length
      if (have > facts.size) throw new BgeError('ERR_BGE_HUB', `${what} must have ${facts.size} bytes, but ${settings.endpoint} sends more`)
      options.onProgress?.(path, have, facts.size)
    }
    await handle.sync()
  } finally {
    await handle.close()
  }
  if (have < facts.size) throw new Error(`the answer ended after ${have} of ${facts.size} bytes`)
}

async function hashOf(file: string, { etag, size }: FileFacts): Promise<string> {
  const hash: Hash = etag.length === 64 ? createHash('sha256') : createHash('sha1').update(`blob ${size}\0`)
  for await (const chunk of createReadStream(file, { highWaterMark: 1 << 20 })) hash.update(chunk as Buffer)
  return hash.digest('hex')
}

function fileUrl({ endpoint }: HubSettings, { kind, name }: HubRepo, revision: string, path: string): string {
  return `${endpoint}/${kind === 'dataset' ? 'datasets/' : ''}${name}/resolve/${encodeURIComponent(revision)}/${path.split('/').map(encodeURIComponent).join('/')}`
}

function checkName({ name, revision }: HubRepo, path = 'file'): void {
  if (!/^[\w.-]+(\/[\w.-]+)?$/.test(name) || !isSafePath(name))
    throw new BgeError('ERR_BGE_ARGUMENT', `a repository must be organisation/name, but was "${name}"`)
  if (!isSafePath(revision)) throw new BgeError('ERR_BGE_ARGUMENT', `a revision must be a branch, tag or commit, but was "${revision}"`)
  if (!isSafePath(path)) throw new BgeError('ERR_BGE_ARGUMENT', `a file must be a path inside its repository, but was "${path}"`)
}

async function sizeOf(file: string): Promise<number> {
  return stat(file).then(
    ({ size }) => size,
    () => 0,
  )
}

function short(revision: string): string {
  return isCommit(revision) ? revision.slice(0, 8) : revision
}

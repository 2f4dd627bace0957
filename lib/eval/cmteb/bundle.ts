import { readdir, readFile, stat } from 'node:fs/promises'
import { join, relative } from 'node:path'
import { hashFile } from '../../data/jsonl.js'
import { BgeError } from '../../errors.js'
import { isSafePath } from '../../hub/cache.js'

export const MANIFEST = 'manifest.json'

/** One file of an offline bundle, as `manifest.json` lists it. */
export interface BundleFile {
  /** inside the bundle: `REPO/PATH` */
  readonly path: string
  readonly bytes: number
  readonly sha256: string
  readonly repo: string
  readonly revision: string
}

export interface Manifest {
  readonly format: 'bge-cmteb-bundle'
  readonly version: 1
  readonly files: readonly BundleFile[]
}

/** A folder that holds repositories as `ORG/NAME/...`: a bundle with a manifest, or copies of repositories put there by hand. */
export interface DataFolder {
  readonly folder: string
  /** undefined where there is no manifest: then nothing can be verified */
  readonly manifest: Manifest | undefined
}

/** Throws ERR_BGE_FILE where the folder cannot be read, ERR_BGE_DATA for a manifest that is none. */
export async function openDataFolder(folder: string): Promise<DataFolder> {
  await readdir(folder).catch((cause: unknown) => {
    throw new BgeError('ERR_BGE_FILE', `data folder ${folder} cannot be read: ${(cause as Error).message}`, { cause })
  })
  return { folder, manifest: await readManifest(folder) }
}

export async function readManifest(folder: string): Promise<Manifest | undefined> {
  const file = join(folder, MANIFEST)
  const text = await readFile(file, 'utf8').catch((cause: NodeJS.ErrnoException) => {
    if (cause.code === 'ENOENT') return undefined
    throw new BgeError('ERR_BGE_FILE', `${file} cannot be read: ${cause.message}`, { cause })
  })
  if (text === undefined) return undefined
  let manifest: Manifest | undefined
  try {
    manifest = JSON.parse(text) as Manifest
  } catch {
    // said below
  }
  const fits =
    manifest?.format === 'bge-cmteb-bundle' &&
    manifest.version === 1 &&
    Array.isArray(manifest.files) &&
    manifest.files.every(
      ({ path, bytes, sha256, repo, revision }) =>
        isSafePath(path) && bytes >= 0 && /^[0-9a-f]{64}$/.test(sha256) && isSafePath(repo) && isSafePath(revision),
    )
  if (!fits)
    throw new BgeError('ERR_BGE_DATA', `${file} must be the list of files that bge cmteb pull writes (format bge-cmteb-bundle, version 1)`)
  return manifest
}

/** The files of a repository in the folder, by path inside it; undefined where it holds none of that revision. */
export async function folderFiles({ folder, manifest }: DataFolder, repo: string, revision: string): Promise<string[] | undefined> {
  if (manifest !== undefined) {
    const files = manifest.files.filter((file) => file.repo === repo && file.revision === revision)
    return files.length === 0 ? undefined : files.map((file) => file.path.slice(repo.length + 1))
  }
  const root = join(folder, repo)
  const entries = await readdir(root, { recursive: true, withFileTypes: true }).catch(() => undefined)
  return entries
    ?.filter((entry) => !entry.isDirectory())
    .map((entry) => relative(root, join(entry.parentPath, entry.name)).replaceAll('\\', '/'))
}

/** The local path of a file, its size and hash checked where the folder has a manifest. Throws ERR_BGE_FILE and ERR_BGE_DATA. */
export async function openFolderFile({ folder, manifest }: DataFolder, repo: string, path: string): Promise<string> {
  const file = join(folder, repo, path)
  const info = await stat(file).catch((cause: unknown) => {
    throw new BgeError('ERR_BGE_FILE', `${file} cannot be read: ${(cause as Error).message}`, { cause })
  })
  const listed = manifest?.files.find((entry) => entry.path === `${repo}/${path}`)
  if (listed === undefined) return file
  const fetchAgain = `bge cmteb pull --to ${folder} fetches it again`
  if (info.size !== listed.bytes) {
    throw new BgeError(
      'ERR_BGE_DATA',
      `${file}: expected ${listed.bytes} bytes as ${MANIFEST} says, but it has ${info.size}; ${fetchAgain}`,
    )
  }
  const sha256 = await hashFile(file)
  if (sha256 !== listed.sha256)
    throw new BgeError('ERR_BGE_DATA', `${file}: expected SHA-256 ${listed.sha256} as ${MANIFEST} says, but it is ${sha256}; ${fetchAgain}`)
  return file
}

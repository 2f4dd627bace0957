import { spawnSync } from 'node:child_process'
import { cpSync, existsSync, mkdirSync, readFileSync, readdirSync, symlinkSync } from 'node:fs'
import { dirname, join, relative } from 'node:path'

/** Packed size of the package, bytes. */
export const LARGEST = 5e6

/** Files that belong into the package beside what follows from lib/ and native/; of the folders of TRACKED, exactly what git knows. */
const FIXED = ['CHANGELOG.md', 'LICENSE', 'README.md', 'README.zh-CN.md', 'binding.gyp', 'package.json', 'scripts/install.cjs']
const TRACKED = ['examples/quickstart', 'recipes', 'schemas']
/** CUDA sources are built in a checkout, not in an installed package; the library has a package of its own. */
const CUDA = /^native\/(core|ops)\/cuda\/|\.cuh?$/

/** Paths below `folder`, relative to it, with forward slashes, sorted. */
export function filesUnder(folder: string): string[] {
  return readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => !entry.isDirectory())
    .map((entry) => relative(folder, join(entry.parentPath, entry.name)).replaceAll('\\', '/'))
    .sort()
}

function git(root: string, args: readonly string[]): string[] {
  const { status, stdout, stderr, error } = spawnSync('git', args, { cwd: root, encoding: 'utf8', maxBuffer: 2 ** 26 })
  if (status !== 0) throw new Error(`git ${args.join(' ')}: ${error?.message ?? stderr}`)
  return stdout.split('\0').filter(Boolean)
}

/** What the tarball made from `root` has to hold, no more and no less. `binaries` are its prebuilt ones. */
export function expectedFiles(root: string, binaries: readonly string[]): string[] {
  const compiled = filesUnder(join(root, 'lib')).flatMap((file) =>
    file.endsWith('.ts') ? [`dist/${file.replace(/\.ts$/, '.js')}`, `dist/${file.replace(/\.ts$/, '.d.ts')}`] : [`dist/${file}`],
  )
  const native = git(root, ['ls-files', '-z', '--', 'native']).filter((file) => !CUDA.test(file))
  return [...FIXED, ...compiled, ...native, ...git(root, ['ls-files', '-z', '--', ...TRACKED]), ...binaries].sort()
}

/** Differences between what a tarball holds and what it has to, a sentence each. */
export function listDifferences(found: readonly string[], expected: readonly string[]): string[] {
  const [has, wants] = [new Set(found), new Set(expected)]
  const stale = (file: string): string =>
    file.startsWith('dist/') ? ' (left of an earlier build? remove dist/ and run `npm run build:ts`)' : ''
  return [
    ...found.filter((file) => !wants.has(file)).map((file) => `unexpected in the tarball: ${file}${stale(file)}`),
    ...expected.filter((file) => !has.has(file)).map((file) => `missing in the tarball: ${file}`),
  ]
}

/** Where the loader looks for the prebuilt binary of this machine. */
export const PREBUILT = 'prebuilds/linux-x64/bge-forge.glibc.node'

/**
 * A copy in `folder` of what git would commit and of dist/, with `binary` (none: without a prebuilt binary), so that packing neither sees nor
 * changes what else lies in `root`.
 */
export function stage(root: string, folder: string, binary?: string): string {
  if (!existsSync(join(root, 'dist/index.js'))) throw new Error('dist/ is not there: run `npm run build:ts` first')
  const copy = (file: string): void => {
    mkdirSync(dirname(join(folder, file)), { recursive: true })
    cpSync(join(root, file), join(folder, file))
  }
  for (const file of git(root, ['ls-files', '-z', '--cached', '--others', '--exclude-standard']))
    if (existsSync(join(root, file))) copy(file)
  for (const file of filesUnder(join(root, 'dist'))) copy(`dist/${file}`)
  if (binary) {
    mkdirSync(dirname(join(folder, PREBUILT)), { recursive: true })
    cpSync(binary, join(folder, PREBUILT))
  }
  return folder
}

export interface Tarball {
  path: string
  name: string
  version: string
  /** paths inside, sorted */
  files: string[]
  /** bytes */
  packed: number
  unpacked: number
  /** of package.json */
  manifest: Record<string, unknown>
}

/** `npm pack` of a folder, without its scripts (prepare would compile). */
export function pack(folder: string, out: string): Tarball {
  mkdirSync(out, { recursive: true })
  const args = ['pack', '--json', '--ignore-scripts', '--loglevel=error', '--pack-destination', out]
  const { status, stdout, stderr, error } = spawnSync('npm', args, { cwd: folder, encoding: 'utf8', maxBuffer: 2 ** 26 })
  if (status !== 0) throw new Error(`npm pack: ${error?.message ?? stderr}`)
  const answer = JSON.parse(stdout) as unknown
  // npm 12 answers with an object by package name, npm 11 with a list.
  const [entry] = Object.values(answer as Record<string, unknown>) as {
    filename: string
    size: number
    unpackedSize: number
    files: { path: string }[]
  }[]
  const manifest = JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8')) as { name: string; version: string }
  return {
    path: join(out, entry!.filename),
    name: manifest.name,
    version: manifest.version,
    files: entry!.files.map((file) => file.path).sort(),
    packed: entry!.size,
    unpacked: entry!.unpackedSize,
    manifest: manifest as unknown as Record<string, unknown>,
  }
}

/**
 * Puts a tarball where `npm install --ignore-scripts` would: node_modules/NAME of `project`, its dependencies beside it (links to the packages
 * that `root` has), nothing else. Needs no network.
 */
export function unpackInto(project: string, tarball: Tarball, root: string): string {
  const target = join(project, 'node_modules', tarball.name)
  mkdirSync(target, { recursive: true })
  const { status, stderr } = spawnSync('tar', ['-xzf', tarball.path, '-C', target, '--strip-components=1'], { encoding: 'utf8' })
  if (status !== 0) throw new Error(`tar: ${stderr}`)
  for (const name of Object.keys((tarball.manifest['dependencies'] as Record<string, string> | undefined) ?? {})) {
    const link = join(project, 'node_modules', name)
    if (existsSync(link)) continue
    mkdirSync(dirname(link), { recursive: true })
    symlinkSync(join(root, 'node_modules', name), link, 'junction')
  }
  return target
}

import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { BgeError } from './errors.js'

// Finds and opens what is not JavaScript: the addon, and the place of the CUDA library. docs/packaging.md says where the files come from.

/** What a prebuilt binary asks of a machine. test/pack.test.ts compares it with the symbols of the addon. */
export const REQUIRED: { readonly napi: number; readonly node: string; readonly glibc: string; readonly libstdcxx: string } = {
  napi: 8,
  node: '20.19',
  glibc: '2.34',
  libstdcxx: '3.4.29',
}
const DISTRIBUTIONS = 'Debian 12, Ubuntu 22.04, RHEL 9 or newer'

const root = fileURLToPath(new URL('..', import.meta.url))
const require = createRequire(import.meta.url)

interface Libc {
  family: 'glibc' | 'musl'
  /** of the running glibc; '' for musl */
  version: string
}

/**
 * The C library of this process; undefined on other systems than Linux. Node's report names the version of a running glibc, wherever musl is the
 * system's; /etc/alpine-release, which is often asked, is missing on every other musl system.
 */
function libcOf(): Libc | undefined {
  if (process.platform !== 'linux') return undefined
  const report = process.report as typeof process.report & { excludeNetwork: boolean } // the types of Node 20 do not know it yet
  const before = report.excludeNetwork
  report.excludeNetwork = true // it would look up the names of all open connections
  try {
    const { header } = report.getReport() as unknown as { header: { glibcVersionRuntime?: string } }
    return header.glibcVersionRuntime ? { family: 'glibc', version: header.glibcVersionRuntime } : { family: 'musl', version: '' }
  } finally {
    report.excludeNetwork = before
  }
}

/** Folder names such as linux-x64 for which this package carries a binary, with its C library: "linux-x64 (glibc)". */
function prebuilt(): string[] {
  const folder = join(root, 'prebuilds')
  if (!existsSync(folder)) return []
  return readdirSync(folder).flatMap((platform) =>
    readdirSync(join(folder, platform)).flatMap((name) => {
      const libc = /^bge-forge(?:\.(\w+))?\.node$/.exec(name)
      return libc ? [libc[1] ? `${platform} (${libc[1]})` : platform] : []
    }),
  )
}

/** Why no binary runs here, from the most certain reason to the least. */
function reason(libc: Libc | undefined, errors: readonly string[]): string {
  // The dynamic linker names the first symbol version that it misses.
  const missing = errors.flatMap((e) => /version `([A-Z]+_[\d.]+)' not found/.exec(e)?.[1] ?? [])[0]
  if (missing?.startsWith('GLIBC_')) {
    const found = libc?.version ? `, but this system has ${libc.version}` : ''
    return `the binary needs ${missing.replace('_', ' ').toLowerCase()}${found}; prebuilt: glibc ${REQUIRED.glibc} (${DISTRIBUTIONS})`
  }
  if (missing)
    return `the libstdc++ of this system is too old: it has no ${missing}; prebuilt: GLIBCXX_${REQUIRED.libstdcxx}, that of gcc 11`
  if (errors.length > 0) return 'a binary is there, but it does not load'
  const have = prebuilt()
  if (have.length === 0) return 'this copy of the package carries no prebuilt binary, and none was built'
  const here = `${process.platform}-${process.arch}${libc ? ` (${libc.family})` : ''}`
  return `there is no prebuilt binary for ${here}, only for ${have.join(', ')}`
}

/** The commands that build the addon where this package lies. */
function remedy(libc: Libc | undefined): string {
  const musl = libc?.family === 'musl'
  const compiler = musl ? '`apk add g++ make python3`' : 'a C++17 compiler (g++ or clang), make and Python 3'
  const build = existsSync(join(root, 'tsconfig.json')) // a checkout
    ? '`npm run build:native`'
    : /[\\/]node_modules[\\/]\.pnpm[\\/]/.test(root)
      ? '`pnpm approve-builds bge-forge` and `pnpm rebuild bge-forge`'
      : '`npm rebuild bge-forge` (with npm 12, `npm approve-scripts bge-forge` before it)'
  return `To build it here: ${compiler}, then ${build}${musl ? '; or use an image with glibc, such as node:24-slim' : ''}`
}

/**
 * Opens the addon: what was built here first, then the prebuilt binary of the package, and gives it the class of its errors.
 * @throws ERR_BGE_NO_BINARY with what was found, what is needed, the command that helps, and what was tried
 */
export function loadAddon(): unknown {
  const napi = Number(process.versions.napi)
  if (!(napi >= REQUIRED.napi)) {
    // A binary built for a newer Node-API crashes instead of throwing, so this is asked before a file is opened.
    throw new BgeError(
      'ERR_BGE_NO_BINARY',
      `Node-API ${REQUIRED.napi} is needed (Node ${REQUIRED.node} or newer), but this is Node ${process.version} with Node-API ${napi}`,
    )
  }
  const tried: string[] = []
  const errors: string[] = []
  const open = (file: string): { configure(errorClass: unknown): void } | undefined => {
    if (!existsSync(file)) {
      tried.push(`${file}: not there`)
      return undefined
    }
    try {
      const addon = require(file)
      addon.configure(BgeError)
      return addon
    } catch (error) {
      const message = error instanceof Error ? error.message : String(error)
      errors.push(message)
      tried.push(message.startsWith(file) ? message : `${file}: ${message}`)
      return undefined
    }
  }
  const built = open(join(root, 'build/Release/bge.node'))
  if (built) return built
  const libc = libcOf()
  const addon = open(join(root, `prebuilds/${process.platform}-${process.arch}/bge-forge${libc ? `.${libc.family}` : ''}.node`))
  if (addon) return addon
  const system = libc ? `, ${`${libc.family} ${libc.version}`.trim()}` : ''
  throw new BgeError(
    'ERR_BGE_NO_BINARY',
    `the native addon of bge-forge did not load on ${process.platform}-${process.arch} (Node ${process.version}, Node-API ${napi}${system}): ` +
      `${reason(libc, errors)}. ${remedy(libc)}. Tried ${tried.join('; ')}`,
    { details: { tried } },
  )
}

/**
 * Where the CUDA library may be, in the order of search. BGE_CUDA_LIBRARY names the one to use.
 * @throws ERR_BGE_DEVICE_UNAVAILABLE when the package bge-forge-cuda is of another version than this one
 */
export function cudaLibraries(): string[] {
  const named = process.env['BGE_CUDA_LIBRARY']
  if (named) return [named]
  const found = [join(root, 'build-cuda/bge_cuda.so')]
  let manifest: string
  try {
    manifest = require.resolve('bge-forge-cuda/package.json') // an optional peer
  } catch {
    return found
  }
  if (existsSync(found[0]!)) return found // what was built here goes before the package
  const versionOf = (file: string): string => (JSON.parse(readFileSync(file, 'utf8')) as { version: string }).version
  const [own, its] = [versionOf(join(root, 'package.json')), versionOf(manifest)]
  if (own !== its) {
    throw new BgeError(
      'ERR_BGE_DEVICE_UNAVAILABLE',
      `bge-forge-cuda must have the version of bge-forge, ${own}, but was ${its}: run \`npm install bge-forge-cuda@${own}\` (in ${dirname(manifest)})`,
    )
  }
  found.push(join(dirname(manifest), 'bge_cuda.so'))
  return found
}

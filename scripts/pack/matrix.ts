import { cpSync, existsSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { homedir, tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { tarballChecks, toolChecks } from './checks.js'
import { packCuda } from './cuda_package.js'
import { Registry } from './registry.js'
import { type Result, run } from './run.js'
import { pack, PREBUILT, stage, type Tarball } from './tarball.js'
import { binOf, fetchTool, type Tool } from './tools.js'

// `npm run test:pack`: packs, installs as a user would, loads on every supported Node. docs/packaging.md describes the rows.

export interface MatrixOptions {
  root: string
  /** where tools and package managers keep what they fetched. Default: the user's cache folder */
  cache?: string
  /** where the tarballs that were tested are put. Default: nowhere */
  out?: string
}

const NODES = ['20', '22', '24', '26']
const WAYS = ['import', 'require', 'worker']
/** Each package manager and the Node it runs on. */
const MANAGERS = [
  { program: 'npm', version: '11', node: '20', asks: false },
  { program: 'npm', version: '12', node: '26', asks: true },
  { program: 'pnpm', version: '12', node: '24', asks: true },
] as const
type Manager = (typeof MANAGERS)[number]

/** All that a build may find on the system beside Node: a compiler, make, Python and the commands that their scripts use. */
const TOOLBOX = [
  'ar',
  'as',
  'basename',
  'c++',
  'cat',
  'cc',
  'chmod',
  'cp',
  'dirname',
  'echo',
  'env',
  'expr',
  'g++',
  'gcc',
  'grep',
  'head',
  'ld',
]
TOOLBOX.push('ln', 'ls', 'make', 'mkdir', 'mv', 'printf', 'python3', 'rm', 'sed', 'sh', 'sort', 'test', 'touch', 'tr', 'true', 'uname')

/** Where nobody answers. */
const NOWHERE = 'http://127.0.0.1:9/'

let passed = 0
let failed = 0
const skipped: string[] = []

function count(title: string, wrong: string | undefined, quiet = false): boolean {
  if (wrong === undefined) passed++
  else failed++
  if (wrong !== undefined) console.log(`FAILED ${title}: ${wrong}`)
  else if (!quiet) console.log(`ok     ${title}`)
  return wrong === undefined
}

interface Found {
  kind?: string
  description?: string
  values?: number[]
  code?: string
  message?: string
}

/** The last lines of what a command said. */
const tail = (result: Result): string => `exit ${result.status}: ${result.output.trim().split('\n').slice(-12).join('\n')}`

class Matrix {
  readonly #scratch: string
  readonly #cache: string
  readonly #env: NodeJS.ProcessEnv
  readonly #nodes: ReadonlyMap<string, Tool>
  readonly #managers: ReadonlyMap<string, Tool>
  constructor(scratch: string, cache: string, env: NodeJS.ProcessEnv, tools: { nodes: Map<string, Tool>; managers: Map<string, Tool> }) {
    this.#scratch = scratch
    this.#cache = cache
    this.#env = env
    this.#nodes = tools.nodes
    this.#managers = tools.managers
    mkdirSync(join(scratch, 'toolbox'))
    for (const name of TOOLBOX) {
      // The system's own before those of a version manager, which are scripts that need more than this.
      const folders = ['/usr/bin', '/bin', ...(process.env['PATH'] ?? '').split(':')]
      const file = folders.map((folder) => join(folder, name)).find(existsSync)
      if (file) symlinkSync(file, join(scratch, 'toolbox', name))
    }
  }

  /** An empty project. */
  project(title: string): string {
    const folder = join(this.#scratch, title.replaceAll(/\W+/g, '-'))
    mkdirSync(folder)
    writeFileSync(join(folder, 'package.json'), '{ "name": "empty", "private": true }\n')
    cpSync(join(import.meta.dirname, 'probe.mjs'), join(folder, 'probe.mjs'))
    return folder
  }

  async manage(manager: Manager, cwd: string, args: readonly string[], registry: string, offline = false): Promise<Result> {
    const node = this.#nodes.get(manager.node)!
    const caches: Record<string, string> =
      manager.program === 'npm' ? { npm_config_cache: join(this.#cache, 'npm') } : { PNPM_HOME: join(this.#cache, 'pnpm') }
    const env = {
      ...this.#env,
      ...caches,
      PATH: `${binOf(node)}:${join(this.#scratch, 'toolbox')}`,
      npm_config_registry: registry,
      ...(offline ? { HTTP_PROXY: NOWHERE, HTTPS_PROXY: NOWHERE, http_proxy: NOWHERE, https_proxy: NOWHERE } : {}),
    }
    const program = this.#managers.get(`${manager.program} ${manager.version}`)!
    const pnpm = [...args, `--registry=${registry}`, '--store-dir', join(this.#cache, 'pnpm-store')]
    return manager.program === 'pnpm'
      ? await run(program.file, pnpm, { cwd, env })
      : await run(node.file, [program.file, ...args], { cwd, env })
  }

  async probe(node: Tool, cwd: string, way: string, device: string): Promise<Found> {
    const env = { ...this.#env, PATH: binOf(node) }
    const result = await run(node.file, ['probe.mjs', way, device], { cwd, env, seconds: 120 })
    try {
      return JSON.parse(result.stdout) as Found
    } catch {
      return { message: `no answer, ${tail(result)}` }
    }
  }

  /** One line of the table: every way on every Node. `expect` says what is wrong with what was found. */
  async row(title: string, cwd: string, expect: (found: Found) => string | undefined, device = 'cpu'): Promise<void> {
    const cells: string[] = []
    const wrong: string[] = []
    for (const version of NODES) {
      const node = this.#nodes.get(version)
      if (!node) {
        cells.push('skipped')
        continue
      }
      const good: string[] = []
      for (const way of WAYS) {
        const found = await this.probe(node, cwd, way, device)
        const difference = expect(found)
        if (difference === undefined) good.push(way)
        else wrong.push(`${way} on ${node.title}: ${difference}`)
        if (difference === undefined) passed++
        else failed++
      }
      cells.push(good.length === WAYS.length ? 'ok' : `FAILED ${WAYS.length - good.length}`)
    }
    console.log(`${title.padEnd(62)} ${cells.map((cell) => cell.padEnd(9)).join(' ')}`)
    if (wrong[0]) console.log(`FAILED ${title}, ${wrong[0]}`)
  }
}

const loads = (found: Found): string | undefined =>
  found.kind === 'cpu' && found.values?.join() === '1,-2,0.5' ? undefined : JSON.stringify(found)

/** The error of a package without a binary, which names the commands that help. */
const refuses =
  (commands: readonly string[]) =>
  (found: Found): string | undefined =>
    found.code === 'ERR_BGE_NO_BINARY' && commands.every((command) => found.message?.includes(`\`${command}\``))
      ? undefined
      : `no sentence with ${commands.join(', ')}: ${JSON.stringify(found)}`

/** The commands of the sentence, for each package manager. */
const remedies = (manager: Manager): string[] =>
  manager.program === 'pnpm'
    ? ['pnpm approve-builds bge-forge', 'pnpm rebuild bge-forge']
    : ['npm approve-scripts bge-forge', 'npm rebuild bge-forge']

const built = (project: string): boolean => existsSync(join(project, 'node_modules/bge-forge/build/Release/bge.node'))

/** Rows of one package manager: with and without a prebuilt binary, with scripts, with scripts that wait for approval, and without scripts. */
async function installs(matrix: Matrix, manager: Manager, title: string, full: Registry, sources: Registry): Promise<void> {
  const add = manager.program === 'pnpm' ? 'add' : 'install'
  for (const [what, registry] of [
    ['prebuilt', full],
    ['no prebuilt', sources],
  ] as const) {
    const prebuilt = registry === full
    const says = prebuilt ? loads : refuses(remedies(manager).slice(manager.asks ? 0 : 1))
    {
      const project = matrix.project(`${title} ${what} off`)
      const result = await matrix.manage(manager, project, [add, 'bge-forge', '--ignore-scripts'], registry.url)
      const row = `${title}, ${what}, --ignore-scripts`
      if (count(`${row}: installs`, result.status === 0 ? undefined : tail(result), true)) {
        await matrix.row(`${row}${prebuilt ? '' : ': says what to do'}`, project, says)
      }
    }
    const project = matrix.project(`${title} ${what} scripts`)
    const result = await matrix.manage(manager, project, [add, 'bge-forge'], registry.url)
    // pnpm ends with an error when a script waits for approval, though everything is installed.
    const fine = result.status === 0 || (manager.program === 'pnpm' && /ERR_PNPM_IGNORED_BUILDS/.test(result.output))
    const row = `${title}, ${what}${manager.asks ? '' : ', scripts run'}`
    if (!count(`${row}: installs`, fine ? undefined : tail(result), true)) continue
    if (manager.asks) await matrix.row(`${row}, script waits (exit ${result.status})${prebuilt ? '' : ': says what to do'}`, project, says)
    if (prebuilt && manager.program === 'pnpm') {
      const allowed = await matrix.manage(
        manager,
        matrix.project(`${title} allowed`),
        [add, '--allow-build=bge-forge', 'bge-forge'],
        registry.url,
      )
      count(`${row}, --allow-build=bge-forge: ends well`, allowed.status === 0 ? undefined : tail(allowed))
    }
    if (manager.asks) {
      for (const command of remedies(manager)) {
        const done = await matrix.manage(manager, project, command.split(' ').slice(1), registry.url, true)
        count(`${row}, ${command}`, done.status === 0 ? undefined : tail(done), true)
      }
    }
    const compiled = built(project) === !prebuilt ? undefined : built(project) ? 'something was compiled' : 'nothing was compiled'
    count(`${row}: ${prebuilt ? 'compiles nothing' : 'compiles'}`, compiled && `${compiled}\n${result.output}`, true)
    const how = manager.asks ? ', script approved' : ''
    await matrix.row(`${row}${how}${prebuilt ? '' : ': compiled'}`, project, loads)
  }
}

/** bge-forge with bge-forge-cuda, of the same version and of another one. */
async function cuda(matrix: Matrix, manager: Manager, title: string, same: Registry, other: Registry, version: string): Promise<void> {
  const add = manager.program === 'pnpm' ? 'add' : 'install'
  const install = async (name: string, registry: Registry, ...flags: string[]): Promise<[string, Result]> => {
    const project = matrix.project(`${title} ${name}`)
    const library = `bge-forge-cuda${registry === other ? '@99' : ''}`
    return [project, await matrix.manage(manager, project, [add, 'bge-forge', library, '--ignore-scripts', ...flags], registry.url)]
  }
  const [project, result] = await install('cuda', same)
  if (count(`${title}, bge-forge-cuda: installs`, result.status === 0 ? undefined : tail(result), true)) {
    const emulated = (found: Found): string | undefined =>
      found.kind === 'cuda' && found.values?.join() === '1,-2,0.5' ? undefined : JSON.stringify(found)
    await matrix.row(`${title}, bge-forge-cuda: cuda opens (emulated)`, project, emulated, 'cuda')
  }
  if (manager.program === 'npm') {
    const [, refused] = await install('cuda refused', other)
    const wrong = refused.status !== 0 && /ERESOLVE/.test(refused.output) ? undefined : tail(refused)
    count(`${title}, bge-forge-cuda of another version: npm refuses the pair`, wrong)
  }
  const [forced, answer] = await install('cuda other', other, ...(manager.program === 'npm' ? ['--legacy-peer-deps'] : []))
  if (count(`${title}, bge-forge-cuda of another version: installs when forced`, answer.status === 0 ? undefined : tail(answer), true)) {
    const sentence = (found: Found): string | undefined =>
      found.code === 'ERR_BGE_DEVICE_UNAVAILABLE' && found.message?.includes(`\`npm install bge-forge-cuda@${version}\``)
        ? undefined
        : JSON.stringify(found)
    await matrix.row(`${title}, bge-forge-cuda of another version: says so`, forced, sentence, 'cuda')
  }
}

/** The prebuilt binary: that of prebuilds/ where `npm run build:prebuilds` has made one, else one made now in a copy. */
async function prebuiltBinary(root: string, scratch: string, env: NodeJS.ProcessEnv): Promise<string> {
  const ready = join(root, PREBUILT)
  if (existsSync(ready)) return ready
  console.log('prebuilds/ is not there: `npm run build:prebuilds` in a copy')
  const copy = stage(root, join(scratch, 'prebuild'))
  symlinkSync(join(root, 'node_modules'), join(copy, 'node_modules'))
  const headers = join(dirname(process.execPath), '..')
  const result = await run('npm', ['run', 'build:prebuilds'], {
    cwd: copy,
    env: { ...env, ...(existsSync(join(headers, 'include/node/node_api.h')) ? { npm_config_nodedir: headers } : {}) },
  })
  if (!existsSync(join(copy, PREBUILT))) throw new Error(`build:prebuilds, ${tail(result)}`)
  return join(copy, PREBUILT)
}

/** Runs the whole matrix. True when nothing failed. */
export async function testPack({ root, cache = join(homedir(), '.cache/bge-forge-pack'), out }: MatrixOptions): Promise<boolean> {
  if (process.platform !== 'linux' || process.arch !== 'x64')
    throw new Error('the matrix runs on linux-x64 with glibc, where there are prebuilt binaries')
  const scratch = mkdtempSync(join(tmpdir(), 'bge-pack-'))
  const registries: Registry[] = []
  try {
    mkdirSync(cache, { recursive: true })
    mkdirSync(join(scratch, 'home'))
    // Nothing of this machine's settings, and nothing that the npm which started this script has set.
    const inherited = Object.entries(process.env).filter(
      ([name]) => !/^(npm_|pnpm_|NODE_OPTIONS|NODE_PATH|BGE_|INIT_CWD|PNPM_|XDG_)/i.test(name),
    )
    const env: NodeJS.ProcessEnv = {
      ...Object.fromEntries(inherited),
      HOME: join(scratch, 'home'),
      NO_PROXY: [process.env['NO_PROXY'], '127.0.0.1'].filter(Boolean).join(),
      CI: 'true',
      npm_config_update_notifier: 'false',
    }
    const upstream = (await run('npm', ['config', 'get', 'registry'], { cwd: root, env: process.env })).stdout.trim()
    const binary = await prebuiltBinary(root, scratch, env)

    console.log('\n== the tarball')
    const full = pack(stage(root, join(scratch, 'full'), binary), join(scratch, 'tarballs'))
    const sources = pack(stage(root, join(scratch, 'sources')), join(scratch, 'tarballs-without'))
    for (const { title, wrong } of tarballChecks(root, full, binary)) count(title, wrong)
    if (out) cpSync(join(scratch, 'tarballs'), out, { recursive: true })

    const fetching = {
      ...env,
      npm_config_registry: upstream,
      npm_config_cache: join(cache, 'npm'),
      npm_config_fetch_retries: '1',
      npm_config_fetch_retry_mintimeout: '1000',
    }
    const nodes = new Map<string, Tool>()
    const managers = new Map<string, Tool>()
    const fetched = async (program: 'node' | 'npm' | 'pnpm', version: string, into: Map<string, Tool>, key: string): Promise<void> => {
      const tool = await fetchTool(program, version, cache, fetching)
      if (typeof tool === 'string') skipped.push(tool)
      else into.set(key, tool)
    }
    for (const version of NODES) await fetched('node', version, nodes, version)
    for (const { program, version } of MANAGERS) await fetched(program, version, managers, `${program} ${version}`)

    console.log(`\n== installed from a registry and loaded by ${WAYS.join(', ')}`)
    console.log(`${''.padEnd(62)} ${NODES.map((v) => (nodes.get(v)?.title ?? `node ${v}`).replace('node ', '').padEnd(9)).join(' ')}`)
    const matrix = new Matrix(scratch, cache, env, { nodes, managers })
    const start = async (tarballs: readonly Tarball[]): Promise<Registry> => {
      const registry = await Registry.start(tarballs, upstream)
      registries.push(registry)
      return registry
    }
    const library = join(root, 'build-emulated/bge_cuda.so')
    const packages = existsSync(library)
      ? {
          same: await packCuda({ root, library, out: join(scratch, 'cuda') }),
          other: await packCuda({ root, library, out: join(scratch, 'cuda-other'), version: '99.0.0' }),
        }
      : undefined
    if (!packages) skipped.push('rows of bge-forge-cuda: there is no build-emulated/bge_cuda.so (`npm run build:cuda -- --emulate`)')
    const withBinary = await start([full, ...(packages ? [packages.same] : [])])
    const withoutBinary = await start([sources])
    const withOther = packages ? await start([full, packages.same, packages.other]) : undefined
    const reachable = await run('npm', ['view', 'commander', 'version'], { cwd: scratch, env: fetching, seconds: 60 })
    for (const manager of MANAGERS) {
      const tool = managers.get(`${manager.program} ${manager.version}`)
      if (!tool || !nodes.has(manager.node) || reachable.status !== 0) {
        const why = reachable.status !== 0 ? 'the registry does not answer' : tool ? `no node ${manager.node}` : 'it could not be fetched'
        skipped.push(`all rows of ${manager.program} ${manager.version}: ${why}`)
        continue
      }
      await installs(matrix, manager, tool.title, withBinary, withoutBinary)
      if (packages && withOther) await cuda(matrix, manager, tool.title, withBinary, withOther, full.version)
    }

    console.log('\n== what others say of it')
    const [first] = MANAGERS
    const project = matrix.project('types')
    const usable = managers.has('npm 11') && nodes.has('20') && reachable.status === 0
    if (!usable) skipped.push('publint, are-the-types-wrong and types: nothing could be installed')
    else {
      const installed = await matrix.manage(first, project, ['install', 'bge-forge', '--ignore-scripts'], withBinary.url)
      if (count('a project to compile in', installed.status === 0 ? undefined : tail(installed))) {
        for (const { title, wrong } of await toolChecks(root, full, project, env)) count(title, wrong)
        const bge = await run(join(project, 'node_modules/.bin/bge'), ['--version'], { cwd: project, env })
        count('bge --version', bge.stdout.trim() === full.version ? undefined : tail(bge))
      }
    }
  } finally {
    for (const registry of registries) registry.close()
    rmSync(scratch, { recursive: true, force: true })
  }
  console.log()
  for (const what of skipped) console.log(`skipped ${what}`)
  console.log(`${passed} passed, ${failed} failed`)
  return failed === 0
}

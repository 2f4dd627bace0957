import { spawnSync } from 'node:child_process'
import { cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { compareVersions, strip } from '../scripts/pack/binary.js'
import { tarballChecks } from '../scripts/pack/checks.js'
import { listDifferences, pack, PREBUILT, stage, type Tarball, unpackInto } from '../scripts/pack/tarball.js'

// The package as a user has it: packed, and unpacked into a project of its own, where the packages that it names lie beside it. Needs no network;
// `npm run test:pack` does the same through package managers on every supported Node. The addon of this checkout, stripped, stands for the
// prebuilt one.
const root = join(import.meta.dirname, '..')
const scratch = mkdtempSync(join(tmpdir(), 'bge-pack-test-'))
afterAll(() => rmSync(scratch, { recursive: true, force: true }))
const emulated = join(root, 'build-emulated/bge_cuda.so')
const hasPrebuilt = process.platform === 'linux' && process.arch === 'x64'
const version = (JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as { version: string }).version

interface Answer {
  kind?: string
  description?: string
  values?: number[]
  code?: string
  message?: string
}

/** Loads the package in `project`; `setup` is run in the process before. */
function probe(project: string, way = 'import', device = 'cpu', setup = ''): Answer {
  const before = join(project, 'before.cjs')
  writeFileSync(before, setup)
  const env = Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith('BGE_')))
  cpSync(join(root, 'scripts/pack/probe.mjs'), join(project, 'probe.mjs')) // it resolves packages from where it lies
  const args = ['--require', before, 'probe.mjs', way, device]
  const { stdout, stderr } = spawnSync(process.execPath, args, { cwd: project, encoding: 'utf8', env })
  if (!stdout) throw new Error(stderr)
  return JSON.parse(stdout) as Answer
}

describe.skipIf(!hasPrebuilt)('the package (skipped where there is no prebuilt binary)', () => {
  const binary = join(scratch, 'bge.node')
  let tarball: Tarball
  beforeAll(() => {
    cpSync(join(root, 'build/Release/bge.node'), binary)
    strip(binary)
    tarball = pack(stage(root, join(scratch, 'stage'), binary), join(scratch, 'out'))
  })

  /** A project with the package in it, changed by `change` (of the package's folder). */
  let projects = 0
  function project(change: (folder: string) => void = () => {}, store = ''): string {
    const folder = join(scratch, `project-${projects++}`, store)
    change(unpackInto(folder, tarball, root))
    return folder
  }
  const withoutBinary = (folder: string): void => rmSync(join(folder, 'prebuilds'), { recursive: true })
  /** Gives the prebuilt binary other symbol versions, which no system has. */
  const needing = (from: string, to: string) => (folder: string) => {
    const bytes = readFileSync(binary)
    expect(to.length).toBe(from.length)
    const at = bytes.indexOf(`${from}\0`)
    expect(at).toBeGreaterThan(0)
    bytes.write(to, at)
    writeFileSync(join(folder, PREBUILT), bytes)
  }

  it('holds the files of the allow-list, is small, and asks of a system what is promised', () => {
    for (const { title, wrong } of tarballChecks(root, tarball, binary)) expect(wrong, title).toBe(undefined)
  })

  it('has a list that notices a file too many and a file too few', () => {
    expect(listDifferences(['a', 'secret.env'], ['a', 'b'])).toEqual(['unexpected in the tarball: secret.env', 'missing in the tarball: b'])
    expect(tarballChecks(root, { ...tarball, files: tarball.files.slice(1), packed: 6e6 }, binary).map((c) => c.wrong)).toEqual([
      `missing in the tarball: ${tarball.files[0]}`,
      '6000000 bytes',
      undefined,
    ])
    expect(['2.4', '2.34', '2.3.4', '2.28'].sort(compareVersions)).toEqual(['2.3.4', '2.4', '2.28', '2.34'])
  })

  it('names bge-forge-cuda of its own version as an optional peer', () => {
    expect(tarball.manifest['peerDependencies']).toMatchObject({ 'bge-forge-cuda': version })
    expect(tarball.manifest['peerDependenciesMeta']).toMatchObject({ 'bge-forge-cuda': { optional: true } })
    expect(tarball.manifest['optionalDependencies']).toBe(undefined)
  })

  it.each(['import', 'require', 'worker'])('loads from node_modules by %s, without any script', (way) => {
    expect(probe(project(), way)).toMatchObject({ kind: 'cpu', values: [1, -2, 0.5] })
  })

  it('asks Node which C library runs, and not for the file of Alpine', () => {
    const setup = `
      const fs = require('node:fs')
      const { existsSync } = fs
      fs.existsSync = (name) => name === '/etc/alpine-release' || existsSync(name)
      require('node:module').syncBuiltinESMExports()`
    expect(probe(project(), 'import', 'cpu', setup).kind).toBe('cpu')
  })

  it('takes what was built there first, and the prebuilt binary where that does not load', () => {
    const broken = project((folder) => {
      mkdirSync(join(folder, 'build/Release'), { recursive: true })
      writeFileSync(join(folder, 'build/Release/bge.node'), 'not a library')
    })
    expect(probe(broken).kind).toBe('cpu')
    const built = project((folder) => {
      mkdirSync(join(folder, 'build/Release'), { recursive: true })
      cpSync(join(folder, PREBUILT), join(folder, 'build/Release/bge.node'))
      withoutBinary(folder)
    })
    expect(probe(built).kind).toBe('cpu')
  })

  it('has no binary: what was tried, and the commands of npm', () => {
    const { code, message } = probe(project(withoutBinary))
    expect(code).toBe('ERR_BGE_NO_BINARY')
    expect(message).toMatch(/^the native addon of bge-forge did not load on linux-x64 \(Node v\d.*, Node-API \d+, glibc 2\.\d+\): /)
    expect(message).toContain('carries no prebuilt binary, and none was built')
    expect(message).toContain('`npm rebuild bge-forge` (with npm 12, `npm approve-scripts bge-forge` before it)')
    expect(message).toMatch(/Tried .*build\/Release\/bge\.node: not there; .*prebuilds\/linux-x64\/bge-forge\.glibc\.node: not there$/)
  })

  it('has no binary in the store of pnpm: the commands of pnpm', () => {
    const { message } = probe(project(withoutBinary, 'node_modules/.pnpm/bge-forge@0.1.0'))
    expect(message).toContain('`pnpm approve-builds bge-forge` and `pnpm rebuild bge-forge`')
    expect(message).not.toContain('npm 12')
  })

  it('is for another C library: says which there are, and what Alpine needs', () => {
    const { code, message } = probe(project(), 'import', 'cpu', 'process.report.getReport = () => ({ header: {} })')
    expect(code).toBe('ERR_BGE_NO_BINARY')
    expect(message).toContain('there is no prebuilt binary for linux-x64 (musl), only for linux-x64 (glibc)')
    expect(message).toContain('`apk add g++ make python3`')
    expect(message).toContain('bge-forge.musl.node: not there')
  })

  it('is for another system: says which there are', () => {
    const setup = "Object.defineProperty(process, 'platform', { value: 'sunos' })"
    expect(probe(project(), 'import', 'cpu', setup).message).toMatch(/no prebuilt binary for sunos-x64, only for linux-x64 \(glibc\)/)
  })

  it('needs a newer glibc: found against required', () => {
    const { code, message } = probe(project(needing('GLIBC_2.34', 'GLIBC_9.34')))
    expect(code).toBe('ERR_BGE_NO_BINARY')
    expect(message).toMatch(/the binary needs glibc 9\.34, but this system has 2\.\d+; prebuilt: glibc 2\.34 \(Debian 12,/)
  })

  it('needs a newer libstdc++: found against required', () => {
    const { message } = probe(project(needing('GLIBCXX_3.4.29', 'GLIBCXX_9.4.29')))
    expect(message).toContain('the libstdc++ of this system is too old: it has no GLIBCXX_9.4.29; prebuilt: GLIBCXX_3.4.29')
  })

  it('is broken: what the loader of the system says', () => {
    const { message } = probe(project((folder) => writeFileSync(join(folder, PREBUILT), 'not a library')))
    expect(message).toContain('a binary is there, but it does not load')
    expect(message).toMatch(/Tried .*bge-forge\.glibc\.node: (file too short|invalid ELF header)/)
  })

  it('meets an old Node-API: says so and opens no file', () => {
    const setup = `
      Object.defineProperty(process, 'versions', { value: { ...process.versions, napi: '7' } })
      process.dlopen = () => { console.log('{"message":"opened"}'); process.exit(1) }`
    const { code, message } = probe(project(), 'import', 'cpu', setup)
    expect(code).toBe('ERR_BGE_NO_BINARY')
    expect(message).toMatch(/^Node-API 8 is needed \(Node 20\.19 or newer\), but this is Node v.* with Node-API 7$/)
  })

  describe('its install script', () => {
    /** Runs it with a node-gyp that says what it was asked for and fails. */
    const install = (folder: string): { status: number | null; stdout: string; stderr: string } => {
      const gyp = join(scratch, 'gyp.cjs')
      writeFileSync(gyp, 'console.log(process.argv.slice(2).join(" ")); process.exit(3)')
      const env = { ...process.env, npm_config_node_gyp: gyp, npm_config_nodedir: '/headers' }
      return spawnSync(process.execPath, ['scripts/install.cjs'], { cwd: join(folder, 'node_modules/bge-forge'), encoding: 'utf8', env })
    }
    it('does nothing where a binary loads', () => {
      expect(install(project())).toMatchObject({ status: 0, stdout: '', stderr: '' })
    })
    it('compiles against headers on this machine where none does; says what that needs', () => {
      const { status, stdout, stderr } = install(project(withoutBinary))
      expect(stdout).toBe('rebuild --nodedir=/headers\n')
      expect(stderr).toMatch(/^bge-forge: the native addon was not built\. It needs a C\+\+17 compiler.*`npm rebuild bge-forge`\n$/)
      expect(status).toBe(1)
    })
  })

  describe.skipIf(!existsSync(emulated))('with bge-forge-cuda (skipped without build-emulated/)', () => {
    const build = (...flags: string[]): string => {
      const out = mkdtempSync(join(scratch, 'cuda-'))
      const args = ['scripts/build-cuda-package.mjs', '--library', emulated, '--out', out, ...flags]
      const { status, stdout, stderr } = spawnSync(process.execPath, args, { cwd: root, encoding: 'utf8' })
      expect(stderr).toBe('')
      expect(status).toBe(0)
      return /^(.*\.tgz): /.exec(stdout)![1]!
    }
    const add = (folder: string, file: string): void => {
      const target = join(folder, 'node_modules/bge-forge-cuda')
      mkdirSync(target, { recursive: true })
      expect(spawnSync('tar', ['-xzf', file, '-C', target, '--strip-components=1']).status).toBe(0)
    }
    const manifestOf = (folder: string): unknown =>
      JSON.parse(readFileSync(join(folder, 'node_modules/bge-forge-cuda/package.json'), 'utf8'))

    it('finds it and opens it', () => {
      const folder = project()
      add(folder, build())
      expect(manifestOf(folder)).toMatchObject({
        version,
        os: ['linux'],
        cpu: ['x64'],
        libc: ['glibc'],
        peerDependencies: { 'bge-forge': version },
      })
      for (const way of ['import', 'require', 'worker']) {
        expect(probe(folder, way, 'cuda')).toMatchObject({ kind: 'cuda', values: [1, -2, 0.5] })
      }
      expect(probe(folder, 'import', 'auto').kind).toBe('cuda')
    })

    it('is of another version: a sentence; auto takes the CPU and says why', () => {
      const folder = project()
      add(folder, build('--version', '99.0.0'))
      const { code, message } = probe(folder, 'import', 'cuda')
      expect(code).toBe('ERR_BGE_DEVICE_UNAVAILABLE')
      expect(message).toMatch(
        new RegExp(
          `^bge-forge-cuda must have the version of bge-forge, ${version}, but was 99\\.0\\.0: run .npm install bge-forge-cuda@${version}.`,
        ),
      )
      const auto = probe(folder, 'import', 'auto')
      expect(auto.kind).toBe('cpu')
      expect(auto.description).toContain(`(not cuda: bge-forge-cuda must have the version of bge-forge, ${version}, but was 99.0.0)`)
    })

    it('is not made of what is no CUDA library', () => {
      const args = ['scripts/build-cuda-package.mjs', '--library', binary, '--out', join(scratch, 'none')]
      const { status, stderr } = spawnSync(process.execPath, args, { cwd: root, encoding: 'utf8' })
      expect(stderr).toMatch(/^build:cuda-package: .*bge\.node is no CUDA library of bge-forge/)
      expect(status).toBe(1)
      expect(existsSync(join(scratch, 'none'))).toBe(false)
    })
  })

  it('without bge-forge-cuda says how to get it', () => {
    const { code, message } = probe(project(), 'import', 'cuda')
    expect(code).toBe('ERR_BGE_DEVICE_UNAVAILABLE')
    expect(message).toContain('install the package bge-forge-cuda')
  })
})

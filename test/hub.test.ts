import { execFile } from 'node:child_process'
import { lstat, mkdir, mkdtemp, readdir, readFile, readlink, realpath, rm, symlink, utimes, writeFile } from 'node:fs/promises'
import type { ServerResponse } from 'node:http'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { promisify } from 'node:util'
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { withLock } from '../lib/hub/cache.js'
import { type HubRepo, hubFile, listHubFiles } from '../lib/hub/hub.js'
import { proxyAdvice } from '../lib/hub/proxy.js'
import { hubSettings } from '../lib/hub/settings.js'
import { COMMIT, gitHash, type HubServer, repository, sha256, startHub } from './support/hub_server.js'

const LARGE = Buffer.from(Array.from({ length: 60_000 }, (_, i) => (i * i) & 255))
const REPO: HubRepo = { kind: 'dataset', name: 'C-MTEB/Small', revision: 'main' }
const FOLDER = 'datasets--C-MTEB--Small'

let hub: HubServer
let cache: string

beforeEach(async () => {
  hub = await startHub()
  cache = await mkdtemp(join(tmpdir(), 'bge-hub-'))
  hub.repositories.set(
    'datasets/C-MTEB/Small',
    repository({ 'README.md': '# small\n', 'data/test.parquet': LARGE, empty: '' }, { lfs: ['data/test.parquet'] }),
  )
  for (const name of ['HF_TOKEN', 'HF_HOME', 'HF_ENDPOINT', 'HF_HUB_OFFLINE', 'HF_HUB_CACHE', 'BGE_HF_TOKEN_ENDPOINT', 'HF_TOKEN_PATH'])
    vi.stubEnv(name, undefined)
  vi.stubEnv('HF_HUB_DISABLE_IMPLICIT_TOKEN', '1')
})

afterEach(async () => {
  vi.unstubAllEnvs()
  await hub.close()
  await rm(cache, { recursive: true, force: true })
})

const at = (extra: object = {}) => ({ endpoint: hub.endpoint, cache, ...extra })
const answered = (response: ServerResponse): boolean => {
  response.end()
  return true
}
const bodies = () => hub.seen.filter((request) => request.method === 'GET')

describe('hubFile', () => {
  it('keeps a file as Python does: blob by hash, relative link per commit, branch in refs', async () => {
    const file = await hubFile(REPO, 'data/test.parquet', at())
    expect(file).toBe(join(cache, FOLDER, 'snapshots', COMMIT, 'data/test.parquet'))
    expect(await readFile(file)).toEqual(LARGE)
    expect(await readlink(file)).toBe(`../../../blobs/${sha256(LARGE)}`)
    expect(await readFile(join(cache, FOLDER, 'refs/main'), 'utf8')).toBe(COMMIT)
    const small = await hubFile(REPO, 'README.md', at())
    expect(await readlink(small)).toBe(`../../blobs/${gitHash(Buffer.from('# small\n'))}`)
    expect(await readdir(join(cache, FOLDER, 'blobs'))).toHaveLength(2) // no lock, nothing incomplete
    expect((await lstat(await hubFile(REPO, 'empty', at()))).isSymbolicLink()).toBe(true)
    expect(hub.seen.every((request) => request.encoding === 'identity')).toBe(true)
  })

  it('reads models too', async () => {
    hub.repositories.set('BAAI/tiny', repository({ 'config.json': '{}' }))
    const file = await hubFile({ kind: 'model', name: 'BAAI/tiny', revision: 'main' }, 'config.json', at())
    expect(file).toContain(join('models--BAAI--tiny', 'snapshots', COMMIT, 'config.json'))
  })

  it('asks nobody for a commit that is cached, and fetches a blob once for a branch', async () => {
    await hubFile(REPO, 'data/test.parquet', at())
    hub.seen.length = 0
    await hubFile({ ...REPO, revision: COMMIT }, 'data/test.parquet', at())
    expect(hub.seen).toEqual([])
    await hubFile(REPO, 'data/test.parquet', at())
    expect(bodies()).toEqual([])
  })

  it("reads what Python's huggingface_hub has cached", async () => {
    const root = join(cache, FOLDER)
    const blob = join(root, 'blobs', sha256(LARGE))
    const file = join(root, 'snapshots', COMMIT, 'data/test.parquet')
    for (const each of [blob, file, join(root, 'refs/main')]) await mkdir(dirname(each), { recursive: true })
    await writeFile(blob, LARGE)
    await symlink(`../../../blobs/${sha256(LARGE)}`, file)
    await writeFile(join(root, 'refs/main'), COMMIT)
    expect(await hubFile(REPO, 'data/test.parquet', at({ network: 'offline' }))).toBe(file)
    expect(await listHubFiles(REPO, at({ network: 'offline' }))).toEqual(['data/test.parquet'])
    expect(hub.seen).toEqual([])
  })

  it('goes on where a connection broke, within one run', async () => {
    hub.cut = { after: 20_000, times: 2 }
    const progress: number[] = []
    const file = await hubFile(REPO, 'data/test.parquet', at({ onProgress: (_: string, received: number) => progress.push(received) }))
    expect(await readFile(file)).toEqual(LARGE)
    expect(bodies().flatMap(({ host, range }) => (host === 'storage' ? [range] : []))).toEqual([undefined, 'bytes=20000-', 'bytes=40000-'])
    expect(progress.at(-1)).toBe(LARGE.length)
  })

  it('goes on where a run was stopped', async () => {
    const stop = new AbortController()
    hub.cut = { after: 30_000, times: 1 }
    const stopped = hubFile(
      REPO,
      'data/test.parquet',
      at({ signal: stop.signal, onProgress: (_: string, received: number) => received >= 30_000 && stop.abort() }),
    )
    await expect(stopped).rejects.toMatchObject({ name: 'AbortError' })
    expect(await readdir(join(cache, FOLDER, 'blobs'))).toEqual([`${sha256(LARGE)}.bge.incomplete`])
    hub.seen.length = 0
    expect(await readFile(await hubFile(REPO, 'data/test.parquet', at()))).toEqual(LARGE)
    expect(bodies().at(-1)!.range).toBe('bytes=30000-')
  })

  it('starts again where a server knows no ranges', async () => {
    const blob = join(cache, FOLDER, 'blobs', `${gitHash(LARGE)}.bge.incomplete`)
    await mkdir(dirname(blob), { recursive: true })
    await writeFile(blob, 'something else')
    hub.repositories.get('datasets/C-MTEB/Small')!.files.set('plain', LARGE)
    hub.intercept = (request, response) => {
      if (request.method !== 'GET') return false
      response.writeHead(200, { 'content-length': LARGE.length }).end(LARGE)
      return true
    }
    expect(await readFile(await hubFile(REPO, 'plain', at()))).toEqual(LARGE)
    expect(bodies()[0]!.range).toBe('bytes=14-')
  })

  it.each([
    ['data/test.parquet', 'SHA-256'],
    ['README.md', "git's SHA-1"],
  ])('throws away what has the wrong hash: %s, %s', async (path) => {
    const repo = hub.repositories.get('datasets/C-MTEB/Small')!
    hub.beforeBody = async () => void repo.files.get(path)!.fill(0)
    hub.intercept = ({ method }) => {
      if (path === 'README.md' && method === 'GET') repo.files.get(path)!.fill(0)
      return false
    }
    await expect(hubFile(REPO, path, at())).rejects.toMatchObject({
      code: 'ERR_BGE_HUB',
      message: expect.stringMatching(/must have the hash [0-9a-f]+, but has [0-9a-f]+; it was thrown away/),
    })
    expect(await readdir(join(cache, FOLDER, 'blobs'))).toEqual([])
    expect(await readdir(join(cache, FOLDER))).toEqual(['blobs'])
  })

  it('says what a status means', async () => {
    await expect(hubFile(REPO, 'nothing', at())).rejects.toMatchObject({
      code: 'ERR_BGE_HUB',
      message: expect.stringContaining('there is no such file'),
    })
    await expect(hubFile({ ...REPO, revision: 'v2' }, 'README.md', at())).rejects.toThrow('there is no such revision')
    await expect(hubFile({ ...REPO, name: 'C-MTEB/Other' }, 'README.md', at())).rejects.toThrow('there is no such repository')
    await expect(listHubFiles({ ...REPO, name: 'C-MTEB/Other' }, at())).rejects.toThrow('there is no such repository')
    hub.intercept = (_, response) => answered(response.writeHead(401))
    await expect(hubFile(REPO, 'README.md', at())).rejects.toThrow('is private or gated and needs HF_TOKEN')
    vi.stubEnv('HF_TOKEN', 'hf_secret')
    await expect(hubFile(REPO, 'README.md', at())).rejects.toThrow(
      `the token was not sent, because it belongs to https://huggingface.co; a token of ${hub.endpoint} itself needs BGE_HF_TOKEN_ENDPOINT`,
    )
  })

  it('tries a busy server again', async () => {
    let left = 1
    hub.intercept = (_, response) => left-- > 0 && answered(response.writeHead(503))
    expect(await readFile(await hubFile(REPO, 'README.md', at()), 'utf8')).toBe('# small\n')
  })

  it('names the mirror variables where nobody answers', async () => {
    await hub.close()
    await expect(hubFile(REPO, 'README.md', at())).rejects.toMatchObject({
      code: 'ERR_BGE_HUB',
      message: expect.stringMatching(/^127\.0\.0\.1:\d+ does not answer .*HF_HUB_OFFLINE=1/),
    })
    vi.stubEnv('HF_HUB_ENDPOINT', 'https://hf-mirror.com')
    await expect(hubFile(REPO, 'README.md', at())).rejects.toThrow('the name that is read is HF_ENDPOINT')
    hub = await startHub()
  })

  it('says why a proxy of the environment was not used', async () => {
    expect(proxyAdvice({}, '20.20.2')).toBe('')
    expect(proxyAdvice({ https_proxy: 'http://p' }, '20.20.2')).toMatch(
      /^; https_proxy is set, but Node 20\.20\.2 reads no proxy: 22\.21 or 24/,
    )
    expect(proxyAdvice({ HTTPS_PROXY: 'http://p' }, '22.21.0')).toBe(
      '; HTTPS_PROXY is set, but Node reads it only with NODE_USE_ENV_PROXY=1',
    )
    expect(proxyAdvice({ HTTPS_PROXY: 'http://p', NODE_USE_ENV_PROXY: '1' }, '24.0.0')).toBe('')
    await hub.close()
    vi.stubEnv('HTTPS_PROXY', 'http://127.0.0.1:9')
    vi.stubEnv('NODE_USE_ENV_PROXY', undefined)
    await expect(hubFile(REPO, 'README.md', at())).rejects.toThrow(/does not answer .*; HTTPS_PROXY is set, but Node /)
    hub = await startHub()
  })

  it('opens no connection offline', async () => {
    await expect(hubFile(REPO, 'README.md', at({ network: 'offline' }))).rejects.toThrow(/README\.md is not in the cache .*HF_HUB_OFFLINE/)
    vi.stubEnv('HF_HUB_OFFLINE', '1')
    await expect(listHubFiles(REPO, at())).rejects.toThrow('HF_HUB_OFFLINE forbids')
    expect(hub.seen).toEqual([])
  })

  it('keeps inside its folder, whatever a server or a caller says', async () => {
    hub.repositories.get('datasets/C-MTEB/Small')!.files.set('../../evil', Buffer.from('x'))
    await expect(listHubFiles(REPO, at())).rejects.toThrow('lists a file of dataset C-MTEB/Small@main outside of it: "../../evil"')
    for (const path of ['../x', '/x', 'a//b', 'a\\b', 'c:x', ''])
      await expect(hubFile(REPO, path, at())).rejects.toMatchObject({ code: 'ERR_BGE_ARGUMENT' })
    for (const name of ['../x', 'a/b/c', '..', 'a/..'])
      await expect(hubFile({ ...REPO, name }, 'x', at())).rejects.toMatchObject({ code: 'ERR_BGE_ARGUMENT' })
    hub.intercept = (_, response) =>
      answered(response.writeHead(200, { etag: '"../../x"', 'x-repo-commit': '../../..', 'content-length': 1 }))
    await expect(hubFile(REPO, 'README.md', at())).rejects.toThrow('does not answer as a hub does')
  })

  it('lists all pages', async () => {
    expect(await listHubFiles(REPO, at())).toEqual(['README.md', 'data/test.parquet', 'empty'])
    expect(hub.seen).toHaveLength(2)
  })
})

describe('the token', () => {
  const sent = () => hub.seen.filter((request) => request.authorization !== undefined)

  it('goes to no mirror', async () => {
    vi.stubEnv('HF_TOKEN', 'hf_secret')
    vi.stubEnv('HF_ENDPOINT', hub.endpoint)
    await hubFile(REPO, 'data/test.parquet', { cache })
    await listHubFiles(REPO, { cache })
    expect(hub.seen.length).toBeGreaterThan(3)
    expect(sent()).toEqual([])
  })

  it('goes to the hub it was given for, and not on to where that redirects', async () => {
    vi.stubEnv('HF_TOKEN', 'hf_secret')
    vi.stubEnv('BGE_HF_TOKEN_ENDPOINT', hub.endpoint)
    await hubFile(REPO, 'data/test.parquet', at())
    await listHubFiles(REPO, at())
    expect(sent()).toEqual(hub.seen.filter((request) => request.host === 'hub'))
    expect(hub.seen.some((request) => request.host === 'storage')).toBe(true)
    expect(sent()[0]!.authorization).toBe('Bearer hf_secret')
  })

  it('comes from the environment, then from the token file, and belongs to huggingface.co', async () => {
    await writeFile(join(cache, 'token'), 'hf_file\n')
    expect(hubSettings({}, { HF_HOME: cache }).token).toEqual({ value: 'hf_file', origin: 'https://huggingface.co' })
    expect(hubSettings({}, { HF_HOME: cache, HF_TOKEN: 'hf_env' }).token?.value).toBe('hf_env')
    expect(hubSettings({}, { HF_HOME: cache, HF_HUB_DISABLE_IMPLICIT_TOKEN: '1' }).token).toBeUndefined()
  })
})

describe('settings', () => {
  it("finds the cache by Python's rules", () => {
    expect(hubSettings({}, { HF_HUB_CACHE: '/a' }).cache).toBe('/a')
    expect(hubSettings({}, { HF_HOME: '/b' }).cache).toBe('/b/hub')
    expect(hubSettings({}, { XDG_CACHE_HOME: '/c' }).cache).toBe('/c/huggingface/hub')
    expect(hubSettings({}, {}).cache).toMatch(/\.cache\/huggingface\/hub$/)
    expect(hubSettings({}, { HF_ENDPOINT: 'https://hf-mirror.com/' }).endpoint).toBe('https://hf-mirror.com')
    expect(() => hubSettings({}, { HF_ENDPOINT: 'hf-mirror.com' })).toThrow('HF_ENDPOINT must be a URL')
  })
})

describe('the lock', () => {
  it('lets one in at a time', async () => {
    let [inside, most] = [0, 0]
    const work = async () => {
      most = Math.max(most, ++inside)
      await new Promise((resolve) => setTimeout(resolve, 30))
      inside--
    }
    await Promise.all(Array.from({ length: 4 }, () => withLock(join(cache, 'x'), undefined, work)))
    expect(most).toBe(1)
    expect(await readdir(cache)).toEqual([])
  })

  it('holds between processes: the second finds the blob of the first', async () => {
    let release = () => {}
    const held = new Promise<void>((resolve) => (release = resolve))
    hub.beforeBody = () => held
    const first = hubFile(REPO, 'data/test.parquet', at())
    await vi.waitUntil(() => hub.seen.some((request) => request.host === 'storage'))
    const locks = (await readdir(join(cache, FOLDER, 'blobs'))).filter((name) => name.endsWith('.bge-lock'))
    expect(locks).toEqual([`${sha256(LARGE)}.bge-lock`])
    const script = `import { open } from 'node:fs/promises'; await open(process.argv[1], 'wx').then(() => console.log('free'), (error) => console.log(error.code))`
    const { stdout } = await promisify(execFile)(process.execPath, [
      '--input-type=module',
      '-e',
      script,
      join(cache, FOLDER, 'blobs', locks[0]!),
    ])
    expect(stdout.trim()).toBe('EEXIST')
    const second = hubFile(REPO, 'data/test.parquet', at())
    release()
    expect(await realpath(await first)).toBe(await realpath(await second))
    expect(hub.seen.filter((request) => request.host === 'storage')).toHaveLength(1)
  })

  it('is taken over from a process that is gone, or that stopped touching it', async () => {
    const lock = join(cache, 'x.bge-lock')
    const gone = await promisify(execFile)(process.execPath, [
      '-e',
      'console.log(JSON.stringify({ host: os.hostname(), pid: process.pid, id: 1 }))',
    ])
    await writeFile(lock, gone.stdout)
    expect(await withLock(join(cache, 'x'), undefined, async () => 'in')).toBe('in')
    await writeFile(lock, JSON.stringify({ host: 'elsewhere', pid: 1, id: 1 }))
    const minuteAgo = new Date(Date.now() - 60_000)
    await utimes(lock, minuteAgo, minuteAgo)
    expect(await withLock(join(cache, 'x'), undefined, async () => 'in')).toBe('in')
    await writeFile(lock, JSON.stringify({ host: 'elsewhere', pid: 1, id: 1 }))
    await expect(withLock(join(cache, 'x'), AbortSignal.timeout(300), async () => 'in')).rejects.toThrow()
  })
})

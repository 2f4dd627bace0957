import { createHash } from 'node:crypto'
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'

export interface Repository {
  commit: string
  /** path -> bytes; `lfs` names those that the hub keeps in its large-file storage */
  files: Map<string, Buffer>
  lfs: ReadonlySet<string>
}

export interface Seen {
  readonly method: string
  readonly path: string
  readonly host: 'hub' | 'storage'
  readonly authorization: string | undefined
  readonly range: string | undefined
  readonly encoding: string | undefined
}

/** A hub on 127.0.0.1 and, on a second port, the storage that it redirects large files to. */
export interface HubServer {
  readonly endpoint: string
  readonly seen: Seen[]
  /** `datasets/ORG/NAME` or `ORG/NAME` -> repository */
  readonly repositories: Map<string, Repository>
  /** bodies of the storage are cut after this many bytes, while there are cuts left */
  cut: { after: number; times: number }
  /** answers instead of the hub where it returns true */
  intercept: (request: IncomingMessage, response: ServerResponse) => boolean
  /** runs before a body is sent */
  beforeBody: () => Promise<void>
  close(): Promise<void>
}

export const COMMIT = 'c'.repeat(40)

export function repository(files: Record<string, string | Buffer>, options: { commit?: string; lfs?: readonly string[] } = {}): Repository {
  return {
    commit: options.commit ?? COMMIT,
    files: new Map(Object.entries(files).map(([path, bytes]) => [path, Buffer.from(bytes as string)])),
    lfs: new Set(options.lfs ?? []),
  }
}

export function gitHash(bytes: Buffer): string {
  return createHash('sha1').update(`blob ${bytes.length}\0`).update(bytes).digest('hex')
}

export function sha256(bytes: Buffer): string {
  return createHash('sha256').update(bytes).digest('hex')
}

export async function startHub(): Promise<HubServer> {
  const storage = createServer((request, response) => void body(request, response))
  const hub = createServer((request, response) => void answer(request, response))
  const ports = await Promise.all([listen(hub), listen(storage)])
  const blobs = new Map<string, Buffer>()
  const server: HubServer = {
    endpoint: `http://127.0.0.1:${ports[0]}`,
    seen: [],
    repositories: new Map(),
    cut: { after: 0, times: 0 },
    intercept: () => false,
    beforeBody: async () => {},
    async close() {
      for (const each of [hub, storage]) {
        each.closeAllConnections()
        await new Promise((resolve) => each.close(resolve))
      }
    },
  }
  return server

  function note(request: IncomingMessage, host: Seen['host']): void {
    const { method, url, headers } = request
    server.seen.push({
      method: method!,
      path: url!,
      host,
      authorization: headers.authorization,
      range: headers.range,
      encoding: headers['accept-encoding'] as string,
    })
  }

  async function answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    note(request, 'hub')
    if (server.intercept(request, response)) return
    const url = new URL(request.url!, server.endpoint)
    const tree = /^\/api\/(datasets\/|models\/)(.+)\/tree\/(.+)$/.exec(url.pathname)
    const file = /^\/(.+?)\/resolve\/([^/]+)\/(.+)$/.exec(url.pathname)
    const name = tree ? tree[1]!.replace('models/', '') + tree[2]! : (file?.[1] ?? '')
    const found = server.repositories.get(name)
    const revision = decodeURIComponent(tree?.[3] ?? file?.[2] ?? '')
    if (found === undefined) return fail(response, 404, 'RepoNotFound')
    if (revision !== 'main' && revision !== found.commit) return fail(response, 404, 'RevisionNotFound')
    if (tree) {
      // Two entries a page, so that paging is used.
      const entries = [{ type: 'directory', path: 'data' }, ...[...found.files.keys()].map((path) => ({ type: 'file', path }))]
      const from = Number(url.searchParams.get('cursor') ?? 0)
      if (from + 2 < entries.length)
        response.setHeader('link', `<https://huggingface.co${url.pathname}?recursive=true&cursor=${from + 2}>; rel="next"`)
      response.end(JSON.stringify(entries.slice(from, from + 2)))
      return
    }
    const path = decodeURIComponent(file![3]!)
    const bytes = found.files.get(path)
    response.setHeader('x-repo-commit', found.commit)
    if (bytes === undefined) return fail(response, 404, 'EntryNotFound')
    if (!found.lfs.has(path)) {
      response.setHeader('etag', `"${gitHash(bytes)}"`)
      return send(request, response, bytes)
    }
    const hash = sha256(bytes)
    blobs.set(`/${hash}`, bytes)
    response.setHeader('x-linked-etag', `"${hash}"`)
    response.setHeader('x-linked-size', bytes.length)
    response.writeHead(302, { location: `http://127.0.0.1:${ports[1]}/${hash}` }).end()
  }

  async function body(request: IncomingMessage, response: ServerResponse): Promise<void> {
    note(request, 'storage')
    await server.beforeBody()
    const bytes = blobs.get(request.url!)
    if (bytes === undefined) return fail(response, 404, 'NoBlob')
    send(request, response, bytes)
  }

  function send(request: IncomingMessage, response: ServerResponse, bytes: Buffer): void {
    const from = Number(/^bytes=(\d+)-$/.exec(request.headers.range ?? '')?.[1] ?? 0)
    if (from > 0)
      response.writeHead(206, {
        'content-range': `bytes ${from}-${bytes.length - 1}/${bytes.length}`,
        'content-length': bytes.length - from,
      })
    else response.writeHead(200, { 'content-length': bytes.length })
    if (request.method === 'HEAD') response.end()
    else if (server.cut.times > 0 && from + server.cut.after < bytes.length) {
      server.cut.times--
      response.write(bytes.subarray(from, from + server.cut.after), () => setTimeout(() => response.destroy(), 20))
    } else response.end(bytes.subarray(from))
  }

  function fail(response: ServerResponse, status: number, code: string): void {
    response.writeHead(status, { 'x-error-code': code }).end()
  }
}

function listen(server: Server): Promise<number> {
  return new Promise((resolve) => server.listen(0, '127.0.0.1', () => resolve((server.address() as AddressInfo).port)))
}

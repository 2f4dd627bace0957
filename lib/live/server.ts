import { once } from 'node:events'
import type { Server, ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import type { HttpBindings } from '@hono/node-server'
import { BgeError } from '../errors.js'

/** A local page and its stream of events. */
export interface LiveServer {
  /** http://127.0.0.1:PORT/ */
  readonly url: string
  /** There is a new state: everyone who looks gets it, at most about one a second. It is computed only when somebody looks. */
  changed(): void
  /** Sends the last state, then the end; connections are closed. */
  close(): Promise<void>
}

export interface LiveOptions {
  /** first port to try; the next ones follow where it is taken. 0: any free port */
  readonly port: number
  /** interface to listen on. Default 127.0.0.1: nobody but this machine can look */
  readonly host?: string
  /** what GET / answers */
  readonly page: string
  /** the newest state, for JSON */
  readonly state: () => unknown
}

/** Ports tried after the first. */
const TRIES = 10

/** Milliseconds between two states, and between two signs of life on a quiet stream. */
const INTERVAL = 1000
const HEARTBEAT = 15_000

/** Milliseconds for the last words. */
const FAREWELL = 2000

/** A reader that lets this many bytes wait is dropped; its browser comes back by itself and gets the newest state. */
const PATIENCE = 8 << 20

/**
 * Serves a page and the states of a run as server-sent events. Does not keep the process alive. Throws ERR_BGE_FILE where no port is free or the
 * interface cannot be listened on.
 */
export async function openLive({ port, host = '127.0.0.1', page, state }: LiveOptions): Promise<LiveServer> {
  const [{ Hono }, { createAdaptorServer }, { RESPONSE_ALREADY_SENT }] = await Promise.all([
    import('hono'),
    import('@hono/node-server'),
    import('@hono/node-server/utils/response'),
  ])
  const readers = new Set<ServerResponse>()
  let dirty = false
  const message = (): string => `event: state\ndata: ${JSON.stringify(state())}\n\n`
  const app = new Hono<{ Bindings: HttpBindings }>()
  // Another page must not read this one by way of a name that it has pointed here (DNS rebinding).
  app.use(async (c, next) => {
    if (loopback(host) && !/^(localhost|127\.0\.0\.1|\[::1\])(:\d+)?$/.test(c.req.header('host') ?? '')) return c.text('forbidden', 403)
    return next()
  })
  app.get('/', (c) => c.body(page, 200, { 'content-type': 'text/html; charset=utf-8', 'cache-control': 'no-store' }))
  app.get('/favicon.ico', (c) => c.body(null, 204))
  app.get('/events', (c) => {
    const raw = c.env.outgoing
    raw.writeHead(200, { 'content-type': 'text/event-stream', 'cache-control': 'no-store', connection: 'keep-alive' })
    raw.write(`retry: ${INTERVAL}\n\n${message()}`)
    readers.add(raw)
    raw.on('close', () => readers.delete(raw))
    raw.on('error', () => readers.delete(raw))
    return RESPONSE_ALREADY_SENT
  })
  const { server, url } = await listen(() => createAdaptorServer({ fetch: app.fetch }) as Server, host, port)
  const flush = (): void => {
    if (!dirty || readers.size === 0) return
    dirty = false
    send(message())
  }
  const send = (event: string): void => {
    for (const reader of readers) {
      if (reader.writableLength > PATIENCE) reader.destroy()
      else reader.write(event)
    }
  }
  const timers = [setInterval(flush, INTERVAL), setInterval(() => send(':\n\n'), HEARTBEAT)]
  for (const timer of timers) timer.unref()
  server.unref()
  return {
    url,
    changed() {
      dirty = true
    },
    async close() {
      for (const timer of timers) clearInterval(timer)
      flush()
      // The last words go out before the connections are cut, but a reader that has stopped reading does not hold up the end of a run.
      const patience = new AbortController()
      const said = [...readers].map(
        (reader) => new Promise<void>((done) => reader.once('close', done).end('event: end\ndata: {}\n\n', done)),
      )
      await Promise.race([Promise.all(said), sleep(FAREWELL, undefined, { signal: patience.signal }).catch(() => {})])
      patience.abort()
      server.closeAllConnections()
      await new Promise((done) => server.close(done))
    },
  }
}

async function listen(build: () => Server, host: string, port: number): Promise<{ server: Server; url: string }> {
  const last = port === 0 ? 0 : Math.min(65_535, port + TRIES - 1)
  for (let attempt = port; ; attempt++) {
    const server = build()
    try {
      server.listen(attempt, host)
      await once(server, 'listening')
      const { address, family, port: taken } = server.address() as AddressInfo
      return { server, url: `http://${family === 'IPv6' ? `[${address}]` : address}:${taken}/` }
    } catch (cause) {
      const isTaken = (cause as NodeJS.ErrnoException).code === 'EADDRINUSE'
      if (isTaken && attempt < last) continue
      const ports = attempt > port ? `ports ${port} to ${attempt} are` : `port ${port} is`
      const why = isTaken ? `${ports} taken on ${host}` : (cause as Error).message
      throw new BgeError('ERR_BGE_FILE', `the live page cannot be served: ${why}`, { cause })
    }
  }
}

function loopback(host: string): boolean {
  return host === 'localhost' || host === '::1' || host.startsWith('127.')
}

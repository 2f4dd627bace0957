import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { once } from 'node:events'
import { createServer, get, type IncomingMessage, type Server } from 'node:http'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, afterEach, beforeAll, describe, expect, test, vi } from 'vitest'
import { watchRun } from '../lib/cli/watch.js'
import type { LiveState } from '../lib/live/page.js'
import { openLiveRun } from '../lib/live/run.js'
import { openLive } from '../lib/live/server.js'
import type { TrainConfig } from '../lib/train/config.js'
import { train } from '../lib/train/loop.js'
import { stages } from '../lib/train/stages.js'
import { newTinyModel, tinyData } from './support/tiny_run.js'

const folder = mkdtempSync(join(tmpdir(), 'bge-live-'))
let model: string
let pairs: string
beforeAll(async () => {
  model = await newTinyModel(join(folder, 'model'))
  ;({ pairs } = await tinyData(folder))
})
afterAll(() => rmSync(folder, { recursive: true, force: true }))
afterEach(() => vi.restoreAllMocks())

const request = (url: string, headers: Record<string, string> = {}): Promise<IncomingMessage> =>
  new Promise((done, failed) => get(url, { headers, agent: false }, done).on('error', failed))

async function body(response: IncomingMessage): Promise<string> {
  let text = ''
  for await (const part of response.setEncoding('utf8')) text += part as string
  return text
}

interface Listener {
  /** states so far; 'end' and 'closed' where the stream said so */
  readonly events: unknown[]
  until(count: number): Promise<void>
  closed(): Promise<void>
}

/** Reads a stream of server-sent events as a browser does. */
async function listen(url: string): Promise<Listener> {
  const response = await request(`${url}events`)
  expect(response.headers['content-type']).toBe('text/event-stream')
  const events: unknown[] = []
  let wake = (): void => {}
  let rest = ''
  response.setEncoding('utf8').on('data', (part: string) => {
    const blocks = (rest + part).split('\n\n')
    rest = blocks.pop()!
    for (const block of blocks) {
      const [, event, data] = /^event: (\w+)\ndata: (.*)$/.exec(block) ?? []
      if (event) events.push(event === 'end' ? 'end' : JSON.parse(data!))
    }
    wake()
  })
  response.on('close', () => {
    events.push('closed')
    wake()
  })
  return {
    events,
    async closed() {
      while (events.at(-1) !== 'closed') await new Promise<void>((done) => (wake = done))
    },
    async until(count) {
      while (events.length < count) await new Promise<void>((done) => (wake = done))
    },
  }
}

describe('the server', () => {
  test('whoever comes gets the newest state, then every new one, then the end', async () => {
    let state: unknown = { n: 1, text: 'a\nb' }
    const live = await openLive({ port: 0, page: '<p>page', state: () => state })
    const first = await listen(live.url)
    await first.until(1)
    state = { n: 2 }
    live.changed()
    await first.until(2)
    const reloaded = await listen(live.url)
    await reloaded.until(1)
    expect(reloaded.events).toEqual([{ n: 2 }])
    state = { n: 3 }
    live.changed()
    await live.close()
    await first.closed()
    await reloaded.closed()
    expect(first.events).toEqual([{ n: 1, text: 'a\nb' }, { n: 2 }, { n: 3 }, 'end', 'closed'])
    expect(reloaded.events).toEqual([{ n: 2 }, { n: 3 }, 'end', 'closed'])
    await expect(request(live.url)).rejects.toMatchObject({ code: 'ECONNREFUSED' })
  })

  test('a reader that has stopped reading does not hold up the end', async () => {
    const state = 'x'.repeat(40e6) // more than the buffers of a connection
    const live = await openLive({ port: 0, page: '', state: () => state })
    const socket = connect(Number(new URL(live.url).port), '127.0.0.1')
    socket.pause().write('GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n')
    await once(socket, 'readable')
    await live.close()
    socket.destroy()
  })

  test('answers this machine alone, also by name', async () => {
    const live = await openLive({ port: 0, page: '<p>page', state: () => ({}) })
    const { port } = new URL(live.url)
    expect(live.url).toBe(`http://127.0.0.1:${port}/`)
    const page = await request(live.url)
    expect([page.statusCode, page.headers['content-type'], await body(page)]).toEqual([200, 'text/html; charset=utf-8', '<p>page'])
    expect((await request(live.url, { host: `localhost:${port}` })).statusCode).toBe(200)
    expect((await request(live.url, { host: 'evil.example' })).statusCode).toBe(403)
    expect((await request(`${live.url}events`, { host: 'evil.example' })).statusCode).toBe(403)
    expect((await request(`${live.url}other`)).statusCode).toBe(404)
    await live.close()
  })

  test('a taken port: the next one; none left: a sentence', async () => {
    const taken = await openLive({ port: 0, page: '', state: () => ({}) })
    const port = Number(new URL(taken.url).port)
    const beside = await openLive({ port, page: '', state: () => ({}) })
    expect(Number(new URL(beside.url).port)).toBeGreaterThan(port)
    await beside.close()
    await taken.close()
    await expect(openLive({ port: 0, host: '192.0.2.1', page: '', state: () => ({}) })).rejects.toMatchObject({
      code: 'ERR_BGE_FILE',
      message: /^the live page cannot be served: [^\n]+$/,
    })
  })
})

const lengths = { queryMaxLength: 32, passageMaxLength: 48 }
const config: Partial<TrainConfig> = {
  ...lengths,
  batchSize: 5,
  steps: 12,
  learningRate: 1e-3,
  microBatchTokens: 64,
  device: 'cpu',
  threads: 1,
}

test('a run on a page: before its first step, while it goes on, and how it ended', async () => {
  const live = await openLiveRun('contrastive', 'one: contrastive', { port: 0 })
  const html = await body(await request(live.url))
  expect(html).toContain('one: contrastive')
  expect(html).toMatch(/Content-Security-Policy" content="default-src 'none'; connect-src 'self';/)
  expect(html).not.toMatch(/<link|<img|@import|url\(|\b(?:src|href)="/i)
  const reader = await listen(live.url)
  await reader.until(1)
  const out = join(folder, 'one')
  live.note('a note')
  await train(stages.contrastive, { model, data: [pairs], out, config, hooks: { onStart: live.start, onStep: (row) => live.row(row, 5) } })
  await live.close()
  await reader.closed()
  const states = reader.events.filter((event) => typeof event === 'object') as LiveState[]
  expect(states[0]).toMatchObject({ status: 'starting', progress: 0, charts: [] })
  const last = states.at(-1)!
  expect(last).toMatchObject({ name: 'one: contrastive', status: 'done', progress: 1, notes: ['a note'] })
  expect(last.line).toMatch(/finished at step 12 of 12/)
  expect(last.config).toContainEqual(['temperature', '0.02'])
  expect(last.charts[0]!.x).toEqual(Array.from({ length: 12 }, (_, i) => i + 1))
})

describe('bge contrastive', () => {
  /** Runs as the command does; returns what it said. */
  async function watched(name: string, live: number | undefined, signal?: AbortSignal): Promise<string> {
    const said: string[] = []
    vi.spyOn(process.stderr, 'write').mockImplementation((text) => said.push(String(text)) > 0)
    const out = join(folder, name)
    const watch = await watchRun('contrastive', out, live)
    const run = train(stages.contrastive, { model, data: [pairs], out, config, hooks: watch.hooks, ...(signal && { signal }) })
    await run.catch((error: Error) => said.push(`${error.name}\n`))
    await watch.end()
    return said.join('')
  }

  test('writes its report at the end, and when it is stopped', async () => {
    expect(await watched('whole', undefined)).toContain(`report: ${join(folder, 'whole', 'report.html')}\n`)
    expect(readFileSync(join(folder, 'whole', 'report.html'), 'utf8')).toContain('finished at step 12 of 12')
    const abort = new AbortController()
    abort.abort()
    expect(await watched('stopped', 0, abort.signal)).toMatch(/live page: http:\/\/127\.0\.0\.1:\d+\/\nAbortError\nreport: /)
    expect(readFileSync(join(folder, 'stopped', 'report.html'), 'utf8')).toContain('stopped at step 0 of 12')
  })

  test('a run that does not start leaves no report', async () => {
    await watched('whole', undefined) // not empty
    rmSync(join(folder, 'whole', 'report.html'))
    expect(await watched('whole', undefined)).not.toContain('report')
    expect(existsSync(join(folder, 'whole', 'report.html'))).toBe(false)
  })

  test('no port: one sentence, and the run goes on', async () => {
    const last: Server = createServer()
    const mine = await new Promise<boolean>((done) => last.once('error', () => done(false)).listen(65_535, '127.0.0.1', () => done(true)))
    const said = await watched('no-port', 65_535)
    if (mine) last.close()
    expect(said).toMatch(/^note: no live page: the live page cannot be served: [^\n]+; the run goes on without it\n/)
    expect(said).toContain('report: ')
  })
})

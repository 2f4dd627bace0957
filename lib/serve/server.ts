import { createHash, timingSafeEqual } from 'node:crypto'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import type { Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { basename } from 'node:path'
import type { Context } from 'hono'
import { BgeError, invalidArgument } from '../errors.js'
import { type BgeModel, defaultMicroBatchTokens } from '../model/model.js'
import { Batcher } from './batcher.js'
import { base64, type Embedded, embedRequest, numbers, writeRows } from './embed.js'
import { HttpError, openaiError, teiError } from './http_error.js'
import { createMetrics } from './metrics.js'
import { type ServeOptions, serveLimits } from './options.js'
import { type EmbeddingRequest, type ModelFacts, openaiRequest, teiRequest } from './requests.js'

export type { ServeLimits, ServeOptions } from './options.js'

/** A server that listens. */
export interface BgeServer {
  /** such as http://127.0.0.1:8080 */
  readonly url: string
  readonly port: number
  /** Takes no more connections, finishes the requests under way, then closes. The model stays open. */
  stop(): Promise<void>
}

const { version } = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8')) as { version: string }
const teiRoutes = new Set(['/embed', '/info', '/health'])
const routes = new Set([...teiRoutes, '/v1/embeddings', '/v1/models', '/metrics'])

/**
 * Serves a model over HTTP: OpenAI's /v1/embeddings and /v1/models, text-embeddings-inference's /embed, /info and /health, Prometheus' /metrics.
 * Texts of different requests share batches. docs/serving.md has the fields of requests and answers.
 * Errors: ERR_BGE_ARGUMENT, ERR_BGE_FILE where the address cannot be listened on.
 */
export async function startServer(model: BgeModel, options: ServeOptions = {}): Promise<BgeServer> {
  const { host = '127.0.0.1', port = 8080, apiKey, truncation = 'end', log } = options
  const names = options.names ?? [basename(model.directory ?? 'bge')]
  if (!Number.isSafeInteger(port) || port < 0 || port > 65_535) throw invalidArgument('port', 'an integer from 0 to 65535', port)
  if (apiKey === '') throw invalidArgument('apiKey', 'a key, or left out', 'an empty one')
  if (names.length === 0 || names.includes('')) throw invalidArgument('names', 'one or more names', names)
  if (truncation !== 'end' && truncation !== 'error') throw invalidArgument('truncation', "'end' or 'error'", truncation)
  const limits = serveLimits(options.limits ?? {}, defaultMicroBatchTokens[model.device.kind])
  const facts: ModelFacts = { dims: model.dims, vocab: model.encoder.config.vocab, maxLength: model.maxLength }
  const fingerprint = await model.fingerprint()
  const started = Math.floor(Date.now() / 1000)

  const [{ Hono }, { bodyLimit }, { createAdaptorServer }] = await Promise.all([
    import('hono'),
    import('hono/body-limit'),
    import('@hono/node-server'),
  ])
  const metrics = await createMetrics(() => batcher.queuedTokens)
  const batcher = new Batcher(model, limits, metrics.batch)
  const stopping = new AbortController()
  const breakOff = new AbortController()
  const app = new Hono<{ Variables: { embedded?: Embedded } }>()

  app.use(async (c, next) => {
    const start = performance.now()
    const { method, path } = c.req
    await next()
    const seconds = (performance.now() - start) / 1000
    const { status } = c.res
    metrics.request(routes.has(path) ? path : 'other', status, seconds)
    const embedded = c.get('embedded')
    if (embedded) metrics.texts(embedded.texts, embedded.tokens, embedded.truncated)
    const what = embedded ? ` ${embedded.texts} texts, ${embedded.tokens} tokens, ${embedded.truncated} cut,` : ''
    // What a stranger sends as a path is not copied into the log.
    log?.(`${method} ${routes.has(path) ? path : '(no such path)'} ${status}${what} ${(seconds * 1000).toFixed(1)} ms`)
    if (stopping.signal.aborted) c.header('connection', 'close')
  })
  app.onError((error, c) => failure(c, error))
  app.notFound((c) =>
    failure(c, new HttpError(404, 'there is no such path; see /v1/embeddings, /v1/models, /embed, /info, /health and /metrics')),
  )

  app.get('/health', (c) => (stopping.signal.aborted ? failure(c, new HttpError(503, 'the server is stopping')) : c.body(null, 200)))
  app.use(async (c, next) => {
    if (apiKey !== undefined && !hasKey(c.req.header('authorization'), apiKey))
      throw new HttpError(401, 'the API key is missing or wrong: send it as "Authorization: Bearer KEY"', { code: 'invalid_api_key' })
    if (stopping.signal.aborted) throw new HttpError(503, 'the server is stopping')
    await next()
  })
  const tooLarge = (c: Context): Response => {
    c.header('connection', 'close') // the rest of the body is not read, so the connection cannot be used again
    return failure(c, new HttpError(413, `the body must have at most ${limits.bodyBytes} bytes, but has more`))
  }
  app.use(bodyLimit({ maxSize: limits.bodyBytes, onError: tooLarge }))

  const embed = async (c: Context, request: EmbeddingRequest): Promise<{ embedded: Embedded; signal: AbortSignal }> => {
    const signal = AbortSignal.any([c.req.raw.signal, breakOff.signal])
    const embedded = await embedRequest(model, batcher, request, truncation, signal)
    c.set('embedded', embedded)
    if (embedded.truncated > 0) c.header('x-truncated-texts', String(embedded.truncated))
    return { embedded, signal }
  }

  app.post('/v1/embeddings', async (c) => {
    const request = openaiRequest(await readJson(c), facts, limits)
    const asked = request.model ?? names[0]!
    if (!names.includes(asked)) throw unknownModel(asked, names)
    const { embedded, signal } = await embed(c, request)
    const tail = JSON.stringify({ model: names[0], usage: { prompt_tokens: embedded.tokens, total_tokens: embedded.tokens } })
    const frame = ['{"object":"list","data":[', `],${tail.slice(1)}`] as const
    const value = request.format === 'base64' ? (row: Float32Array) => `"${base64(row)}"` : numbers
    const text = await writeRows(embedded, (row, i) => `{"object":"embedding","index":${i},"embedding":${value(row)}}`, frame, signal)
    return c.body(text, 200, { 'content-type': 'application/json' })
  })
  const described = names.map((id) => ({ id, object: 'model', created: started, owned_by: 'bge-forge' }))
  app.get('/v1/models', (c) => c.json({ object: 'list', data: described }))
  app.get('/v1/models/:id', (c) => {
    const found = described.find(({ id }) => id === c.req.param('id'))
    if (!found) throw unknownModel(c.req.param('id'), names)
    return c.json(found)
  })

  app.post('/embed', async (c) => {
    const { embedded, signal } = await embed(c, teiRequest(await readJson(c), facts, limits))
    return c.body(await writeRows(embedded, numbers, ['[', ']'], signal), 200, { 'content-type': 'application/json' })
  })
  app.get('/info', (c) =>
    c.json({
      model_id: names[0],
      model_sha: fingerprint,
      model_dtype: { fp32: 'float32', bf16: 'bfloat16', int8: 'int8' }[model.device.dtype],
      model_type: { embedding: { pooling: model.pooling } },
      max_input_length: model.maxLength,
      max_batch_tokens: limits.batchTokens,
      max_client_batch_size: limits.texts,
      auto_truncate: truncation === 'end',
      version,
    }),
  )
  app.get('/metrics', async (c) => {
    const { text, type } = await metrics.read()
    return c.body(text, 200, { 'content-type': type })
  })
  for (const [path, method] of [
    ['/v1/embeddings', 'POST'],
    ['/embed', 'POST'],
    ['/v1/models', 'GET'],
    ['/info', 'GET'],
    ['/metrics', 'GET'],
    ['/health', 'GET'],
  ] as const)
    app.all(path, (c) => {
      c.header('allow', method)
      return failure(c, new HttpError(405, `${path} takes ${method} requests`))
    })

  const server = createAdaptorServer({ fetch: app.fetch, serverOptions: { requestTimeout: 60_000 } }) as Server
  await listen(server, host, port)
  const { port: chosen } = server.address() as AddressInfo
  let stopped: Promise<void> | undefined
  return {
    url: `http://${host.includes(':') ? `[${host}]` : host}:${chosen}`,
    port: chosen,
    stop() {
      stopped ??= (async () => {
        stopping.abort()
        const closed = once(server, 'close')
        server.close()
        const late = setTimeout(() => {
          breakOff.abort(new HttpError(503, 'the server is stopping'))
          setImmediate(() => server.closeAllConnections())
        }, limits.stopMs)
        await closed
        clearTimeout(late)
      })()
      return stopped
    },
  }
}

async function listen(server: Server, host: string, port: number): Promise<void> {
  try {
    server.listen(port, host)
    await once(server, 'listening')
  } catch (cause) {
    throw new BgeError('ERR_BGE_FILE', `${host}:${port} cannot be listened on: ${(cause as Error).message}`, { cause })
  }
}

/** Compares digests, which have one length whatever was sent, in constant time. */
function hasKey(header: string | undefined, key: string): boolean {
  const sent = /^Bearer +(.+)$/i.exec(header ?? '')?.[1] ?? ''
  const digest = (text: string): Buffer => createHash('sha256').update(text).digest()
  return timingSafeEqual(digest(sent), digest(key))
}

async function readJson(c: Context): Promise<unknown> {
  const type = c.req.header('content-type') ?? ''
  if (!/^application\/json\b/i.test(type)) throw new HttpError(415, 'the body must be JSON with "Content-Type: application/json"')
  const text = await c.req.text()
  try {
    return JSON.parse(text)
  } catch (cause) {
    throw new HttpError(400, `the body must be JSON: ${(cause as Error).message.slice(0, 200)}`)
  }
}

function unknownModel(asked: string, names: readonly string[]): HttpError {
  return new HttpError(404, `model must be ${names.map((name) => `"${name}"`).join(' or ')}, but was "${asked.slice(0, 100)}"`, {
    param: 'model',
    code: 'model_not_found',
  })
}

function failure(c: Context, error: unknown): Response {
  if (c.req.raw.signal.aborted) return new Response(null, { status: 499 }) // nobody reads it
  // What an unforeseen error says is for the log of the process, not for strangers.
  const known = error instanceof HttpError ? error : new HttpError(500, 'the server failed')
  if (!(error instanceof HttpError)) process.emitWarning(error instanceof Error ? error : String(error), { type: 'BgeServeError' })
  if (known.retryAfter !== undefined) c.header('retry-after', String(known.retryAfter))
  if (known.status === 401) c.header('www-authenticate', 'Bearer')
  return c.json(teiRoutes.has(c.req.path) ? teiError(known) : openaiError(known), known.status)
}

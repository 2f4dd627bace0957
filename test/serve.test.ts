import { once } from 'node:events'
import { connect } from 'node:net'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import OpenAI, { APIError } from 'openai'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { BgeModel } from '../lib/model/model.js'
import { type Device, openDevice } from '../lib/native.js'
import { Batcher, type BatchModel } from '../lib/serve/batcher.js'
import type { HttpError } from '../lib/serve/http_error.js'
import { type BgeServer, startServer } from '../lib/serve/server.js'
import { smallModel } from './support/model_folder.js'

const key = 'sk-a-key-that-must-not-be-seen'
const texts = ['今天的天气真不错', '猫', 'hello world', '今天的天气真不错，适合出门走走。'.repeat(9)]
let root = ''
let device: Device
let model: BgeModel
let server: BgeServer
let client: OpenAI
const lines: string[] = []
const warnings: Error[] = []
const onWarning = (warning: Error): number => warnings.push(warning)

beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), 'bge-serve-'))
  device = await openDevice({ device: 'cpu', threads: 1 })
  model = await smallModel(root, device)
  model.instruction = '查：'
  await model.save(join(root, 'model'))
  process.on('warning', onWarning)
  server = await startServer(model, {
    port: 0,
    apiKey: key,
    names: ['bge-small', 'text-embedding-3-small'],
    limits: { bodyBytes: 100_000, texts: 40, textLength: 5000 },
    log: (line) => lines.push(line),
  })
  client = new OpenAI({ baseURL: `${server.url}/v1`, apiKey: key, maxRetries: 0 })
})
afterAll(async () => {
  await server?.stop()
  device?.dispose()
  process.off('warning', onWarning)
  await rm(root, { recursive: true, force: true })
})

async function post(
  path: string,
  body: unknown,
  headers: Record<string, string> = {},
  // biome-ignore lint/suspicious/noExplicitAny: answers of many shapes, looked at field by field
): Promise<{ status: number; json: any; headers: Headers }> {
  const response = await fetch(server.url + path, {
    method: 'POST',
    headers: { 'content-type': 'application/json', authorization: `Bearer ${key}`, ...headers },
    body: typeof body === 'string' ? body : JSON.stringify(body),
  })
  const text = await response.text()
  return { status: response.status, json: text === '' ? undefined : JSON.parse(text), headers: response.headers }
}
const get = (path: string, headers: Record<string, string> = { authorization: `Bearer ${key}` }): Promise<Response> =>
  fetch(server.url + path, { headers })

describe('the official OpenAI client', () => {
  test('base64 (its default) and float give the vectors of encode; usage counts tokens', async () => {
    const { data, tokens } = await model.encode(texts)
    for (const encoding_format of [undefined, 'float', 'base64'] as const) {
      const answer = await client.embeddings.create({ model: 'bge-small', input: texts, ...(encoding_format && { encoding_format }) })
      expect(answer).toMatchObject({ object: 'list', model: 'bge-small' })
      expect(answer.usage).toEqual({ prompt_tokens: tokens + 2 * texts.length, total_tokens: tokens + 2 * texts.length })
      expect(answer.data.map(({ index }) => index)).toEqual([0, 1, 2, 3])
      for (const [i, { embedding }] of answer.data.entries()) {
        const values =
          typeof embedding === 'string' ? new Float32Array(Uint8Array.from(Buffer.from(embedding, 'base64')).buffer) : embedding
        expect(Float32Array.from(values)).toEqual(data.slice(i * 64, (i + 1) * 64))
      }
    }
  })

  test('a string, dimensions, token ids, an alias', async () => {
    const cut = await model.encode(texts.slice(0, 2), { output: { dimensions: 16 } })
    const one = await client.embeddings.create({ model: 'text-embedding-3-small', input: texts[0]!, dimensions: 16 })
    expect(Float32Array.from(one.data[0]!.embedding)).toEqual(cut.data.slice(0, 16))
    expect(one.model).toBe('bge-small')
    const framed = texts.slice(0, 2).map((text) => [...model.tokenizer.encode(text)])
    const bare = framed.map((ids) => ids.slice(1, -1))
    for (const input of [framed, bare]) {
      const { data } = await client.embeddings.create({ model: 'bge-small', input, dimensions: 16 })
      expect(Float32Array.from(data.flatMap(({ embedding }) => embedding))).toEqual(cut.data)
    }
    const single = await client.embeddings.create({ model: 'bge-small', input: bare[1]!, dimensions: 16 })
    expect(Float32Array.from(single.data[0]!.embedding)).toEqual(cut.data.slice(16))
  })

  test('models', async () => {
    const ids: string[] = []
    for await (const { id } of client.models.list()) ids.push(id)
    expect(ids).toEqual(['bge-small', 'text-embedding-3-small'])
    expect(await client.models.retrieve('bge-small')).toMatchObject({ id: 'bge-small', object: 'model', owned_by: 'bge-forge' })
    await expect(client.models.retrieve('gpt')).rejects.toMatchObject({ status: 404, code: 'model_not_found' })
  })

  test('its errors are of the right class', async () => {
    const attempt = (more: object, use = client): Promise<unknown> =>
      use.embeddings.create({ model: 'bge-small', input: 'a', ...more }).catch((error: unknown) => error)
    expect(await attempt({ model: 'gpt' })).toBeInstanceOf(OpenAI.NotFoundError)
    expect(await attempt({ dimensions: 65 })).toMatchObject({
      status: 400,
      param: 'dimensions',
      type: 'invalid_request_error',
      message: '400 dimensions must be an integer from 1 to 64, but was 65',
    })
    expect(await attempt({}, new OpenAI({ baseURL: `${server.url}/v1`, apiKey: 'sk-wrong', maxRetries: 0 }))).toBeInstanceOf(
      OpenAI.AuthenticationError,
    )
    expect(await attempt({ input: [] })).toBeInstanceOf(APIError)
  })

  test('input_type query puts the instruction before texts and token ids', async () => {
    const { data } = await model.encodeQueries(['猫'])
    for (const input of ['猫', [[...model.tokenizer.encode('猫')]]]) {
      const answer = await post('/v1/embeddings', { input, input_type: 'query' })
      expect(Float32Array.from(answer.json.data[0].embedding)).toEqual(data)
    }
  })
})

describe('text-embeddings-inference', () => {
  test('/embed, with and without normalisation, queries, dimensions', async () => {
    const { data } = await model.encode(texts)
    const { json } = await post('/embed', { inputs: texts })
    expect(Float32Array.from(json.flat())).toEqual(data)
    expect(Float32Array.from((await post('/embed', { inputs: texts[0], truncate: null })).json[0])).toEqual(data.slice(0, 64))
    const raw = await model.encode(texts, { output: { normalize: false } })
    expect(Float32Array.from((await post('/embed', { inputs: texts, normalize: false })).json.flat())).toEqual(raw.data)
    const query = await model.encodeQueries(['猫'], { output: { dimensions: 8 } })
    expect(Float32Array.from((await post('/embed', { inputs: '猫', prompt_name: 'query', dimensions: 8 })).json[0])).toEqual(query.data)
  })

  test('truncation: counted, or refused', async () => {
    const cut = await post('/embed', { inputs: texts })
    expect(cut.headers.get('x-truncated-texts')).toBe('1')
    const refused = await post('/embed', { inputs: texts, truncate: false })
    expect(refused).toMatchObject({
      status: 413,
      json: { error: 'text 3 must have at most 64 tokens ([CLS] and [SEP] included), but has more', error_type: 'Validation' },
    })
  })

  test('/info and /health', async () => {
    expect(await (await get('/info')).json()).toMatchObject({
      model_id: 'bge-small',
      model_sha: await model.fingerprint(),
      model_dtype: 'float32',
      model_type: { embedding: { pooling: 'cls' } },
      max_input_length: 64,
      max_client_batch_size: 40,
      auto_truncate: true,
    })
    expect((await get('/health', {})).status).toBe(200)
  })
})

describe('bad requests', () => {
  test.each([
    ['{"input": ', 400, /^the body must be JSON: /],
    ['[]', 400, /^the body must be a JSON object, but was an array of 0/],
    [{}, 400, /^input must be given/],
    [{ input: [] }, 400, /^input must be a string, a list of strings, .* not empty, but was an array of 0/],
    [{ input: ['a', 5] }, 400, /^input\[1\] must be a string like the first, but was 5/],
    [{ input: 7 }, 400, /^input must be a string, .* but was 7/],
    [{ input: [1, 2, -1] }, 400, /^input\[2\] must be a token id of this model, 0 to 570, but was -1/],
    [{ input: [[1], [2, 571]] }, 400, /^input\[1\]\[1\] must be a token id of this model, 0 to 570, but was 571/],
    [{ input: [[1], []] }, 400, /^input\[1\] must be a string, .* but was an array of 0/],
    [{ input: 'a', encoding_format: 'int8' }, 400, /^encoding_format must be 'float' or 'base64', but was "int8"/],
    [{ input: 'a', dimensions: 1.5 }, 400, /^dimensions must be an integer from 1 to 64, but was 1.5/],
    [{ input: 'a', model: 3 }, 400, /^model must be a string, but was 3/],
    [{ input: 'a', input_type: 'other' }, 400, /^input_type must be/],
    [{ input: Array(41).fill('a') }, 413, /^input must hold at most 40 texts, but holds 41/],
    [{ input: ['a', 'x'.repeat(5001)] }, 413, /^input\[1\] must have at most 5000 characters, but has 5001/],
    [{ input: 'x'.repeat(200_000) }, 413, /^the body must have at most 100000 bytes, but has more/],
  ] as const)('%#', async (body, status, message) => {
    const answer = await post('/v1/embeddings', body)
    expect(answer.status).toBe(status)
    expect(answer.json.error).toMatchObject({ message: expect.stringMatching(message), type: 'invalid_request_error' })
  })

  test('a body without a length is limited too', async () => {
    const body = new ReadableStream({
      start(controller) {
        for (let i = 0; i < 20; i++) controller.enqueue(new TextEncoder().encode(`${i === 0 ? '{"input":"' : ''}${'x'.repeat(10_000)}`))
        controller.close()
      },
    })
    const request = {
      method: 'POST',
      body,
      duplex: 'half',
      headers: { authorization: `Bearer ${key}`, 'content-type': 'application/json' },
    }
    const response = await fetch(`${server.url}/v1/embeddings`, request as RequestInit)
    expect(response.status).toBe(413)
  })

  test('paths, methods, types, keys', async () => {
    expect((await get('/v2')).status).toBe(404)
    const wrongMethod = await get('/v1/embeddings')
    expect([wrongMethod.status, wrongMethod.headers.get('allow')]).toEqual([405, 'POST'])
    expect((await post('/embed', '{"inputs":"a"}', { 'content-type': 'text/plain' })).status).toBe(415)
    for (const authorization of ['', 'Bearer', `Bearer ${key}x`, `Bearer ${key.slice(1)}`, `Basic ${key}`]) {
      for (const path of ['/v1/models', '/info', '/metrics', '/nothing']) expect((await get(path, { authorization })).status).toBe(401)
      expect((await post('/v1/embeddings', { input: 'a' }, { authorization })).json.error.code).toBe('invalid_api_key')
    }
    expect((await get('/v1/models', { authorization: `bearer ${key}` })).status).toBe(200)
  })

  test('the key and the texts are in no line of the log; no request has failed unforeseen', async () => {
    expect(lines.length).toBeGreaterThan(30)
    expect(lines.join('\n')).not.toMatch(/sk-|天气|xxx/)
    expect(lines).toContainEqual(expect.stringMatching(/^POST \/v1\/embeddings 200 4 texts, \d+ tokens, 1 cut, [\d.]+ ms$/))
    expect(warnings.filter(({ name }) => name === 'BgeServeError')).toEqual([])
  })

  test('/metrics counts them', async () => {
    const text = await (await get('/metrics')).text()
    expect(text).toMatch(/^bge_http_requests_total\{route="\/v1\/embeddings",status="413"\} 4$/m)
    expect(text).toMatch(/^bge_http_requests_total\{route="other",status="404"\} 2$/m)
    expect(text).toMatch(/^bge_queue_tokens 0$/m)
    expect(text).toMatch(/^bge_batch_tokens_count [1-9]/m)
    expect(text).toMatch(/^nodejs_eventloop_lag_p99_seconds /m)
  })
})

/** A model whose batches wait until they are let go. */
function gated(): { model: BatchModel; batches: number[][]; release: (error?: Error) => Promise<void> } {
  const batches: number[][] = []
  const waiting: ((error?: Error) => void)[] = []
  const turns = async (): Promise<void> => {
    for (let i = 0; i < 5; i++) await new Promise(setImmediate)
  }
  return {
    batches,
    model: {
      dims: 1,
      encodeTokens: (sequences) =>
        new Promise((resolve, reject) => {
          batches.push(sequences.map((ids) => ids[0]!))
          waiting.push((error) => (error ? reject(error) : resolve({ data: Float32Array.from(sequences, (ids) => ids[0]!) })))
        }),
    },
    async release(error) {
      await turns()
      waiting.shift()!(error)
      await turns()
    },
  }
}
const sequences = (first: number, count: number, length = 10): Int32Array[] =>
  Array.from({ length: count }, (_, i) => new Int32Array(length).fill(first + i))

describe('batches', () => {
  const limits = { batchTokens: 40, queueTokens: 100, waitMs: 0 }
  const never = new AbortController().signal

  test('fill with what waits, a sequence of each request in turn', async () => {
    const { model, batches, release } = gated()
    const batcher = new Batcher(model, limits)
    const a = batcher.submit(sequences(100, 8), true, never)
    const b = batcher.submit(sequences(200, 1), true, never)
    const c = batcher.submit(sequences(300, 1), false, never)
    expect(batches).toEqual([[100, 101, 102, 103]]) // a was alone when the first batch was filled
    expect(batcher.queuedTokens).toBe(60)
    await release()
    expect(batches[1]).toEqual([104, 200, 105, 106])
    await release()
    expect([...(await b)]).toEqual([200]) // although a came first and is not done
    expect(batches[2]).toEqual([300]) // a has had its share; another normalisation is another batch
    await release()
    await release()
    expect([...(await a)]).toEqual([100, 101, 102, 103, 104, 105, 106, 107])
    expect([...(await c)]).toEqual([300])
    expect(batches.flat().sort()).toEqual([100, 101, 102, 103, 104, 105, 106, 107, 200, 300])
    expect(batcher.queuedTokens).toBe(0)
  })

  test('requests that come within waitMs share one', async () => {
    const { model, batches, release } = gated()
    const batcher = new Batcher(model, { ...limits, waitMs: 5 })
    const works = [1, 2, 3].map((n) => batcher.submit(sequences(n, 1), true, never))
    await new Promise((resolve) => setTimeout(resolve, 30))
    expect(batches).toEqual([[1, 2, 3]])
    await release()
    expect((await Promise.all(works)).map(([x]) => x)).toEqual([1, 2, 3])
  })

  test('a full queue refuses with the time to wait; an abort makes room', async () => {
    const { model, batches, release } = gated()
    const batcher = new Batcher(model, limits)
    const first = batcher.submit(sequences(1, 4), true, never) // 40, computing
    const leaving = new AbortController()
    const second = batcher.submit(sequences(10, 8), true, leaving.signal) // 80 wait
    const refused = await batcher.submit(sequences(20, 3), true, never).catch((error: unknown) => error)
    expect(refused).toMatchObject({ status: 429, code: 'rate_limit_exceeded' })
    expect((refused as HttpError).retryAfter).toBeGreaterThanOrEqual(1)
    leaving.abort(new Error('gone'))
    await expect(second).rejects.toThrow('gone')
    expect(batcher.queuedTokens).toBe(0)
    const third = batcher.submit(sequences(20, 30), true, never) // more than may wait, but nothing does
    await release()
    expect([...(await first)]).toEqual([1, 2, 3, 4])
    for (let i = 0; i < 8; i++) await release()
    expect((await third).length).toBe(30)
    expect(batches.flat()).not.toContain(10)
  })

  test('an error reaches those of its batch only', async () => {
    const { model, release } = gated()
    const batcher = new Batcher(model, limits)
    const bad = batcher.submit(sequences(1, 4), true, never)
    const good = batcher.submit(sequences(9, 1), true, never)
    const outcome = expect(bad).rejects.toThrow('out of memory')
    await release(new Error('out of memory'))
    await outcome
    await release()
    expect([...(await good)]).toEqual([9])
  })
})

describe('a busy server', () => {
  /** The model with batches that wait. */
  async function slow(): Promise<{ own: BgeServer; release: () => void; entered: Promise<void>; computed: () => number }> {
    let [release, enter, computed] = [(): void => {}, (): void => {}, 0]
    const gate = new Promise<void>((resolve) => (release = resolve))
    const entered = new Promise<void>((resolve) => (enter = resolve))
    const slowModel = new Proxy(model, {
      get(target, name) {
        if (name === 'encodeTokens') {
          return async (...args: Parameters<BgeModel['encodeTokens']>) => {
            computed += args[0].length
            enter()
            await gate
            return target.encodeTokens(...args)
          }
        }
        const value = Reflect.get(target, name, target)
        return typeof value === 'function' ? value.bind(target) : value
      },
    })
    const own = await startServer(slowModel, { port: 0, limits: { batchTokens: 10, queueTokens: 20, waitMs: 0 } })
    return { own, release, entered, computed: () => computed }
  }
  const ask = (own: BgeServer, input: string | string[], signal?: AbortSignal): Promise<Response> =>
    fetch(`${own.url}/v1/embeddings`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ input }),
      ...(signal && { signal }),
    })

  test('answers 429 with Retry-After, and the rest in the end', async () => {
    const { own, release, entered } = await slow()
    const works = [ask(own, ['猫', '狗', '鸟', '鱼', '马', '牛'])]
    await entered
    works.push(ask(own, '猫'))
    const refused = await ask(own, Array(8).fill('天'))
    expect(refused.status).toBe(429)
    expect(Number(refused.headers.get('retry-after'))).toBeGreaterThanOrEqual(1)
    expect(await refused.json()).toMatchObject({ error: { type: 'rate_limit_error', code: 'rate_limit_exceeded' } })
    release()
    expect((await Promise.all(works)).map(({ status }) => status)).toEqual([200, 200])
    await own.stop()
  })

  test('a client that goes away leaves the queue', async () => {
    const { own, release, entered, computed } = await slow()
    const leaving = new AbortController()
    const works = ask(own, ['猫', '狗', '鸟', '鱼', '马', '牛'], leaving.signal).catch((error: unknown) => error)
    await entered
    const before = computed()
    expect(before).toBeLessThan(6)
    leaving.abort()
    expect(await works).toMatchObject({ name: 'AbortError' })
    const queued = async (): Promise<string | undefined> =>
      /^bge_queue_tokens (\d+)$/m.exec(await (await fetch(`${own.url}/metrics`)).text())?.[1]
    while ((await queued()) !== '0') await new Promise((resolve) => setTimeout(resolve, 5))
    release()
    expect((await ask(own, '猫')).status).toBe(200)
    expect(computed()).toBe(before + 1)
    await own.stop()
  })

  test('stop finishes what is under way and takes nothing new', async () => {
    const { own, release, entered } = await slow()
    const work = ask(own, ['猫', '狗', '鸟', '鱼'])
    await entered
    // A connection that is open and idle, and one in the middle of a request.
    const idle = connect(own.port, '127.0.0.1')
    const half = connect(own.port, '127.0.0.1')
    await Promise.all([once(idle, 'connect'), once(half, 'connect')])
    half.write('GET /health HTTP/1.1\r\nHost: a\r\n')
    await new Promise((resolve) => setTimeout(resolve, 20))
    const stopped = own.stop()
    half.write('\r\n')
    const [answer] = (await once(half, 'data')) as [Buffer]
    expect(String(answer)).toMatch(/^HTTP\/1\.1 503 /)
    await expect(ask(own, '猫')).rejects.toThrow()
    release()
    const response = await work
    expect(response.status).toBe(200)
    expect(((await response.json()) as { data: unknown[] }).data).toHaveLength(4)
    idle.destroy()
    half.destroy()
    await stopped
  })

  test('bad options are named; a port that is taken is said', async () => {
    await expect(startServer(model, { port: -1 })).rejects.toThrow('port must be an integer from 0 to 65535, but was -1')
    await expect(startServer(model, { apiKey: '' })).rejects.toThrow('apiKey must be a key, or left out')
    await expect(startServer(model, { limits: { texts: 0 } })).rejects.toThrow('limits.texts must be an integer of at least 1, but was 0')
    await expect(startServer(model, { port: server.port })).rejects.toMatchObject({
      code: 'ERR_BGE_FILE',
      message: expect.stringContaining('cannot be listened on'),
    })
  })
})

import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { afterEach, describe, expect, test } from 'vitest'
import { openEndpoint } from '../lib/eval/endpoint.js'

interface Seen {
  authorization: string | undefined
  body: { model: string; input: string[]; encoding_format: string }
}
type Answer = (seen: Seen, response: ServerResponse, count: number) => void

let server: Server | undefined
afterEach(() => void server?.close())

/** A service on loopback: `answer` gets every request and how many there were. */
async function serve(answer: Answer): Promise<{ url: string; requests: Seen[] }> {
  const requests: Seen[] = []
  server = createServer(async (request: IncomingMessage, response) => {
    let text = ''
    for await (const chunk of request) text += String(chunk)
    const seen = { authorization: request.headers.authorization, body: JSON.parse(text) as Seen['body'] }
    requests.push(seen)
    expect(request.url).toBe('/v1/embeddings')
    answer(seen, response, requests.length)
  })
  await new Promise<void>((done) => server!.listen(0, '127.0.0.1', done))
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/v1/`, requests }
}

const vectorOf = (text: string): number[] => [text.length, text.codePointAt(0)!, 1]
/** In the wrong order, as `index` allows. */
const embeddings: Answer = ({ body }, response) => {
  response.end(JSON.stringify({ data: body.input.map((text, index) => ({ index, embedding: vectorOf(text) })).reverse() }))
}
const refuse = (response: ServerResponse, status: number, message: string, headers: Record<string, string> = {}): void =>
  void response.writeHead(status, headers).end(JSON.stringify({ error: { message } }))

const KEY = 'sk-secret-123'

describe('an OpenAI-style endpoint', () => {
  test('is asked in batches with the key and the instruction; vectors come back in order', async () => {
    const { url, requests } = await serve(embeddings)
    const model = await openEndpoint({ url, model: 'm', apiKey: KEY, batchSize: 4 })
    expect(model.dims).toBe(3)
    const texts = Array.from({ length: 10 }, (_, i) => '字'.repeat(i + 1))
    const progress: number[] = []
    const { data } = await model.encode(texts, { instruction: '问', onProgress: ({ done }) => progress.push(done) })
    expect([...data]).toEqual(texts.flatMap((text) => vectorOf(`问${text}`)))
    expect(Math.max(...progress)).toBe(10)
    expect(
      requests
        .slice(1)
        .map(({ body }) => body.input.length)
        .sort(),
    ).toEqual([2, 4, 4])
    expect(
      requests.every(
        ({ authorization, body }) => authorization === `Bearer ${KEY}` && body.model === 'm' && body.encoding_format === 'float',
      ),
    ).toBe(true)
    await expect(model.encode(['字'], { maxLength: 8 })).rejects.toThrow(/maxLength must be left out for an endpoint/)
    expect(await model.fingerprint!()).not.toBe(await (await openEndpoint({ url, model: 'other', apiKey: '' })).fingerprint!())
    expect(requests.at(-1)!.authorization).toBeUndefined()
  })

  test('is asked again after 429, 5xx and a broken connection', async () => {
    const { url, requests } = await serve((seen, response, count) => {
      if (count === 2) refuse(response, 429, 'slow down', { 'retry-after': '0.05' })
      else if (count === 3) refuse(response, 503, 'busy', { 'retry-after': '0.05' })
      else if (count === 4) response.destroy()
      else embeddings(seen, response, count)
    })
    const model = await openEndpoint({ url, model: 'm', apiKey: KEY })
    expect([...(await model.encode(['字'])).data]).toEqual(vectorOf('字'))
    expect(requests).toHaveLength(5)
  })

  test.each<[string, Answer, RegExp]>([
    [
      'a refusal that repeats the key',
      (_, response) => refuse(response, 401, `Incorrect API key ${KEY}`),
      /answered 401 Unauthorized: Incorrect API key \*\*\*$/,
    ],
    ['no JSON', (_, response) => void response.end('<html>'), /must answer with "data", a list of 1 embeddings, but it did not/],
    ['too few vectors', (_, response) => void response.end('{"data":[]}'), /a list of 1 embeddings, but there were 0/],
    ['no numbers', (_, response) => void response.end('{"data":[{"embedding":"AAAA"}]}'), /data\[0\] is no list of numbers/],
    [
      'a wrong index',
      (_, response) => void response.end('{"data":[{"index":3,"embedding":[1]}]}'),
      /one embedding for each index, but data\[0\] has index 3/,
    ],
    ['a redirect', (_, response) => void response.writeHead(302, { location: 'http://example.invalid/' }).end(), /answered 302 Found/],
  ])('%s is an error without the key', async (_, answer, message) => {
    const { url, requests } = await serve(answer)
    const error = await openEndpoint({ url, model: 'm', apiKey: KEY, signal: AbortSignal.timeout(30_000) }).catch((cause: unknown) => cause)
    expect(error).toMatchObject({ code: 'ERR_BGE_ENDPOINT', message: expect.stringMatching(message) })
    expect(String((error as Error).stack)).not.toContain(KEY)
    expect(requests).toHaveLength(1)
  })

  test('vectors of another width later on are an error', async () => {
    const { url } = await serve(
      ({ body }, response, count) =>
        void response.end(JSON.stringify({ data: body.input.map((_, index) => ({ index, embedding: count === 1 ? [1, 2] : [1, 2, 3] })) })),
    )
    const model = await openEndpoint({ url, model: 'm', apiKey: '' })
    await expect(model.encode(['字'])).rejects.toThrow(/embeddings of 2 numbers, but data\[0\] has 3/)
  })

  test('stops with its signal', async () => {
    const { url } = await serve((seen, response, count) => void (count === 1 && embeddings(seen, response, count)))
    const model = await openEndpoint({ url, model: 'm', apiKey: '' })
    const controller = new AbortController()
    const encoding = model.encode(['字'], { signal: controller.signal })
    setTimeout(() => controller.abort(), 50)
    await expect(encoding).rejects.toThrow(expect.objectContaining({ name: 'AbortError' }))
    server!.closeAllConnections()
  })

  test.each([
    ['ftp://host/v1', /endpoint must be a URL/],
    ['https://user:word@host/v1', /must not hold a user name or password/],
  ])('%s is refused', async (url, message) => {
    const error = await openEndpoint({ url, model: 'm', apiKey: KEY }).catch((cause: unknown) => cause)
    expect(error).toMatchObject({ code: 'ERR_BGE_ARGUMENT', message: expect.stringMatching(message) })
    expect((error as Error).message).not.toContain('word@')
  })
})

import { createHash } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import { BgeError, invalidArgument, isAbort } from '../errors.js'
import type { EncodeOptions } from '../model/embedder.js'
import { proxyAdvice } from '../hub/proxy.js'
import { resolveInstruction } from '../model/instruction.js'
import type { EvaluatedModel } from './evaluate.js'

/** Of `openEndpoint`: a service with OpenAI's embeddings interface. */
export interface EndpointOptions {
  /** up to and with the version, such as https://api.openai.com/v1; `/embeddings` is added */
  url: string
  /** `model` of the requests */
  model: string
  /** sent as a bearer token to this URL and nowhere else. Default: the environment's OPENAI_API_KEY; '' sends none */
  apiKey?: string
  /** texts of a request. Default 64 */
  batchSize?: number
  signal?: AbortSignal
}

/** Requests that are under way at a time, tries of one, and how long one may take. */
const PARALLEL = 4
const ATTEMPTS = 5
const TIMEOUT = 120_000

/**
 * An embedding service with OpenAI's interface as a model. It is asked for one vector to learn the width. Instructions are put before the texts here;
 * a maximal length cannot be asked for. Answers 429 and 5xx and broken connections are tried again. Its fingerprint is URL, model name and width: what a
 * service changes behind a name is not seen by a cache. Throws ERR_BGE_ARGUMENT and ERR_BGE_ENDPOINT, whose messages never hold the key.
 */
export async function openEndpoint(options: EndpointOptions): Promise<EvaluatedModel> {
  const { model, batchSize = 64, apiKey = process.env.OPENAI_API_KEY ?? '' } = options
  const target: Target = { url: endpointUrl(options.url), model, apiKey }
  if (model === '') throw invalidArgument('model', 'the name of a model of the endpoint', model)
  if (!Number.isSafeInteger(batchSize) || batchSize < 1) throw invalidArgument('batchSize', 'an integer of at least 1', batchSize)
  const dims = (await request(target, ['你好'], undefined, options.signal))[0]!.length
  return {
    dims,
    async fingerprint() {
      return createHash('sha256')
        .update(JSON.stringify(['endpoint', target.url, model, dims]))
        .digest('hex')
    },
    async encode(texts, { instruction, maxLength, signal, onProgress }: EncodeOptions = {}) {
      if (maxLength !== undefined) throw invalidArgument('maxLength', 'left out for an endpoint, which cuts texts itself', maxLength)
      const prefix = resolveInstruction(instruction)
      const data = new Float32Array(texts.length * dims)
      let [next, done] = [0, 0]
      const worker = async (): Promise<void> => {
        while (next < texts.length) {
          const start = next
          next += batchSize
          const input = texts.slice(start, start + batchSize).map((text) => prefix + text)
          for (const [i, vector] of (await request(target, input, dims, signal)).entries()) data.set(vector, (start + i) * dims)
          done += input.length
          onProgress?.({ done, total: texts.length })
        }
      }
      // After a failure the others end with their request under way: nothing runs on.
      const results = await Promise.allSettled(
        Array.from({ length: PARALLEL }, () =>
          worker().catch((error: unknown) => {
            next = texts.length
            throw error
          }),
        ),
      )
      for (const result of results) if (result.status === 'rejected') throw result.reason
      return { data }
    },
  }
}

interface Target {
  readonly url: string
  readonly model: string
  readonly apiKey: string
}

function endpointUrl(text: string): string {
  const url = URL.canParse(text) ? new URL(text) : undefined
  if (url === undefined || !/^https?:$/.test(url.protocol)) throw invalidArgument('endpoint', 'a URL such as https://host/v1', text)
  // Not shown: it holds a password.
  if (url.username !== '' || url.password !== '')
    throw new BgeError('ERR_BGE_ARGUMENT', 'the endpoint URL must not hold a user name or password; the key is read from OPENAI_API_KEY')
  url.pathname = `${url.pathname.replace(/\/+$/, '')}/embeddings`
  return url.href
}

async function request(
  target: Target,
  input: readonly string[],
  dims: number | undefined,
  signal: AbortSignal | undefined,
): Promise<number[][]> {
  for (let attempt = 1; ; attempt++) {
    let wait = 500 * 2 ** (attempt - 1)
    try {
      const response = await post(target, input, signal)
      if (response.ok) return vectors(target, await response.json().catch(() => undefined), input.length, dims)
      const text = await response.text().catch(() => '')
      if (attempt === ATTEMPTS || (response.status !== 429 && response.status < 500))
        throw failure(target, `answered ${response.status} ${response.statusText}: ${message(text)}`)
      const after = Number(response.headers.get('retry-after'))
      if (after > 0) wait = Math.min(after, 60) * 1000
    } catch (cause) {
      if (signal?.aborted || isAbort(cause) || cause instanceof BgeError) throw cause
      if (attempt === ATTEMPTS) throw failure(target, `does not answer (${reason(cause)})${proxyAdvice()}`)
    }
    await sleep(wait, undefined, signal && { signal })
  }
}

function post({ url, model, apiKey }: Target, input: readonly string[], signal: AbortSignal | undefined): Promise<Response> {
  const timeout = AbortSignal.timeout(TIMEOUT)
  return fetch(url, {
    method: 'POST',
    headers: { 'content-type': 'application/json', 'user-agent': 'bge-forge', ...(apiKey !== '' && { authorization: `Bearer ${apiKey}` }) },
    body: JSON.stringify({ model, input, encoding_format: 'float' }),
    redirect: 'manual', // the key is for this address: an answer 3xx is an error
    signal: signal ? AbortSignal.any([signal, timeout]) : timeout,
  })
}

function vectors(target: Target, answer: unknown, count: number, dims: number | undefined): number[][] {
  const entries = (answer as { data?: unknown } | undefined)?.data
  if (!Array.isArray(entries) || entries.length !== count) {
    throw failure(
      target,
      `must answer with "data", a list of ${count} embeddings, but ${Array.isArray(entries) ? `there were ${entries.length}` : 'it did not'}`,
    )
  }
  const result = new Array<number[]>(count)
  for (const [position, entry] of entries.entries()) {
    const { embedding, index = position } = (entry ?? {}) as { embedding?: unknown; index?: number }
    const isVector = Array.isArray(embedding) && embedding.length > 0 && embedding.every((x) => typeof x === 'number')
    if (!isVector || (dims !== undefined && embedding.length !== dims)) {
      throw failure(
        target,
        `must answer with embeddings of ${dims ?? 'some'} numbers, but data[${position}] ${isVector ? `has ${embedding.length}` : 'is no list of numbers'}`,
      )
    }
    if (!Number.isInteger(index) || index < 0 || index >= count || result[index] !== undefined)
      throw failure(target, `must answer with one embedding for each index, but data[${position}] has index ${index}`)
    result[index] = embedding as number[]
  }
  return result
}

function failure({ url, apiKey }: Target, text: string): BgeError {
  const sentence = `endpoint ${url} ${text}`
  return new BgeError('ERR_BGE_ENDPOINT', apiKey === '' ? sentence : sentence.replaceAll(apiKey, '***'))
}

/** The message of OpenAI's error object, or the start of the text. */
function message(text: string): string {
  let parsed: unknown
  try {
    parsed = (JSON.parse(text) as { error?: { message?: unknown } }).error?.message
  } catch {
    // said below
  }
  return (typeof parsed === 'string' ? parsed : text).replaceAll(/\s+/g, ' ').slice(0, 200)
}

function reason(error: unknown): string {
  const { cause, message } = error as { cause?: { code?: string; message?: string }; message?: string }
  return cause?.message || cause?.code || message || String(error)
}

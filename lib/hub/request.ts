import { setTimeout as sleep } from 'node:timers/promises'
import { BgeError, isAbort } from '../errors.js'
import { proxyAdvice } from './proxy.js'
import { HUB, type HubSettings } from './settings.js'

const MAX_REDIRECTS = 10
const ATTEMPTS = 5

/**
 * A request that follows redirects by hand, so that the token goes to its own origin and to no other. Answers 429 and 5xx, and broken
 * connections, are tried again (5 times, 0.5 s, 1 s, ...). `stop`: a redirect that is not followed, but returned. Throws ERR_BGE_HUB where
 * there is no answer, and the signal's reason; any status comes back as it is.
 */
export async function request(
  settings: HubSettings,
  url: string,
  init: { method?: 'GET' | 'HEAD'; headers?: Record<string, string>; signal?: AbortSignal | undefined },
  stop: (response: Response) => boolean = () => false,
): Promise<Response> {
  for (let attempt = 1; ; attempt++) {
    let wait = 500 * 2 ** (attempt - 1)
    try {
      const response = await follow(settings, url, init, stop)
      if (attempt === ATTEMPTS || (response.status !== 429 && response.status < 500)) return response
      const after = Number(response.headers.get('retry-after'))
      if (after > 0) wait = Math.min(after, 60) * 1000
      await response.body?.cancel()
    } catch (cause) {
      if (isAbort(cause) || init.signal?.aborted || cause instanceof BgeError) throw cause
      if (attempt === ATTEMPTS || isFinal(cause)) throw unreachable(settings, url, cause)
    }
    await sleep(wait, undefined, init.signal && { signal: init.signal })
  }
}

async function follow(
  settings: HubSettings,
  start: string,
  init: Parameters<typeof request>[2],
  stop: (response: Response) => boolean,
): Promise<Response> {
  let url = new URL(start)
  for (let i = 0; i <= MAX_REDIRECTS; i++) {
    const { token } = settings
    const authorization = token?.origin === url.origin ? { authorization: `Bearer ${token.value}` } : {}
    const response = await fetch(url, {
      method: init.method ?? 'GET',
      // Not compressed: sizes and ranges are those of the file.
      headers: { 'user-agent': 'bge-forge', 'accept-encoding': 'identity', ...init.headers, ...authorization },
      redirect: 'manual',
      signal: init.signal ?? null,
    })
    const location = response.headers.get('location')
    if (response.status < 300 || response.status >= 400 || location === null || stop(response)) return response
    await response.body?.cancel()
    const next = URL.canParse(location, url.href) ? new URL(location, url) : undefined
    if (next === undefined || !/^https?:$/.test(next.protocol))
      throw new BgeError('ERR_BGE_HUB', `${url.href} redirects to "${location}", which is no address`)
    if (url.protocol === 'https:' && next.protocol === 'http:')
      throw new BgeError('ERR_BGE_HUB', `${url.href} redirects from https to ${next.href}, which is not safe to follow`)
    url = next
  }
  throw new BgeError('ERR_BGE_HUB', `${start} redirects more than ${MAX_REDIRECTS} times`)
}

/** The error for an answer that is no file, with what to do about it. */
export function statusError(settings: HubSettings, response: Response, what: string): BgeError {
  const { status } = response
  const reason = response.headers.get('x-error-message') ?? response.statusText
  const code = response.headers.get('x-error-code')
  let advice = ''
  if (status === 401 || status === 403) {
    const ownOrigin = new URL(settings.endpoint).origin
    if (settings.token === undefined) advice = ': the repository does not exist, or is private or gated and needs HF_TOKEN'
    else if (settings.token.origin !== ownOrigin) {
      advice = `: the token was not sent, because it belongs to ${settings.token.origin}; a token of ${ownOrigin} itself needs BGE_HF_TOKEN_ENDPOINT=${ownOrigin}`
    } else advice = ': the token was sent, but does not open it'
  } else if (code === 'RepoNotFound') advice = ': there is no such repository'
  else if (code === 'RevisionNotFound') advice = ': there is no such revision'
  else if (code === 'EntryNotFound' || status === 404) advice = ': there is no such file'
  return new BgeError(
    'ERR_BGE_HUB',
    `${what} cannot be had from ${settings.endpoint}: the answer was ${status} ${reason}`.trimEnd() + advice,
    {
      details: { status, code },
    },
  )
}

function unreachable(settings: HubSettings, url: string, cause: unknown): BgeError {
  const { host } = new URL(url)
  const text =
    cause instanceof Error
      ? cause.cause instanceof Error
        ? cause.cause.message || String((cause.cause as NodeJS.ErrnoException).code)
        : cause.message
      : String(cause)
  const wrongName = process.env.HF_HUB_ENDPOINT ? '; HF_HUB_ENDPOINT is set, but the name that is read is HF_ENDPOINT' : ''
  const mirror = settings.endpoint === HUB ? ' a mirror can be set with HF_ENDPOINT (https://hf-mirror.com) or --mirror;' : ''
  return new BgeError(
    'ERR_BGE_HUB',
    `${host} does not answer (${text}):${mirror} HF_HUB_OFFLINE=1 uses what the cache holds, and --data a folder made by bge cmteb pull${wrongName}${proxyAdvice()}`,
    { cause, details: { url } },
  )
}

/** No second try helps. */
function isFinal(error: unknown): boolean {
  const code = (error as { cause?: { code?: string } }).cause?.code
  return code === 'ENOTFOUND' || code === 'ECONNREFUSED' || code === 'ERR_INVALID_URL'
}

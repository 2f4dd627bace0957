import { readFileSync } from 'node:fs'
import { homedir } from 'node:os'
import { join } from 'node:path'
import { BgeError } from '../errors.js'

export const HUB = 'https://huggingface.co'

/** A secret and the one origin it may be sent to. */
export interface HubToken {
  readonly value: string
  readonly origin: string
}

/** Where files of the Hugging Face hub come from and are kept. */
export interface HubOptions {
  /** base URL of the hub or of a mirror with its paths; default: HF_ENDPOINT, else https://huggingface.co */
  endpoint?: string
  /** folder of `models--org--name/` and `datasets--org--name/`; default: HF_HUB_CACHE, else HF_HOME/hub, else ~/.cache/huggingface/hub */
  cache?: string
  /** 'offline' never opens a connection; default: HF_HUB_OFFLINE */
  network?: 'online' | 'offline'
  /** called as bytes arrive; `total` is the size of the file that is coming */
  onProgress?: (file: string, received: number, total: number) => void
  signal?: AbortSignal
}

export interface HubSettings {
  readonly endpoint: string
  readonly cache: string
  readonly network: 'online' | 'offline'
  readonly token: HubToken | undefined
}

/**
 * Options over the environment, by Python's names and rules: HF_ENDPOINT, HF_HUB_CACHE, HF_HOME, XDG_CACHE_HOME, HF_HUB_OFFLINE, HF_TOKEN or
 * the token file. A token belongs to https://huggingface.co and goes nowhere else: HF_ENDPOINT is how mirrors are chosen. The token of a hub
 * of one's own needs BGE_HF_TOKEN_ENDPOINT, its URL. Throws ERR_BGE_ARGUMENT for a URL that is none.
 */
export function hubSettings(options: HubOptions = {}, environment: NodeJS.ProcessEnv = process.env): HubSettings {
  const offline = isTrue(environment.HF_HUB_OFFLINE || environment.TRANSFORMERS_OFFLINE)
  const given = options.endpoint ?? (environment.HF_ENDPOINT || HUB)
  return {
    endpoint: httpUrl(given, options.endpoint === undefined ? 'HF_ENDPOINT' : 'endpoint').href.replace(/\/+$/, ''),
    cache: options.cache ?? cacheFolder(environment),
    network: options.network ?? (offline ? 'offline' : 'online'),
    token: token(environment),
  }
}

function cacheFolder(environment: NodeJS.ProcessEnv): string {
  return environment.HF_HUB_CACHE || environment.HUGGINGFACE_HUB_CACHE || join(hubHome(environment), 'hub')
}

function hubHome(environment: NodeJS.ProcessEnv): string {
  return expand(environment.HF_HOME || join(environment.XDG_CACHE_HOME || '~/.cache', 'huggingface'))
}

function token(environment: NodeJS.ProcessEnv): HubToken | undefined {
  const origin = httpUrl(environment.BGE_HF_TOKEN_ENDPOINT || HUB, 'BGE_HF_TOKEN_ENDPOINT').origin
  let value = environment.HF_TOKEN || environment.HUGGING_FACE_HUB_TOKEN || ''
  if (value === '' && !isTrue(environment.HF_HUB_DISABLE_IMPLICIT_TOKEN)) {
    try {
      value = readFileSync(expand(environment.HF_TOKEN_PATH || join(hubHome(environment), 'token')), 'utf8')
    } catch {
      // No token file: public files need none.
    }
  }
  value = value.trim()
  return value === '' ? undefined : { value, origin }
}

function httpUrl(text: string, name: string): URL {
  const url = URL.canParse(text) ? new URL(text) : undefined
  if (url === undefined || (url.protocol !== 'https:' && url.protocol !== 'http:')) {
    throw new BgeError('ERR_BGE_ARGUMENT', `${name} must be a URL such as ${HUB} or https://hf-mirror.com, but was "${text}"`)
  }
  return url
}

function isTrue(value: string | undefined): boolean {
  return ['1', 'ON', 'YES', 'TRUE'].includes((value ?? '').toUpperCase())
}

function expand(path: string): string {
  return path.startsWith('~/') ? join(homedir(), path.slice(2)) : path
}

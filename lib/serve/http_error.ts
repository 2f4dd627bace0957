/** An answer that is not 200. */
export class HttpError extends Error {
  readonly status: 400 | 401 | 404 | 405 | 413 | 415 | 422 | 429 | 500 | 503
  /** the field of the request that is meant */
  readonly param: string | null
  /** OpenAI's word for it */
  readonly code: string | null
  /** seconds */
  readonly retryAfter: number | undefined
  constructor(status: HttpError['status'], message: string, more: { param?: string; code?: string; retryAfter?: number } = {}) {
    super(message)
    this.status = status
    this.param = more.param ?? null
    this.code = more.code ?? null
    this.retryAfter = more.retryAfter
  }
}

/** OpenAI's error body. */
export function openaiError({ status, message, param, code }: HttpError): object {
  const type = status === 429 ? 'rate_limit_error' : status >= 500 ? 'server_error' : 'invalid_request_error'
  return { error: { message, type, param, code } }
}

/** The error body of text-embeddings-inference. */
export function teiError({ status, message }: HttpError): object {
  const types: Readonly<Record<number, string>> = { 429: 'Overloaded', 500: 'Backend', 503: 'Unhealthy' }
  return { error: message, error_type: types[status] ?? 'Validation' }
}

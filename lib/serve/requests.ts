import { show } from '../errors.js'
import { HttpError } from './http_error.js'
import type { Limits } from './options.js'

/** Texts or token ids, as a request gave them. */
export type Input = { readonly texts: readonly string[] } | { readonly tokens: readonly (readonly number[])[] }

/** What a request asks of the model. */
export interface EmbeddingRequest {
  readonly input: Input
  readonly side: 'query' | 'passage'
  readonly normalize: boolean
  readonly dimensions: number
  /** undefined: as the server does */
  readonly truncate: boolean | undefined
}

/** What of the model bounds a request. */
export interface ModelFacts {
  readonly dims: number
  readonly vocab: number
  readonly maxLength: number
}

type Fields = Readonly<Record<string, unknown>>

/** The body of /v1/embeddings. Throws HttpError 400. */
export function openaiRequest(
  body: unknown,
  model: ModelFacts,
  limits: Limits,
): EmbeddingRequest & { format: 'float' | 'base64'; model: string | undefined } {
  const fields = object(body)
  const { encoding_format: format = 'float', dimensions = model.dims, input_type: type = 'passage' } = fields
  if (format !== 'float' && format !== 'base64') throw wrong('encoding_format', "'float' or 'base64'", format)
  if (fields.model !== undefined && typeof fields.model !== 'string') throw wrong('model', 'a string', fields.model)
  if (type !== 'query' && type !== 'passage' && type !== 'document') throw wrong('input_type', "'query', 'passage' or 'document'", type)
  return {
    input: readInput(fields, 'input', model, limits),
    side: type === 'query' ? 'query' : 'passage',
    normalize: true,
    dimensions: checkDimensions(dimensions, model),
    truncate: undefined,
    format,
    model: fields.model as string | undefined,
  }
}

/** The body of /embed. Throws HttpError 400 and 413. */
export function teiRequest(body: unknown, model: ModelFacts, limits: Limits): EmbeddingRequest {
  const fields = object(body)
  const { normalize, truncate, truncation_direction: direction, prompt_name: prompt, dimensions } = fields
  if (!isOptional(normalize, 'boolean')) throw wrong('normalize', 'true or false', normalize)
  if (!isOptional(truncate, 'boolean')) throw wrong('truncate', 'true or false', truncate)
  if (direction !== undefined && direction !== null && !/^right$/i.test(String(direction)))
    throw wrong('truncation_direction', "'right', the end that is cut", direction)
  if (prompt !== undefined && prompt !== null && prompt !== 'query' && prompt !== 'document')
    throw wrong('prompt_name', "'query' or 'document'", prompt)
  return {
    input: readInput(fields, 'inputs', model, limits),
    side: prompt === 'query' ? 'query' : 'passage',
    normalize: (normalize ?? true) as boolean,
    dimensions: checkDimensions(dimensions ?? model.dims, model),
    truncate: (truncate ?? undefined) as boolean | undefined,
  }
}

function object(body: unknown): Fields {
  if (body === null || typeof body !== 'object' || Array.isArray(body))
    throw new HttpError(400, `the body must be a JSON object, but was ${show(body)}`)
  return body as Fields
}

function isOptional(value: unknown, type: string): boolean {
  return value === undefined || value === null || typeof value === type
}

function checkDimensions(value: unknown, { dims }: ModelFacts): number {
  if (!Number.isSafeInteger(value) || (value as number) < 1 || (value as number) > dims)
    throw wrong('dimensions', `an integer from 1 to ${dims}`, value)
  return value as number
}

/** A string, strings, token ids or lists of token ids. */
function readInput(fields: Fields, name: string, model: ModelFacts, limits: Limits): Input {
  const value = fields[name]
  if (value === undefined) throw new HttpError(400, `${name} must be given`, { param: name })
  const list = typeof value === 'string' || isTokens(value) ? [value] : value
  const expected = 'a string, a list of strings, a list of token ids, or a list of such lists'
  if (!Array.isArray(list) || list.length === 0) throw wrong(name, `${expected}, and not empty`, value)
  if (list.length > limits.texts)
    throw new HttpError(413, `${name} must hold at most ${limits.texts} texts, but holds ${list.length}`, { param: name })
  const place = (i: number): string => (list === value ? `${name}[${i}]` : name)
  if (typeof list[0] === 'string') {
    for (const [i, text] of list.entries()) {
      if (typeof text !== 'string') throw wrong(place(i), 'a string like the first', text, name)
      if (text.length > limits.textLength)
        throw new HttpError(413, `${place(i)} must have at most ${limits.textLength} characters, but has ${text.length}`, { param: name })
    }
    return { texts: list as string[] }
  }
  for (const [i, ids] of list.entries()) {
    if (!Array.isArray(ids) || ids.length === 0) throw wrong(place(i), expected, ids, name)
    if (ids.length > limits.textLength)
      throw new HttpError(413, `${place(i)} must have at most ${limits.textLength} token ids, but has ${ids.length}`, { param: name })
    const bad = ids.findIndex((id) => !Number.isSafeInteger(id) || id < 0 || id >= model.vocab)
    if (bad >= 0) throw wrong(`${place(i)}[${bad}]`, `a token id of this model, 0 to ${model.vocab - 1}`, ids[bad], name)
  }
  return { tokens: list as number[][] }
}

function isTokens(value: unknown): boolean {
  return Array.isArray(value) && value.length > 0 && typeof value[0] === 'number'
}

function wrong(place: string, expected: string, actual: unknown, param: string = place): HttpError {
  return new HttpError(400, `${place} must be ${expected}, but was ${show(actual)}`, { param })
}

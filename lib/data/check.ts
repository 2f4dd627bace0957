import { BgeError, type BgeErrorCode, show } from '../errors.js'

/** The part of JSON Schema (2020-12) that recipes and configurations are described with; `check` understands exactly these keywords. */
export interface Schema {
  readonly $schema?: string
  readonly $id?: string
  readonly title?: string
  readonly $defs?: Readonly<Record<string, Schema>>
  readonly $ref?: string
  readonly description?: string
  readonly type?: JsonType | readonly JsonType[]
  readonly const?: unknown
  readonly enum?: readonly unknown[]
  readonly default?: unknown
  readonly minimum?: number
  readonly maximum?: number
  readonly exclusiveMinimum?: number
  readonly exclusiveMaximum?: number
  readonly minLength?: number
  /** a regular expression that a string matches somewhere */
  readonly pattern?: string
  readonly minItems?: number
  readonly uniqueItems?: true
  readonly minProperties?: number
  readonly items?: Schema
  readonly properties?: Readonly<Record<string, Schema>>
  readonly required?: readonly string[]
  readonly additionalProperties?: false | Schema
  readonly dependentRequired?: Readonly<Record<string, readonly string[]>>
  /** branches differ in the JSON type of the value, or in the constant of their property `type` or `do` */
  readonly oneOf?: readonly Schema[]
  /** keys that may not come together */
  readonly not?: { readonly required: readonly string[] }
}

type JsonType = 'string' | 'number' | 'integer' | 'boolean' | 'null' | 'array' | 'object'

/** Where a value was written, for messages. */
export interface Written {
  readonly code: BgeErrorCode
  /** what the whole value is: `a recipe` */
  readonly what: string
  /** where a path was written: `file.json5:12` */
  at(path: string): string
}

interface Place {
  readonly root: Schema
  readonly written: Written
  /** where in it: `sources[0].extract` */
  readonly path: string
}

/** Checks a value. Throws `written.code`: `file:line: path must be ..., but was ...`. */
export function check(root: Schema, value: unknown, written: Written): void {
  checkValue(root, value, { root, written, path: '' })
}

/** Whether a value is of a schema without references. */
export function matches(schema: Schema, value: unknown): boolean {
  const chosen = branch(schema, schema, value)
  if (chosen !== schema) return chosen !== undefined && matches(chosen, value)
  return accepts(schema, value) && !(Array.isArray(value) && schema.items && !value.every((entry) => matches(schema.items!, entry)))
}

/** A copy in which missing keys have their defaults, also inside the defaults. */
export function withDefaults(root: Schema, schema: Schema, value: unknown): unknown {
  const resolved = branch(root, deref(root, schema), value)
  if (Array.isArray(value)) return resolved?.items ? value.map((entry) => withDefaults(root, resolved.items!, entry)) : value
  if (!isObject(value) || !resolved?.properties) return value
  const filled: Record<string, unknown> = { ...value }
  for (const [key, property] of Object.entries(resolved.properties)) {
    const missing = filled[key] === undefined
    const given = missing ? deref(root, property).default : filled[key]
    if (given !== undefined) filled[key] = withDefaults(root, property, given)
  }
  return filled
}

function checkValue(given: Schema, value: unknown, at: Place): void {
  const schema = deref(at.root, given)
  if (schema.oneOf) {
    const chosen = branch(at.root, schema, value)
    if (!chosen) throw mismatch(schema, value, at)
    checkValue(chosen, value, at)
    return
  }
  if (!accepts(schema, value)) throw mismatch(schema, value, at)
  if (Array.isArray(value)) {
    if (schema.items)
      value.forEach((entry, i) => {
        checkValue(schema.items!, entry, { ...at, path: `${at.path}[${i}]` })
      })
    return
  }
  if (isObject(value)) checkObject(schema, value, at)
}

function checkObject(schema: Schema, value: Readonly<Record<string, unknown>>, at: Place): void {
  const inside = (key: string): string => (at.path === '' ? key : `${at.path}.${key}`)
  for (const key of schema.required ?? []) {
    if (value[key] === undefined)
      throw fault(at, inside(key), `${inside(key)} must be ${expected(schema.properties![key]!, at.root)}, but is missing`)
  }
  for (const [key, others] of Object.entries(schema.dependentRequired ?? {})) {
    const missing = value[key] === undefined ? undefined : others.find((other) => value[other] === undefined)
    if (missing !== undefined) throw fault(at, inside(key), `${inside(key)} also needs ${inside(missing)}, which is missing`)
  }
  if (schema.not?.required.every((key) => value[key] !== undefined))
    throw fault(at, at.path, `${at.path} must have one of ${schema.not.required.join(' and ')}, but has both`)
  for (const [key, entry] of Object.entries(value)) {
    const property = schema.properties && Object.hasOwn(schema.properties, key) ? schema.properties[key] : schema.additionalProperties
    if (property === false) throw unknownKey(key, Object.keys(schema.properties ?? {}), at)
    if (property) checkValue(property, entry, { ...at, path: inside(key) })
  }
}

function accepts(schema: Schema, value: unknown): boolean {
  if (schema.type !== undefined && ![schema.type].flat().some((type) => isType(type, value))) return false
  if ('const' in schema && value !== schema.const) return false
  if (schema.enum && !schema.enum.includes(value)) return false
  if (typeof value === 'number') {
    if (value < (schema.minimum ?? -Infinity) || value > (schema.maximum ?? Infinity)) return false
    if (value <= (schema.exclusiveMinimum ?? -Infinity) || value >= (schema.exclusiveMaximum ?? Infinity)) return false
  }
  if (typeof value === 'string') {
    if (value.length < (schema.minLength ?? 0)) return false
    if (schema.pattern !== undefined && !new RegExp(schema.pattern, 'u').test(value)) return false
  }
  if (Array.isArray(value)) {
    if (value.length < (schema.minItems ?? 0)) return false
    if (schema.uniqueItems && new Set(value).size < value.length) return false
  }
  return !(isObject(value) && Object.keys(value).length < (schema.minProperties ?? 0))
}

/** Properties whose constant tells the branches of oneOf apart. */
const TAGS = ['type', 'do'] as const

/** The branch of oneOf that a value is meant for. */
function branch(root: Schema, schema: Schema, value: unknown): Schema | undefined {
  if (!schema.oneOf) return schema
  return schema.oneOf
    .map((one) => deref(root, one))
    .find(({ type, properties, ...rest }) => {
      if (type === undefined) return 'const' in rest && rest.const === value
      if (![type].flat().some((one) => isType(one, value))) return false
      const tag = TAGS.find((key) => properties?.[key]?.const !== undefined)
      return tag === undefined || (value as Record<string, unknown>)[tag] === properties![tag]!.const
    })
}

function deref(root: Schema, schema: Schema): Schema {
  if (schema.$ref === undefined) return schema
  const { $ref, ...own } = schema
  return { ...root.$defs![$ref.replace('#/$defs/', '')]!, ...own }
}

function isType(type: JsonType, value: unknown): boolean {
  switch (type) {
    case 'integer':
      return Number.isSafeInteger(value)
    case 'number':
      return typeof value === 'number' && Number.isFinite(value)
    case 'array':
      return Array.isArray(value)
    case 'object':
      return isObject(value)
    case 'null':
      return value === null
    default:
      return typeof value === type
  }
}

function isObject(value: unknown): value is Record<string, unknown> {
  return value !== null && typeof value === 'object' && !Array.isArray(value)
}

function mismatch(schema: Schema, value: unknown, at: Place): BgeError {
  const tag = TAGS.find((key) => schema.oneOf?.some((one) => deref(at.root, one).properties?.[key]?.const !== undefined))
  if (tag && isObject(value)) {
    const known = schema.oneOf!.map((one) => deref(at.root, one).properties?.[tag]?.const).filter((one) => one !== undefined) as string[]
    const given = value[tag]
    // Where the tag may be left out because the key says it, the key may be a slip.
    const what =
      given === undefined
        ? `is missing${didYouMean(at.path.split('.').at(-1)!, known)}`
        : `was ${show(given)}${didYouMean(String(given), known)}`
    return fault(at, `${at.path}.${tag}`, `${at.path}.${tag} must be one of ${known.join(', ')}, but ${what}`)
  }
  const near = typeof value === 'string' && schema.enum ? didYouMean(value, schema.enum.map(String)) : ''
  return fault(at, at.path, `${at.path || at.written.what} must be ${expected(schema, at.root)}, but was ${show(value)}${near}`)
}

function expected(given: Schema, root: Schema): string {
  const schema = deref(root, given)
  const what = schema.description ? ` (${schema.description})` : ''
  if ('const' in schema) return `${JSON.stringify(schema.const)}${what}`
  if (schema.enum) return `one of ${schema.enum.map((word) => JSON.stringify(word)).join(', ')}${what}`
  if (schema.type === undefined) return schema.description ?? 'something else'
  const types = [schema.type].flat().map((type) => NAMES[type])
  const { minimum: low, maximum: high, exclusiveMinimum: above, exclusiveMaximum: below } = schema
  const bounds = [
    ...(low !== undefined && high !== undefined ? [`from ${low} to ${high}`] : []),
    ...(low !== undefined && high === undefined ? [`of at least ${low}`] : []),
    ...(above !== undefined ? [`greater than ${above}`] : []),
    ...(high !== undefined && low === undefined ? [`of at most ${high}`] : []),
    ...(below !== undefined ? [`below ${below}`] : []),
  ]
  const range = bounds.length === 0 ? '' : ` ${bounds.join(' and ')}`
  const some = (schema.minLength ?? schema.minItems ?? schema.minProperties) ? ' that is not empty' : ''
  return types.join(' or ') + range + some + what
}

const NAMES: Readonly<Record<JsonType, string>> = {
  string: 'a string',
  number: 'a number',
  integer: 'an integer',
  boolean: 'true or false',
  null: 'null',
  array: 'a list',
  object: 'an object',
}

function unknownKey(key: string, known: readonly string[], at: Place): BgeError {
  const where = at.path === '' ? at.written.what : at.path
  const hint = didYouMean(key, known) || `; known keys: ${known.join(', ')}`
  return fault(at, at.path === '' ? key : `${at.path}.${key}`, `${show(key)} is not a key of ${where}${hint}`)
}

function fault({ written }: Place, path: string, sentence: string): BgeError {
  return new BgeError(written.code, `${written.at(path)}: ${sentence}`, { details: { path } })
}

/** `; did you mean X?`, or nothing where no known word is near. */
export function didYouMean(word: string, known: readonly string[]): string {
  const flat = (text: string): string => text.toLowerCase().replaceAll(/[-_ ]/g, '')
  const nearest = known.map((one) => ({ one, distance: editDistance(flat(word), flat(one)) })).sort((a, b) => a.distance - b.distance)[0]
  return nearest && nearest.distance <= Math.max(1, word.length / 3) ? `; did you mean ${nearest.one}?` : ''
}

/** Levenshtein distance. */
function editDistance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, j) => j)
  for (let i = 1; i <= a.length; i++) {
    const next = [i]
    for (let j = 1; j <= b.length; j++) next.push(Math.min(row[j]! + 1, next[j - 1]! + 1, row[j - 1]! + (a[i - 1] === b[j - 1] ? 0 : 1)))
    row = next
  }
  return row[b.length]!
}

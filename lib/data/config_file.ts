import { readFile } from 'node:fs/promises'
import { extname, resolve } from 'node:path'
import { pathToFileURL } from 'node:url'
import JSON5 from 'json5'
import { BgeError, type BgeErrorCode, show } from '../errors.js'
import { linesOfJson, type ValuePath } from './json_lines.js'

/** A value, and where each part of it was written. */
export interface Settings {
  readonly values: Readonly<Record<string, unknown>>
  /** `file:line` of a path, or of the nearest part around it; `--set` for what was set on the command line */
  at(path: ValuePath): string
}

/**
 * Reads a file that holds one object: JSON or JSON5, or `.mjs` (`.js`, `.mts`, `.ts` where Node runs them) that exports it as default.
 * @param code of the error for a file that holds no such object
 * Errors: ERR_BGE_FILE, `code` with `file:line:column` where the text is no JSON.
 */
export async function readSettings(file: string, code: BgeErrorCode): Promise<Settings> {
  const isModule = /^\.m?[jt]s$/.test(extname(file))
  const text = isModule ? '' : await readText(file)
  const value = isModule ? await importDefault(file, code) : parse(text, file, code)
  if (value === null || typeof value !== 'object' || Array.isArray(value)) {
    const what = isModule ? 'export an object as default' : 'hold a JSON object'
    throw new BgeError(code, `${file} must ${what}, but the value was ${show(value)}`, { details: { file } })
  }
  const lines = isModule ? new Map<ValuePath, number>() : linesOfJson(text)
  return { values: value as Record<string, unknown>, at: (path) => place(file, lines, path) }
}

async function readText(file: string): Promise<string> {
  try {
    return (await readFile(file, 'utf8')).replace(/^\uFEFF/, '')
  } catch (cause) {
    throw new BgeError('ERR_BGE_FILE', `${file} cannot be read: ${(cause as Error).message}`, { cause, details: { file } })
  }
}

function parse(text: string, file: string, code: BgeErrorCode): unknown {
  try {
    return JSON5.parse(text)
  } catch (cause) {
    const { lineNumber, columnNumber, message } = cause as Error & { lineNumber?: number; columnNumber?: number }
    // JSON5 ends its sentence with the place, which stands in front here.
    const reason = message.replace(/^JSON5: /, '').replace(/ at \d+:\d+$/, '')
    throw new BgeError(code, `${file}:${lineNumber}:${columnNumber}: expected JSON, but ${reason}`, { cause, details: { file } })
  }
}

async function importDefault(file: string, code: BgeErrorCode): Promise<unknown> {
  await readText(file) // a missing file is one, not a module that Node cannot find
  try {
    const { default: value } = (await import(pathToFileURL(resolve(file)).href)) as { default?: unknown }
    return structuredClone(value) // data, no functions
  } catch (cause) {
    throw new BgeError(code, `${file} must be a module that exports plain data, but ${(cause as Error).message}`, {
      cause,
      details: { file },
    })
  }
}

function place(file: string, lines: ReadonlyMap<ValuePath, number>, path: ValuePath): string {
  for (let part = path; part !== ''; part = part.slice(0, Math.max(0, part.lastIndexOf('.'), part.lastIndexOf('[')))) {
    const line = lines.get(part)
    if (line !== undefined) return `${file}:${line}`
  }
  return file
}

/**
 * Puts `a.b=value` or `a[0].b=value` into a copy of some settings; objects on the way are made where they are missing. The value is JSON where it is JSON
 * (numbers, lists, null, quoted text), otherwise the text itself. Throws `code`.
 */
export function assign(settings: Settings, assignment: string, code: BgeErrorCode): Settings {
  const [path, value] = parseAssignment(assignment, code)
  const steps = path.split('.').flatMap((part) => {
    const [, name, indices] = /^([^[\]]*)((?:\[\d+\])*)$/.exec(part) ?? []
    if (name === undefined || (name === '' && indices === ''))
      throw new BgeError(code, `--set must be key=value with a key such as a.b or a[0].b, but was ${show(assignment)}`)
    return [...(name === '' ? [] : [name]), ...(indices!.match(/\d+/g) ?? []).map(Number)]
  })
  const values = structuredClone(settings.values) as Record<string | number, unknown>
  let around = values
  for (const [i, step] of steps.entries()) {
    if (typeof step === 'number' && (!Array.isArray(around) || step >= around.length))
      throw new BgeError(code, `--set ${show(assignment)} must name an entry that is there, but there is no ${step}`)
    if (i === steps.length - 1) around[step] = value
    else {
      const next = around[step] ?? {}
      if (typeof next !== 'object')
        throw new BgeError(
          code,
          `--set ${show(assignment)} must name a key inside of an object, but ${steps.slice(0, i + 1).join('.')} is ${show(next)}`,
        )
      around[step] = next
      around = next as typeof values
    }
  }
  return {
    values,
    at: (wanted) => (wanted === path || wanted.startsWith(`${path}.`) || wanted.startsWith(`${path}[`) ? '--set' : settings.at(wanted)),
  }
}

/** Reads `key=value`: JSON where the value is JSON (numbers, lists, null, quoted text), otherwise the text itself. Throws `code`. */
export function parseAssignment(text: string, code: BgeErrorCode = 'ERR_BGE_CONFIG'): [key: string, value: unknown] {
  const at = text.indexOf('=')
  if (at < 1) throw new BgeError(code, `--set must be key=value, but was ${show(text)}`)
  const key = text.slice(0, at)
  const value = text.slice(at + 1)
  // An instruction is text, also one that looks like a number.
  if (/(^|\.)instruction$/.test(key) && !value.startsWith('"')) return [key, value]
  try {
    return [key, JSON.parse(value)]
  } catch {
    return [key, value]
  }
}

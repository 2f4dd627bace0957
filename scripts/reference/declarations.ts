import { readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'

/** What a package exports under one name. */
export interface Declaration {
  readonly name: string
  /** Its text in the .d.ts, without `export declare` and without what is private; overloads one after the other */
  readonly code: string
  /** Its doc comment as running text; '' where it has none */
  readonly doc: string
  /** The .d.ts that declares it */
  readonly file: string
}

interface Statement {
  doc: string
  text: string
}

/** Every export of a .d.ts file, in the order in which it names them; `export * as ns` gives `ns` and `ns.NAME` for each name inside. */
export function exportsOf(file: string): Declaration[] {
  const own = new Map<string, Declaration>()
  const found: Declaration[] = []
  for (const { doc, text } of statements(readFileSync(file, 'utf8'))) {
    const name = /^(?:export )?(?:declare )?(?:abstract )?(?:function|class|const|let|interface|type|namespace) ([\w$]+)/.exec(text)?.[1]
    if (name !== undefined && !text.startsWith('export type {')) {
      const before = own.get(name)
      const code = text.replace(/^export /, '').replace(/^declare /, '')
      const declaration = { name, code: before ? `${before.code}\n${code}` : code, doc: before?.doc || doc, file }
      own.set(name, declaration)
      if (text.startsWith('export ')) found.push(declaration)
      continue
    }
    const from = /^export .*from '(\.[^']+)';$/s.exec(text)?.[1]?.replace(/\.js$/, '.d.ts')
    const other = from === undefined ? undefined : exportsOf(join(dirname(file), from))
    const all = /^export \* (?:as ([\w$]+) )?from/.exec(text)
    const list = /^export (?:type )?\{([^}]*)\}/.exec(text)?.[1]
    if (all && other) {
      const space = all[1]
      if (space) found.push({ name: space, code: `namespace ${space}`, doc: doc || fileDoc(other[0]!.file), file: other[0]!.file })
      found.push(...other.map((one) => (space ? { ...one, name: `${space}.${one.name}` } : one)))
    } else if (list !== undefined) {
      for (const word of list.split(',').map((part) => part.trim().replace(/^type /, ''))) {
        if (word === '') continue
        const [source = '', name = source] = word.split(' as ')
        const target = other ? other.find((one) => one.name === source) : own.get(source)
        if (!target) throw new Error(`${file}: exports ${word}, which ${from ?? 'it'} does not declare`)
        found.push({ ...target, name })
      }
    }
  }
  // Overloads were pushed once each; the last holds all of them.
  return [...new Map(found.map((one) => [one.name, own.get(one.name) ?? one])).values()]
}

const fileDoc = (file: string): string => {
  const first = /^(?:import [^;]+;\s*)*\/\*\*([\s\S]*?)\*\//.exec(readFileSync(file, 'utf8'))
  return first ? prose(first[1]!) : ''
}

/** The statements of a .d.ts as tsc writes it, each with the doc comment right before it. */
function statements(source: string): Statement[] {
  const all: Statement[] = []
  let doc = ''
  let start = -1
  let depth = 0
  for (let i = 0; i < source.length; i++) {
    const at = source[i]!
    if (source.startsWith('/*', i)) {
      const end = source.indexOf('*/', i) + 2
      if (start < 0) doc = source.startsWith('/**', i) ? prose(source.slice(i + 3, end - 2)) : ''
      i = end - 1
      continue
    }
    if (source.startsWith('//', i)) {
      i = source.indexOf('\n', i)
      if (i < 0) break
      continue
    }
    if (/\s/.test(at)) continue
    if (start < 0) start = i
    if (at === "'" || at === '"' || at === '`') {
      do i += source[i] === '\\' ? 2 : 1
      while (source[i] !== at)
    } else if ('{[('.includes(at)) depth++
    else if ('}])'.includes(at)) depth--
    const block =
      at === '}' && /^(?:export )?(?:declare )?(?:abstract )?(?:interface|class|namespace)\b/.test(source.slice(start, start + 60))
    if (depth === 0 && (at === ';' || block)) {
      all.push({ doc, text: withoutPrivate(source.slice(start, i + 1)) })
      doc = ''
      start = -1
    }
  }
  return all
}

/** Without `#private` and private members, indented by two spaces. */
const withoutPrivate = (code: string): string =>
  code
    .replace(/^ {4}#private;\n/gm, '')
    .replace(/^(?: {4}\/\*\*[^\n]*\*\/\n| {4}\/\*\*\n(?: {5}\*[^\n]*\n)*)? {4}private [^\n]*;\n/gm, '')
    .replace(/^ +/gm, (spaces) => ' '.repeat(Math.floor(spaces.length / 4) * 2 + (spaces.length % 4)))

/** A doc comment's inside without its stars. */
const prose = (comment: string): string => comment.replace(/^\s*\* ?/gm, '').trim()

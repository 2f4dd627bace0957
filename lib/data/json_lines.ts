/** `a.b[0]`, `[2].c`: how a place inside of a value is written in messages and for --set. */
export type ValuePath = string

/**
 * The line (1-based) on which each key and list entry of a JSON or JSON5 text begins, by its path; '' is the whole value. The text is one that
 * JSON5.parse accepts: nothing is checked here.
 */
export function linesOfJson(text: string): Map<ValuePath, number> {
  // A comment, a string, a mark of structure, or any other word: number, name, true.
  const tokens = /\/\/[^\n\r\u2028\u2029]*|\/\*[\s\S]*?\*\/|"(?:\\[\s\S]|[^"\\])*"|'(?:\\[\s\S]|[^'\\])*'|[{}[\],:]|[^\s{}[\],:"'/]+/gu
  const lines = new Map<ValuePath, number>()
  const open: { path: string; kind: 'object' | 'list'; index: number; key: string | undefined }[] = []
  let [line, counted] = [1, 0]
  const begin = (): string => {
    const around = open.at(-1)
    if (around === undefined) return ''
    return around.kind === 'list' ? `${around.path}[${around.index}]` : inside(around.path, around.key ?? '')
  }
  for (const { 0: token, index } of text.matchAll(tokens)) {
    for (; counted < index; counted++) if (text[counted] === '\n') line++
    if (token.startsWith('//') || token.startsWith('/*')) continue
    const around = open.at(-1)
    if (token === '}' || token === ']') open.pop()
    else if (token === ',') {
      if (around?.kind === 'list') around.index++
      else if (around) around.key = undefined
    } else if (token === ':') continue
    else if (around?.kind === 'object' && around.key === undefined) {
      around.key = /^["']/.test(token) ? unquoted(token) : token
      lines.set(inside(around.path, around.key), line)
    } else {
      const path = begin()
      if (!lines.has(path)) lines.set(path, line)
      if (token === '{' || token === '[') open.push({ path, kind: token === '{' ? 'object' : 'list', index: 0, key: undefined })
    }
  }
  return lines
}

/** The path of a key inside of a path. */
export function inside(path: ValuePath, key: string): ValuePath {
  return path === '' ? key : `${path}.${key}`
}

/** A quoted key without its quotes; what escapes mean does not matter for keys that a schema knows. */
function unquoted(token: string): string {
  return token.slice(1, -1).replaceAll(/\\(.)/gu, '$1')
}

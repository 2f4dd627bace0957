import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'

/** The documentation: README*, CONTRIBUTING, CHANGELOG, docs/**; relative to `root`. */
export function documents(root: string): string[] {
  const top = readdirSync(root).filter((name) => name.endsWith('.md'))
  const below = readdirSync(join(root, 'docs'), { recursive: true, encoding: 'utf8' }).filter((name) => name.endsWith('.md'))
  return [...top, ...below.map((name) => `docs/${name.replaceAll('\\', '/')}`)].sort()
}

/** A piece of code in a Markdown file: one line of a fenced block (with those that a `\` at its end joins to it) or an inline span. */
export interface Code {
  readonly at: string
  readonly text: string
  readonly kind: 'block' | 'span'
}

/** All code of a document, and its text with the code blanked out. */
export function readMarkdown(root: string, file: string): { codes: Code[]; lines: string[] } {
  const codes: Code[] = []
  const lines: string[] = []
  let fenced = false
  let joined = ''
  for (const [i, line] of readFileSync(join(root, file), 'utf8').split('\n').entries()) {
    const at = `${file}:${i + 1}`
    if (/^\s*```/.test(line)) fenced = !fenced
    else if (fenced) {
      if (line.endsWith('\\')) joined += line.slice(0, -1)
      else {
        codes.push({ at, text: joined + line, kind: 'block' })
        joined = ''
      }
    } else {
      for (const [, , text] of line.matchAll(/(`+)(.+?)\1(?!`)/g)) codes.push({ at, text: text!, kind: 'span' })
      lines.push(line.replace(/(`+)(.+?)\1(?!`)/g, (code) => 'x'.repeat(code.length)))
      continue
    }
    lines.push('')
  }
  return { codes, lines }
}

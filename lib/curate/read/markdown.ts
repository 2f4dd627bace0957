import { marked, type Token, type Tokens } from 'marked'
import { readText } from './lines.js'
import { outline } from './sections.js'
import type { SourceRecord } from './records.js'

/**
 * A Markdown file as one record: {title, text, sections: [{subtitle, passage, level}]} in plain text: no marks, link targets, images, code
 * blocks or raw HTML. The title is that of the front matter, else the first heading of level 1.
 */
export async function* readMarkdown(file: string): AsyncGenerator<SourceRecord[]> {
  const source = await readText(file)
  const front = /^---\r?\n([\s\S]*?)\r?\n---\r?\n/.exec(source)
  const told = front && /^title:[ \t]*(["']?)(.+?)\1[ \t]*$/m.exec(front[1]!)?.[2]
  const parts = outline()
  for (const token of marked.lexer(front ? source.slice(front[0].length) : source)) {
    if (token.type === 'heading') parts.heading((token as Tokens.Heading).depth, inline(token))
    else for (const text of blocks(token)) parts.block(text)
  }
  const { title, text, sections } = parts.end()
  yield [{ line: 1, value: { title: told ?? title, text, sections } }]
}

/** The texts of a block, one a line. */
function blocks(token: Token): string[] {
  switch (token.type) {
    case 'paragraph':
    case 'text':
      return [inline(token)]
    case 'blockquote':
      return ((token as Tokens.Blockquote).tokens ?? []).flatMap(blocks)
    case 'list':
      return (token as Tokens.List).items.flatMap((item) => item.tokens.flatMap(blocks))
    case 'table': {
      const { header, rows } = token as Tokens.Table
      return [header, ...rows].map((cells) => cells.map((cell) => cell.tokens.map(inline).join('')).join(' '))
    }
    default:
      return []
  }
}

/** Entities stay as they are: the cleaning decodes them. */
function inline(token: Token): string {
  if (token.type === 'image' || token.type === 'html') return ''
  if (token.type === 'br') return '\n'
  const { tokens, text } = token as { tokens?: Token[]; text?: string }
  return tokens ? tokens.map(inline).join('') : (text ?? '')
}

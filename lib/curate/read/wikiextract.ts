import { BgeError, show } from '../../errors.js'
import { readLines } from './lines.js'
import type { Fault, SourceRecord } from './records.js'
import { outline } from './sections.js'

/**
 * The output of WikiExtractor, `<doc id url title>` blocks or (`--json`) an object a line, as records {id, url, title, text, sections}. The
 * title that a block repeats as its first line is left out of the text. Headings are `Section::::NAME` or `== NAME ==`.
 */
export async function* readWikiExtract(file: string, fault: Fault): AsyncGenerator<SourceRecord[]> {
  let open: { line: number; attributes: Record<string, string>; lines: string[] } | undefined
  for await (const { first, lines } of readLines(file, fault)) {
    const records: SourceRecord[] = []
    for (const [i, text] of lines.entries()) {
      const line = first + i
      if (text === null) continue
      if (open) {
        if (/^<doc [^>]*>\s*$/.test(text)) {
          fault(
            open.line,
            new BgeError('ERR_BGE_DATA', `${file}:${open.line}: expected </doc> before the next <doc>, but there is none`),
            '',
          )
          open = { line, attributes: attributesOf(text), lines: [] }
        } else if (text.trim() !== '</doc>') open.lines.push(text)
        else {
          const { title = '' } = open.attributes
          records.push({ line: open.line, value: { ...open.attributes, ...article(title, open.lines) } })
          open = undefined
        }
      } else if (text.startsWith('<doc ')) open = { line, attributes: attributesOf(text), lines: [] }
      else if (text.startsWith('{')) {
        const value = parsed(text)
        if (value) records.push({ line, value: { ...value, ...article(value.title, value.text.split('\n')) } })
        else fault(line, wrong(file, line, text), text)
      } else if (text.trim() !== '') fault(line, wrong(file, line, text), text)
    }
    yield records
  }
  if (open)
    fault(
      open.line,
      new BgeError('ERR_BGE_DATA', `${file}:${open.line}: expected </doc>, but the file ends; was it cut off?`),
      open.lines.join('\n'),
    )
}

function attributesOf(tag: string): Record<string, string> {
  return Object.fromEntries([...tag.matchAll(/([\w-]+)="([^"]*)"/g)].map(([, name, value]) => [name!, value!]))
}

function parsed(text: string): { title: string; text: string } | undefined {
  try {
    const value = JSON.parse(text) as { title?: unknown; text?: unknown }
    return typeof value.title === 'string' && typeof value.text === 'string' ? (value as { title: string; text: string }) : undefined
  } catch {
    return undefined
  }
}

function article(title: string, lines: readonly string[]): Record<string, unknown> {
  const start = lines.findIndex((line) => line.trim() !== '')
  const parts = outline()
  for (const line of lines.slice(start >= 0 && lines[start]!.trim() === title.trim() ? start + 1 : Math.max(start, 0))) {
    const heading = /^(?:Section::::(.+?)\.?|(={2,6})\s*(.+?)\s*\2)\s*$/.exec(line)
    if (heading) parts.heading(heading[2]?.length ?? 2, (heading[1] ?? heading[3])!)
    else parts.block(line.trim())
  }
  const { text, sections } = parts.end()
  return { title, text, sections }
}

function wrong(file: string, line: number, text: string): BgeError {
  return new BgeError(
    'ERR_BGE_DATA',
    `${file}:${line}: expected <doc id= url= title=> or an object with title and text, but was ${show(text)}`,
    {
      details: { file, line },
    },
  )
}

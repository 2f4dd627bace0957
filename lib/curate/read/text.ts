import { readLines, readText } from './lines.js'
import type { Fault, SourceRecord } from './records.js'

/**
 * Plain text. 'line': {text}, one a line. 'paragraph': {title, body, text}, lines up to a blank one; the title is the first line and the
 * body the rest. 'file': the same of the whole file.
 */
export async function* readParagraphs(file: string, unit: 'line' | 'paragraph' | 'file', fault: Fault): AsyncGenerator<SourceRecord[]> {
  if (unit === 'file') {
    yield [titled(1, (await readText(file)).split(/\r?\n/))]
    return
  }
  let block: string[] = []
  let start = 1
  for await (const { first, lines } of readLines(file, fault)) {
    const records: SourceRecord[] = []
    for (const [i, text] of lines.entries()) {
      const blank = text === null || text.trim() === ''
      if (unit === 'line') {
        if (!blank) records.push({ line: first + i, value: { text } })
      } else if (!blank) {
        if (block.length === 0) start = first + i
        block.push(text)
      } else if (block.length > 0) {
        records.push(titled(start, block))
        block = []
      }
    }
    yield records
  }
  if (block.length > 0) yield [titled(start, block)]
}

function titled(line: number, lines: readonly string[]): SourceRecord {
  const first = lines.findIndex((text) => text.trim() !== '')
  const body = lines.slice(first + 1).join('\n')
  return { line, value: { title: lines[first] ?? '', body, text: lines.join('\n') } }
}

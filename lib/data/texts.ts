import { emptyFile, readJsonl, textRow } from './jsonl.js'
import type { Source } from './plan.js'

/** Rows `{"text"}` of several files, in order. Throws ERR_BGE_DATA `file:line: ...`. */
export async function readTexts(files: readonly string[]): Promise<{ texts: string[]; sources: Source[] }> {
  const texts: string[] = []
  const sources: Source[] = []
  for (const file of files) {
    const start = texts.length
    for await (const row of readJsonl(file)) texts.push(textRow(row).text)
    if (texts.length === start) throw emptyFile(file)
    sources.push({ name: file, start, end: texts.length })
  }
  return { texts, sources }
}

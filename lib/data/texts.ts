import { emptyFile, readJsonl, textRow } from './jsonl.js'

/** Rows `{"text"}` of several files, in order. Throws ERR_BGE_DATA `file:line: ...`. */
export async function readTexts(files: readonly string[]): Promise<string[]> {
  const texts: string[] = []
  for (const file of files) {
    const before = texts.length
    for await (const row of readJsonl(file)) texts.push(textRow(row).text)
    if (texts.length === before) throw emptyFile(file)
  }
  return texts
}
